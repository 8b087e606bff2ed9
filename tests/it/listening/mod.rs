//! Listening web dynos: commands that serve `$PORT`, over the real binary and with unmodified servers.

mod drains;
mod failures;
mod serves;
mod websockets;

use std::time::{Duration, Instant};

use futures::{SinkExt as _, StreamExt as _};
use oarlock_tests::app::{Answer, App, PATIENCE, Running, fetch};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::serving::{Line, Raw, assert_refused, assert_routed, log, logged};

/// An app whose `web` is this guest's server.
fn app(guest: &str, args: &str, web: u32, limits: &str) -> App {
    let manifest = format!(
        "[processes]\nweb = \"web.wasm {args}\"\n[scale]\nweb = {web}\n[limits.web]\n{limits}\n"
    );
    App::new(&manifest).guest("web.wasm", guest)
}

/// A running app, and its folder.
struct Up {
    running: Running,
    _app: App,
}

impl std::ops::Deref for Up {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl Up {
    /// Ctrl-C, and waits for the end.
    async fn interrupt(self) -> Option<i32> {
        self.running.interrupt().await
    }
}

async fn up(app: App) -> Up {
    let running = app.up(crate::binary()).start().await;
    Up { running, _app: app }
}

/// The rows of `ps`.
async fn ps(running: &Running) -> Vec<serde_json::Value> {
    let done = running.oarlock(&["ps", "--json"]).await;
    serde_json::from_str(&done.stdout).unwrap()
}

/// Waits until something is so.
async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A WebSocket of a real client.
struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    async fn open(running: &Running) -> Self {
        let url = format!("ws://{}/ws", running.address());
        let (socket, response) = tokio_tungstenite::connect_async(url).await.unwrap();
        assert_eq!(response.status(), 101);
        Self(socket)
    }

    async fn say(&mut self, message: Message) {
        self.0.send(message).await.unwrap();
    }

    /// The next message; `None`: the connection has ended, however.
    async fn hear(&mut self) -> Option<Message> {
        let next = tokio::time::timeout(PATIENCE, self.0.next()).await;
        next.expect("something comes").and_then(Result::ok)
    }

    async fn echo(&mut self, text: &str) {
        self.say(Message::text(text)).await;
        assert_eq!(self.hear().await, Some(Message::text(text)));
    }
}
