//! The host's public face.
//!
//! **Threads.** Guests run on the cores. Dispatchers, timers and everything that these methods ask
//! for run on one control thread; compiling and the disk on its blocking threads. The methods only
//! wait for answers, so that they may be called from any runtime.
//!
//! **The end.** [`Host::shutdown`] goes in this order: the router takes no more connections and
//! finishes the requests under way (at most the longest `stop_grace` of any `web`); web dynos;
//! workers, singletons, scheduled dynos and release phases, all at once, each with its `stop_grace`;
//! one-off dynos; add-ons are closed; logs reach their files; threads are joined. A host that is
//! dropped without it ends its threads too, but lets nobody finish.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use oarlock_sandbox::{Capacity, Engine, EngineConfig};
use oarlock_spec::api::{DynoRow, Formation};
use oarlock_spec::names::{AppName, DynoName};
use rustix::fs::{Mode, OFlags};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::apply::ApplyError;
use crate::change::ChangeError;
use crate::config::HostConfig;
use crate::cores::Cores;
use crate::events::{Event, EventSender, Events};
use crate::formation::{
    Clock, Ending, HostShared, HostedApp, Message, SystemClock, app_folder, open_app,
};
use crate::logs::{AppLog, Logs};
use crate::one_off::{self, OneOff, OneOffError, OneOffRequest};
use crate::registry::{Closed, Entered, Registry};
use crate::router::{self, ClientLimits, Router, Unclaimed};
use crate::usage::{METER_INTERVAL, Usage};

/// Why a host could not start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] oarlock_sandbox::EngineError),
    /// Another host keeps its data there.
    #[error(
        "the data folder {} is in use by another host; shut that one down first, or choose another folder",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
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
    #[error(
        "{addr} is taken by another process; stop it or choose another address with `--listen`"
    )]
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

/// How often a running guest is interrupted to let its core's other guests run.
const TICK: Duration = Duration::from_millis(1);
/// The largest memory a 32-bit guest can have.
const MOST_MEMORY: u64 = 1 << 32;
/// Components read and looked up at once.
const LOADS: usize = 8;
/// Components compiled at once; each uses several threads.
const COMPILERS: usize = 2;
/// How often it is looked whether memory is kept that nothing needs any more.
const TRIM_INTERVAL: Duration = Duration::from_secs(2);
/// What the control thread's blocking work may still take at the end.
const BLOCKING_END: Duration = Duration::from_secs(5);

/// A host of apps. Cheap to clone; [`Host::shutdown`] is how it ends.
#[derive(Clone)]
pub struct Host {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<HostShared>,
    /// A look-up of handles; what an app is belongs to its dispatcher.
    pub(crate) apps: Arc<Registry>,
    app_logs: Mutex<BTreeMap<AppName, AppLog>>,
    logs: Logs,
    closing: AtomicBool,
    /// Whether all that [`Host::shutdown`] ends has ended.
    ended: watch::Sender<bool>,
    /// Ends the control thread.
    stop: CancellationToken,
    /// The control thread, and what it says when its runtime is gone; `None` after the shutdown.
    control: tokio::sync::Mutex<Option<(std::thread::JoinHandle<()>, oneshot::Receiver<()>)>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Nobody is joined: the last clone may be dropped on the control thread itself.
        self.stop.cancel();
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned look-up table is still one: no invariant spans a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn io(what: &str) -> impl FnOnce(std::io::Error) -> HostError {
    let what = what.to_owned();
    move |source| HostError::Io { what, source }
}

/// A place for every 4 MiB of the machine's memory: few instances are smaller.
fn instances_of_machine() -> u32 {
    let info = rustix::system::sysinfo();
    let bytes = u64::from(info.mem_unit).saturating_mul(info.totalram);
    u32::try_from(bytes / (4 << 20))
        .unwrap_or(u32::MAX)
        .clamp(64, 4_000)
}

/// Files that this process may have open at once.
fn descriptors() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.unwrap_or(u64::MAX)
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl Host {
    /// Connections of clients at once, where the process may have files enough.
    pub const MOST_CONNECTIONS: u32 = router::MAX_CONNECTIONS;

    /// Starts the threads and the engine. May be called on any thread; no runtime is needed.
    pub fn start(config: HostConfig) -> Result<Self, HostError> {
        Self::start_with_clock(config, Arc::new(SystemClock))
    }

    /// As [`Host::start`], with scheduled processes going by this clock.
    pub fn start_with_clock(config: HostConfig, clock: Arc<dyn Clock>) -> Result<Self, HostError> {
        let lock = lock_data(&config.data)?;
        let engine = Engine::new(EngineConfig {
            instances: config.instances.unwrap_or_else(instances_of_machine),
            programs: u32::MAX,
            max_memory: MOST_MEMORY,
            tick: TICK,
            code_cache: config.code_cache.clone(),
            compiler: config.compiler.clone(),
            compile_deadline: {
                let deadline = config.policy.compile.deadline;
                deadline.unwrap_or(config.compile_deadline)
            },
            compile_memory: config.policy.compile.memory,
            compile_cpu: config.policy.compile.cpu,
            functions: config.functions.clone(),
            proposals: config.policy.wasm.clone(),
        })?;
        let count = config
            .cores
            .map_or_else(std::thread::available_parallelism, |count| {
                Ok(std::num::NonZero::new(count).unwrap_or(std::num::NonZero::<usize>::MIN))
            });
        let count = count.map_err(io("the number of cores is not known"))?.get();
        let cores = Cores::start(count).map_err(io("the cores' threads do not start"))?;
        let logs = Logs::start().map_err(io("the logs' thread does not start"))?;
        let (control, stop, thread) =
            start_control(cores.clone(), lock).map_err(io("the control thread does not start"))?;
        let unclaimed = if config.local_development {
            Unclaimed::OnlyApps
        } else {
            Unclaimed::Nobodys
        };
        let clients = ClientLimits {
            connections: router::permits(descriptors()),
            per_address: config.policy.connections,
            trusted_proxies: config.policy.trusted_proxies.clone(),
            proxy_protocol: config.policy.proxy_protocol,
        };
        let router = Router::new(cores.clone(), config.domain.clone(), unclaimed, clients);
        let compilers = Arc::new(tokio::sync::Semaphore::new(COMPILERS));
        let certificates = read_certificates(config.policy.tls_ca.as_deref())?;
        let shared = Arc::new(HostShared {
            certificates,
            config,
            engine,
            cores,
            router,
            clock,
            loads: Arc::new(tokio::sync::Semaphore::new(LOADS)),
            compilers,
            control,
            events: EventSender::new(),
        });
        let engine = shared.engine.clone();
        shared.control.spawn(give_back(engine));
        let metered = shared.config.meters.is_some();
        let inner = Inner {
            shared,
            apps: Arc::default(),
            app_logs: Mutex::default(),
            logs,
            closing: AtomicBool::new(false),
            ended: watch::Sender::new(false),
            stop,
            control: tokio::sync::Mutex::new(Some(thread)),
        };
        let inner = Arc::new(inner);
        if metered {
            let metering = tell_meters(Arc::downgrade(&inner));
            inner.shared.control.spawn(metering);
        }
        Ok(Self { inner })
    }

    /// Listens for HTTP and routes it. Returns the address (port 0 was replaced).
    pub async fn listen(&self, addr: SocketAddr) -> Result<SocketAddr, ListenError> {
        let router = self.inner.shared.router.clone();
        let listening = self
            .on_control(async move { router.listen(addr).await })
            .await;
        let ended = || ListenError::Io {
            addr,
            source: std::io::Error::other("the host has been shut down"),
        };
        listening.unwrap_or_else(|| Err(ended()))
    }

    /// Stops an app's dynos and forgets it. A release that is being staged is given up. Whoever adds an app of this name
    /// meanwhile waits until this one is gone.
    pub async fn remove(&self, app: &AppName) {
        let Some(leaving) = self.inner.apps.leave(app, &*self.inner) else {
            return;
        };
        let inner = Arc::clone(&self.inner);
        // On the control thread, so that it comes to its end though the caller may not wait.
        self.on_control(async move {
            let app = &leaving.app;
            inner.shared.router.remove(&app.name, &app.pool);
            app.pool.give_up();
            for stage in [Ending::Web, Ending::Others, Ending::OneOffs] {
                app.end(stage).await;
            }
            // A release that became current just before has put it in again.
            inner.shared.router.remove(&app.name, &app.pool);
            app.addons.close().await;
            inner.meter(app);
            inner.shared.events.tell(Event::AppRemoved {
                app: app.name.clone(),
            });
            let log = app.log.clone();
            drop(tokio::task::spawn_blocking(move || log.close()).await);
            lock(&inner.app_logs).remove(&app.name);
            leaving.done(&*inner);
        })
        .await;
    }

    /// Changes how many dynos of each named type run; types not named keep theirs. Returns the whole
    /// formation once the new dynos were told to start.
    ///
    /// # Errors
    /// If a type has no scale, the dynos do not fit, or too many changes wait; nothing was changed.
    pub async fn scale(&self, app: &AppName, change: Formation) -> Result<Formation, ChangeError> {
        self.change(app, |reply| Message::Scale(change, reply))
            .await
    }

    /// The formation as it is wanted now; `None`: no such app.
    pub async fn formation(&self, app: &AppName) -> Option<Formation> {
        self.inner.find(app)?.ask(Message::Formation).await
    }

    /// Restarts one dyno (`web.1`), a process type (`web`) or all, one by one without a gap in service;
    /// the names of those it restarted, once their new dynos are ready.
    ///
    /// # Errors
    /// If there is no such dyno, too many changes wait, or a new dyno does not become ready.
    pub async fn restart(
        &self,
        app: &AppName,
        target: Option<&str>,
    ) -> Result<Vec<DynoName>, ChangeError> {
        let target = target.map(str::to_owned);
        self.change(app, |reply| Message::Restart(target, reply))
            .await
    }

    /// The rows of `ps`; `None`: no such app.
    pub async fn dynos(&self, app: &AppName) -> Option<Vec<DynoRow>> {
        self.inner.find(app)?.ask(Message::Rows).await
    }

    /// Starts a one-off dyno of the current release.
    pub async fn run(&self, app: &AppName, request: OneOffRequest) -> Result<OneOff, OneOffError> {
        let Some(app) = self.inner.find(app) else {
            return Err(OneOffError::UnknownApp(app.clone()));
        };
        let shared = Arc::clone(&self.inner.shared);
        self.on_control(async move { one_off::start(&app, &shared, request).await })
            .await
            .unwrap_or(Err(OneOffError::ShuttingDown))
    }

    /// The log of an app, to be read ([`AppLog::tail`]), followed ([`AppLog::follow`]) or written to.
    ///
    /// ```
    /// # use oarlock_host::{App, Host, HostConfig};
    /// use oarlock_host::logs::LogFilter;
    ///
    /// # let data = tempfile::tempdir()?;
    /// # let hello = wat::parse_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/hello.wat")))?;
    /// # let app = App::from_manifest("app = \"hello\"\n[processes]\nweb = \"web.wasm\"").component("web.wasm", hello);
    /// # futures::executor::block_on(async {
    /// # let host = Host::start(HostConfig::new(data.path()))?;
    /// let added = host.add(app).await?;
    /// let of_web = LogFilter { dyno: Some("web".to_owned()), ..LogFilter::default() };
    /// // The last ten lines, and then those to come.
    /// let mut lines = host.log(&added.app).follow(10, of_web);
    /// while let Some(line) = lines.next().await {
    ///     if line.message == "State changed from starting to up" {
    ///         break;
    ///     }
    /// }
    /// # host.shutdown().await;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// It is made on first use, so that a build can write to it before the first release.
    pub fn log(&self, app: &AppName) -> AppLog {
        self.inner.log(app)
    }

    /// How many instances and components there is room for, by [`HostConfig::instances`] and by what the machine has.
    pub fn capacity(&self) -> Capacity {
        self.inner.shared.engine.capacity()
    }

    /// Connections of clients that it takes at once: of the files that the process may have open (`RLIMIT_NOFILE`, as it
    /// was when the host started) 32 are the host's own, and half of the rest is for clients; at most
    /// [`Host::MOST_CONNECTIONS`]. When they are taken, idle ones are closed for new clients.
    pub fn connections(&self) -> u32 {
        self.inner.shared.router.connections()
    }

    /// What happens from now on, to all apps. The order is that of happening; see [`Events`].
    pub fn events(&self) -> Events {
        self.inner.shared.events.subscribe()
    }

    /// What each process type of an app has used since the app was added; `None`: no such app.
    pub fn usage(&self, app: &AppName) -> Option<Vec<Usage>> {
        Some(self.inner.find(app)?.usage.read())
    }

    /// Stops in order (see the module): no new connections, requests under way are finished (at most
    /// the longest `stop_grace`), web dynos, workers, one-off dynos, add-ons, logs flushed, threads
    /// joined. May be called again, by several at once.
    pub async fn shutdown(&self) {
        if !self.inner.closing.swap(true, Ordering::SeqCst) {
            self.inner.shared.events.tell(Event::Draining);
            let inner = Arc::clone(&self.inner);
            // Once, and to its end, however many ask for it and whoever waits.
            self.inner.shared.control.spawn(async move {
                inner.end_all().await;
                inner.ended.send_replace(true);
            });
        }
        let mut ended = self.inner.ended.subscribe();
        // Fails only without its sender, which is ours.
        drop(ended.wait_for(|ended| *ended).await);
        let mut control = self.inner.control.lock().await;
        if let Some((thread, ended)) = control.take() {
            self.inner.stop.cancel();
            // Whether it told or broke off, the thread is at its end.
            drop(ended.await);
            if thread.join().is_err() {
                tracing::error!("the control thread panicked");
            }
        }
    }

    /// Runs on the control thread; `None`: there is none any more. Goes on if it is not awaited.
    pub(crate) async fn on_control<F>(&self, work: F) -> Option<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        self.inner.shared.control.spawn(work).await.ok()
    }

    async fn change<T>(
        &self,
        app: &AppName,
        message: impl FnOnce(oneshot::Sender<Result<T, ChangeError>>) -> Message,
    ) -> Result<T, ChangeError> {
        let Some(found) = self.inner.find(app) else {
            return Err(if self.inner.is_closing() {
                ChangeError::ShuttingDown
            } else {
                ChangeError::UnknownApp(app.clone())
            });
        };
        let changed = found.ask(message).await;
        changed.unwrap_or(Err(ChangeError::ShuttingDown))
    }
}

/// Those of the policy's `[tls] ca`.
fn read_certificates(file: Option<&Path>) -> Result<Vec<Vec<u8>>, HostError> {
    let Some(file) = file else {
        return Ok(Vec::new());
    };
    let what = format!(
        "the certificates in {} (`ca` below [tls] in the policy) cannot be used",
        file.display()
    );
    let pem = std::fs::read(file).map_err(io(&what))?;
    oarlock_sandbox::certificates(&pem).map_err(|why| io(&what)(std::io::Error::other(why)))
}

/// Makes the data folder if need be, and takes it: two hosts would write over each other.
fn lock_data(data: &Path) -> Result<OwnedFd, HostError> {
    let apps = data.join("apps");
    std::fs::create_dir_all(&apps).map_err(io(&format!(
        "the data folder {} cannot be made",
        data.display()
    )))?;
    let cannot_lock = format!("the data folder {} cannot be locked", data.display());
    let folder = rustix::fs::open(
        &apps,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let folder = folder.map_err(|error| io(&cannot_lock)(error.into()))?;
    if oarlock_process::lock(&folder).map_err(io(&cannot_lock))? {
        Ok(folder)
    } else {
        Err(HostError::InUse {
            path: data.to_owned(),
        })
    }
}

/// The thread that dispatchers run on, how it is told to stop, and how it says that it has.
type Control = (
    tokio::runtime::Handle,
    CancellationToken,
    (std::thread::JoinHandle<()>, oneshot::Receiver<()>),
);

/// The thread ends the cores with it: what is accepting on them would keep them alive. It gives the lock of the data
/// folder back when nothing writes there any more.
fn start_control(cores: Cores, data_lock: OwnedFd) -> std::io::Result<Control> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("oarlock-blocking")
        .build()?;
    let handle = runtime.handle().clone();
    let stop = CancellationToken::new();
    let (stopped, token) = (stop.clone(), stop);
    let (ended_tx, ended) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("oarlock-control".into())
        .spawn(move || {
            runtime.block_on(stopped.cancelled());
            runtime.shutdown_timeout(BLOCKING_END);
            cores.stop();
            drop(data_lock);
            // Whoever shuts down may have gone.
            let _gone = ended_tx.send(()).is_err();
        })?;
    Ok((handle, token, (thread, ended)))
}

/// Looks every now and then whether the engine keeps memory of a burst, until the control thread ends. The blocking
/// work keeps a thread for it alive, so that other blocking work never finds none.
async fn give_back(engine: Engine) {
    loop {
        tokio::time::sleep(TRIM_INTERVAL).await;
        let engine = engine.clone();
        drop(tokio::task::spawn_blocking(move || engine.trim()).await);
    }
}

/// On the control thread, like the last words of an app, so that no two are told at once.
async fn tell_meters(inner: std::sync::Weak<Inner>) {
    loop {
        tokio::time::sleep(METER_INTERVAL).await;
        let Some(inner) = inner.upgrade() else {
            return;
        };
        inner.apps.all().iter().for_each(|app| inner.meter(app));
    }
}

impl Inner {
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    pub(crate) fn find(&self, app: &AppName) -> Option<Arc<HostedApp>> {
        self.apps.find(app)
    }

    pub(crate) fn log(&self, app: &AppName) -> AppLog {
        let mut logs = lock(&self.app_logs);
        logs.entry(app.clone())
            .or_insert_with(|| {
                let path = app_folder(&self.shared.config.data, app).join("logs");
                self.logs.open(path)
            })
            .clone()
    }

    /// The app, opened and with a dispatcher; made if it is new.
    pub(crate) async fn opened(&self, name: &AppName) -> Result<Arc<HostedApp>, ApplyError> {
        let opening = match self.apps.enter(name, self).await {
            Entered::Open(app) => return Ok(app),
            Entered::Closed => return Err(ApplyError::ShuttingDown),
            Entered::Opening(opening) => opening,
        };
        let log = self.log(name);
        let name = (opening.id(), name.clone());
        let (shared, pool) = (Arc::clone(&self.shared), Arc::clone(&opening.pool));
        // The name is its own until it is open, also if whoever wants it does not wait.
        let opened = tokio::task::spawn_blocking(move || {
            let app = open_app(name, (log, pool), &shared)
                .map_err(|error| ApplyError::Platform(error.to_string()))?;
            if !opening.done(&app) {
                return Err(ApplyError::ShuttingDown);
            }
            Ok(app)
        });
        opened.await.unwrap_or(Err(ApplyError::ShuttingDown))
    }

    /// Tells the embedder's meters, if there are any, what the app has used since they were told last.
    fn meter(&self, app: &HostedApp) {
        if let Some(meters) = &self.shared.config.meters {
            let used = app.usage.news(&app.name);
            if !used.is_empty() {
                meters.used(&used);
            }
        }
    }

    /// The shutdown's steps but for the control thread's own end.
    async fn end_all(&self) {
        let Closed { open: apps, early } = self.apps.close();
        let grace = apps
            .iter()
            .filter_map(|app| app.web_grace())
            .max()
            .unwrap_or_default();
        for app in &apps {
            app.pool.announce_end();
            app.pool.refuse_early();
        }
        early.iter().for_each(|pool| pool.refuse_early());
        self.shared.router.drain(grace).await;
        for stage in [Ending::Web, Ending::Others, Ending::OneOffs] {
            join_all(apps.iter().map(|app| app.end(stage))).await;
        }
        self.apps.all_left().await;
        join_all(apps.iter().map(|app| app.addons.close())).await;
        apps.iter().for_each(|app| self.meter(app));
        self.shared.events.tell(Event::Drained);
        let cores = self.shared.cores.clone();
        // Dropping what is left on a core may take a moment.
        drop(tokio::task::spawn_blocking(move || cores.stop()).await);
        // Blocks this thread, on which nothing else is left to do.
        self.logs.close();
    }
}
