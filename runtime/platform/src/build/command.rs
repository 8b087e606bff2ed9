//! Runs one command in a process group of its own, which ends with us, however we end.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;

use super::Progress;

/// The longest line of output that is told whole, in bytes; the rest of it is dropped.
const MAX_LINE: usize = 8 * 1024;

/// Lines that wait to be told; then the command waits.
const LINES: usize = 256;

/// How long output may go on after the command ended (its background processes are killed then).
const OUTPUT_GRACE: Duration = Duration::from_secs(2);

/// Runs `$1` with a watchdog beside it, in the same process group. The watchdog reads our end of its
/// stdin: when that closes, because the build is over or because the host was killed with no time to
/// tidy up, it kills the group. The command itself has no stdin.
const SUPERVISED: &str = r#"exec 3<&0
( cat <&3; kill -KILL 0 ) >/dev/null 2>&1 &
exec sh -c "$1" 3<&- </dev/null"#;

/// The same for a fence: `$@` is bubblewrap with its arguments. Its limits hold for each process. It stays below this shell,
/// which has one thread, because bubblewrap ends what it fences when the thread that started bubblewrap ends.
const FENCED: &str = r#"exec 3<&0
( cat <&3; kill -KILL 0 ) >/dev/null 2>&1 &
ulimit -c 0
ulimit -f "$OARLOCK_FILE" 2>/dev/null
ulimit -d "$OARLOCK_DATA" 2>/dev/null
ulimit -t "$OARLOCK_CPU" 2>/dev/null
ulimit -u "$OARLOCK_PROCESSES" 2>/dev/null || ulimit -p "$OARLOCK_PROCESSES" 2>/dev/null
unset OARLOCK_FILE OARLOCK_DATA OARLOCK_CPU OARLOCK_PROCESSES
"$@" 3<&- </dev/null
exit $?"#;

/// What is to be run, and how it is shown.
pub(super) struct Job<'a> {
    /// For people.
    pub(super) command: &'a str,
    /// What [`SUPERVISED`] or [`FENCED`] gets.
    args: Vec<OsString>,
    script: &'static str,
    root: &'a Path,
    env: BTreeMap<String, String>,
}

impl<'a> Job<'a> {
    /// A shell command as the user himself would run it.
    pub(super) fn own(root: &'a Path, command: &'a str, env: &BTreeMap<String, String>) -> Self {
        let mut env = env.clone();
        env.insert("PWD".to_owned(), root.display().to_string());
        Self {
            command,
            args: vec![command.into()],
            script: SUPERVISED,
            root,
            env,
        }
    }

    /// bubblewrap with these arguments. `env`: its own, with the limits.
    pub(super) fn fenced(
        root: &'a Path,
        command: &'a str,
        args: Vec<OsString>,
        env: BTreeMap<String, String>,
    ) -> Self {
        Self {
            command,
            args,
            script: FENCED,
            root,
            env,
        }
    }
}

/// Why a build command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It ended with a failure.
    #[error("the build command failed ({}): `{command}`", describe(*status))]
    Failed {
        /// As it was run.
        command: String,
        /// How it ended.
        status: ExitStatus,
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
        source: std::io::Error,
    },
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(127), _) => "exit code 127: a program was not found".to_owned(),
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
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

/// Kills the group unless it was seen to its end.
struct Group(Option<Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(pid) = self.0.take() {
            // Gone already is as good.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a shell command in `root`, telling its output line by line.
pub(super) async fn run(
    root: &Path,
    command: &str,
    env: &BTreeMap<String, String>,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<(), CommandError> {
    let job = Job::own(root, command, env);
    run_bounded(job, progress, |_pid| std::future::pending()).await
}

/// The same of any job. `exceeded` is told the first process's id, and ends the job when it ends.
pub(super) async fn run_bounded<F: Future<Output = String> + Send>(
    job: Job<'_>,
    progress: &mut (impl FnMut(Progress) + Send),
    exceeded: impl FnOnce(u32) -> F + Send,
) -> Result<(), CommandError> {
    let command = job.command;
    progress(Progress::Starting(command.to_owned()));
    let start = |source: std::io::Error| CommandError::Start {
        command: command.to_owned(),
        source,
    };
    let mut child = Command::new("sh")
        .args(["-c", job.script, "sh"])
        .args(&job.args)
        .current_dir(job.root)
        .env_clear()
        .envs(&job.env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    let mut group = Group(
        child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw),
    );
    let exceeded = exceeded(child.id().unwrap_or_default());
    tokio::pin!(exceeded);
    let watchdog = child.stdin.take();
    let (lines, mut told) = mpsc::channel(LINES);
    let readers = [
        child
            .stdout
            .take()
            .map(|out| tokio::spawn(read_lines(out, lines.clone()))),
        child
            .stderr
            .take()
            .map(|err| tokio::spawn(read_lines(err, lines.clone()))),
    ];
    drop(lines);
    let status = loop {
        tokio::select! {
            Some(line) = told.recv() => progress(Progress::Output(line)),
            status = child.wait() => break status.map_err(start)?,
            what = &mut exceeded => {
                group.kill();
                let command = command.to_owned();
                return Err(CommandError::Exceeded { command, what });
            }
        }
    };
    // What it left in the background must not outlive the build, nor hold its output open. The leader is
    // reaped, but the watchdog is still of the group, so the group's id cannot be another's yet.
    group.kill();
    drop(watchdog);
    let rest = async {
        while let Some(line) = told.recv().await {
            progress(Progress::Output(line));
        }
    };
    let _ = tokio::time::timeout(OUTPUT_GRACE, rest).await;
    readers
        .into_iter()
        .flatten()
        .for_each(|reader| reader.abort());
    if status.success() {
        Ok(())
    } else {
        Err(CommandError::Failed {
            command: command.to_owned(),
            status,
        })
    }
}

/// The first line of what a command prints, and whether it succeeded; `None`: it was not found.
pub(super) async fn query(
    root: &Path,
    program: &str,
    args: &[&str],
    env: &BTreeMap<String, String>,
) -> std::io::Result<Option<(bool, String)>> {
    let output = Command::new(program)
        .args(args)
        .current_dir(root)
        .env_clear()
        .envs(env)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    match output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            Ok(Some((
                output.status.success(),
                text.lines().next().unwrap_or_default().to_owned(),
            )))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn read_lines<R: AsyncRead + Unpin>(from: R, to: mpsc::Sender<String>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        let (used, ended) = match from.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(bytes) => {
                let end = bytes.iter().position(|byte| *byte == b'\n');
                let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
                let room = MAX_LINE.saturating_sub(line.len());
                line.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
                (end.map_or(bytes.len(), |at| at + 1), end.is_some())
            }
        };
        from.consume(used);
        if ended && !send(&mut line, &to).await {
            return;
        }
    }
    if !line.is_empty() {
        send(&mut line, &to).await;
    }
}

async fn send(line: &mut Vec<u8>, to: &mpsc::Sender<String>) -> bool {
    let text = String::from_utf8_lossy(line)
        .trim_end_matches('\r')
        .to_owned();
    line.clear();
    to.send(text).await.is_ok()
}
