//! The sandbox over real guests: programs, commands, handlers of both isolations, the code cache.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use oarlock_sandbox::{
    Body, CallError, DynoLog, Egress, EgressRules, Engine, EngineConfig, Folder, Grant, HttpClient,
    OutputStream, Program, Sandbox,
};
use oarlock_spec::limits::Limits;

mod after;
mod cache;
mod capacity;
mod commands;
mod files;
mod fresh;
mod held;
mod nesting;
mod panics;
mod programs;
mod proposals;
mod shared;
mod slow;

/// What a healthy step takes at most; ten times what it needs on a slow machine.
const LONG: Duration = Duration::from_secs(20);

/// Awaits something that must not take long.
async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(LONG, what).await.expect("in time")
}

fn engine_with(code_cache: Option<&Path>) -> Engine {
    Engine::new(EngineConfig {
        instances: 64,
        max_memory: 256 << 20,
        tick: Duration::from_millis(1),
        code_cache: code_cache.map(Path::to_owned),
        ..EngineConfig::default()
    })
    .unwrap()
}

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| engine_with(None))
}

/// A guest's program; compiled once in this process.
fn program(guest: &str) -> Program {
    static PROGRAMS: OnceLock<Mutex<BTreeMap<String, Program>>> = OnceLock::new();
    let mut programs = PROGRAMS.get_or_init(Mutex::default).lock().unwrap();
    programs
        .entry(guest.to_owned())
        .or_insert_with(|| {
            let wasm = std::fs::read(oarlock_tests::guest(guest)).unwrap();
            engine().load(&format!("{guest}.wasm"), &wasm).unwrap()
        })
        .clone()
}

/// A log that remembers.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<(OutputStream, String)>>,
    remarks: Mutex<Vec<String>>,
}

impl Log {
    fn lines(&self, stream: OutputStream) -> Vec<String> {
        let lines = self.lines.lock().unwrap();
        lines
            .iter()
            .filter(|(s, _)| *s == stream)
            .map(|(_, line)| line.clone())
            .collect()
    }

    fn stdout(&self) -> Vec<String> {
        self.lines(OutputStream::Stdout)
    }

    fn stderr(&self) -> Vec<String> {
        self.lines(OutputStream::Stderr)
    }

    /// Waits until the guest has written this line.
    async fn until(&self, line: &str) {
        soon(async {
            while !self.stdout().iter().any(|l| l == line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

impl DynoLog for Log {
    fn line(&self, stream: OutputStream, line: &str) {
        self.lines.lock().unwrap().push((stream, line.to_owned()));
    }

    fn remark(&self, text: &str) {
        self.remarks.lock().unwrap().push(text.to_owned());
    }
}

/// A sandbox and what a test wants to see of it.
struct Setup {
    grant: Grant,
    limits: Limits,
    log: Arc<Log>,
}

impl Setup {
    fn new() -> Self {
        let log = Arc::new(Log::default());
        let grant = Grant {
            app: "test".parse().unwrap(),
            dyno: "web.1".parse().unwrap(),
            env: vec![("DYNO".to_owned(), "web.1".to_owned())],
            args: vec!["guest".to_owned()],
            folders: Vec::new(),
            tmp_root: None,
            egress: Arc::new(Egress::new(EgressRules::default())),
            http: HttpClient::new(&[]),
            listen: None,
            kv: BTreeMap::new(),
            log: log.clone(),
        };
        Self {
            grant,
            limits: Limits::default(),
            log,
        }
    }

    fn args(mut self, args: &[&str]) -> Self {
        self.grant
            .args
            .extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    fn memory(mut self, mib: u64) -> Self {
        self.limits.memory = mib << 20;
        self
    }

    fn folder(mut self, guest_path: &str, path: &Path, writable: bool) -> Self {
        self.grant.folders.push(Folder {
            guest_path: guest_path.to_owned(),
            dir: open(path),
            writable,
        });
        self
    }

    fn files(mut self, entries: u64) -> Self {
        self.limits.files = entries;
        self
    }

    fn tmp_root(mut self, path: &Path) -> Self {
        self.grant.tmp_root = Some(open(path));
        self
    }

    fn sandbox(&self, guest: &str) -> Sandbox {
        Sandbox::new(&program(guest), self.grant.clone(), &self.limits).unwrap()
    }
}

fn open(path: &Path) -> Arc<cap_std::fs::Dir> {
    Arc::new(cap_std::fs::Dir::open_ambient_dir(path, cap_std::ambient_authority()).unwrap())
}

fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn get(path: &str) -> http::Request<Body> {
    http::Request::get(path)
        .header("host", "app.localhost")
        .body(body(""))
        .unwrap()
}

fn post(path: &str, bytes: impl Into<Bytes>) -> http::Request<Body> {
    http::Request::post(path)
        .header("host", "app.localhost")
        .body(body(bytes))
        .unwrap()
}

/// The whole of a response's body as text.
async fn text(response: Result<http::Response<Body>, CallError>) -> String {
    let bytes = soon(response.unwrap().into_body().collect())
        .await
        .unwrap()
        .to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}
