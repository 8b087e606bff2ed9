//! Releases under load: nobody who asks notices them, but by what the new one answers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use oarlock_tests::app::{App, PATIENCE, Running};
use tokio::net::TcpStream;

use super::{Who, app};

const CONNECTIONS: usize = 32;
const RELEASES: usize = 10;
const UPLOAD: usize = 1_000_000;
/// What each connection waits between two requests: the load is to be there, not to be the machine's limit.
const PAUSE: Duration = Duration::from_millis(30);

const BUILT: &str = "the-code-as-it-was-built-from-its-source";
const CHANGED: &str = "the-code-that-a-later-release-came--with";

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn connect(addr: SocketAddr, http2: bool) -> anyhow::Result<Self> {
        let io = TokioIo::new(TcpStream::connect(addr).await?);
        if http2 {
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            return Ok(Self::Http2(sender));
        }
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        Ok(Self::Http1(sender))
    }

    /// A request, and all of its answer; an error if any of it fails, the status is not 200 or the
    /// connection is not to be used again.
    async fn ask(&mut self, method: &str, path: &str, body: Bytes) -> anyhow::Result<String> {
        let uri = match self {
            Self::Http1(_) => path.to_owned(),
            Self::Http2(_) => format!("http://test.localhost{path}"),
        };
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header("host", "test.localhost")
            .body(Full::new(body))?;
        let exchange = async {
            let response = match self {
                Self::Http1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
                Self::Http2(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
            };
            let (head, body) = response.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::ensure!(
                head.status == 200 && !head.headers.contains_key("connection"),
                "{head:?} {body:?}"
            );
            Ok(String::from_utf8(body.to_vec())?)
        };
        tokio::time::timeout(PATIENCE, exchange).await?
    }
}

/// The clients, and what they saw.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    answered: AtomicUsize,
    streamed: AtomicUsize,
    uploaded: AtomicUsize,
    seen: Mutex<BTreeSet<(String, String)>>,
    failed: Mutex<Vec<String>>,
}

impl Load {
    /// One connection after the other, or one for all requests.
    async fn client(&self, addr: SocketAddr, number: usize) {
        let (keep, http2) = (number.is_multiple_of(2), number.is_multiple_of(8));
        let mut kept = None;
        for turn in number.. {
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => Sender::connect(addr, http2).await.unwrap(),
            };
            if let Err(error) = self.request(&mut connection, turn).await {
                let text =
                    format!("client {number}, turn {turn}, kept {keep}, http2 {http2}: {error:#}");
                self.failed.lock().unwrap().push(text);
                return;
            }
            kept = keep.then_some(connection);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn request(&self, connection: &mut Sender, turn: usize) -> anyhow::Result<()> {
        let who = match turn % 4 {
            0 => {
                let body = Bytes::from(vec![b'x'; UPLOAD]);
                let length = connection.ask("POST", "/length", body).await?;
                anyhow::ensure!(length == UPLOAD.to_string(), "took {length} bytes");
                self.uploaded.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            1 => {
                let text = connection.ask("GET", "/stream/25", Bytes::new()).await?;
                let lines: Vec<&str> = text.lines().collect();
                let whole = lines.len() == 26
                    && lines
                        .iter()
                        .take(25)
                        .enumerate()
                        .all(|(at, line)| *line == at.to_string());
                anyhow::ensure!(whole, "not whole: {text:?}");
                self.streamed.fetch_add(1, Ordering::SeqCst);
                lines[25].to_owned()
            }
            _ => connection.ask("GET", "/who", Bytes::new()).await?,
        };
        let Some(who) = Who::parse(&who) else {
            anyhow::bail!("not whole: {who:?}");
        };
        self.seen.lock().unwrap().insert((who.release, who.code));
        self.answered.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn failures(&self) -> Vec<String> {
        self.failed.lock().unwrap().clone()
    }

    /// Waits until the clients have met this release, and code.
    async fn until(&self, release: usize, code: &str) {
        let wanted = (format!("v{release}"), code.to_owned());
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.lock().unwrap().contains(&wanted) {
            let failures = self.failures();
            assert!(failures.is_empty(), "{failures:#?}");
            assert!(
                Instant::now() < deadline,
                "no {wanted:?}: {:?}",
                self.seen.lock().unwrap()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The component with other text in its data, put in place at once.
fn change_code(app: &App, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let path = app.path().join("web.wasm");
    let mut bytes = std::fs::read(&path).unwrap();
    let places: Vec<usize> = (0..bytes.len() - from.len())
        .filter(|at| bytes[*at..].starts_with(from.as_bytes()))
        .collect();
    assert_eq!(places.len(), 1);
    bytes[places[0]..places[0] + to.len()].copy_from_slice(to.as_bytes());
    replace(&path, &bytes);
}

fn replace(path: &Path, bytes: &[u8]) {
    // Outside of what is watched: the change is the rename alone.
    let folder = path.parent().unwrap().join(".oarlock");
    let new = folder.join("new.wasm");
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(new, path).unwrap();
}

async fn config(running: &Running, value: usize) {
    let done = running
        .oarlock(&["config", "set", &format!("GREETING=number-{value}")])
        .await;
    assert_eq!(done.code, 0, "{done:?}");
}

async fn releases_go_unnoticed(guest: &str, limits: &str) {
    let app = app(guest, 2, limits);
    let running = app.up(crate::binary()).args(&["--watch"]).start().await;
    let load = Arc::new(Load::default());
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let (load, addr) = (load.clone(), running.address());
            tokio::spawn(async move { load.client(addr, number).await })
        })
        .collect();
    let mut code = (BUILT, CHANGED);
    load.until(1, code.0).await;
    for release in 2..=RELEASES + 1 {
        if release % 2 == 0 {
            config(&running, release).await;
        } else {
            change_code(&app, code.0, code.1);
            code = (code.1, code.0);
        }
        load.until(release, code.0).await;
    }
    load.stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let failures = load.failures();
    assert!(failures.is_empty(), "{failures:#?}");
    let counts = [&load.answered, &load.streamed, &load.uploaded].map(|n| n.load(Ordering::SeqCst));
    assert!(
        counts.iter().all(|count| *count >= CONNECTIONS),
        "{counts:?}"
    );
    // The log agrees: no request of these had a code.
    let failed: Vec<_> = super::log(&running, "router").await;
    let failed: Vec<_> = failed
        .iter()
        .filter(|line| line.contains("at=error"))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_releases_under_load_go_unnoticed_with_wasi_0_2() {
    releases_go_unnoticed("handler-p2", "isolation = \"request\"").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_releases_under_load_go_unnoticed_with_wasi_0_3() {
    releases_go_unnoticed("handler-p3", "isolation = \"dyno\"").await;
}
