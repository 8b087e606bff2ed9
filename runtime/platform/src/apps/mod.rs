//! The apps of a host: one task for each owns its releases, everything else sends it messages.

mod deploy;
mod start;
mod told;
mod turns;
mod watch;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use oarlock_host::folder::AppFolder;
use oarlock_spec::api::{AppRow, AppState, ConfigChange, ConfigVars, Formation, ReleaseRow};
use oarlock_spec::manifest::Manifest;
use oarlock_spec::names::{AppName, ProcessType, ReleaseId};
use oarlock_spec::policy::Policy;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::build::Fence;
use crate::control::{ApiError, words};
use crate::folder::read_manifest;
use crate::platform::Event;
use crate::releases::{ReleaseError, Releases, find_current, wanted_slugs};
use crate::runtime::Runtime;
use crate::slug::SlugStore;
use crate::store::Store;

pub(crate) use deploy::{DeployFailure, bring_up, resume};
use start::Start;
pub(crate) use start::Step;
pub use told::Told;
pub(crate) use turns::Turns;
pub(crate) use watch::watch;
pub(crate) use worker::HOST_FAILED;
use worker::{Command, Worker};

/// Changes of one app that wait for the one under way; more are answered with `busy`.
const QUEUE: usize = 8;

/// Whether a scaled formation outlives the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScaleLasts {
    /// `up`: `[scale]` is read at each start.
    UntilTheEnd,
    /// `serve`.
    Forever,
}

/// Whether an app is built before a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Building {
    Yes,
    No,
}

/// How the URL of an app is made.
#[derive(Debug, Clone)]
pub(crate) enum Urls {
    /// `up`: the address itself.
    Address(std::net::SocketAddr),
    /// `serve`: `<app>.<domain>`, and the port.
    Domain(String, u16),
}

impl Urls {
    fn of(&self, app: &AppName) -> String {
        match self {
            Self::Address(address) if address.ip().is_unspecified() => {
                format!("http://localhost:{}", address.port())
            }
            Self::Address(address) => format!("http://{address}"),
            Self::Domain(domain, 80) => format!("http://{app}.{domain}"),
            Self::Domain(domain, port) => format!("http://{app}.{domain}:{port}"),
        }
    }
}

/// What all apps of a host share.
pub(crate) struct PlatformShared {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) slugs: SlugStore,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) policy: Policy,
    pub(crate) build_env: BTreeMap<String, String>,
    pub(crate) building: Building,
    /// Around builds; `None`: they run as the user's own.
    pub(crate) fence: Option<Arc<Fence>>,
    pub(crate) scale_lasts: ScaleLasts,
    pub(crate) urls: Urls,
    pub(crate) turns: Turns,
    /// Whether apps are still being started for the first time: old slugs are swept once, after it.
    pub(crate) is_starting: AtomicBool,
    /// The apps' tasks, waited for before the data folder is given back.
    pub(crate) workers: TaskTracker,
}

impl PlatformShared {
    pub(crate) fn tell(&self, event: Event) {
        // Nobody listens any more when the command is ending.
        let _ = self.events.send(event);
    }

    /// The first start is over.
    pub(crate) async fn started(&self) {
        self.is_starting.store(false, Ordering::SeqCst);
        self.sweep().await;
    }

    /// Removes the slugs that no release wants any more; one that cannot be removed stays for the next time. It looks at
    /// the records of all apps: a start of many does so once, at its end.
    pub(crate) async fn sweep(&self) {
        if self.is_starting.load(Ordering::SeqCst) {
            return;
        }
        let swept = async {
            let wanted = wanted_slugs(&*self.store)
                .await
                .map_err(|error| error.to_string())?;
            let slugs = self.slugs.clone();
            worker::blocking(move || slugs.sweep(&wanted))
                .await
                .map_err(|error| error.to_string())
        };
        if let Err(error) = swept.await {
            tracing::warn!(%error, "old slugs stay for now");
        }
    }
}

/// One app. Its task ends when the last handle is dropped.
pub(crate) struct ManagedApp {
    name: AppName,
    /// Where its sources are.
    dir: PathBuf,
    shared: Arc<PlatformShared>,
    releases: Releases,
    commands: mpsc::Sender<Command>,
    /// What was scaled over the manifest's `[scale]`.
    scaled: Arc<Mutex<Formation>>,
    shown: Arc<Mutex<Shown>>,
    start: Mutex<Start>,
    /// Whether its records were looked at: before, nothing changes them.
    is_open: AtomicBool,
}

/// What the worker tells the world of an app.
#[derive(Debug, Clone, Default)]
struct Shown {
    release: Option<ReleaseId>,
    url: Option<String>,
    /// Of the release that runs.
    processes: Vec<ProcessType>,
    /// What the log says already of the last release, which failed.
    failed: Option<String>,
    told: Told,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ManagedApp {
    /// Starts the app's task, and looks at nothing yet. `scale` lies over the manifest's `[scale]`.
    pub(crate) fn new(
        shared: Arc<PlatformShared>,
        name: AppName,
        dir: PathBuf,
        scale: Formation,
    ) -> Arc<Self> {
        let releases = Releases::new(shared.store.clone(), name.clone());
        let scaled = Arc::new(Mutex::new(scale));
        let shown = Arc::new(Mutex::new(Shown::default()));
        let (commands, queue) = mpsc::channel(QUEUE);
        let worker = Worker::new(
            shared.clone(),
            name.clone(),
            releases.clone(),
            scaled.clone(),
            shown.clone(),
        );
        shared.workers.spawn(worker.run(queue));
        Arc::new(Self {
            name,
            dir,
            shared,
            releases,
            commands,
            scaled,
            shown,
            start: Mutex::new(Start::Under(Step::Waiting)),
            is_open: AtomicBool::new(false),
        })
    }

    /// Reads its records, and settles what an earlier host left half-done. One whose records cannot be read fails alone.
    pub(crate) async fn open(&self) -> Result<(), ReleaseError> {
        let opened = self.read_records().await;
        self.is_open.store(true, Ordering::SeqCst);
        opened
    }

    async fn read_records(&self) -> Result<(), ReleaseError> {
        let resolved = self.releases.resolve().await?;
        if resolved > 0 {
            let message = "Release interrupted by the end of the host before it was current";
            self.shared.runtime.log(&self.name, "api", message);
        }
        if self.shared.scale_lasts == ScaleLasts::Forever {
            let kept = self.releases.formation().await?;
            lock(&self.scaled).extend(kept.unwrap_or_default());
        }
        Ok(())
    }

    /// What the folder's manifest says now. Names no app of its own where a Procfile is all there is.
    fn manifest(&self, folder: &AppFolder) -> Result<Manifest, String> {
        read_manifest(folder, &self.name, Some(&self.shared.policy))
    }

    pub(crate) fn name(&self) -> &AppName {
        &self.name
    }

    /// Tells that its log may be followed.
    pub(crate) fn opened(&self) {
        self.shared.tell(Event::Opened {
            app: self.name.clone(),
            told: lock(&self.shown).told.clone(),
        });
    }

    /// The process types of the release that runs; `None`: none does.
    pub(crate) fn processes(&self) -> Option<Vec<ProcessType>> {
        let shown = lock(&self.shown);
        shown.release.map(|_| shown.processes.clone())
    }

    /// Writes into the log what an event says as well.
    fn log_told(&self, message: &str) {
        lock(&self.shown).told.expect(message);
        self.shared.runtime.log(&self.name, "api", message);
    }

    pub(crate) async fn row(&self) -> AppRow {
        let shown = lock(&self.shown).clone();
        let (state, detail) = match shown.release {
            Some(_) => (AppState::Running, None),
            None => {
                let (state, detail) = self.start_state().await;
                (state, Some(detail))
            }
        };
        AppRow {
            app: self.name.clone(),
            state,
            detail,
            release: shown.release,
            url: shown.url,
        }
    }

    /// Newest first.
    pub(crate) async fn releases(&self) -> Result<Vec<ReleaseRow>, ApiError> {
        Ok(self
            .releases
            .all()
            .await?
            .iter()
            .map(|one| one.record.row())
            .collect())
    }

    /// Of the current release, or of the newest while there is none.
    pub(crate) async fn config(&self) -> Result<ConfigVars, ApiError> {
        let all = self.releases.all().await?;
        let basis = find_current(&all)
            .or(all.first())
            .ok_or_else(|| ApiError::not_running(&self.name))?;
        Ok(basis.record.config())
    }

    pub(crate) async fn change_config(&self, change: ConfigChange) -> Result<ReleaseRow, ApiError> {
        self.send(|answer| Command::ChangeConfig { change, answer })
            .await?
    }

    pub(crate) async fn roll_back(&self, to: Option<ReleaseId>) -> Result<ReleaseRow, ApiError> {
        self.send(|answer| Command::RollBack { to, answer }).await?
    }

    /// Not through the task: scaling must not wait for a release that is being applied.
    pub(crate) async fn scale(&self, change: Formation) -> Result<Formation, ApiError> {
        let runtime = &self.shared.runtime;
        let mut whole = runtime.scale(&self.name, change.clone()).await?;
        let scaled = {
            let mut scaled = lock(&self.scaled);
            scaled.extend(change.clone());
            scaled.clone()
        };
        // A release that was begun before we wrote that down may have become current meanwhile, with what was before.
        let now = runtime.formation(&self.name).await.unwrap_or_default();
        if change
            .iter()
            .any(|(process, count)| now.get(process) != Some(count))
        {
            whole = runtime.scale(&self.name, change.clone()).await?;
        }
        if self.shared.scale_lasts == ScaleLasts::Forever {
            self.releases.keep_formation(&scaled).await?;
        }
        let list: Vec<String> = change
            .iter()
            .map(|(process, count)| format!("{process}={count}"))
            .collect();
        self.shared
            .runtime
            .log(&self.name, "api", &format!("Scaled to {}", list.join(" ")));
        Ok(whole)
    }

    /// Hands a command to the task and waits for its answer. The command goes on if this is dropped.
    async fn send<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, ApiError> {
        if !self.is_open.load(Ordering::SeqCst) {
            return Err(ApiError::busy(format!(
                "`{}` is being started; try again when it runs",
                self.name
            )));
        }
        let (answer, answered) = oneshot::channel();
        self.commands
            .try_send(command(answer))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => ApiError::busy(format!(
                    "{QUEUE} changes of `{}` wait already; try again later",
                    self.name
                )),
                mpsc::error::TrySendError::Closed(_) => ApiError::shutting_down(),
            })?;
        answered.await.map_err(|_| ApiError::shutting_down())
    }
}

impl From<ReleaseError> for ApiError {
    fn from(error: ReleaseError) -> Self {
        match error {
            ReleaseError::ConfigSize(_) => Self::refused(words::INVALID_CONFIG, error.to_string()),
            ReleaseError::Conflict(_) => Self::busy(error.to_string()),
            ReleaseError::Store(_) | ReleaseError::Damaged { .. } => {
                Self::internal(error.to_string())
            }
        }
    }
}

/// The apps by name.
#[derive(Default)]
pub(crate) struct Apps {
    by_name: RwLock<BTreeMap<AppName, Arc<ManagedApp>>>,
}

impl Apps {
    /// `false`: there is one of that name already.
    pub(crate) fn add(&self, app: Arc<ManagedApp>) -> bool {
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        if by_name.contains_key(&app.name) {
            return false;
        }
        by_name.insert(app.name.clone(), app);
        true
    }

    pub(crate) fn all(&self) -> Vec<Arc<ManagedApp>> {
        self.by_name
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    pub(crate) fn names(&self) -> Vec<AppName> {
        self.by_name
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect()
    }

    /// Drops every app, which ends their tasks once their last command is done.
    pub(crate) fn clear(&self) {
        self.by_name
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub(crate) fn find(&self, name: &str) -> Result<Arc<ManagedApp>, ApiError> {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        match by_name.get(name) {
            Some(app) => Ok(app.clone()),
            None => Err(ApiError::unknown_app(
                name,
                &by_name.keys().cloned().collect::<Vec<_>>(),
            )),
        }
    }
}
