//! Commands: one instance for one run of `wasi:cli/run`.

use std::pin::Pin;

use tokio::io::AsyncRead;

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
    NotStarted(crate::StartError),
}

/// A run under way. Dropping it kills the guest.
pub struct Run {}

impl Run {
    /// Waits for the end.
    pub async fn wait(self) -> Exit {
        unimplemented!()
    }

    /// A handle to stop or kill it from elsewhere.
    pub fn handle(&self) -> RunHandle {
        unimplemented!()
    }
}

/// Stops or kills a run. Cheap to clone.
#[derive(Clone)]
pub struct RunHandle {}

impl RunHandle {
    /// The stop signal: ends an `OpenUntilStop` stdin, closes listeners and fires the WIT event.
    pub fn stop(&self) {
        unimplemented!()
    }

    /// Ends the guest now.
    pub fn kill(&self) {
        unimplemented!()
    }
}
