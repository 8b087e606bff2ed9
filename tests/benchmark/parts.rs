//! What is measured inside the host, and of its start.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use oarlock_host::{App, Host, HostConfig};
use oarlock_sandbox::{Engine, EngineConfig, Sandbox};
use oarlock_spec::api::{DynoState, Formation};
use oarlock_spec::names::AppName;
use serde::Serialize;

use crate::Effort;
use crate::app;
use crate::peers::threads;
use crate::plan::{Load, Peer, Row};
use crate::server::{self, Server, Tools};
use oarlock_tests::statistics::{median, percentile};

/// The longest that a step may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// One line of a part.
#[derive(Debug, Serialize)]
pub(crate) struct Fact {
    pub(crate) what: String,
    /// Half of the times were at most this, in microseconds.
    pub(crate) p50_us: Option<f64>,
    /// 99 of 100 were; `None` where there are too few.
    pub(crate) p99_us: Option<f64>,
    /// How often it was done.
    pub(crate) times: usize,
    /// What else was seen.
    pub(crate) note: Option<String>,
}

impl Fact {
    fn of(what: impl Into<String>, times: Vec<Duration>) -> Self {
        let micros = || times.iter().map(|time| time.as_secs_f64() * 1e6);
        Self {
            what: what.into(),
            p50_us: median(micros()),
            p99_us: (times.len() >= 100)
                .then(|| percentile(micros(), 0.99))
                .flatten(),
            times: times.len(),
            note: None,
        }
    }
}

/// Instances inside the host's sandbox, on one thread with nothing beside it.
pub(crate) fn instantiation(effort: Effort) -> anyhow::Result<Vec<Fact>> {
    let engine = Engine::new(EngineConfig::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let times = if effort.quick { 20 } else { 10_000 };
    let mut facts = Vec::new();
    for (wasi, guest) in [("0.2", "hello-p2"), ("0.3", "hello-p3")] {
        let sandbox = threads::sandbox(&engine, &oarlock_tests::guest(guest))?;
        let started = runtime.block_on(instances(&sandbox, times))?;
        facts.push(Fact::of(
            format!("an instance of a WASI {wasi} guest, until it can be called"),
            started,
        ));
        let called = runtime.block_on(calls(&sandbox, times))?;
        facts.push(Fact::of(
            format!("a call of a WASI {wasi} guest in a fresh instance, until its body has ended"),
            called,
        ));
    }
    Ok(facts)
}

async fn instances(sandbox: &Sandbox, times: usize) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let start = Instant::now();
        let instance = sandbox.start().await?;
        took.push(start.elapsed());
        instance.kill();
        instance.ended().await;
    }
    Ok(took)
}

async fn calls(sandbox: &Sandbox, times: usize) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let body = Empty::<Bytes>::new().map_err(|never| match never {});
        let request = http::Request::get("/").header("host", "hello.localhost");
        let request = request.body(body.boxed_unsync())?;
        let start = Instant::now();
        let response = sandbox.call(request).await?;
        let whole = response.into_body().collect().await;
        took.push(start.elapsed());
        ensure!(
            whole.is_ok_and(|body| body.to_bytes().len() == 14),
            "not the 14 bytes"
        );
    }
    Ok(took)
}

/// A host in this process with the hello app on it.
struct Hosted {
    host: Host,
    app: AppName,
    addr: SocketAddr,
    _data: tempfile::TempDir,
}

impl Hosted {
    async fn new(row: Row, instances: u32) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let mut config = HostConfig::new(data.path());
        config.instances = Some(instances);
        let host = Host::start(config)?;
        let component = std::fs::read(oarlock_tests::guest(row.guest()))?;
        let app = App::from_manifest(app::manifest(row, Load::Hello));
        let app = host.add(app.component("web.wasm", component)).await?.app;
        let addr = host.listen(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let hosted = Self {
            host,
            app,
            addr,
            _data: data,
        };
        hosted.scale(0).await?;
        Ok(hosted)
    }

    /// Scales `web`, and comes back when the new dynos were told to start.
    async fn tell(&self, count: u32) -> anyhow::Result<()> {
        let web = "web".parse().context("a process type")?;
        self.host
            .scale(&self.app, Formation::from([(web, count)]))
            .await?;
        Ok(())
    }

    /// The same, when all of them are up and all others gone.
    async fn scale(&self, count: u32) -> anyhow::Result<()> {
        self.tell(count).await?;
        let start = Instant::now();
        loop {
            let rows = self
                .host
                .dynos(&self.app)
                .await
                .context("the app is gone")?;
            let up = rows.iter().filter(|row| row.state == DynoState::Up).count();
            if up == count as usize && rows.len() == up {
                return Ok(());
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{up} of {count} dynos are up after {PATIENCE:?}"
            );
            // The question itself costs something of each dyno.
            tokio::time::sleep(Duration::from_millis(1 + u64::from(count) / 200)).await;
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?)
}

/// The first byte of a web dyno that was scaled from 0.
pub(crate) fn wake(effort: Effort) -> anyhow::Result<Vec<Fact>> {
    let times = if effort.quick { 3 } else { 100 };
    let mut facts = Vec::new();
    for row in Row::ALL {
        let took = runtime()?.block_on(async {
            let hosted = Hosted::new(row, 64).await?;
            let mut took = Vec::new();
            for _ in 0..times {
                let start = Instant::now();
                hosted.tell(1).await?;
                let addr = hosted.addr;
                let first = tokio::task::spawn_blocking(move || first_byte(addr)).await?;
                first?;
                took.push(start.elapsed());
                hosted.scale(0).await?;
            }
            hosted.host.shutdown().await;
            anyhow::Ok(took)
        })?;
        let what = format!(
            "{}: `scale web=1` until the first byte of an answer",
            row.name()
        );
        facts.push(Fact::of(what, took));
    }
    Ok(facts)
}

/// Reads the first bytes of an answer, which must be a good one.
fn first_byte(addr: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: hello.localhost\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    ensure!(
        head.ends_with(b" 200"),
        "it is answered {}",
        String::from_utf8_lossy(&head)
    );
    Ok(())
}

/// `web=0` to `web=1000`.
pub(crate) fn thousand(effort: Effort) -> anyhow::Result<Vec<Fact>> {
    let count = if effort.quick { 20 } else { 1_000 };
    let times = if effort.quick { 1 } else { 3 };
    let mut facts = Vec::new();
    for row in Row::ALL {
        let (took, grown) = runtime()?.block_on(async {
            // One app may have half of the instances.
            let hosted = Hosted::new(row, 2 * count + 64).await?;
            let before = resident()?;
            let mut took = Vec::new();
            let mut grown = 0;
            for _ in 0..times {
                let start = Instant::now();
                hosted.scale(count).await?;
                took.push(start.elapsed());
                grown = resident()?.saturating_sub(before);
                hosted.scale(0).await?;
            }
            hosted.host.shutdown().await;
            anyhow::Ok((took, grown))
        })?;
        let what = format!(
            "{}: `scale web={count}` from 0 until all are up",
            row.name()
        );
        let mut fact = Fact::of(what, took);
        fact.note = Some(format!(
            "{} KiB of memory a dyno",
            grown / u64::from(count) / 1024
        ));
        facts.push(fact);
    }
    facts.extend(growth(effort)?);
    Ok(facts)
}

/// How `scale` grows with the number of dynos; their instances are of requests, so that only formation works.
fn growth(effort: Effort) -> anyhow::Result<Vec<Fact>> {
    let counts: &[u32] = if effort.quick {
        &[20, 40]
    } else {
        &[500, 1_000, 2_000, 4_000, 10_000]
    };
    let times = if effort.quick { 1 } else { 3 };
    runtime()?.block_on(async {
        let hosted = Hosted::new(Row::Fresh, 64).await?;
        let mut facts = Vec::new();
        for count in counts {
            let mut took = Vec::new();
            for _ in 0..times {
                let start = Instant::now();
                hosted.scale(*count).await?;
                took.push(start.elapsed());
                hosted.scale(0).await?;
            }
            let what = format!("`scale web={count}` from 0 until all are up, formation alone");
            let mut fact = Fact::of(what, took);
            let each = fact.p50_us.map(|p50| p50 / f64::from(*count));
            fact.note = each.map(|each| format!("{each:.0} µs a dyno"));
            facts.push(fact);
        }
        hosted.host.shutdown().await;
        Ok(facts)
    })
}

/// Memory of this process, in bytes.
fn resident() -> anyhow::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .context("an odd /proc/self/statm")?
        .parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// The start of the whole program, without and with its code cache; `wasmtime serve` beside it, as it comes.
pub(crate) fn second_start(tools: &Tools, effort: Effort) -> anyhow::Result<Vec<Fact>> {
    let times = if effort.quick { 1 } else { 5 };
    let (mut first, mut second, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..times {
        let app = app::App::new(
            &app::manifest(Row::Fresh, Load::Hello),
            &Row::Fresh.component(Load::Hello),
        )?;
        for starts in [&mut first, &mut second] {
            starts.push(start_once(&app, &tools.oarlock)?);
        }
        if tools.has(Peer::Wasmtime) {
            let server = tools.start(Peer::Wasmtime, Row::Fresh, Load::Hello)?;
            theirs.push(server.started_in);
            server.stop()?;
        }
    }
    let mut facts = vec![
        Fact::of("`oarlock up` until its first answer: first start", first),
        Fact::of("the same: second start", second),
    ];
    if !theirs.is_empty() {
        facts.push(Fact::of("`wasmtime serve` until its first answer", theirs));
    }
    Ok(facts)
}

fn start_once(app: &app::App, binary: &Path) -> anyhow::Result<Duration> {
    let addr = server::free_address()?;
    let server = Server::start(app.up(binary, addr), addr, None)?;
    let took = server.started_in;
    server.stop()?;
    Ok(took)
}
