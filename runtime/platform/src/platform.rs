//! What `up` and `serve` drive: apps from folders, their releases, the host, the control API.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use oarlock_spec::api::Formation;
use oarlock_spec::names::{AppName, ReleaseId};
use oarlock_spec::policy::Policy;

/// Where the apps are.
#[derive(Debug, Clone)]
pub enum Source {
    /// `up`: one app, in this folder; its data folder is `.oarlock` in it.
    App {
        /// The folder.
        dir: PathBuf,
        /// Over `[scale]`.
        scale: Formation,
        /// Build and release again when files change.
        watch: bool,
    },
    /// `serve`: each folder below this one with a manifest is an app.
    Apps {
        /// The folder.
        dir: PathBuf,
        /// The data folder; `None`: `.oarlock` in `dir`.
        data: Option<PathBuf>,
    },
}

/// How a platform is made.
#[derive(Debug, Clone)]
pub struct PlatformConfig {
    /// Where the apps are.
    pub source: Source,
    /// Where HTTP is listened for.
    pub listen: SocketAddr,
    /// Below which apps are served.
    pub domain: String,
    /// Whether to build before a release.
    pub build: bool,
    /// The operator's policy.
    pub policy: Policy,
    /// The code cache's folder (the CLI finds it: `$XDG_CACHE_HOME/oarlock/code`, or below `--data`).
    pub code_cache: Option<PathBuf>,
    /// Environment of the build command (the CLI's own; the library reads none).
    pub build_env: BTreeMap<String, String>,
}

/// What a platform tells while it starts and runs, in order; the CLI prints it.
#[derive(Debug, Clone)]
pub enum Event {
    /// A build command starts.
    Building {
        /// Whose.
        app: AppName,
        /// As it is run.
        command: String,
    },
    /// A line of the build command's output.
    BuildOutput {
        /// Whose.
        app: AppName,
        /// The line.
        line: String,
    },
    /// Components were compiled or taken from the cache.
    Loaded {
        /// Whose.
        app: AppName,
        /// Compiled now.
        compiled: usize,
        /// Taken from the cache.
        cached: usize,
        /// How long it took, in milliseconds.
        millis: u64,
    },
    /// A release is current and serves.
    Ready {
        /// Whose.
        app: AppName,
        /// Which.
        release: ReleaseId,
        /// Where it answers, if it has web dynos.
        url: Option<String>,
    },
    /// A change under `--watch`, or an app of `serve`, failed; the old release goes on serving.
    Failed {
        /// Whose.
        app: AppName,
        /// For the user.
        message: String,
    },
}

/// Why a platform could not start; `exit_code` is one of `oarlock_spec::codes::exit`.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    /// For the user: what is wrong, where, and what to do.
    pub message: String,
    /// For the shell.
    pub exit_code: u8,
}

/// A running platform. [`Platform::shutdown`] is how it ends.
pub struct Platform {}

impl Platform {
    /// Locks the data folder, opens the store, starts the host, listens, opens the control API, and
    /// brings every app to its current release (building and releasing as needed). Dropping the future
    /// cancels cleanly: children are ended, nothing half-written stays.
    pub async fn start(
        _config: PlatformConfig,
        _events: tokio::sync::mpsc::UnboundedSender<Event>,
    ) -> Result<Self, StartError> {
        unimplemented!()
    }

    /// The logs of all apps as they come, for the terminal.
    pub fn host(&self) -> &oarlock_host::Host {
        unimplemented!()
    }

    /// The apps.
    pub fn apps(&self) -> Vec<AppName> {
        unimplemented!()
    }

    /// The address listened on.
    pub fn address(&self) -> SocketAddr {
        unimplemented!()
    }

    /// Drains and stops everything, in the documented order.
    pub async fn shutdown(self) {
        unimplemented!()
    }
}
