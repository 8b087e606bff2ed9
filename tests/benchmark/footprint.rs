//! What the real host takes of its machine: memory and mappings when idle, under load, after a burst, and with many apps.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use oarlock_tests::{Wasi, sdk_guest};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use crate::Effort;
use crate::load::{self, Wrk};
use crate::plan::{Load, Row};
use crate::promises::Promise;
use crate::server::{self, Server, Tools};

const MIB: f64 = (1 << 20) as f64;
/// What a small app with 32 connections may take, in MiB.
const SMALL: f64 = 60.0;
/// What each small app may take beyond an empty host, in MiB: a thousand may take 100.
const EACH: f64 = 0.1;
/// After a burst, in parts of what was resident before it.
const AFTER: f64 = 1.1;
/// How long after a burst.
const SETTLED: Duration = Duration::from_secs(10);
/// The share of the kernel's mappings that an idle host may have.
const MAPPINGS: f64 = 0.25;
/// The longest that all apps together may take to come up: each is compiled once.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// Apps of which none has come up for so long do not come any more.
const QUIET: Duration = Duration::from_secs(120);
/// Guests at once that cannot be interrupted.
const FILLERS: usize = 8;
/// What their neighbour may wait, in ms, or three times what it waits alone.
const NEIGHBOUR_MS: f64 = 10.0;
/// The longest that an answer may take.
const ANSWER: Duration = Duration::from_secs(60);

/// A folder of apps for `oarlock serve`.
struct Apps(TempDir);

impl Apps {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("oarlock-benchmark-")
            .tempdir()?;
        std::fs::create_dir(folder.path().join("apps"))?;
        Ok(Self(folder))
    }

    fn add(&self, app: &str, manifest: &str, component: &[u8]) -> anyhow::Result<()> {
        let folder = self.0.path().join("apps").join(app);
        std::fs::create_dir(&folder)?;
        let manifest = format!("app = \"{app}\"\n\n[processes]\nweb = \"web.wasm\"\n\n{manifest}");
        std::fs::write(folder.join("oarlock.toml"), manifest)?;
        Ok(std::fs::write(folder.join("web.wasm"), component)?)
    }

    /// What the host says.
    fn said(&self) -> PathBuf {
        self.0.path().join("said")
    }

    /// Serves them, and comes back as soon as it listens.
    fn serve(&self, binary: &Path) -> anyhow::Result<Server> {
        let addr = server::free_address()?;
        let said = std::fs::File::create(self.said())?;
        let mut command = Command::new(binary);
        command
            .args(["serve", "--listen", &addr.to_string(), "--apps"])
            .arg(self.0.path().join("apps"))
            .arg("--data")
            .arg(self.0.path().join("data"))
            .env("XDG_CACHE_HOME", self.0.path())
            .stderr(Stdio::from(said));
        Server::start_when(command, addr, None, || load::ask(addr, "/").is_ok())
    }

    /// Waits until an app answers.
    fn wait_for(&self, server: &Server, app: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        while answer(server.addr, app).is_none_or(|status| status != 200) {
            ensure!(
                start.elapsed() < ANSWER,
                "{app} does not answer: {}",
                tail(&self.said())
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn answer(addr: SocketAddr, app: &str) -> Option<u16> {
    load::ask_of(addr, &format!("{app}.localhost"), "/")
        .ok()
        .map(|(status, _)| status)
}

fn tail(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(5)..)
        .unwrap_or_default()
        .join(" | ")
}

/// All of it.
pub(crate) fn measure(tools: &Tools, apps: u32, effort: Effort) -> anyhow::Result<Vec<Promise>> {
    let mut promises = Vec::new();
    eprintln!("a small app under 32 connections");
    promises.extend(small(tools, effort)?);
    eprintln!("slow requests at once");
    promises.extend(slow(tools, effort)?);
    eprintln!("a neighbour of guests that nothing interrupts");
    promises.push(neighbour(tools, effort)?);
    eprintln!("many apps");
    promises.extend(many(tools, apps as usize, effort)?);
    Ok(promises)
}

/// A host with one app of one small handler.
fn small(tools: &Tools, effort: Effort) -> anyhow::Result<Vec<Promise>> {
    let wrk = Wrk::new()?;
    let mut promises = Vec::new();
    for row in Row::ALL {
        let made = crate::app::App::new(
            &crate::app::manifest(row, Load::Hello),
            &row.component(Load::Hello),
        )?;
        let addr = server::free_address()?;
        let server = Server::start(made.up(&tools.oarlock, addr), addr, Some(made))?;
        if row == Row::Fresh {
            promises.push(idle_mappings(&server)?);
        }
        wrk.run(addr, Load::Hello, effort.window)?;
        let what = format!("{}: one small app at 32 connections, resident", row.name());
        let resident = server.resident()? as f64 / MIB;
        let peak = server.peak_memory()? as f64 / MIB;
        let note = format!("{peak:.1} at the most");
        promises.push(Promise::at_most(what, SMALL, resident, "MiB").noting(&note));
        server.stop()?;
    }
    Ok(promises)
}

fn idle_mappings(server: &Server) -> anyhow::Result<Promise> {
    let allowed = std::fs::read_to_string("/proc/sys/vm/max_map_count")?;
    let allowed: f64 = allowed.trim().parse()?;
    let what = "an idle host's memory mappings";
    let used = server.mappings()? as f64;
    Ok(
        Promise::at_most(what, allowed * MAPPINGS, used, "mappings").noting(&format!(
            "{:.1} % of vm.max_map_count",
            used / allowed * 100.0
        )),
    )
}

/// As many slow requests as one app has room for, and what is left of them.
fn slow(tools: &Tools, effort: Effort) -> anyhow::Result<Vec<Promise>> {
    let count = if effort.quick { 50 } else { 1_000 };
    let apps = Apps::new()?;
    let component = std::fs::read(oarlock_tests::guest("handler-p2"))?;
    let manifest = "[scale]\nweb = 20\n\n[limits.web]\nconcurrency = 50\n";
    apps.add("slow", manifest, &component)?;
    let server = apps.serve(&tools.oarlock)?;
    apps.wait_for(&server, "slow")?;
    // What it takes for usual load belongs to before.
    at_once(server.addr, 32, "slow", "/sleep/100")?;
    settle(effort);
    let before = server.resident()?;
    let good = at_once(server.addr, count, "slow", "/sleep/3000")?;
    let peak = server.peak_memory()?;
    settle(effort);
    let after = server.resident()?;
    server.stop()?;
    Ok(vec![
        Promise::all(
            format!("{count} slow requests at once on one app"),
            count,
            good,
            format!("{good} answered 200"),
        ),
        burst(
            &format!("{SETTLED:?} after {count} slow requests"),
            before,
            peak,
            after,
        ),
    ])
}

/// What a polite app's client waits while another app's guests fill their memory in a loop, which nothing can interrupt.
fn neighbour(tools: &Tools, effort: Effort) -> anyhow::Result<Promise> {
    let apps = Apps::new()?;
    let guest = |name: &str| std::fs::read(oarlock_tests::guest(name));
    apps.add("polite", "", &guest("handler-p2")?)?;
    let memory = "[limits.web]\nmemory = \"256 MiB\"\n";
    apps.add("filler", memory, &guest("hoard-p2")?)?;
    let server = apps.serve(&tools.oarlock)?;
    for app in ["polite", "filler"] {
        apps.wait_for(&server, app)?;
    }
    let (addr, window) = (server.addr, effort.window);
    let alone = runtime()?.block_on(p99(addr, "polite", window))?;
    let beside = runtime()?.block_on(async {
        let mut fillers = tokio::task::JoinSet::new();
        for _ in 0..FILLERS {
            fillers.spawn(async move {
                // Its answer does not matter; the next one begins when it is there.
                while status(addr, Ipv4Addr::LOCALHOST, get("filler", "/fill/1000"))
                    .await
                    .is_ok()
                {}
            });
        }
        // The host sees within some turns who cannot be interrupted.
        tokio::time::sleep(Duration::from_secs(1)).await;
        p99(addr, "polite", window).await
    })?;
    server.stop()?;
    let [alone, beside] = [alone, beside].map(|time| time.as_secs_f64() * 1_000.0);
    let most = NEIGHBOUR_MS.max(3.0 * alone);
    let what = format!("a neighbour's p99 beside {FILLERS} guests that fill 120 MiB in a loop");
    Ok(Promise::at_most(what, most, beside, "ms").noting(&format!("{alone:.1} ms alone")))
}

/// Of an app's answers to one request after the other, each on a connection of its own.
async fn p99(addr: SocketAddr, app: &str, window: Duration) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed() < window {
        let asked = Instant::now();
        let status = status(addr, Ipv4Addr::LOCALHOST, get(app, "/")).await?;
        ensure!(status == 200, "{app} answered {status}");
        times.push(asked.elapsed());
    }
    times.sort_unstable();
    let at = times.len().saturating_sub(1) * 99 / 100;
    times.get(at).copied().context("no request was answered")
}

fn get(app: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {app}.localhost\r\nConnection: close\r\n\r\n")
}

/// What is resident after a burst, beside what was before it.
fn burst(what: &str, before: u64, peak: u64, after: u64) -> Promise {
    let [before, peak, after] = [before, peak, after].map(|bytes| bytes as f64 / MIB);
    Promise {
        what: format!("resident {what}"),
        asked: format!("≤ {AFTER} of before"),
        measured: format!(
            "{:.2} of before ({before:.1} MiB, {peak:.1} at the most, then {after:.1})",
            after / before
        ),
        share: Some(after / before / AFTER),
    }
}

fn settle(effort: Effort) {
    std::thread::sleep(if effort.quick {
        Duration::from_millis(100)
    } else {
        SETTLED
    });
}

/// Distinct small apps, beside a host without any.
fn many(tools: &Tools, apps: usize, effort: Effort) -> anyhow::Result<Vec<Promise>> {
    let count = if effort.quick { 5 } else { apps };
    let none = Apps::new()?;
    let empty = none.serve(&tools.oarlock)?;
    settle(effort);
    let alone = empty.resident()?;
    empty.stop()?;

    let apps = Apps::new()?;
    let component = std::fs::read(sdk_guest(Wasi::P2, "raw"))?;
    let names: Vec<String> = (0..count).map(|index| format!("app-{index}")).collect();
    for name in &names {
        apps.add(name, "", &distinct(&component, name)?)?;
    }
    let start = Instant::now();
    let server = apps.serve(&tools.oarlock)?;
    let (up, named) = until_decided(&apps, &server, &names, start)?;
    let took = start.elapsed();
    settle(effort);
    let before = server.resident()?;
    let mappings = server.mappings()?;
    // All of them at once.
    let asked: Vec<(String, u32)> = names.iter().map(|name| (name.clone(), 2)).collect();
    let good = ask_each(server.addr, &asked)?;
    let peak = server.peak_memory()?;
    settle(effort);
    let after = server.resident()?;
    server.stop()?;
    let beyond = (before as f64 - alone as f64) / MIB;
    let note = format!("an empty host has {:.1}", alone as f64 / MIB);
    Ok(vec![
        Promise::all(
            format!("{count} distinct small apps: up, or refused by name with the setting"),
            count,
            up + named,
            format!(
                "{up} up, {named} refused by name, after {:.0} s; {mappings} mappings",
                took.as_secs_f64()
            ),
        ),
        Promise::at_most(
            format!("{count} small apps, resident beyond an empty host"),
            EACH * count as f64,
            beyond,
            "MiB",
        )
        .noting(&note),
        Promise::all(
            format!("requests to {count} apps, two each at once"),
            count * 2,
            good,
            format!("{good} answered 200"),
        ),
        burst(&format!("{SETTLED:?} after these"), before, peak, after),
    ])
}

/// The same component, with other bytes: a custom section that says whose it is.
fn distinct(component: &[u8], whose: &str) -> anyhow::Result<Vec<u8>> {
    const NAME: &[u8] = b"whose";
    let length = u8::try_from(NAME.len() + 1 + whose.len())?;
    ensure!(length < 0x80, "the section's length takes one byte");
    let mut made = component.to_vec();
    made.extend([0, length, u8::try_from(NAME.len())?]);
    made.extend(NAME);
    made.extend(whose.as_bytes());
    Ok(made)
}

/// Waits until each app answers, or was refused by name with a setting; how many of each.
fn until_decided(
    apps: &Apps,
    server: &Server,
    names: &[String],
    start: Instant,
) -> anyhow::Result<(usize, usize)> {
    let mut left: Vec<&String> = names.iter().collect();
    let (mut up, mut named) = (0, 0);
    let mut progress = start;
    loop {
        // The last look is at all that are left, the others at a few: the host has enough to do.
        let is_last = progress.elapsed() > QUIET || start.elapsed() > PATIENCE;
        let mut misses = if is_last { usize::MAX } else { 8 };
        let said = std::fs::read_to_string(apps.said())?;
        let before = left.len();
        left.retain(|name| {
            if misses == 0 {
                return true;
            }
            if answer(server.addr, name) == Some(200) {
                up += 1;
                return false;
            }
            misses -= 1;
            let refused = is_refused(&said, name);
            named += usize::from(refused);
            !refused
        });
        if left.is_empty() || is_last {
            return Ok((up, named));
        }
        if left.len() < before {
            progress = Instant::now();
        }
        ensure!(server.runs()?, "the host ended: {}", tail(&apps.said()));
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Whether a line says of this app what would have to be raised for it.
fn is_refused(said: &str, app: &str) -> bool {
    said.lines().any(|line| {
        let is_of_app = line
            .split(|c: char| !(c.is_alphanumeric() || c == '-'))
            .any(|word| word == app);
        is_of_app && line.contains("raise")
    })
}

/// So many requests to one app, all under way at once; how many were answered 200.
fn at_once(addr: SocketAddr, count: usize, app: &str, path: &str) -> anyhow::Result<usize> {
    let hosts = vec![format!("{app}.localhost"); count];
    runtime()?.block_on(statuses(addr, hosts, path))
}

fn ask_each(addr: SocketAddr, apps: &[(String, u32)]) -> anyhow::Result<usize> {
    let times = apps
        .iter()
        .map(|(_, times)| *times)
        .max()
        .unwrap_or_default();
    let mut good = 0;
    for _ in 0..times {
        let hosts = apps
            .iter()
            .map(|(app, _)| format!("{app}.localhost"))
            .collect();
        good += runtime()?.block_on(statuses(addr, hosts, "/"))?;
    }
    Ok(good)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// One request to each of these hosts, all at once; how many were answered 200.
async fn statuses(addr: SocketAddr, hosts: Vec<String>, path: &str) -> anyhow::Result<usize> {
    let mut asked = tokio::task::JoinSet::new();
    for (index, host) in hosts.into_iter().enumerate() {
        // The bound of an address is not what is measured: the requests come from several.
        let from = Ipv4Addr::new(127, 0, 0, u8::try_from(index % 4)? + 1);
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        asked.spawn(tokio::time::timeout(ANSWER, status(addr, from, head)));
    }
    let mut good = 0;
    while let Some(answered) = asked.join_next().await {
        good += usize::from(matches!(answered, Ok(Ok(Ok(200)))));
    }
    Ok(good)
}

async fn status(addr: SocketAddr, from: Ipv4Addr, head: String) -> anyhow::Result<u16> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::V4(from), 0))?;
    let mut stream = socket.connect(addr).await?;
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let status = answer.get(9..12).context("no status came")?;
    Ok(std::str::from_utf8(status)?.parse()?)
}
