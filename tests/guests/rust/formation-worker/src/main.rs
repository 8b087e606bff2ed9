//! A command that does what its arguments say; WASI 0.2.
//!
//! `run` prints `begin NANOS DYNO RELEASE`, waits for the end of stdin, prints `end NANOS DYNO
//! RELEASE`; `ignore` goes on after that for ever; `exit N` and `trap` end at once, `later N` exits
//! with N after 300 ms; `cat` copies stdin to stdout and says so on stderr; `args` prints the others.
use std::io::{Read, Write};
use std::time::{Duration, SystemTime};

fn tell(what: &str) {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let var = |name| std::env::var(name).unwrap_or_default();
    println!("{what} {now} {} {}", var("DYNO"), var("OARLOCK_RELEASE"));
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = args.get(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    match args.first().map_or("run", String::as_str) {
        "ignore" => {
            tell("begin");
            loop {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        "exit" => std::process::exit(number),
        "later" => {
            std::thread::sleep(Duration::from_millis(300));
            std::process::exit(number);
        }
        "trap" => panic!("asked to"),
        "cat" => {
            let mut text = Vec::new();
            std::io::stdin().read_to_end(&mut text).unwrap();
            std::io::stdout().write_all(&text).unwrap();
            eprintln!("{} bytes", text.len());
        }
        "args" => println!("{}", args[1..].join(",")),
        _ => {
            tell("begin");
            let mut sink = [0; 64];
            while std::io::stdin().read(&mut sink).is_ok_and(|n| n > 0) {}
            tell("end");
        }
    }
}
