//! One file per subcommand.

pub(crate) mod build;
pub(crate) mod check;
pub(crate) mod compile_component;
pub(crate) mod completions;
pub(crate) mod config;
mod drive;
pub(crate) mod fetch_relay;
pub(crate) mod logs;
pub(crate) mod man;
pub(crate) mod new;
pub(crate) mod ps;
pub(crate) mod releases;
pub(crate) mod restart;
pub(crate) mod rollback;
pub(crate) mod run;
pub(crate) mod scale;
pub(crate) mod serve;
pub(crate) mod up;

use std::future::Future;

use oarlock_spec::codes::exit;

use crate::args::{Args, Command};
use crate::output::{Failure, Outcome};

/// Runs what was asked for.
pub(crate) fn run(args: Args) -> Outcome {
    match args.command {
        Command::Up(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::New(command) => command.run(),
        Command::Build(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Ps(command) => block_on(command.run()),
        Command::Scale(command) => block_on(command.run()),
        Command::Restart(command) => block_on(command.run()),
        Command::Run(command) => block_on(command.run()),
        Command::Logs(command) => block_on(command.run()),
        Command::Config(command) => block_on(command.run()),
        Command::Releases(command) => block_on(command.run()),
        Command::Rollback(command) => block_on(command.run()),
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(),
        Command::CompileComponent(command) => command.run(),
        Command::FetchRelay(command) => block_on(command.run()),
    }
}

/// Runs a command to its end on a runtime that is then dropped without waiting for what may still
/// block (a read of the terminal, say).
fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::FAILURE, format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(command);
    runtime.shutdown_background();
    outcome
}
