//! The `oarlock` command: it composes the platform, and talks to a running one.

#![forbid(unsafe_code)]

mod address;
mod args;
mod commands;
mod descriptors;
mod memory;
mod output;
mod print;
mod signals;
mod spellings;
mod target;

use std::process::ExitCode;
use std::time::Duration;

use args::Args;
use oarlock_spec::codes::exit;
use output::{Failure, Outcome};

/// A request makes some dozens of small allocations, on the threads that free them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the last words may take to reach the terminal.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let code = match args::read().and_then(run) {
        Ok(code) => code,
        Err(Failure { message, code }) => {
            match message {
                Some(mistakes) if code == exit::MANIFEST => print::mistakes(&mistakes),
                Some(message) => print::error(&message),
                None => {}
            }
            code
        }
    };
    print::flush(LAST_WORDS);
    ExitCode::from(code)
}

fn run(args: Args) -> Outcome {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(args.verbosity()))
        .with_writer(std::io::stderr)
        .init();
    memory::without_huge_pages();
    commands::run(args)
}
