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
        "cwd" => println!("{:?}", wasip2::cli::environment::initial_cwd()),
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
        // Folders in folders, as deep as they go.
        "deep" => match dig("/tmp/d", rest[0].parse().unwrap()) {
            Ok(()) => println!("all"),
            Err((depth, error)) => println!("{depth}: {:?}", error.kind()),
        },
        // Files, folders and links, as many as there can be.
        "many" => println!("{}", many(rest[0].parse().unwrap())),
        "churn" => println!("{}", churn(rest[0].parse().unwrap())),
        "nest" => nest(),
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

/// A symbolic link; std has none for WASI.
fn link(to: &str, path: &str) -> std::io::Result<()> {
    unsafe extern "C" {
        fn symlink(to: *const std::ffi::c_char, path: *const std::ffi::c_char) -> std::ffi::c_int;
    }
    let (to, path) = (std::ffi::CString::new(to)?, std::ffi::CString::new(path)?);
    match unsafe { symlink(to.as_ptr(), path.as_ptr()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// A chain of folders; how many there were at the first that could not be made.
fn dig(path: &str, depth: usize) -> Result<(), (usize, std::io::Error)> {
    let mut path = path.to_owned();
    for made in 0..depth {
        std::fs::create_dir(&path).map_err(|error| (made, error))?;
        path.push_str("/d");
    }
    Ok(())
}

/// Makes an entry of each kind in turn.
fn many(most: usize) -> String {
    std::fs::write("/tmp/first", "").unwrap();
    for made in 1..most {
        let path = format!("/tmp/{made}");
        let result = match made % 4 {
            0 => std::fs::write(&path, "").map(drop),
            1 => std::fs::create_dir(&path),
            2 => std::fs::hard_link("/tmp/first", &path),
            _ => link("first", &path),
        };
        if let Err(error) = result {
            // What is there can be written, and what is removed makes room.
            std::fs::write("/tmp/first", "text").unwrap();
            std::fs::remove_file("/tmp/first").unwrap();
            std::fs::write("/tmp/another", "").unwrap();
            return format!("{made}: {:?}", error.kind());
        }
    }
    format!("{most}")
}

/// Entries that come and go, each with one more beside it; and then as many as there can be.
fn churn(times: usize) -> String {
    for _ in 0..times {
        std::fs::write("/tmp/a", "a").unwrap();
        std::fs::write("/tmp/a", "again").unwrap();
        std::fs::write("/tmp/b", "b").unwrap();
        std::fs::rename("/tmp/a", "/tmp/b").unwrap();
        std::fs::rename("/tmp/b", "/tmp/b").unwrap();
        std::fs::hard_link("/tmp/b", "/tmp/c").unwrap();
        // Two names of one file: nothing happens.
        std::fs::rename("/tmp/b", "/tmp/c").unwrap();
        std::fs::create_dir("/tmp/e").unwrap();
        std::fs::create_dir("/tmp/e").unwrap_err();
        std::fs::remove_file("/tmp/missing").unwrap_err();
        std::fs::remove_dir("/tmp/e").unwrap();
        std::fs::remove_file("/tmp/b").unwrap();
        std::fs::remove_file("/tmp/c").unwrap();
    }
    many(usize::MAX)
}

/// Folders that are moved into each other.
fn nest() {
    dig("/tmp/a", 40).unwrap();
    dig("/tmp/b", 40).unwrap();
    let deep = |top: &str, depth: usize| format!("/tmp/{top}{}", "/d".repeat(depth));
    let into = |depth| std::fs::rename("/tmp/b", format!("{}/b", deep("a", depth)));
    println!("{:?}", into(39).map_err(|error| error.kind()));
    println!("{:?}", into(24).map_err(|error| error.kind()));
    println!("{:?}", into(23).map_err(|error| error.kind()));
    // Up again, and beside a link that leads down.
    std::fs::rename(format!("{}/b", deep("a", 23)), "/tmp/b").unwrap();
    link(&deep("b", 39)["/tmp/".len()..], "/tmp/link").unwrap();
    println!(
        "{:?}",
        dig("/tmp/link/c", 25).map_err(|(depth, error)| (depth, error.kind()))
    );
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
