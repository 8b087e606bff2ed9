//! Servers in processes of their own, and what they use.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::app;
use crate::load;
use crate::plan::{Load, Peer, Row};

/// The longest that a server may take to start, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The programs that are measured.
pub(crate) struct Tools {
    itself: PathBuf,
    /// The real binary.
    pub(crate) oarlock: PathBuf,
    /// The real `wasmtime`, if it is on PATH.
    pub(crate) wasmtime: Option<PathBuf>,
}

impl Tools {
    /// Ours are those that cargo built for this run; the others are looked for.
    pub(crate) fn find(oarlock: Option<PathBuf>) -> anyhow::Result<Self> {
        Ok(Self {
            itself: std::env::current_exe()?,
            oarlock: oarlock.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_oarlock"))),
            wasmtime: on_path("wasmtime"),
        })
    }

    pub(crate) fn has(&self, peer: Peer) -> bool {
        peer != Peer::Wasmtime || self.wasmtime.is_some()
    }

    /// Starts a server of a row and waits until it answers.
    pub(crate) fn start(&self, peer: Peer, row: Row, load: Load) -> anyhow::Result<Server> {
        let addr = free_address()?;
        let guest = row.component(load);
        let mut app = None;
        let command = match peer {
            Peer::Hyper => self.own("serve-hyper", &addr),
            Peer::Proxy => {
                let mut command = self.own("serve-proxy", &addr);
                command
                    .arg("--component")
                    .arg(guest)
                    .args(["--reuse", &row.reuse().to_string()]);
                command
            }
            Peer::Wasmtime => {
                let mut command = Command::new(self.wasmtime.as_ref().context("no wasmtime")?);
                command
                    .args(["serve", "-Scli", "--addr", &addr.to_string()])
                    .stderr(Stdio::null());
                if row.reuse() > 1 {
                    command.args(["--max-instance-reuse-count", &row.reuse().to_string()]);
                }
                command.arg(guest);
                command
            }
            Peer::Oarlock => {
                let made = app::App::new(&app::manifest(row, load), &guest)?;
                let command = made.up(&self.oarlock, addr);
                app = Some(made);
                command
            }
        };
        Server::start(command, addr, app)
    }

    /// This program as one of the servers.
    pub(crate) fn own(&self, what: &str, addr: &SocketAddr) -> Command {
        let mut command = Command::new(&self.itself);
        command.arg(what).env("BENCHMARK_ADDR", addr.to_string());
        command
    }
}

/// Where a server that this program started as its own child listens.
pub(crate) fn own_address() -> anyhow::Result<SocketAddr> {
    let addr = std::env::var("BENCHMARK_ADDR").context("started by the benchmark alone")?;
    Ok(addr.parse()?)
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// An address that was free a moment ago.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A server that runs. Dropped, it is ended.
pub(crate) struct Server {
    child: Child,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    /// From the start of its process to the first answer.
    pub(crate) started_in: Duration,
    _app: Option<app::App>,
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    /// Its own time on processors, in microseconds.
    pub(crate) user_us: f64,
    /// The kernel's for it.
    pub(crate) system_us: f64,
}

impl Server {
    /// Starts it and waits until it answers.
    pub(crate) fn start(
        command: Command,
        addr: SocketAddr,
        app: Option<app::App>,
    ) -> anyhow::Result<Self> {
        Self::start_when(command, addr, app, || {
            matches!(load::ask(addr, "/"), Ok((200, _)))
        })
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start_when(
        mut command: Command,
        addr: SocketAddr,
        app: Option<app::App>,
        ready: impl Fn() -> bool,
    ) -> anyhow::Result<Self> {
        let program = PathBuf::from(command.get_program());
        let start = Instant::now();
        let child = command
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // A Ctrl-C is for the benchmark, which then ends them.
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        let mut server = Self {
            child,
            addr,
            started_in: Duration::ZERO,
            _app: app,
        };
        while !ready() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended at its start: {status}", program.display());
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{} does not answer at {addr}",
                program.display()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        server.started_in = start.elapsed();
        Ok(server)
    }

    /// What it has used so far.
    pub(crate) fn used(&self) -> anyhow::Result<Used> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The second field is a name in brackets, which may hold anything.
        let (_, fields) = stat.rsplit_once(')').context("an odd /proc/PID/stat")?;
        let mut times = fields.split_whitespace().skip(11);
        let mut next = || -> anyhow::Result<f64> {
            let ticks: f64 = times.next().context("an odd /proc/PID/stat")?.parse()?;
            let second = rustix::param::clock_ticks_per_second();
            Ok(ticks * 1e6 / second as f64)
        };
        Ok(Used {
            user_us: next()?,
            system_us: next()?,
        })
    }

    /// The most memory it ever had, in bytes.
    pub(crate) fn peak_memory(&self) -> anyhow::Result<u64> {
        self.memory("VmHWM:")
    }

    /// The memory that it has now, in bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        self.memory("VmRSS:")
    }

    /// Its memory mappings.
    pub(crate) fn mappings(&self) -> anyhow::Result<usize> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.child.id()))?;
        Ok(maps.lines().count())
    }

    /// Whether it has not ended.
    pub(crate) fn runs(&self) -> anyhow::Result<bool> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        Ok(stat
            .rsplit_once(") ")
            .is_some_and(|(_, fields)| !fields.starts_with('Z')))
    }

    fn memory(&self, key: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.context("an odd /proc/PID/status")?.parse::<u64>()? << 10)
    }

    /// Ends it as Ctrl-C does, and waits for it.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.signal(Signal::INT);
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > PATIENCE {
                bail!("process {} does not end", self.child.id());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // Gone already is as good.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            drop(self.child.wait());
        }
    }
}

/// The first line that a program prints of itself.
pub(crate) fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(str::to_owned)
}
