//! What outlives the releases of an app, and what the apps of a host share.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use oarlock_sandbox::{Engine, HttpClient, clean_tmp};
use oarlock_spec::api::LogSource;
use oarlock_spec::names::{AppName, ReleaseId};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::cron::Schedules;
use super::dispatcher::{Dispatcher, Ending, Message};
use super::job::read_cron;
use super::prepare::Prepared;
use crate::addons::AppAddons;
use crate::config::HostConfig;
use crate::cores::Cores;
use crate::events::EventSender;
use crate::logs::AppLog;
use crate::registry::AppId;
use crate::router::Router;
use crate::usage::UsageCounter;
use crate::web::WebPool;

/// What the apps of a host share.
pub(crate) struct HostShared {
    pub(crate) config: HostConfig,
    pub(crate) engine: Engine,
    pub(crate) cores: Cores,
    pub(crate) router: Router,
    pub(crate) clock: Arc<dyn Clock>,
    /// Trusted by outgoing HTTPS beside the public ones.
    pub(crate) certificates: Vec<Vec<u8>>,
    /// Components that are read and looked up at once.
    pub(crate) loads: Arc<Semaphore>,
    /// Components that are compiled at once.
    pub(crate) compilers: Arc<Semaphore>,
    /// The runtime of the dispatchers: timers and messages, no guests.
    pub(crate) control: tokio::runtime::Handle,
    /// Where what happens is told.
    pub(crate) events: EventSender,
}

/// What outlives an app's releases.
pub(crate) struct HostedApp {
    pub(crate) id: AppId,
    pub(crate) name: AppName,
    pub(crate) log: AppLog,
    pub(crate) pool: Arc<WebPool>,
    pub(crate) addons: Arc<AppAddons>,
    pub(crate) http: HttpClient,
    /// What its dynos used.
    pub(crate) usage: UsageCounter,
    /// Where the guests' `/tmp`s are made.
    pub(crate) tmp_root: Arc<Dir>,
    /// The app's own folder.
    data: PathBuf,
    /// The version of the schedules' memory that is on disk; held while it is written.
    pub(crate) cron_written: std::sync::Mutex<u64>,
    /// The release that runs.
    pub(crate) current: ArcSwapOption<Prepared>,
    /// Held by an apply from its first step to its last, so that they run one after the other.
    pub(crate) applying: Arc<Mutex<()>>,
    /// Its components that are looked up at once: fewer than of all apps together.
    pub(crate) loading: Semaphore,
    /// Held while one of its components is compiled.
    pub(crate) compiling: Mutex<()>,
    /// The last release that [`Host::add`](crate::Host::add) gave it.
    pub(crate) last_release: std::sync::Mutex<ReleaseId>,
    /// Cancelled when it is taken off.
    pub(crate) gone: CancellationToken,
    /// To its dispatcher.
    pub(crate) dispatcher: mpsc::Sender<Message>,
}

/// Components of one app that are read and looked up at once.
const LOADS: usize = 4;

/// Messages that wait for a dispatcher; above it the sender waits.
const MESSAGES: usize = 64;

impl HostedApp {
    /// Makes the app's folders (what an earlier host left of `/tmp`s goes) and the app, without its
    /// dispatcher. Blocks on the disk.
    pub(crate) fn open(
        (id, name): (AppId, AppName),
        (log, pool): (AppLog, Arc<WebPool>),
        shared: &HostShared,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Message>), OpenError> {
        let path = app_folder(&shared.config.data, &name);
        let failed = |what: &'static str| {
            let path = path.clone();
            move |source| OpenError { what, path, source }
        };
        std::fs::create_dir_all(&path).map_err(failed("make the app's folder"))?;
        let data = Dir::open_ambient_dir(&path, ambient_authority())
            .map_err(failed("open the app's folder"))?;
        data.create_dir_all("tmp")
            .map_err(failed("make the folder of `/tmp`s"))?;
        let tmp_root = data
            .open_dir("tmp")
            .map_err(failed("open the folder of `/tmp`s"))?;
        clean(&tmp_root, &name, &log);
        let (dispatcher, messages) = mpsc::channel(MESSAGES);
        let addons = AppAddons::new(&path.join("addons"));
        let app = Self {
            pool,
            addons,
            http: HttpClient::new(&shared.certificates),
            usage: UsageCounter::new(),
            tmp_root: Arc::new(tmp_root),
            data: path,
            cron_written: std::sync::Mutex::new(0),
            current: ArcSwapOption::empty(),
            applying: Arc::default(),
            loading: Semaphore::new(LOADS),
            compiling: Mutex::default(),
            last_release: std::sync::Mutex::new(ReleaseId(0)),
            gone: CancellationToken::new(),
            id,
            name,
            log,
            dispatcher,
        };
        Ok((Arc::new(app), messages))
    }

    /// The app's own folder. It is opened each time, for it is seldom needed and descriptors are few.
    pub(crate) fn open_data(&self) -> std::io::Result<Dir> {
        Dir::open_ambient_dir(&self.data, ambient_authority())
    }

    /// Asks the dispatcher; `None`: it is gone.
    pub(crate) async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.dispatcher.send(message(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Ends dynos for good; returns when they have ended.
    pub(crate) async fn end(&self, stage: Ending) {
        // A dispatcher that is gone has no dynos.
        let _gone = self.ask(|reply| Message::End(stage, reply)).await.is_none();
    }

    /// The next release number of [`Host::add`](crate::Host::add).
    pub(crate) fn next_release(&self) -> ReleaseId {
        let current = self.current.load();
        let current = current.as_ref().map_or(0, |release| release.release.0);
        let mut last = self
            .last_release
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = ReleaseId(last.0.max(current) + 1);
        *last
    }

    /// The `stop_grace` of its web dynos, if it has such.
    pub(crate) fn web_grace(&self) -> Option<Duration> {
        let release = self.current.load();
        let web = release
            .as_ref()?
            .processes
            .iter()
            .find(|(name, _)| name.is_web());
        web.map(|(_, process)| process.limits.stop_grace)
    }
}

/// Removes what an earlier host left in the folder of `/tmp`s. What cannot be removed keeps no app from starting.
fn clean(tmp_root: &Dir, app: &AppName, log: &AppLog) {
    let remark = |message: String| {
        tracing::warn!(%app, "{message}");
        log.write(LogSource::Oarlock, "host", &message);
    };
    match clean_tmp(tmp_root) {
        Ok(cleaned) => {
            for (name, error) in cleaned.kept {
                remark(format!(
                    "An old `/tmp` could not be removed and is kept: tmp/{name}: {error}"
                ));
            }
        }
        Err(error) => remark(format!("Old `/tmp`s could not be looked for: {error}")),
    }
}

/// Opens an app and starts its dispatcher.
pub(crate) fn open_app(
    name: (AppId, AppName),
    (log, pool): (AppLog, Arc<WebPool>),
    shared: &Arc<HostShared>,
) -> Result<Arc<HostedApp>, OpenError> {
    let (app, messages) = HostedApp::open(name, (log, pool), shared)?;
    let cron = Schedules::new(
        app.open_data()
            .map(|data| read_cron(&data))
            .unwrap_or_default(),
    );
    let dispatcher = Dispatcher::new(Arc::clone(&app), Arc::clone(shared), cron);
    shared.control.spawn(dispatcher.run(messages));
    Ok(app)
}

/// The folder of an app below the host's data folder.
pub(crate) fn app_folder(data: &Path, app: &AppName) -> PathBuf {
    data.join("apps").join(app.as_str())
}

/// Why an app's folders could not be made; the platform's fault.
#[derive(Debug, thiserror::Error)]
#[error("could not {what} {}: {source}", path.display())]
pub(crate) struct OpenError {
    what: &'static str,
    path: PathBuf,
    source: std::io::Error,
}
