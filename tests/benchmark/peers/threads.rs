//! Our sandbox under hyper, on one of the two thread designs: a current-thread runtime per core, where each connection's
//! guests run on the core that accepted it, or one work-stealing runtime for all. With spinning guests beside them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use clap::ValueEnum;
use http_body_util::{BodyExt as _, Empty};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use oarlock_sandbox::{
    Body, DynoLog, Egress, EgressRules, Engine, EngineConfig, Grant, HttpClient, Instance,
    OutputStream, Sandbox, StartError,
};
use oarlock_spec::limits::Limits;
use oarlock_spec::names::{AppName, DynoName};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use super::shared_listener;
use crate::server::own_address;

/// Instances of a guest that is reused, over all threads.
const INSTANCES: usize = 4;

/// Which threads run guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Design {
    /// A current-thread runtime per core.
    PerCore,
    /// One work-stealing runtime with a thread per core.
    Stealing,
}

impl Design {
    pub(crate) const ALL: [Self; 2] = [Self::PerCore, Self::Stealing];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PerCore => "a runtime per core",
            Self::Stealing => "work stealing",
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The guest.
    #[arg(long)]
    component: PathBuf,
    /// A guest that spins when it is asked for `/spin`.
    #[arg(long)]
    spinner: PathBuf,
    /// Guests that spin all the time.
    #[arg(long)]
    spinners: usize,
    /// Whether instances are reused.
    #[arg(long)]
    reused: bool,
    /// Which threads.
    #[arg(long, value_enum)]
    design: Design,
}

/// Serves until the process is ended.
pub(crate) fn serve(arguments: &Arguments) -> anyhow::Result<()> {
    let addr = own_address()?;
    let cores = std::thread::available_parallelism()?.get();
    let engine = Engine::new(EngineConfig {
        instances: 1_000,
        ..EngineConfig::default()
    })?;
    let guest = sandbox(&engine, &arguments.component)?;
    let spinner = sandbox(&engine, &arguments.spinner)?;
    let runtimes: Vec<Runtime> = match arguments.design {
        Design::PerCore => (0..cores)
            .map(|_| Builder::new_current_thread().enable_all().build())
            .collect::<Result<_, _>>()?,
        Design::Stealing => vec![
            Builder::new_multi_thread()
                .worker_threads(cores)
                .enable_all()
                .build()?,
        ],
    };
    let count = runtimes.len();
    let threads: Vec<_> = runtimes
        .into_iter()
        .enumerate()
        .map(|(index, runtime)| {
            let here = |all: usize| all / count + usize::from(index < all % count);
            let share = Share {
                addr,
                guest: guest.clone(),
                spinner: spinner.clone(),
                spinners: here(arguments.spinners),
                instances: if arguments.reused { here(INSTANCES) } else { 0 },
            };
            std::thread::spawn(move || runtime.block_on(share.serve()))
        })
        .collect();
    for thread in threads {
        if let Ok(served) = thread.join() {
            served?;
        }
    }
    Ok(())
}

/// What one of the runtimes does.
struct Share {
    addr: SocketAddr,
    guest: Sandbox,
    spinner: Sandbox,
    spinners: usize,
    /// 0: a fresh one per request.
    instances: usize,
}

impl Share {
    async fn serve(self) -> anyhow::Result<()> {
        let mut instances = Vec::new();
        for _ in 0..self.instances {
            instances.push(Mutex::new(self.guest.start().await?));
        }
        let backend = Arc::new(Backend {
            guest: self.guest,
            instances,
            next: AtomicUsize::new(0),
        });
        for _ in 0..self.spinners {
            let spinner = self.spinner.clone();
            drop(tokio::spawn(async move {
                let request = http::Request::get("/spin").header("host", "spin.localhost");
                let body = Empty::<Bytes>::new().map_err(|never| match never {});
                match request.body(body.boxed_unsync()) {
                    // It never answers.
                    Ok(request) => drop(spinner.call(request).await),
                    Err(error) => eprintln!("no request: {error}"),
                }
            }));
        }
        let listener = shared_listener(self.addr)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let backend = backend.clone();
            drop(tokio::spawn(async move {
                let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
                    let backend = backend.clone();
                    async move {
                        backend
                            .call(request.map(|body| body.map_err(Into::into).boxed_unsync()))
                            .await
                    }
                });
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service);
                // A client that goes away is no news.
                drop(served.await);
            }));
        }
    }
}

struct Backend {
    guest: Sandbox,
    instances: Vec<Mutex<Instance>>,
    next: AtomicUsize,
}

impl Backend {
    async fn call(
        &self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, oarlock_sandbox::CallError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        match self.instances.get(turn % self.instances.len().max(1)) {
            Some(place) => self.live(place).await?.call(request).await,
            None => self.guest.call(request).await,
        }
    }

    /// An instance whose clients all went away, as when the load ends, has ended; the host would replace it too.
    async fn live(&self, place: &Mutex<Instance>) -> Result<Instance, StartError> {
        let now = || place.lock().unwrap_or_else(PoisonError::into_inner);
        let instance = now().clone();
        if !instance.has_ended() {
            return Ok(instance);
        }
        let new = self.guest.start().await?;
        *now() = new.clone();
        Ok(new)
    }
}

/// A dyno that says nothing to anybody.
struct Silent;

impl DynoLog for Silent {
    fn line(&self, _stream: OutputStream, _line: &str) {}

    fn remark(&self, text: &str) {
        eprintln!("{text}");
    }
}

/// A sandbox with nothing but its limits.
pub(crate) fn sandbox(engine: &Engine, component: &std::path::Path) -> anyhow::Result<Sandbox> {
    let name = component.file_name().unwrap_or_default().to_string_lossy();
    let program = engine.load(&name, &std::fs::read(component)?)?;
    let grant = Grant {
        app: "benchmark".parse::<AppName>()?,
        dyno: "web.1".parse::<DynoName>()?,
        env: Vec::new(),
        args: vec![name.into_owned()],
        folders: Vec::new(),
        tmp_root: None,
        egress: Arc::new(Egress::new(EgressRules::default())),
        http: HttpClient::new(&[]),
        listen: None,
        kv: BTreeMap::new(),
        log: Arc::new(Silent),
    };
    Ok(Sandbox::new(&program, grant, &Limits::default())?)
}
