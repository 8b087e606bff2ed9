//! Commands: one instance for one run of `wasi:cli/run`.

use std::pin::Pin;
use std::sync::Arc;

use tokio::io::AsyncRead;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;
use wasmtime::Store;

use crate::place::{Full, Place};
use crate::program::Entry;
use crate::sandbox::{SandboxInner, StartError, Streams};
use crate::slow::Guest;
use crate::sockets::Port;
use crate::state::GuestState;
use crate::trap::Failure;
use crate::unwind::caught;

/// Where a one-off dyno's stdin comes from.
pub type StdinSource = Pin<Box<dyn AsyncRead + Send + Sync>>;

/// What a command's stdin is.
pub enum Stdin {
    /// Formation dynos: open and empty until the stop signal ends it.
    OpenUntilStop,
    /// Release and scheduled dynos: at its end from the start.
    Ended,
    /// One-off dynos: the caller's.
    From(StdinSource),
}

/// Where a command's stdout and stderr go.
pub enum Output {
    /// Line by line to the grant's log.
    Log,
    /// As they are, to a one-off dyno's caller; a full channel makes the guest wait.
    To {
        /// Bytes of stdout.
        stdout: tokio::sync::mpsc::Sender<bytes::Bytes>,
        /// Bytes of stderr.
        stderr: tokio::sync::mpsc::Sender<bytes::Bytes>,
    },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// `run` returned ok, `exit(ok)`, or a code: 0 for success, 1 for an error, or what `exit-with-code` said.
    Code(u8),
    /// The guest trapped; the text is for the log.
    Trap(String),
    /// The guest reached its memory limit (R14).
    Memory,
    /// Ended by [`RunHandle::kill`] or because the [`Run`] was dropped.
    Killed,
    /// It could not be started.
    NotStarted(StartError),
}

/// A run under way. Dropping it kills the guest.
pub struct Run {
    task: JoinHandle<Exit>,
    handle: RunHandle,
}

impl Run {
    /// Waits for the end.
    pub async fn wait(mut self) -> Exit {
        match (&mut self.task).await {
            Ok(exit) => exit,
            Err(error) if error.is_cancelled() => Exit::Killed,
            Err(error) => Exit::Trap(format!("the host failed while it ran: {error}")),
        }
    }

    /// A handle to stop or kill it from elsewhere.
    pub fn handle(&self) -> RunHandle {
        self.handle.clone()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.handle.kill();
    }
}

/// Stops or kills a run. Cheap to clone.
#[derive(Clone)]
pub struct RunHandle {
    stopping: CancellationToken,
    task: AbortHandle,
}

impl RunHandle {
    /// The stop signal: ends an `OpenUntilStop` stdin and fires the WIT event. A port that it listens on is closed
    /// by whoever holds it, once the requests under way are finished.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// Ends the guest now: at its next tick, if it is computing.
    pub fn kill(&self) {
        self.task.abort();
    }
}

/// Spawns the task of one run.
pub(crate) fn start(sandbox: &Arc<SandboxInner>, streams: Streams, extra_args: &[String]) -> Run {
    let stopping = CancellationToken::new();
    let guest = run(
        sandbox.clone(),
        streams,
        extra_args.to_vec(),
        stopping.clone(),
    );
    let task = tokio::spawn(Guest::new(guest, sandbox.clone()));
    let handle = RunHandle {
        stopping,
        task: task.abort_handle(),
    };
    Run { task, handle }
}

async fn run(
    sandbox: Arc<SandboxInner>,
    streams: Streams,
    extra_args: Vec<String>,
    stopping: CancellationToken,
) -> Exit {
    // Lives longer than the store: the place is free only when the store is gone.
    let place = match sandbox.place().await {
        Ok(place) => place,
        Err(error) => return Exit::NotStarted(error),
    };
    let mut store = sandbox.command_store(streams, &extra_args, stopping);
    // Dropped before the store: whoever is connected must know a crash from an end.
    let mut end = sandbox.grant.listen.as_ref().map(Port::watch_end);
    let entered = match caught(enter(&place, &mut store)).await {
        Ok(entered) => entered,
        Err(panicked) => return Exit::Trap(panicked.to_string()),
    };
    let result = match entered {
        Ok(result) => result,
        Err(NotEntered::Start(error)) => return not_started(&sandbox, &error, &store),
        Err(NotEntered::Handler) => {
            let error = format!("{} is a handler, not a command", sandbox.program.name());
            return Exit::NotStarted(StartError::Platform(error));
        }
    };
    let exit = match result {
        Ok(Ok(())) => Exit::Code(0),
        Ok(Err(())) => Exit::Code(1),
        Err(error) => match sandbox.failure(&error, &store) {
            Failure::Exit(code) => Exit::Code(code),
            Failure::Memory => Exit::Memory,
            Failure::Full(text) => Exit::NotStarted(StartError::Full(Full::Machine(text))),
            Failure::Trap(text) => Exit::Trap(text),
        },
    };
    if let (Some(end), Exit::Code(0)) = (&mut end, &exit) {
        end.ended_well();
    }
    exit
}

/// Why `run` was not called.
enum NotEntered {
    Start(wasmtime::Error),
    Handler,
}

/// Starts the guest and calls its `run`.
async fn enter(
    place: &Place,
    store: &mut Store<GuestState>,
) -> Result<wasmtime::Result<Result<(), ()>>, NotEntered> {
    Ok(match &place.loaded.entry {
        Entry::CommandP2(pre) => {
            let command = pre.instantiate_async(&mut *store).await;
            let command = command.map_err(NotEntered::Start)?;
            command.wasi_cli_run().call_run(store).await
        }
        Entry::CommandP3(pre) => {
            let command = pre.instantiate_async(&mut *store).await;
            let command = command.map_err(NotEntered::Start)?;
            store
                .run_concurrent(async |accessor| command.wasi_cli_run().call_run(accessor).await)
                .await
                .flatten()
        }
        Entry::Handler(_) => return Err(NotEntered::Handler),
    })
}

fn not_started(sandbox: &SandboxInner, error: &wasmtime::Error, store: &Store<GuestState>) -> Exit {
    match sandbox.failure(error, store) {
        // A command may do its work, and exit, in a start function.
        Failure::Exit(code) => Exit::Code(code),
        Failure::Memory | Failure::Full(_) | Failure::Trap(_) => {
            Exit::NotStarted(sandbox.start_error(error, store))
        }
    }
}
