//! A bare `wasmtime_wasi_http` `ProxyHandler`, set up as `wasmtime serve` is: wasmtime's default pooling allocator, a
//! work-stealing runtime, all of WASI linked, no limits but the number of requests per instance.

use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use wasmtime::component::{Component, GuestTaskId, Linker, ResourceTable};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, StoreContextMut,
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, ProxyHandler, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState,
    WorkerStatus,
};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::server::own_address;

/// An instance that nobody asks is dropped after this time, as `wasmtime serve` does.
const IDLE: Duration = Duration::from_secs(1);

/// Calls at once in an instance of a WASI 0.3 guest, as `wasmtime serve` allows.
const CONCURRENT: usize = 16;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The guest.
    #[arg(long)]
    component: PathBuf,
    /// Requests per instance.
    #[arg(long)]
    reuse: usize,
}

/// Serves until the process is ended.
pub(crate) fn serve(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(accept(arguments))
}

async fn accept(arguments: &Arguments) -> anyhow::Result<()> {
    let handler = ProxyHandler::new(Handler::new(arguments)?);
    let listener = tokio::net::TcpListener::bind(own_address()?).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let handler = handler.clone();
        drop(tokio::spawn(async move {
            let service = service_fn(|request: Request<hyper::body::Incoming>| {
                let handler = handler.clone();
                async move {
                    let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
                    handler.handle((), request).await
                }
            });
            // A client that goes away is no news; a guest that fails is seen by its missing answer.
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            drop(served.await);
        }));
    }
}

struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: NoHooks,
}

/// The defaults, and no way out.
struct NoHooks;

impl WasiHttpHooks for NoHooks {
    fn send_request(
        &mut self,
        _request: Request<WasiBody>,
        _options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Outgoing {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}

/// An answer from outside, and what tells how its body went.
type Outgoing = Box<
    dyn Future<
            Output = Result<
                (
                    http::Response<WasiBody>,
                    Box<dyn Future<Output = Result<(), Error>> + Send>,
                ),
                Error,
            >,
        > + Send,
>;

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.hooks,
        }
    }
}

struct Handler {
    engine: Engine,
    proxy: ProxyPre<State>,
    reuse: usize,
}

impl Handler {
    fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let mut config = Config::new();
        config.wasm_component_model(true);
        config.wasm_component_model_async(true);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(
            PoolingAllocationConfig::default(),
        ));
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        let component = Component::from_file(&engine, &arguments.component)?;
        let instance = linker.instantiate_pre(&component)?;
        let proxy = match wasmtime_wasi_http::p3::bindings::ServicePre::new(instance.clone()) {
            Ok(pre) => ProxyPre::P3(pre),
            Err(_) => ProxyPre::P2(wasmtime_wasi_http::p2::bindings::ProxyPre::new(instance)?),
        };
        Ok(Self {
            engine,
            proxy,
            reuse: arguments.reuse,
        })
    }
}

impl HandlerState for Handler {
    type StoreData = State;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<State, Expiration, Worker>> {
        let state = State {
            table: ResourceTable::new(),
            wasi: WasiCtx::builder().inherit_stderr().build(),
            http: WasiHttpCtx::new(),
            hooks: NoHooks,
        };
        let mut store = Store::new(&self.engine, state);
        let proxy = self.proxy.instantiate_async(&mut store).await?;
        let at_once = match self.proxy {
            ProxyPre::P2(_) => 1,
            ProxyPre::P3(_) => CONCURRENT,
        };
        Ok(Instance {
            store,
            proxy,
            view: State::http,
            expiration: Expiration(Box::pin(tokio::time::sleep(IDLE))),
            state: Worker {
                reuse: self.reuse,
                at_once,
            },
        })
    }
}

/// Drops instances that nobody asks.
struct Expiration(Pin<Box<tokio::time::Sleep>>);

impl WorkerExpiration for Expiration {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        start: Instant,
    ) -> Poll<()> {
        match status {
            WorkerStatus::Idle => {
                let deadline = (start + IDLE).into();
                if deadline != self.0.deadline() {
                    self.0.as_mut().reset(deadline);
                }
                self.0.as_mut().poll(cx)
            }
            // As there: no deadline unless one is given.
            WorkerStatus::Requests | WorkerStatus::PostReturn => Poll::Pending,
        }
    }
}

struct Worker {
    reuse: usize,
    at_once: usize,
}

impl WorkerState for Worker {
    type StoreData = State;
    type RequestData = ();

    fn should_accept_request(&self, under_way: usize, so_far: usize) -> ShouldAccept {
        if so_far >= self.reuse {
            ShouldAccept::Never
        } else if under_way >= self.at_once {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        _store: StoreContextMut<'_, State>,
        (): (),
        _task: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        Box::pin(tokio::time::sleep(Duration::MAX))
    }

    fn drop(&self, store: Store<State>, result: wasmtime::Result<()>) {
        if let Err(error) = result {
            eprintln!("an instance failed: {error:?}");
        }
        drop(store);
    }
}
