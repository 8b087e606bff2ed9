//! A command of WASI 0.2 that does what its arguments say, so that tests see what a dyno sees.
use std::io::{Read as _, Write as _};
use std::time::Duration;

mod lifecycle {
    wit_bindgen::generate!({
        path: "../../../../sdk/wit",
        world: "oarlock:dyno/imports",
        generate_all,
    });
    pub use oarlock::dyno::lifecycle::stopping;
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let rest: Vec<&str> = args.iter().skip(2).map(String::as_str).collect();
    match args.get(1).map_or("", String::as_str) {
        "args" => println!("{}", args.join("|")),
        "env" => std::env::vars().for_each(|(name, value)| println!("{name}={value}")),
        "cwd" => println!("{}", std::env::current_dir().unwrap().display()),
        "exit" => std::process::exit(rest[0].parse().unwrap()),
        "exit-with-code" => wasip2::cli::exit::exit_with_code(rest[0].parse().unwrap()),
        "panic" => panic!("as asked"),
        "trap" => std::process::abort(),
        "alloc" => alloc(rest[0].parse().unwrap()),
        "spin" => loop {
            std::hint::black_box(0);
        },
        "sleep" => std::thread::sleep(Duration::from_millis(rest[0].parse().unwrap())),
        "cat" => {
            let mut text = Vec::new();
            std::io::stdin().read_to_end(&mut text).unwrap();
            std::io::stdout().write_all(&text).unwrap();
        }
        "stdin" => {
            println!("waiting");
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).unwrap();
            println!("stdin ended after {} bytes", text.len());
        }
        "stopping" => {
            println!("waiting");
            lifecycle::stopping().block();
            println!("stopping");
        }
        "read" => match std::fs::read_to_string(rest[0]) {
            Ok(text) => println!("{text}"),
            Err(error) => println!("error: {:?}", error.kind()),
        },
        "write" => match std::fs::write(rest[0], rest[1]) {
            Ok(()) => println!("{}", std::fs::read_to_string(rest[0]).unwrap()),
            Err(error) => println!("error: {:?}", error.kind()),
        },
        // Writes a file and lives on beside it.
        "keep" => {
            std::fs::write(rest[0], rest[1]).unwrap();
            println!("{} is kept by {}", rest[0], rest[1]);
            std::io::stdin().read_to_string(&mut String::new()).unwrap();
        }
        "list" => match std::fs::read_dir(rest[0]) {
            Ok(entries) => {
                let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
                println!("{:?}", names.collect::<Vec<_>>());
            }
            Err(error) => println!("error: {:?}", error.kind()),
        },
        "connect" => match std::net::TcpStream::connect(rest[0]) {
            Ok(_) => println!("connected"),
            Err(error) => println!("error: {:?}", error.kind()),
        },
        "print" => {
            println!("to stdout");
            eprintln!("to stderr");
            print!("no end");
        }
        "flood" => {
            let line = "x".repeat(1023);
            for _ in 0..rest[0].parse::<u32>().unwrap() {
                println!("{line}");
            }
        }
        other => {
            eprintln!("unknown argument {other:?}");
            std::process::exit(2);
        }
    }
}

/// Touches this many MiB.
fn alloc(mib: usize) {
    let mut memory = vec![0_u8; mib << 20];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    println!(
        "{}",
        memory.iter().map(|&byte| usize::from(byte)).sum::<usize>()
    );
}
