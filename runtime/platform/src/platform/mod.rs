//! What `up` and `serve` drive: apps from folders, their releases, the host, the control API.

mod core;
mod found;
mod tenants;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use oarlock_host::{Compiler, Host, HostConfig, ListenError};
use oarlock_spec::api::Formation;
use oarlock_spec::codes::exit;
use oarlock_spec::names::{AppName, ReleaseId};
use oarlock_spec::policy::Policy;

use crate::apps::{Building, PlatformShared, ScaleLasts, Told, Turns, Urls};
use crate::build::{Fence, Fetch};
use crate::folder::{DATA_NAME, DataDir, FolderError, explain_io};
use crate::slug::SlugStore;
use crate::store::{SqliteOptions, SqliteStore, Store};
use core::Core;
use found::Found;

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

/// Whether and how apps are built before a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builds {
    /// Components are taken as they are.
    No,
    /// As the user himself, with his environment: of a folder that he named.
    Own,
    /// In a fence: of strangers' folders. The start fails if none can be made.
    Fenced,
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
    /// Whether and how to build before a release.
    pub build: Builds,
    /// The operator's policy; where it has no caps, those of `serve` are added for [`Source::Apps`].
    pub policy: Policy,
    /// The code cache's folder (the CLI finds it: `$XDG_CACHE_HOME/oarlock/code`, or below `--data`).
    pub code_cache: Option<PathBuf>,
    /// Where components are compiled: the CLI names its own program, so that a component that makes the compiler use
    /// up all memory takes no host with it.
    pub compiler: Compiler,
    /// The `oarlock` command itself, which a fence's fetch runs; `None`: nothing is fetched before a fenced build.
    pub relay: Option<PathBuf>,
    /// Environment of the build command (the CLI's own; the library reads none).
    pub build_env: BTreeMap<String, String>,
}

/// A compilation may last so many times its CPU time, and a minute, on a machine that has other things to do: its CPU
/// time ends it before.
const COMPILE_PATIENCE: u32 = 5;
const COMPILE_MINUTE: Duration = Duration::from_secs(60);

/// What a platform tells while it starts and runs, in order; the CLI prints it.
#[derive(Debug, Clone)]
pub enum Event {
    /// Builds run in a fence; said once, before all else.
    Fencing {
        /// Below which control group each has one of its own, or why none has.
        groups: Result<PathBuf, String>,
    },
    /// The host runs, and listens; before anything of an app.
    Hosting(Host),
    /// An app is known: its log may be followed from now on.
    Opened {
        /// Whose.
        app: AppName,
        /// Its lines that say what [`Event::Failed`] or the error of the start says.
        told: Told,
    },
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
    /// A release is being applied: components are loaded, the release phase runs, dynos start.
    Loading {
        /// Whose.
        app: AppName,
        /// Which.
        release: ReleaseId,
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
    /// A folder of `serve` is no app's.
    Refused {
        /// Which.
        folder: PathBuf,
        /// For the operator.
        message: String,
    },
    /// A change under `--watch` or by a command, or an app of `serve`, failed; the old release goes on serving if there is one.
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

impl StartError {
    fn new(exit_code: u8, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            exit_code,
        }
    }
}

impl From<FolderError> for StartError {
    fn from(error: FolderError) -> Self {
        let exit_code = match error {
            FolderError::InUse { .. } => exit::ALREADY_RUNNING,
            FolderError::Unusable { .. } => exit::FAILURE,
        };
        Self::new(exit_code, error.to_string())
    }
}

impl From<ListenError> for StartError {
    fn from(error: ListenError) -> Self {
        let exit_code = match error {
            ListenError::InUse { .. } => exit::ADDRESS_IN_USE,
            ListenError::Io { .. } => exit::FAILURE,
        };
        Self::new(exit_code, error.to_string())
    }
}

/// A running platform. [`Platform::shutdown`] is how it ends; dropped, it closes the control API and
/// leaves the host's dynos to the end of the process.
pub struct Platform {
    host: Host,
    address: SocketAddr,
    core: Core,
    /// Last: the lock is given back when nothing uses the folder any more.
    _data: DataDir,
}

impl Platform {
    /// Finds the apps, locks the data folder, opens the store, starts the host, listens, opens the control API, and
    /// begins to bring every app to its current release (building and releasing as needed): see
    /// [`Platform::started`]. From the first connection on the apps' names are known, and requests wait for them.
    pub async fn start(
        mut config: PlatformConfig,
        events: tokio::sync::mpsc::UnboundedSender<Event>,
    ) -> Result<Self, StartError> {
        // Whoever runs many apps does not know them all.
        if let Source::Apps { .. } = config.source {
            config.policy = config.policy.for_serve();
        }
        // A folder without an app gets no data folder.
        let found = Found::of(&config.source, &config.policy)?;
        let data = open_data(&config.source)?;
        let fence = find_fence(&config, data.path()).await?;
        if let Some(fence) = &fence {
            let groups = fence.control_groups();
            let groups = groups.map(Path::to_owned).map_err(ToString::to_string);
            let _ = events.send(Event::Fencing { groups });
        }
        let store = SqliteStore::open(&data.store(), &SqliteOptions::default())
            .map_err(|error| StartError::new(exit::FAILURE, error.to_string()))?;
        let store: Arc<dyn Store> = Arc::new(store);
        let found = found.checked(&data)?.bounded(&*store).await;
        let host = start_host(&config, data.path())?;
        let ending = EndHost(Some(host.clone()));
        found.expect(&host, &config.policy);
        let address = host.listen(config.listen).await?;
        // A receiver that is gone does not want to know.
        let _ = events.send(Event::Hosting(host.clone()));
        let fence = fence.map(|fence| Arc::new(with_fetch(fence, &config, &host, data.path())));
        let shared = PlatformShared {
            runtime: Arc::new(host.clone()),
            store,
            slugs: SlugStore::new(data.path()),
            events,
            policy: config.policy.clone(),
            build_env: config.build_env.clone(),
            building: match config.build {
                Builds::No => Building::No,
                Builds::Own | Builds::Fenced => Building::Yes,
            },
            fence,
            scale_lasts: match config.source {
                Source::App { .. } => ScaleLasts::UntilTheEnd,
                Source::Apps { .. } => ScaleLasts::Forever,
            },
            turns: Turns::new(config.policy.build.at_once),
            is_starting: AtomicBool::new(true),
            workers: tokio_util::task::TaskTracker::new(),
            urls: match config.source {
                Source::App { .. } => Urls::Address(address),
                Source::Apps { .. } => Urls::Domain(config.domain.clone(), address.port()),
            },
        };
        let core = Core::start(found, &Arc::new(shared), data.path())?;
        ending.keep();
        Ok(Self {
            host,
            address,
            core,
            _data: data,
        })
    }

    /// Waits until every app was brought up or failed. An error is that of the only app of `up`, which is then of no
    /// use: shut the platform down. Apps of `serve` that fail are told as [`Event::Failed`], and the others run. May be
    /// dropped and called again.
    pub async fn started(&mut self) -> Result<(), StartError> {
        self.core.started().await
    }

    /// The logs of all apps as they come, for the terminal.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The apps.
    pub fn apps(&self) -> Vec<AppName> {
        self.core.apps().names()
    }

    /// The address listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Drains and stops everything, in this order: watches and builds; the host (requests, web dynos,
    /// workers, add-ons, logs), while the control API still answers, so that one-off dynos hear of their
    /// end; the control API; the store; the data folder's lock.
    pub async fn shutdown(self) {
        let Self {
            host,
            address: _,
            mut core,
            _data,
        } = self;
        core.stop_changing();
        host.shutdown().await;
        core.shutdown().await;
    }
}

/// Ends the host when a start fails or is dropped half-way.
struct EndHost(Option<Host>);

impl EndHost {
    /// The start has succeeded.
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for EndHost {
    fn drop(&mut self) {
        if let (Some(host), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { host.shutdown().await });
        }
    }
}

/// What builds are fenced with, tried; `None`: nothing is to be fenced.
async fn find_fence(config: &PlatformConfig, data: &Path) -> Result<Option<Fence>, StartError> {
    if config.build != Builds::Fenced {
        return Ok(None);
    }
    let (env, limits) = (config.build_env.clone(), config.policy.build.clone());
    let caches = data.join("builds");
    let found = tokio::task::spawn_blocking(move || Fence::find(&env, limits, &caches)).await;
    let failed = |reason: String| StartError::new(exit::FAILURE, reason);
    let fence = found
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
    Ok(Some(fence))
}

fn with_fetch(fence: Fence, config: &PlatformConfig, host: &Host, data: &Path) -> Fence {
    match &config.relay {
        None => fence,
        Some(relay) => fence.with_fetch(Fetch {
            tunnels: host.tunnels(config.policy.build.fetch.clone()),
            relay: relay.clone(),
            sockets: data.join("tmp"),
        }),
    }
}

fn start_host(config: &PlatformConfig, data: &Path) -> Result<Host, StartError> {
    Host::start(HostConfig {
        code_cache: config.code_cache.clone(),
        policy: config.policy.clone(),
        local_development: matches!(config.source, Source::App { .. }),
        domain: config.domain.clone(),
        compiler: config.compiler.clone(),
        // Unless the policy's `[compile] deadline` says so.
        compile_deadline: config
            .policy
            .compile
            .cpu
            .saturating_mul(COMPILE_PATIENCE)
            .saturating_add(COMPILE_MINUTE),
        ..HostConfig::new(data)
    })
    .map_err(|error| StartError::new(exit::FAILURE, error.to_string()))
}

/// The data folder of a source, locked.
fn open_data(source: &Source) -> Result<DataDir, StartError> {
    match source {
        Source::App { dir, .. } | Source::Apps { dir, data: None } => {
            Ok(DataDir::open(&dir.join(DATA_NAME))?)
        }
        Source::Apps {
            data: Some(data), ..
        } => {
            // The operator's own choice: it may be made here, and may be reached by a link.
            let made = std::fs::create_dir_all(data).and_then(|()| data.canonicalize());
            let data = made.map_err(|error| {
                StartError::new(
                    exit::FAILURE,
                    format!("{}: {}", data.display(), explain_io(&error)),
                )
            })?;
            Ok(DataDir::open(&data)?)
        }
    }
}
