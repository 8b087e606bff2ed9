//! The network of guests over real sockets on loopback: what is granted reaches, everything else is denied with
//! its reason in the log; WASI 0.2 and 0.3.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use oarlock_sandbox::{
    ChosenBy, DynoLog, Egress, EgressRules, Endpoint, Engine, EngineConfig, Exit, Grant,
    HttpClient, Output, OutputStream, Port, PrivateNetworks, Program, Run, Sandbox, Stdin,
};
use oarlock_spec::limits::Limits;
use oarlock_spec::manifest::{AllowEntry, HostPattern};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

mod listen;
mod loopback;
mod outgoing;
mod sockets;
mod tls;

/// Ten times what a step may take.
const PATIENCE: Duration = Duration::from_secs(100);

fn program(name: &str) -> Program {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    static PROGRAMS: OnceLock<Mutex<HashMap<String, Program>>> = OnceLock::new();
    let engine = ENGINE.get_or_init(|| {
        let config = EngineConfig {
            instances: 64,
            max_memory: 256 << 20,
            tick: Duration::from_millis(1),
            code_cache: None,
            ..EngineConfig::default()
        };
        Engine::new(config).unwrap()
    });
    let mut programs = PROGRAMS.get_or_init(Mutex::default).lock().unwrap();
    let load = || {
        engine
            .load(name, &std::fs::read(oarlock_tests::guest(name)).unwrap())
            .unwrap()
    };
    programs.entry(name.to_owned()).or_insert_with(load).clone()
}

/// Keeps what it is told.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    remarks: Mutex<Vec<String>>,
}

impl DynoLog for Log {
    fn line(&self, stream: OutputStream, line: &str) {
        let mark = if stream == OutputStream::Stderr {
            "stderr: "
        } else {
            ""
        };
        self.lines.lock().unwrap().push(format!("{mark}{line}"));
    }

    fn remark(&self, text: &str) {
        self.remarks.lock().unwrap().push(text.to_owned());
    }
}

/// A dyno under test.
struct Net {
    rules: EgressRules,
    limits: Limits,
    listen: Option<Port>,
    roots: Vec<Vec<u8>>,
}

impl Net {
    /// Nothing granted, as in `serve`.
    fn none() -> Self {
        Self {
            rules: EgressRules::default(),
            limits: Limits::default(),
            listen: None,
            roots: Vec::new(),
        }
    }

    /// As in `up`.
    fn up() -> Self {
        let mut net = Self::none();
        net.rules.private = PrivateNetworks {
            allowed: Vec::new(),
            local_development: true,
        };
        net
    }

    fn addon(mut self, name: &str, addr: SocketAddr) -> Self {
        self.rules.endpoints.push(Endpoint {
            addon: name.into(),
            host: addr.ip().to_string(),
            port: addr.port(),
            chosen_by: ChosenBy::Operator,
        });
        self
    }

    fn allow(mut self, scheme: Option<&str>, name: &str, port: u16) -> Self {
        let host = match name.parse() {
            Ok(ip) => HostPattern::Ip(ip),
            Err(_) => HostPattern::Name(name.to_owned()),
        };
        let text = format!(
            "{}{name}:{port}",
            scheme
                .map(|scheme| format!("{scheme}://"))
                .unwrap_or_default()
        );
        self.rules.allow.push(AllowEntry {
            text,
            line: 3,
            scheme: scheme.map(str::to_owned),
            host,
            port,
        });
        self
    }

    fn sandbox(self, guest: &str, args: &[&str]) -> (Sandbox, Arc<Log>, Arc<Egress>) {
        let log = Arc::new(Log::default());
        let egress = Arc::new(Egress::new(self.rules));
        let grant = Grant {
            app: "test".parse().unwrap(),
            dyno: "web.1".parse().unwrap(),
            env: Vec::new(),
            args: std::iter::once(&guest)
                .chain(args)
                .map(|arg| (*arg).to_owned())
                .collect(),
            folders: Vec::new(),
            tmp_root: None,
            egress: egress.clone(),
            http: HttpClient::new(&self.roots),
            listen: self.listen,
            kv: BTreeMap::new(),
            log: log.clone(),
        };
        (
            Sandbox::new(&program(guest), grant, &self.limits).unwrap(),
            log,
            egress,
        )
    }

    fn start(self, guest: &str, args: &[&str]) -> Started {
        let (sandbox, log, egress) = self.sandbox(guest, args);
        let run = sandbox.run(Stdin::OpenUntilStop, Output::Log, &[]);
        Started { run, log, egress }
    }

    /// Runs a command to its end; its output and the remarks on it.
    async fn run(self, guest: &str, args: &[&str]) -> (Vec<String>, Vec<String>) {
        let (exit, lines, remarks) = self.start(guest, args).end().await;
        assert_eq!(exit, Exit::Code(0), "{lines:?} {remarks:?}");
        (lines, remarks)
    }
}

struct Started {
    run: Run,
    log: Arc<Log>,
    egress: Arc<Egress>,
}

impl Started {
    /// Waits until the guest has written a line with `text` in it.
    async fn says(&self, text: &str) {
        let said = async {
            while !self
                .log
                .lines
                .lock()
                .unwrap()
                .iter()
                .any(|line| line.contains(text))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let said = tokio::time::timeout(PATIENCE, said).await;
        assert!(
            said.is_ok(),
            "{:?} {:?}",
            self.log.lines.lock().unwrap(),
            self.log.remarks.lock().unwrap()
        );
    }

    async fn end(self) -> (Exit, Vec<String>, Vec<String>) {
        let exit = tokio::time::timeout(PATIENCE, self.run.wait())
            .await
            .expect("the guest ends");
        (
            exit,
            self.log.lines.lock().unwrap().clone(),
            self.log.remarks.lock().unwrap().clone(),
        )
    }
}

/// Echoes each connection; counts them.
async fn echo_server() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    (addr, count)
}

async fn udp_echo_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((read, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..read], from).await;
        }
    });
    addr
}

/// A port that was free a moment ago.
fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

#[track_caller]
fn remarked(remarks: &[String], text: &str) {
    assert!(
        remarks.iter().any(|remark| remark.contains(text)),
        "{remarks:?} do not say {text:?}"
    );
}
