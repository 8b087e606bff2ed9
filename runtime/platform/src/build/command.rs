//! Runs one command of a build to its end, telling its output. It ends with the future that runs it, and with the host.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use oarlock_process::{Command, Exit, Lines, StartError, Stream};

use super::Progress;

/// How long output may go on after the command ended (its background processes are killed then).
const OUTPUT_GRACE: Duration = Duration::from_secs(2);

/// Why a build command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It ended with a failure.
    #[error("the build command failed ({exit}): `{command}`")]
    Failed {
        /// As it was run.
        command: String,
        /// How it ended.
        exit: Exit,
    },
    /// It used more than the operator allows.
    #[error("the build command was ended, because {what}: `{command}`")]
    Exceeded {
        /// As it was run.
        command: String,
        /// What it used, and the policy's key.
        what: String,
    },
    /// It could not be started.
    #[error("the build command `{command}` cannot be started: {source}")]
    Start {
        /// As it was to be run.
        command: String,
        /// Why.
        source: StartError,
    },
    /// It was started, and then not heard of.
    #[error("the build command `{command}` was lost: {source}")]
    Lost {
        /// As it was run.
        command: String,
        /// Why.
        source: io::Error,
    },
}

/// What a build inherits: the caller's environment without what would turn the app's build into part of
/// another one (as when the host itself was started by `cargo run`).
pub(super) fn clean_env(env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    /// Flags and targets meant for another target than the guests'.
    const ALWAYS: [&str; 12] = [
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET_DIR",
        "CARGO_BUILD_BUILD_DIR",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTFLAGS",
        "CARGO_MAKEFLAGS",
        "MAKEFLAGS",
        "MFLAGS",
        "CARGO",
        "CARGO_PRIMARY_PACKAGE",
    ];
    let below_cargo = env.contains_key("CARGO_MANIFEST_DIR");
    let of_cargo = |name: &str| {
        ["CARGO_PKG_", "CARGO_BIN_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix))
            || name == "CARGO_CRATE_NAME"
            // rustup's proxy sets it for what cargo runs; the app may pin another toolchain.
            || (below_cargo && matches!(name, "RUSTUP_TOOLCHAIN" | "RUST_RECURSION_COUNT"))
    };
    env.iter()
        .filter(|(name, _)| !ALWAYS.contains(&name.as_str()) && !of_cargo(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Runs a shell command in `root` as the user himself would, telling its output line by line.
pub(super) async fn run(
    root: &Path,
    command: &str,
    env: &BTreeMap<String, String>,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<(), CommandError> {
    let mut env = env.clone();
    env.insert("PWD".to_owned(), root.display().to_string());
    let process = Command::shell(command).env(env).folder(root);
    run_bounded((command, process), progress, |_pid| std::future::pending()).await
}

/// The same of any process; `command` names it for people. `exceeded` is told its id, and ends it when it ends.
pub(super) async fn run_bounded<F: Future<Output = String> + Send>(
    (command, process): (&str, Command),
    progress: &mut (impl FnMut(Progress) + Send),
    exceeded: impl FnOnce(u32) -> F + Send,
) -> Result<(), CommandError> {
    progress(Progress::Starting(command.to_owned()));
    let command = || command.to_owned();
    let lost = |source| CommandError::Lost {
        command: command(),
        source,
    };
    let process = process.stdout(Stream::Piped).stderr(Stream::Piped);
    let started = process.start_async().await;
    let mut child = started.map_err(|source| CommandError::Start {
        command: command(),
        source,
    })?;
    let mut lines = child.lines().map_err(lost)?;
    {
        let exceeded = exceeded(child.id());
        let ended = child.ended();
        tokio::pin!(exceeded, ended);
        loop {
            tokio::select! {
                Some(line) = lines.next() => progress(Progress::Output(line)),
                ended = &mut ended => break ended.map_err(lost)?,
                what = &mut exceeded => {
                    return Err(CommandError::Exceeded { command: command(), what });
                }
            }
        }
    }
    // What it left in the background must not outlive the build, nor hold its output open.
    let exit = child.end().map_err(lost)?;
    let rest = async {
        while let Some(line) = lines.next().await {
            progress(Progress::Output(line));
        }
    };
    let _ = tokio::time::timeout(OUTPUT_GRACE, rest).await;
    if exit.success() {
        Ok(())
    } else {
        Err(CommandError::Failed {
            command: command(),
            exit,
        })
    }
}

/// The first line of what a command prints, and whether it succeeded; `None`: it was not found.
pub(super) async fn query(
    root: &Path,
    program: &str,
    args: &[&str],
    env: &BTreeMap<String, String>,
) -> Result<Option<(bool, String)>, String> {
    let command = Command::new(program).args(args).env(env).folder(root);
    let mut child = match command.stdout(Stream::Piped).start_async().await {
        Ok(child) => child,
        Err(StartError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let answer = async {
        let mut lines = child.lines()?;
        let first = first_of(&mut lines).await;
        child.ended().await?;
        io::Result::Ok((child.end()?.success(), first))
    };
    answer
        .await
        .map(Some)
        .map_err(|error| format!("{program}: {error}"))
}

/// Reads all, so that who writes need not wait.
async fn first_of(lines: &mut Lines) -> String {
    let first = lines.next().await.unwrap_or_default();
    while lines.next().await.is_some() {}
    first
}
