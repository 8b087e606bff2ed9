//! What web dynos promise those who ask them: over the real binary, with real guests and raw connections.

mod after;
mod failures;
mod releases;
mod scale;
mod wear;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use oarlock_tests::app::{Answer, App, PATIENCE, Running};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An app whose only process is `web`.
fn app(guest: &str, web: u32, limits: &str) -> App {
    let manifest =
        format!("[processes]\nweb = \"web.wasm\"\n[scale]\nweb = {web}\n[limits.web]\n{limits}\n");
    App::new(&manifest).guest("web.wasm", guest)
}

/// The same, serving.
async fn up(app: &App) -> Running {
    app.up(crate::binary()).start().await
}

/// What `/who` says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Who {
    dyno: String,
    release: String,
    code: String,
    count: u64,
}

impl Who {
    /// Whole, or nothing.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ').map(str::to_owned);
        let who = Self {
            dyno: words.next()?,
            release: words.next()?,
            code: words.next()?,
            count: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(who)
    }

    async fn ask(running: &Running) -> Self {
        let answer = running.get("/who").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        Self::parse(answer.text()).unwrap()
    }
}

/// A router's refusal: 503 with its code.
pub(crate) fn assert_refused(answer: &Answer, code: &str) {
    assert_eq!(
        (answer.status, answer.header("oarlock-error")),
        (503, code),
        "{answer:?}"
    );
}

/// A request of HTTP/1.1 on a connection of its own, byte by byte.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    pub(crate) async fn get(addr: SocketAddr, path: &str) -> Self {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: test.localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Self(stream)
    }

    /// Reads until this has come.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let mut all = Vec::new();
        while !String::from_utf8_lossy(&all).contains(text) {
            let read = tokio::time::timeout(PATIENCE, self.0.read_buf(&mut all));
            let read = read.await.expect("something comes").unwrap();
            assert!(
                read > 0,
                "ended without {text:?}: {}",
                String::from_utf8_lossy(&all)
            );
        }
        String::from_utf8(all).unwrap()
    }

    /// Reads until the connection ends.
    pub(crate) async fn rest(mut self) -> String {
        let mut all = Vec::new();
        // How it ends is seen in what came.
        let _ = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut all))
            .await
            .expect("the connection ends");
        String::from_utf8(all).unwrap()
    }
}

/// Chunks, but not the last of them.
pub(crate) fn assert_cut(answer: &str, context: &str) {
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("transfer-encoding: chunked\r\n"),
        "{context}: {answer}"
    );
    assert!(!answer.ends_with("0\r\n\r\n"), "{context}: {answer}");
}

/// The messages of all log lines of `dyno` so far.
pub(crate) async fn log(running: &Running, dyno: &str) -> Vec<String> {
    let done = running
        .oarlock(&["logs", "-n", "10000", "--dyno", dyno, "--json"])
        .await;
    assert_eq!(done.code, 0, "{done:?}");
    let message = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["message"].as_str().unwrap().to_owned()
    };
    done.stdout.lines().map(message).collect()
}

/// The first message of a dyno that holds `text`, once there is one.
pub(crate) async fn logged(running: &Running, dyno: &str, text: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let messages = log(running, dyno).await;
        if let Some(found) = messages.iter().find(|message| message.contains(text)) {
            return found.clone();
        }
        assert!(Instant::now() < deadline, "no {text:?} in {messages:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The fields of a router's line, in order; checked to be what contract 4 says.
pub(crate) struct Line(Vec<(String, String)>);

impl Line {
    pub(crate) fn parse(line: &str) -> Self {
        let mut fields = Vec::new();
        let mut rest = line;
        while let Some((name, after)) = rest.split_once('=') {
            let value;
            if let Some(quoted) = after.strip_prefix('"') {
                let (inner, tail) = quoted.split_once('"').expect("quotes end");
                (value, rest) = (inner, tail.trim_start_matches(' '));
            } else {
                (value, rest) = after.split_once(' ').unwrap_or((after, ""));
            }
            fields.push((name.to_owned(), value.to_owned()));
        }
        assert_eq!(rest, "", "not all of it are fields: {line}");
        let parsed = Self(fields);
        let names: Vec<&str> = parsed.0.iter().map(|(name, _)| name.as_str()).collect();
        let (head, tail) = names.split_at(if parsed.is("at", "error") { 3 } else { 1 });
        assert!(head == ["at"] || head == ["at", "code", "desc"], "{line}");
        let promised = [
            "method",
            "path",
            "host",
            "request_id",
            "fwd",
            "dyno",
            "connect",
            "service",
            "status",
            "bytes",
            "protocol",
        ];
        assert_eq!(tail, promised, "{line}");
        for time in ["connect", "service"] {
            let milliseconds = parsed.field(time).strip_suffix("ms").unwrap();
            assert!(milliseconds.parse::<u64>().is_ok(), "{line}");
        }
        assert!(parsed.field("bytes").parse::<u64>().is_ok(), "{line}");
        assert!(parsed.field("request_id").len() >= 20, "{line}");
        assert!(parsed.is("fwd", "127.0.0.1"), "{line}");
        parsed
    }

    pub(crate) fn field(&self, wanted: &str) -> &str {
        let found = self.0.iter().find(|(name, _)| name == wanted);
        found.map_or("", |(_, value)| value)
    }

    pub(crate) fn is(&self, name: &str, value: &str) -> bool {
        self.field(name) == value
    }
}

/// The router's line about a path, checked: its code (empty if all went well), status and dyno.
pub(crate) async fn assert_routed(
    running: &Running,
    path: &str,
    code: &str,
    status: &str,
    dyno: &str,
) {
    // Of several about one path, that with the code counts.
    let text = if code.is_empty() {
        format!(" path=\"{path}\" ")
    } else {
        format!("code={code} ")
    };
    let deadline = Instant::now() + PATIENCE;
    let line = loop {
        let all = log(running, "router").await;
        let about = format!(" path=\"{path}\" ");
        let found = all
            .iter()
            .find(|line| line.contains(&about) && line.contains(&text));
        if let Some(line) = found {
            break line.clone();
        }
        assert!(
            Instant::now() < deadline,
            "no {code} about {path} in {all:#?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let fields = Line::parse(&line);
    assert!(
        fields.is("code", code) && fields.is("status", status) && fields.is("dyno", dyno),
        "{line}"
    );
    let at = if code.is_empty() { "info" } else { "error" };
    assert!(fields.is("at", at), "{line}");
}
