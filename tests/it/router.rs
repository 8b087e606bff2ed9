//! The router over the in-process host, with real guests and raw connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use oarlock_host::apply::{Component, Desired, ReleasePhase, Slug, dynos_of};
use oarlock_host::logs::LogFilter;
use oarlock_host::{Host, HostConfig, ListenError};
use oarlock_spec::manifest;
use oarlock_spec::names::{AppName, ReleaseId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What takes longer than this has failed.
const LIMIT: Duration = Duration::from_secs(60);

struct Served {
    host: Host,
    app: AppName,
    addr: SocketAddr,
    _data: tempfile::TempDir,
}

impl Served {
    async fn new(guest: &str, limits: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        let host = Host::start(HostConfig {
            cores: Some(2),
            instances: Some(100),
            ..HostConfig::new(data.path())
        })
        .unwrap();
        let addr = host.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let text =
            format!("app = \"routed\"\n[processes]\nweb = \"web.wasm\"\n[limits.web]\n{limits}\n");
        let manifest = manifest::parse(&text, &manifest::Options::default()).unwrap();
        let bytes = std::fs::read(oarlock_tests::guest(guest)).unwrap();
        let components = BTreeMap::from([("web.wasm".to_owned(), Component::Bytes(bytes.into()))]);
        let slug = Slug {
            id: "0".repeat(64).parse().unwrap(),
            components,
            files: None,
        };
        let desired = Desired {
            release: ReleaseId(1),
            slug: slug.id.clone(),
            config: BTreeMap::new(),
            formation: dynos_of(&manifest.initial_scale()),
            release_phase: ReleasePhase::Done,
            manifest,
        };
        let staged = host.stage(desired, slug).await.unwrap();
        staged.commit().await.unwrap();
        Self {
            host,
            app: "routed".parse().unwrap(),
            addr,
            _data: data,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// All that one connection brings.
    async fn raw(&self, method: &str, path: &str) -> String {
        let mut stream = self.connect().await;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: routed.localhost\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut all))
            .await
            .expect("the connection stays open");
        String::from_utf8(all).unwrap()
    }

    /// The router's line about this path, once there is one.
    async fn line(&self, path: &str) -> String {
        let filter = LogFilter {
            dyno: Some("router".to_owned()),
            source: None,
        };
        let wanted = format!(" path=\"{path}\" ");
        for _ in 0..2_000 {
            let lines = self.host.log(&self.app).tail(1_000, &filter);
            if let Some(line) = lines.iter().find(|line| line.message.contains(&wanted)) {
                return line.message.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let log = self.host.log(&self.app).tail(100, &LogFilter::default());
        panic!("no line about {path}: {log:#?}");
    }
}

/// The body, its chunks joined.
fn body(answer: &str) -> String {
    let (head, mut rest) = answer.split_once("\r\n\r\n").unwrap();
    if !head.contains("transfer-encoding: chunked") {
        return rest.to_owned();
    }
    let mut whole = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole += &after[..length];
        rest = &after[length + 2..];
    }
    whole
}

const FRESH: &str = "isolation = \"request\"";
const LIVE: &str = "isolation = \"dyno\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_fails_has_its_code_and_never_looks_whole() {
    for (guest, limits) in [
        ("handler-p2", FRESH),
        ("handler-p2", LIVE),
        ("handler-p3", LIVE),
    ] {
        let app = Served::new(guest, limits).await;
        let answer = app.raw("GET", "/trap").await;
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.contains("oarlock-error: H13\r\n"),
            "{guest} {limits}: {answer}"
        );
        assert!(app.line("/trap").await.starts_with("at=error code=H13 "));
        let answer = app.raw("GET", "/trap-after-head").await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("chunk"),
            "{guest} {limits}: {answer}"
        );
        assert!(!answer.ends_with("0\r\n\r\n"), "{guest} {limits}: {answer}");
        let line = app.line("/trap-after-head").await;
        assert!(
            line.starts_with("at=error code=H18 "),
            "{guest} {limits}: {line}"
        );
        // An only dyno whose instance trapped twice in a row may be in back-off for a moment.
        let start = std::time::Instant::now();
        loop {
            let answer = app.raw("GET", "/").await;
            if body(&answer) == "hello" {
                break;
            }
            assert!(answer.contains("oarlock-error: H10\r\n"), "{answer}");
            assert!(start.elapsed() < LIMIT, "{guest} {limits} stays down");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        app.host.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_every_length_leave_a_live_instance_alive() {
    for guest in ["handler-p2", "handler-p3"] {
        let app = Served::new(guest, LIVE).await;
        for turn in 0..20 {
            assert_eq!(body(&app.raw("HEAD", "/").await), "");
            assert_eq!(body(&app.raw("GET", "/").await), "hello");
            let counted = body(&app.raw("GET", "/counter").await);
            assert_eq!(counted, (turn + 1).to_string(), "{guest} was replaced");
        }
        app.host.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_frees_the_slot() {
    let app = Served::new("handler-p2", "isolation = \"request\"\nconcurrency = 1").await;
    for _ in 0..3 {
        let mut stream = app.connect().await;
        stream
            .write_all(b"GET /slow HTTP/1.1\r\nHost: routed.localhost\r\n\r\n")
            .await
            .unwrap();
        let mut some = [0; 64];
        assert!(stream.read(&mut some).await.unwrap() > 0);
        drop(stream);
        // The only slot.
        assert_eq!(body(&app.raw("GET", "/").await), "hello");
    }
    let line = app.line("/slow").await;
    assert!(
        line.starts_with("at=error code=H27 ") && line.contains(" status=499 "),
        "{line}"
    );
    app.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spinning_guest_is_h12_and_a_taken_address_is_said() {
    let app = Served::new("handler-p2", "isolation = \"request\"\ntimeout = \"1s\"").await;
    let answer = app.raw("GET", "/spin").await;
    assert!(answer.contains("oarlock-error: H12\r\n"), "{answer}");
    assert_eq!(body(&app.raw("GET", "/").await), "hello");
    let again = app.host.listen(app.addr).await;
    assert!(matches!(again, Err(ListenError::InUse { addr }) if addr == app.addr));
    app.host.shutdown().await;
}
