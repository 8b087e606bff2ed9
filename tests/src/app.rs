//! An app in a temporary folder and the real `oarlock` binary that runs it.
//!
//! ```no_run
//! # async fn example(binary: &std::path::Path) {
//! let app = oarlock_tests::app::App::new("[processes]\nweb = \"web.wasm\"").guest("web.wasm", "hello-p2");
//! let running = app.up(binary).start().await;
//! assert_eq!(running.get("/").await.status, 200);
//! assert_eq!(running.oarlock(&["scale", "web=2"]).await.code, 0);
//! running.interrupt().await;
//! # }
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};

/// The longest that a test waits for anything that should happen soon.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An app's folder, ready to be run.
pub struct App {
    folder: TempDir,
}

impl App {
    /// A folder with this manifest; `app = "test"` is put before it if it names no app.
    pub fn new(manifest: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("oarlock-test-")
            .tempdir()
            .unwrap();
        let app = Self { folder };
        let named = manifest
            .lines()
            .any(|line| line.trim_start().starts_with("app ="));
        app.write(
            "oarlock.toml",
            &if named {
                manifest.to_owned()
            } else {
                format!("app = \"test\"\n{manifest}")
            },
        );
        app
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file of the app.
    pub fn write(&self, path: &str, content: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Puts a test guest's component at `path`.
    #[must_use]
    pub fn guest(self, path: &str, guest: &str) -> Self {
        self.put_guest(path, guest);
        self
    }

    /// The same, of an app that may be running already.
    pub fn put_guest(&self, path: &str, guest: &str) {
        std::fs::copy(crate::guest(guest), self.path().join(path)).unwrap();
    }

    /// `oarlock up` of this folder, on a free port, without a build.
    pub fn up(&self, binary: &Path) -> Launch {
        let mut launch = Launch::new(binary, self.path());
        launch
            .command
            .arg("up")
            .arg(self.path())
            .args(["--no-build", "--listen", "127.0.0.1:0"]);
        launch
    }
}

/// A command to be started.
pub struct Launch {
    binary: PathBuf,
    folder: PathBuf,
    /// For further arguments and environment.
    pub command: Command,
}

impl Launch {
    /// A call of the binary in a folder; its code cache is shared by all tests of this checkout.
    pub fn new(binary: &Path, folder: &Path) -> Self {
        let mut command = Command::new(binary);
        command
            .current_dir(folder)
            .env("RUST_BACKTRACE", "0")
            .env("XDG_CACHE_HOME", cache_home())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Self {
            binary: binary.to_owned(),
            folder: folder.to_owned(),
            command,
        }
    }

    /// Further arguments.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// Starts it and reads what it prints; does not wait.
    pub fn spawn(mut self) -> Running {
        let mut child = self.command.spawn().expect("the oarlock binary starts");
        let output = Output::default();
        output.read(child.stdout.take().unwrap(), "");
        output.read(child.stderr.take().unwrap(), "! ");
        Running {
            child,
            output,
            address: None,
            binary: self.binary,
            folder: self.folder,
        }
    }

    /// Starts it and waits until the app serves.
    pub async fn start(self) -> Running {
        let mut running = self.spawn();
        running.ready().await;
        running
    }
}

/// Where the tests keep machine code between runs: beside the guests, inside the checkout.
pub fn cache_home() -> PathBuf {
    crate::repository().join("target/test-cache")
}

/// The lines of a process, collected as they come.
#[derive(Clone, Default)]
pub struct Output {
    lines: Arc<Mutex<Vec<String>>>,
}

impl Output {
    fn read(&self, from: impl AsyncRead + Unpin + Send + 'static, prefix: &'static str) {
        let lines = self.lines.clone();
        tokio::spawn(async move {
            let mut from = BufReader::new(from).lines();
            while let Ok(Some(line)) = from.next_line().await {
                lines.lock().unwrap().push(format!("{prefix}{line}"));
            }
        });
    }

    /// All lines so far; those of stderr start with `! `.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The first line that holds `text`, if there is one.
    pub fn find(&self, text: &str) -> Option<String> {
        self.lines().into_iter().find(|line| line.contains(text))
    }

    /// Waits for a line that holds `text`.
    pub async fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.find(text) {
                return line;
            }
            assert!(
                Instant::now() < deadline,
                "no line with {text:?} in:\n{}",
                self.lines().join("\n")
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A started `oarlock`. Prints its output when a test fails; killed when dropped.
pub struct Running {
    child: Child,
    /// What it prints.
    pub output: Output,
    address: Option<SocketAddr>,
    binary: PathBuf,
    folder: PathBuf,
}

impl Running {
    /// Waits until the app serves (stderr says where).
    pub async fn ready(&mut self) {
        let line = self.output.wait_for("Running").await;
        if let Some((_, address)) = line.rsplit_once("http://") {
            let port = address.trim_end_matches('/').rsplit_once(':').unwrap().1;
            self.address = Some(SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap())));
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("the app is ready and has web dynos")
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(
            i32::try_from(
                self.child
                    .id()
                    .expect("the process has not been waited for"),
            )
            .unwrap(),
        )
        .unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for the end; the exit code, `None` after a signal that ended it.
    pub async fn wait(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("the process ends in time").unwrap().code()
    }

    /// Ctrl-C, and waits for the end.
    pub async fn interrupt(mut self) -> Option<i32> {
        self.signal(Signal::INT);
        self.wait().await
    }

    /// `GET` on a connection of its own.
    pub async fn get(&self, path: &str) -> Answer {
        fetch(
            "GET",
            &format!("http://{}{path}", self.address()),
            &[],
            Bytes::new(),
        )
        .await
        .unwrap()
    }

    /// `POST` on a connection of its own.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        fetch(
            "POST",
            &format!("http://{}{path}", self.address()),
            &[],
            body.into(),
        )
        .await
        .unwrap()
    }

    /// A command for this app (`ps`, `scale web=3`, …), run in its folder.
    pub async fn oarlock(&self, args: &[&str]) -> Finished {
        oarlock(&self.binary, &self.folder, args).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- output of oarlock:\n{}\n---",
                self.output.lines().join("\n")
            );
        }
    }
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

/// Runs a command of the binary to its end.
pub async fn oarlock(binary: &Path, folder: &Path, args: &[&str]) -> Finished {
    let launch = Launch::new(binary, folder).args(args);
    let mut command = launch.command;
    let done = tokio::time::timeout(PATIENCE, command.output())
        .await
        .expect("the command ends in time")
        .unwrap();
    Finished {
        code: done.status.code().unwrap_or(-1),
        stdout: String::from_utf8(done.stdout).unwrap(),
        stderr: String::from_utf8(done.stderr).unwrap(),
    }
}

/// A response, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// A header as text; empty if absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// A request on a connection of its own, read to the end of the body; an error if any of it fails.
pub async fn fetch(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> anyhow::Result<Answer> {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build_http();
    let mut request = http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let exchange = async {
        let response = client.request(request.body(Full::new(body))?).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        anyhow::Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    };
    tokio::time::timeout(PATIENCE, exchange).await?
}
