//! A program joined with its grant and limits: what every instance of it is made from.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Request, Response};
use oarlock_spec::limits::Limits;
use oarlock_spec::names::{AppName, DynoName};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use wasmtime::component::ResourceTable;
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::WasiHttpCtx;

use crate::Body;
use crate::after::Hold;
use crate::egress::HttpHooks;
use crate::environment::Environment;
use crate::fields::FieldsCharge;
use crate::files::{Files, Folders};
use crate::grant::{Grant, OutputStream};
use crate::instance::{CallError, Instance};
use crate::limiter::MemoryLimiter;
use crate::meter::{self, Meter};
use crate::pace::Pace;
use crate::place::{Full, Place, Share};
use crate::program::{LoadError, Program};
use crate::run::{Output, Run, Stdin};
use crate::sockets::{NetCtx, NetGrant, Port, udp_check};
use crate::state::GuestState;
use crate::stdio::{ChannelOutput, LogOutput, UntilStop};
use crate::trap::{self, Failure};
use crate::unwind::Panicked;

/// Bytes that one call may copy from the guest into the host (lists, strings); wasmtime's own 128 MiB
/// would let a small guest make its host large.
const HOSTCALL_BYTES: usize = 16 << 20;

/// wasmtime counts a header set's in-memory size, which is more than its size on the wire.
const HEADER_OVERHEAD: u64 = 2;

/// A call waits for half of this, or of its `timeout`, for room: so that its caller hears that there is none.
const CALL_PATIENCE: Duration = Duration::from_secs(10);

/// Epochs until a running guest lets others run.
const EPOCHS: u64 = 1;

/// A program joined with its grant and limits: everything an instance needs, prepared once.
/// Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    pub(crate) inner: Arc<SandboxInner>,
}

pub(crate) struct SandboxInner {
    pub(crate) program: Program,
    pub(crate) grant: Grant,
    pub(crate) limits: Limits,
    pub(crate) meter: Arc<Meter>,
    who: Arc<(AppName, DynoName)>,
    environment: Arc<Environment>,
    folders: Arc<Folders>,
    kv: crate::kv::KvCtx,
    net: Arc<NetGrant>,
    pub(crate) calls: Calls,
    /// What the calls of its app may take of the engine's places.
    share: Share,
    /// Never fires: what instances have that are not told to stop.
    never: CancellationToken,
}

/// Why an instance could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The guest's fault: it trapped while it was instantiated.
    #[error("the component trapped while it started: {0}")]
    Trap(String),
    /// The guest needs more memory than its limit to start (R14).
    #[error(
        "the component needs more memory to start than its limit of {limit} bytes; raise `memory` in `[limits]`"
    )]
    Memory {
        /// The limit.
        limit: u64,
    },
    /// The host has no room for another instance, or not for this app's; the platform's limit.
    #[error("{0}")]
    Full(Full),
    /// Something else of the platform's.
    #[error("the instance could not be started: {0}")]
    Platform(String),
}

impl From<LoadError> for StartError {
    /// What its app could do about it was said when it was loaded first.
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Full { .. } => Self::Full(Full::Machine(error.to_string())),
            error => Self::Platform(error.to_string()),
        }
    }
}

/// The streams of a new instance.
pub(crate) struct Streams {
    pub(crate) stdin: Stdin,
    pub(crate) output: Output,
}

/// The calls under way that have an instance of their own.
#[derive(Default)]
pub(crate) struct Calls {
    under_way: TaskTracker,
    ended: CancellationToken,
}

impl Calls {
    /// Counts a call until the token is dropped.
    pub(crate) fn enter(&self) -> TaskTrackerToken {
        self.under_way.token()
    }

    /// Runs a call's guest; `None`: all calls were ended.
    pub(crate) async fn unless_ended<T>(&self, guest: impl Future<Output = T>) -> Option<T> {
        self.ended.run_until_cancelled(guest).await
    }

    fn end(&self) {
        self.ended.cancel();
    }

    async fn gone(&self) {
        // Closed is only what makes it tell when it is empty: calls may still come.
        self.under_way.close();
        self.under_way.wait().await;
    }
}

impl Sandbox {
    /// Prepares a program to be started with this grant and these limits.
    ///
    /// # Errors
    ///
    /// If a folder of the grant cannot be taken hold of, or the memory limit is above the engine's.
    pub fn new(program: &Program, grant: Grant, limits: &Limits) -> Result<Self, StartError> {
        let most = program.engine().inner.max_memory;
        if limits.memory > most {
            return Err(StartError::Platform(format!(
                "its memory limit of {} bytes is above the engine's {most}; raise the engine's `max_memory`",
                limits.memory
            )));
        }
        let folders = Folders::open(&grant.folders, grant.tmp_root.clone(), limits.files)
            .map_err(|error| StartError::Platform(format!("a folder cannot be opened: {error}")))?;
        let environment = Environment {
            variables: grant.env.clone(),
            arguments: grant.args.clone(),
        };
        let net = NetGrant::new(&grant, limits);
        let engine = &program.engine().inner;
        let share = engine.places.share_of(&grant.app);
        let ticks = engine.ticker.ticks.clone();
        Ok(Self {
            inner: Arc::new(SandboxInner {
                program: program.clone(),
                kv: crate::kv::KvCtx::new(&grant),
                net,
                who: Arc::new((grant.app.clone(), grant.dyno.clone())),
                grant,
                limits: limits.clone(),
                meter: Arc::new(Meter::new(Pace::new(ticks))),
                environment: Arc::new(environment),
                folders: Arc::new(folders),
                calls: Calls::default(),
                share,
                never: CancellationToken::new(),
            }),
        })
    }

    /// What its instances have used.
    pub fn meter(&self) -> Arc<Meter> {
        self.inner.meter.clone()
    }

    /// What its instances are limited to.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Where its command listens, if its grant has such a place.
    pub fn port(&self) -> Option<&Port> {
        self.inner.grant.listen.as_ref()
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.inner.program
    }

    /// Isolation `request`: one call in an instance of its own, on the runtime of the caller. The
    /// head comes back as soon as the guest gives it; the body streams. Dropping this future or the
    /// response's body ends the instance. A trap after the head ends the body with an error.
    /// After the body is complete the guest may go on for at most `after_response`.
    ///
    /// # Errors
    ///
    /// If the instance cannot be started, or ends without a response; see [`CallError`].
    pub async fn call(&self, request: Request<Body>) -> Result<Response<Body>, CallError> {
        self.call_holding(request, Hold::NONE).await
    }

    /// The same; `hold` is kept until the instance is gone, which may be long after the body is complete.
    ///
    /// # Errors
    ///
    /// As of [`call`](Self::call).
    pub async fn call_holding(
        &self,
        request: Request<Body>,
        hold: Hold,
    ) -> Result<Response<Body>, CallError> {
        crate::call::call(&self.inner, request, hold).await
    }

    /// Waits until no instance of a [`call`](Self::call) is left, those included that go on after their response.
    pub async fn calls_gone(&self) {
        self.inner.calls.gone().await;
    }

    /// Ends the instances of all calls under way, and of those to come, each at its next tick, and
    /// waits until they are gone. Their callers meet [`CallError::Ended`], or a body that fails.
    pub async fn end_calls(&self) {
        self.inner.calls.end();
        self.inner.calls.gone().await;
    }

    /// Isolation `dyno`: one instance that serves many calls, its task spawned on the caller's runtime.
    ///
    /// # Errors
    ///
    /// If there is no place for it, or it traps while it is instantiated.
    pub async fn start(&self) -> Result<Instance, StartError> {
        crate::instance::start(&self.inner).await
    }

    /// One run of a command, with `extra_args` after the grant's; its task is spawned on the
    /// caller's runtime. Never fails at once: [`Run::wait`] says what became of it.
    pub fn run(&self, stdin: Stdin, output: Output, extra_args: &[String]) -> Run {
        crate::run::start(&self.inner, Streams { stdin, output }, extra_args)
    }
}

impl SandboxInner {
    /// Waits for room for an instance that stands until it is ended, at most for the boot timeout.
    pub(crate) async fn place(&self) -> Result<Place, StartError> {
        self.placed(None, self.limits.boot_timeout).await
    }

    /// Waits for room for the instance of one call, within the share of its app.
    pub(crate) async fn place_for_call(&self) -> Result<Place, StartError> {
        let patience = self.limits.timeout.min(CALL_PATIENCE) / 2;
        self.placed(Some(&self.share), patience).await
    }

    async fn placed(&self, share: Option<&Share>, patience: Duration) -> Result<Place, StartError> {
        let loaded = self.program.loaded().await?;
        let places = &self.program.engine().inner.places;
        places
            .take(share, self.program.places(), patience, loaded)
            .await
            .map_err(StartError::Full)
    }

    /// A store for an instance that is told nothing and hears nothing: stdin ended, output to the log.
    pub(crate) fn handler_store(&self, stopping: Option<CancellationToken>) -> Store<GuestState> {
        let mut wasi = WasiCtx::builder();
        let log = &self.grant.log;
        wasi.stdout(LogOutput::new(log.clone(), OutputStream::Stdout));
        wasi.stderr(LogOutput::new(log.clone(), OutputStream::Stderr));
        let stopping = stopping.unwrap_or_else(|| self.never.clone());
        self.store(wasi, self.environment.clone(), stopping)
    }

    /// A store for one run of a command.
    pub(crate) fn command_store(
        &self,
        streams: Streams,
        extra_args: &[String],
        stopping: CancellationToken,
    ) -> Store<GuestState> {
        let mut wasi = WasiCtx::builder();
        match streams.stdin {
            Stdin::OpenUntilStop => wasi.stdin(UntilStop(stopping.clone())),
            Stdin::Ended => &mut wasi,
            Stdin::From(source) => wasi.stdin(wasmtime_wasi::cli::AsyncStdinStream::new(source)),
        };
        match streams.output {
            Output::Log => {
                wasi.stdout(LogOutput::new(self.grant.log.clone(), OutputStream::Stdout));
                wasi.stderr(LogOutput::new(self.grant.log.clone(), OutputStream::Stderr));
            }
            Output::To { stdout, stderr } => {
                wasi.stdout(ChannelOutput::new(stdout));
                wasi.stderr(ChannelOutput::new(stderr));
            }
        }
        let environment = if extra_args.is_empty() {
            self.environment.clone()
        } else {
            let arguments = self
                .environment
                .arguments
                .iter()
                .chain(extra_args)
                .cloned()
                .collect();
            Arc::new(Environment {
                variables: self.environment.variables.clone(),
                arguments,
            })
        };
        self.store(wasi, environment, stopping)
    }

    fn store(
        &self,
        mut wasi: wasmtime_wasi::WasiCtxBuilder,
        environment: Arc<Environment>,
        stopping: CancellationToken,
    ) -> Store<GuestState> {
        let limits = &self.limits;
        wasi.max_random_size(limits.random);
        // TCP and name look-ups are ours.
        wasi.allow_tcp(false).allow_ip_name_lookup(false);
        wasi.allow_udp(true);
        wasi.socket_addr_check(udp_check(self.net.clone()));
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.resources as usize);
        let mut http = WasiHttpCtx::new();
        let fields = limits.header.saturating_mul(HEADER_OVERHEAD);
        http.set_field_size_limit(usize::try_from(fields).unwrap_or(usize::MAX));
        let state = GuestState {
            who: self.who.clone(),
            data: self.program.engine().inner.functions.data(),
            wasi: wasi.build(),
            table,
            http,
            hooks: HttpHooks::new(self.net.clone()),
            net: NetCtx::new(self.net.clone()),
            kv: self.kv.clone(),
            environment,
            files: Files::new(self.folders.clone()),
            stopping,
            limiter: MemoryLimiter::new(limits.memory, self.meter.clone()),
            fields: FieldsCharge::default(),
        };
        let mut store = Store::new(self.program.wasm(), state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        store.set_max_component_handles(limits.handles as usize);
        // Tasks, streams and futures of 0.3. A task that has returned and goes on has no handle any more.
        if let Some(table) = store.concurrent_resource_table() {
            table.set_max_capacity(limits.resources as usize);
        }
        store.set_epoch_deadline(EPOCHS);
        // A guest that waited, for its next call or for I/O, has a deadline of long ago, and loses nothing by it: its
        // turn has just begun. Sending each such guest to the end of the line would cost it a turn of the driver,
        // and beside a spinning neighbour that neighbour's whole tick.
        let shortest = self.program.engine().inner.tick / 2;
        // tokio wakes who yields like this only after its next turn of the driver, so that I/O and
        // timers of the core's other guests come first. Here is also where a guest over its `cpu`
        // limit will be made to wait.
        store.epoch_deadline_callback(move |guest| {
            let meter = guest.data().limiter.meter();
            if meter::turn(meter).is_some_and(|turn| turn < shortest) {
                return Ok(UpdateDeadline::Continue(EPOCHS));
            }
            meter::has_used_up_tick();
            Ok(UpdateDeadline::YieldCustom(
                EPOCHS,
                Box::pin(tokio::task::yield_now()),
            ))
        });
        store
    }

    /// What an error that came out of a store means.
    pub(crate) fn failure(&self, error: &wasmtime::Error, store: &Store<GuestState>) -> Failure {
        trap::classify(error, store.data().limiter.refused())
    }

    /// What an error of instantiation means.
    pub(crate) fn start_error(
        &self,
        error: &wasmtime::Error,
        store: &Store<GuestState>,
    ) -> StartError {
        match self.failure(error, store) {
            Failure::Memory => StartError::Memory {
                limit: self.limits.memory,
            },
            Failure::Exit(code) => StartError::Trap(format!("it exited with code {code}")),
            Failure::Full(text) => StartError::Full(Full::Machine(text)),
            Failure::Trap(text) if error.is::<Panicked>() => StartError::Platform(text),
            Failure::Trap(text) => StartError::Trap(text),
        }
    }

    /// Writes a remark on this dyno to its log, at a bounded rate.
    pub(crate) fn remark(&self, text: &str) {
        self.net.remarks.write(text);
    }

    pub(crate) fn count_request(&self) {
        self.meter.requests.fetch_add(1, Ordering::Relaxed);
    }
}
