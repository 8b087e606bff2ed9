//! The `oarlock` command: it composes the platform, and talks to a running one.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod descriptors;
mod memory;
mod output;
mod print;
mod signals;
mod target;

use std::process::ExitCode;

use clap::Parser;
use oarlock_spec::codes::exit;

/// A request makes some dozens of small allocations, on the threads that free them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = args::Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(args.verbosity()))
        .with_writer(std::io::stderr)
        .init();
    memory::without_huge_pages();
    let code = match commands::run(args) {
        Ok(code) => code,
        Err(failure) => {
            if failure.code == exit::MANIFEST {
                print::mistakes(&failure.message);
            } else {
                print::error(&failure.message);
            }
            failure.code
        }
    };
    ExitCode::from(code)
}
