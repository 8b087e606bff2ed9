//! One-off dynos: `oarlock run`.

use std::sync::Arc;

use bytes::Bytes;
use oarlock_sandbox::{Exit, Output, ProgramKind, StartError, Stdin, StdinSource};
use oarlock_spec::codes::exit;
use oarlock_spec::names::{AppName, DynoName};
use tokio::sync::{oneshot, watch};

use crate::apply::ApplyError;
use crate::formation::{
    HostShared, HostedApp, Job, JobError, MOST_ONE_OFFS, Message, Prepared, PreparedProcess,
    Purpose, RunEnd, Signal, exit_reason, one_off_type,
};

/// A one-off dyno to start.
pub struct OneOffRequest {
    /// A process type, or a component's path as the manifest names it.
    pub command: String,
    /// Arguments after the process's own.
    pub args: Vec<String>,
    /// Its stdin.
    pub stdin: StdinSource,
    /// Where its stdout goes.
    pub stdout: tokio::sync::mpsc::Sender<Bytes>,
    /// Where its stderr goes.
    pub stderr: tokio::sync::mpsc::Sender<Bytes>,
}

/// Why a one-off dyno was not started.
#[derive(Debug, thiserror::Error)]
pub enum OneOffError {
    /// No such app here.
    #[error("no app `{0}` runs on this host")]
    UnknownApp(AppName),
    /// Neither a process type nor a component.
    #[error("`{command}` is neither a process type nor a component of this app; it has: {}", known.join(", "))]
    UnknownCommand {
        /// As asked.
        command: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A handler cannot be run.
    #[error(
        "`{command}` is an HTTP handler; a one-off dyno needs a component that exports `wasi:cli/run`"
    )]
    NotACommand {
        /// As asked.
        command: String,
    },
    /// The component was refused.
    #[error(transparent)]
    Load(#[from] oarlock_sandbox::LoadError),
    /// As many run as may at once.
    #[error("{limit} one-off dynos of this app run already; wait for one to end, or stop one")]
    TooMany {
        /// How many.
        limit: usize,
    },
    /// Nothing of the app runs yet, whose settings it would have.
    #[error("`{0}` has no release yet; a one-off dyno needs one")]
    NotRunning(AppName),
    /// The app is being removed, or the host shuts down.
    #[error("the app is being stopped: nothing is started any more")]
    ShuttingDown,
    /// The platform's fault. The text is for the operator.
    #[error("the one-off dyno could not be started: {0}")]
    Platform(String),
}

/// How a one-off dyno ended: the exit code for the caller's shell, and a message if there is something to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOffExit {
    /// The guest's own, or one of `oarlock_spec::codes::exit`.
    pub code: u8,
    /// For stderr; empty if the guest simply ended.
    pub message: String,
}

/// A one-off dyno under way. Dropping it stops the dyno, as [`OneOff::stop`] does.
pub struct OneOff {
    /// Its name, as in `run.4821`.
    pub dyno: DynoName,
    signals: watch::Sender<Signal>,
    end: oneshot::Receiver<RunEnd>,
    /// How it ended, once that is known, so that asking again is no mistake.
    ended: Option<OneOffExit>,
}

impl OneOff {
    /// The stop signal; after `stop_grace` the dyno is ended (R12).
    pub fn stop(&self) {
        self.signals.send_replace(Signal::Stop);
    }

    /// Waits for its end. Cancel safe, so that a caller can wait for a stop request beside it.
    pub async fn wait(&mut self) -> OneOffExit {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        let ended = match (&mut self.end).await {
            Ok(end) => exit_of(&end),
            Err(_gone) => OneOffExit {
                code: exit::DYNO_ENDED,
                message: "the host ended it".into(),
            },
        };
        self.ended.insert(ended).clone()
    }
}

impl Drop for OneOff {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The one translator from how a run ended to what a shell is told.
fn exit_of(end: &RunEnd) -> OneOffExit {
    let (code, message) = match &end.exit {
        Exit::Code(code) => (*code, String::new()),
        Exit::Trap(text) => (exit::TRAP, format!("the component trapped: {text}")),
        Exit::Memory => (
            exit::DYNO_ENDED,
            format!("{}; raise `memory` in `[limits]`", exit_reason(&end.exit)),
        ),
        Exit::Killed if end.told => (
            exit::DYNO_ENDED,
            "it did not end within `stop_grace` of the stop signal and was ended (R12)".into(),
        ),
        Exit::Killed => (exit::DYNO_ENDED, "the host ended it".into()),
        Exit::NotStarted(StartError::Trap(text)) => (
            exit::TRAP,
            format!("the component trapped as it started: {text}"),
        ),
        Exit::NotStarted(
            error @ (StartError::Memory { .. } | StartError::Full(_) | StartError::Platform(_)),
        ) => (exit::DYNO_ENDED, error.to_string()),
    };
    OneOffExit { code, message }
}

/// Finds what is to be run, and has the app's dispatcher start it.
pub(crate) async fn start(
    app: &HostedApp,
    shared: &Arc<HostShared>,
    request: OneOffRequest,
) -> Result<OneOff, OneOffError> {
    let Some(release) = app.current.load_full() else {
        return Err(OneOffError::NotRunning(app.name.clone()));
    };
    let process = find(&release, app, shared, &request.command).await?;
    if matches!(process.program.kind(), ProgramKind::Handler(_)) {
        return Err(OneOffError::NotACommand {
            command: request.command,
        });
    }
    let job = Job {
        purpose: Purpose::OneOff,
        named: one_off_type().map_err(platform)?,
        process,
        release: release.release,
        extra_args: request.args,
        stdin: Stdin::From(request.stdin),
        output: Output::To {
            stdout: request.stdout,
            stderr: request.stderr,
        },
    };
    let started = app
        .ask(|reply| Message::Job(Box::new(job), reply))
        .await
        .ok_or(OneOffError::ShuttingDown)?;
    match started {
        Ok(started) => Ok(OneOff {
            dyno: started.name,
            signals: started.signals,
            end: started.end,
            ended: None,
        }),
        Err(JobError::TooMany) => Err(OneOffError::TooMany {
            limit: MOST_ONE_OFFS,
        }),
        Err(JobError::Closing) => Err(OneOffError::ShuttingDown),
        Err(error @ JobError::Start(_)) => Err(OneOffError::Platform(error.to_string())),
    }
}

async fn find(
    release: &Prepared,
    app: &HostedApp,
    shared: &Arc<HostShared>,
    command: &str,
) -> Result<PreparedProcess, OneOffError> {
    if let Some(process) = release.processes.get(command) {
        return Ok(process.clone());
    }
    if !release.slug.components.contains_key(command) {
        let types = release.processes.keys().map(ToString::to_string);
        let known = types
            .chain(release.slug.components.keys().cloned())
            .collect();
        return Err(OneOffError::UnknownCommand {
            command: command.to_owned(),
            known,
        });
    }
    release
        .other(command, app, shared)
        .await
        .map_err(|error| match error {
            ApplyError::Load(error) => OneOffError::Load(error),
            ApplyError::ShuttingDown => OneOffError::ShuttingDown,
            other => platform(other),
        })
}

fn platform(error: ApplyError) -> OneOffError {
    OneOffError::Platform(error.to_string())
}
