//! The host's public face.

use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use oarlock_sandbox::StdinSource;
use oarlock_spec::api::{DynoRow, Formation};
use oarlock_spec::names::{AppName, DynoName};
use oarlock_spec::policy::Policy;

use crate::apply::{Applied, ApplyError, Desired};
use crate::logs::AppLog;

/// How a host is made.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// Threads that run guests; `None`: one per core of the machine.
    pub cores: Option<usize>,
    /// The host's own folder: embedded add-ons, `/tmp`s and log files, below `apps/<app>/`.
    pub data: PathBuf,
    /// The code cache's folder (0700); `None`: nothing is cached.
    pub code_cache: Option<PathBuf>,
    /// The operator's policy.
    pub policy: Policy,
    /// `up` alone: loopback and private ranges are allowed to guests.
    pub local_development: bool,
    /// Instances alive at once over all apps; `None`: from the machine.
    pub instances: Option<u32>,
    /// The domain below which apps are served (`localhost`).
    pub domain: String,
}

/// Why a host could not start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] oarlock_sandbox::EngineError),
    /// A folder or a thread.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody has it.
    #[error("{addr} is taken by another process; stop it or choose another address with `--listen`")]
    InUse {
        /// The address.
        addr: SocketAddr,
    },
    /// Something else.
    #[error("cannot listen on {addr}: {source}")]
    Io {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

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
    #[error("`{command}` is an HTTP handler; a one-off dyno needs a component that exports `wasi:cli/run`")]
    NotACommand {
        /// As asked.
        command: String,
    },
    /// The component was refused.
    #[error(transparent)]
    Load(#[from] oarlock_sandbox::LoadError),
    /// The platform's fault.
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

/// A one-off dyno under way. Dropping it ends the dyno.
pub struct OneOff {
    /// Its name, as in `run.4821`.
    pub dyno: DynoName,
}

impl OneOff {
    /// The stop signal; after `stop_grace` the dyno is ended (R12).
    pub fn stop(&self) {
        unimplemented!()
    }
    /// Waits for its end.
    pub async fn wait(self) -> OneOffExit {
        unimplemented!()
    }
}

/// A host of apps. Cheap to clone; [`Host::shutdown`] is how it ends.
#[derive(Clone)]
pub struct Host {}

impl Host {
    /// Starts the threads and the engine. May be called on any thread; no runtime is needed.
    pub fn start(_config: HostConfig) -> Result<Self, HostError> {
        unimplemented!()
    }

    /// Listens for HTTP and routes it. Returns the address (port 0 was replaced).
    pub async fn listen(&self, _addr: SocketAddr) -> Result<SocketAddr, ListenError> {
        unimplemented!()
    }

    /// Makes an app what `desired` says: load, bind add-ons, release phase, start new dynos, swap the
    /// routing table, drain and stop the old. The caller may drop the future; the work goes on to a
    /// consistent state. Two calls for one app run one after the other.
    pub async fn apply(&self, _desired: Desired) -> Result<Applied, ApplyError> {
        unimplemented!()
    }

    /// Stops an app's dynos and forgets it.
    pub async fn remove(&self, _app: &AppName) {
        unimplemented!()
    }

    /// Changes how many dynos of each named type run; types not named keep theirs. Returns the whole
    /// formation once the new dynos were told to start. `None`: no such app. An error is a message
    /// for the user (unknown type, scheduled type, singleton above 1, …).
    pub async fn scale(&self, _app: &AppName, _change: Formation) -> Option<Result<Formation, String>> {
        unimplemented!()
    }

    /// The formation as it is wanted now.
    pub async fn formation(&self, _app: &AppName) -> Option<Formation> {
        unimplemented!()
    }

    /// Restarts one dyno (`web.1`), a process type (`web`) or all, one by one without a gap in service;
    /// the names of those it restarts.
    pub async fn restart(&self, _app: &AppName, _target: Option<&str>) -> Option<Result<Vec<DynoName>, String>> {
        unimplemented!()
    }

    /// The rows of `ps`.
    pub async fn dynos(&self, _app: &AppName) -> Option<Vec<DynoRow>> {
        unimplemented!()
    }

    /// Starts a one-off dyno of the current release.
    pub async fn run(&self, _app: &AppName, _request: OneOffRequest) -> Result<OneOff, OneOffError> {
        unimplemented!()
    }

    /// The log of an app; made on first use, so that a build can write to it before the first release.
    pub fn log(&self, _app: &AppName) -> AppLog {
        unimplemented!()
    }

    /// Stops in order: no new connections, requests under way are finished (at most the longest
    /// `stop_grace`), web dynos, workers, add-ons, logs flushed, threads joined.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}
