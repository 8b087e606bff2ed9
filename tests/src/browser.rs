//! Headless Chromium, driven by its DevTools protocol: a page's scripts are the test's hands and eyes.
//!
//! A WebDriver client would do the same with a second program between; those that there are switch on features of
//! shared dependencies, so that commands and tests would build wasmtime twice.

use std::process::Stdio;
use std::time::{Duration, Instant};

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::app::PATIENCE;

/// A browser of a test's own; dropped, it is ended.
pub struct Browser {
    _process: Child,
    _profile: TempDir,
    devtools: String,
}

impl Browser {
    /// Starts one on a free port, in a temporary folder.
    ///
    /// # Panics
    /// If there is no Chromium and none can be installed, or it does not start.
    pub async fn start() -> Self {
        crate::need_program("chromium", "chromium");
        let profile = tempfile::tempdir().unwrap();
        let mut process = Command::new("chromium")
            .args(["--headless=new", "--no-sandbox", "--disable-gpu"])
            .args(["--disable-dev-shm-usage", "--no-first-run"])
            .args(["--remote-debugging-port=0", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("chromium starts");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let listening = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some((_, rest)) = line.split_once("DevTools listening on ws://") {
                    return rest.split('/').next().unwrap().to_owned();
                }
            }
            panic!("chromium ended before it listened");
        };
        let devtools = tokio::time::timeout(PATIENCE, listening)
            .await
            .expect("chromium listens");
        // Who does not read what it says makes it wait.
        drop(tokio::spawn(async move {
            while let Ok(Some(_)) = lines.next_line().await {}
        }));
        Self {
            _process: process,
            _profile: profile,
            devtools,
        }
    }

    /// Opens a page in a window of its own.
    ///
    /// # Panics
    /// If the browser does not.
    pub async fn open(&self, url: &str) -> Page {
        let version = format!("http://{}/json/version", self.devtools);
        let version: Value = serde_json::from_slice(&get(&version).await).unwrap();
        let browser = version["webSocketDebuggerUrl"].as_str().unwrap();
        let mut whole = Page::connect(browser).await;
        let made = whole
            .call(
                "Target.createTarget",
                json!({"url": url, "newWindow": true}),
            )
            .await;
        let target = made["targetId"].as_str().unwrap();
        let mut page =
            Page::connect(&format!("ws://{}/devtools/page/{target}", self.devtools)).await;
        page.until("document.readyState === 'complete' && location.href !== 'about:blank'")
            .await;
        page
    }
}

async fn get(url: &str) -> Vec<u8> {
    use http_body_util::{BodyExt as _, Empty};
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<Empty<bytes::Bytes>>();
    let answer = client.get(url.parse().unwrap()).await.unwrap();
    answer
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes()
        .into()
}

/// A page of a browser.
pub struct Page {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last: u64,
}

impl Page {
    async fn connect(url: &str) -> Self {
        let (socket, _) = connect_async(url).await.expect("chromium answers");
        Self { socket, last: 0 }
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let call = json!({"id": self.last, "method": method, "params": params});
        self.socket
            .send(Message::text(call.to_string()))
            .await
            .unwrap();
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next());
            let message = next.await.expect("chromium answers").unwrap().unwrap();
            let Message::Text(text) = message else {
                continue;
            };
            let mut answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == self.last {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].take();
            }
        }
    }

    /// The value of an expression of JavaScript; a promise is waited for.
    ///
    /// # Panics
    /// If it throws.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", params).await;
        let thrown = answer.get("exceptionDetails");
        assert!(thrown.is_none(), "{expression}: {thrown:?}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true.
    ///
    /// # Panics
    /// If it does not become so in time.
    pub async fn until(&mut self, expression: &str) {
        let start = Instant::now();
        while self.eval(expression).await != Value::Bool(true) {
            assert!(start.elapsed() < PATIENCE, "never true: {expression}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
