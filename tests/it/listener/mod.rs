//! The example `listener` over the real binary: its chat, its echo, its events, and its stop.

mod browser;

use futures::{SinkExt as _, StreamExt as _};
use oarlock_tests::app::{App, PATIENCE, Running};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// The example as it is, but for where its component lies.
async fn up() -> (Running, App) {
    let built = "target/wasm32-wasip2/release/listener.wasm";
    let manifest = include_str!("../../../examples/listener/oarlock.toml");
    assert!(manifest.contains(built));
    let app = App::new(&manifest.replace(built, "web.wasm"));
    let component = oarlock_tests::example("listener", "listener");
    std::fs::copy(component, app.path().join("web.wasm")).unwrap();
    (app.up(crate::binary()).start().await, app)
}

struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    async fn open(running: &Running, path: &str) -> Self {
        let url = format!("ws://{}{path}", running.address());
        Self(tokio_tungstenite::connect_async(url).await.unwrap().0)
    }

    async fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    /// The next message that is no ping; `None`: the connection has ended, however.
    async fn hear(&mut self) -> Option<Message> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.0.next()).await;
            match next.expect("something comes").and_then(Result::ok) {
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                other => return other,
            }
        }
    }

    async fn told(&mut self) -> serde_json::Value {
        let message = self.hear().await.expect("a message");
        serde_json::from_str(message.to_text().unwrap()).unwrap()
    }

    /// Waits for the close, and says its code.
    async fn closed(&mut self) -> CloseCode {
        match self.hear().await {
            Some(Message::Close(Some(frame))) => frame.code,
            other => panic!("{other:?} is no close"),
        }
    }
}

fn message(number: u64, author: &str, text: &str) -> serde_json::Value {
    serde_json::json!({"type": "message", "number": number, "author": author, "text": text})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visitors_hear_each_other_and_who_comes_later_hears_what_was_said() {
    let (running, _app) = up().await;
    let mut ada = Socket::open(&running, "/chat?name=Ada").await;
    let mut bob = Socket::open(&running, "/chat?name=Bob").await;
    ada.say("Hello").await;
    assert_eq!(ada.told().await, message(1, "Ada", "Hello"));
    assert_eq!(bob.told().await, message(1, "Ada", "Hello"));
    bob.say("Hi <b>").await;
    assert_eq!(ada.told().await, message(2, "Bob", "Hi <b>"));

    let mut late = Socket::open(&running, "/chat?name=Eve").await;
    assert_eq!(late.told().await["number"], 1);
    assert_eq!(late.told().await["number"], 2);
    let mut back = Socket::open(&running, "/chat?name=Eve&after=1").await;
    assert_eq!(back.told().await["number"], 2);

    ada.say(&"x".repeat(501)).await;
    let refused = ada.told().await;
    assert_eq!(refused["type"], "refused");
    assert_eq!(running.get("/chat?name=").await.status, 400);
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn echo_answers_and_closes_for_a_message_that_is_too_long() {
    let (running, _app) = up().await;
    let mut socket = Socket::open(&running, "/echo").await;
    let text = "é".repeat(30_000);
    socket.say(&text).await;
    assert_eq!(socket.hear().await, Some(Message::text(text)));
    let data = Message::binary(vec![0, 1, 255]);
    socket.0.send(data.clone()).await.unwrap();
    assert_eq!(socket.hear().await, Some(data));
    socket.say(&"x".repeat((64 << 10) + 1)).await;
    assert_eq!(socket.closed().await, CloseCode::Size);

    let mut polite = Socket::open(&running, "/echo").await;
    polite.0.close(None).await.unwrap();
    assert!(matches!(
        polite.hear().await,
        Some(Message::Close(_)) | None
    ));
    assert_eq!(running.interrupt().await, Some(0));
}

/// Reads on until `text` has come.
async fn read_until(stream: &mut TcpStream, seen: &mut String, text: &str) {
    let mut buffer = [0; 4096];
    while !seen.contains(text) {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer));
        let count = read.await.expect("something comes").unwrap();
        assert!(count > 0, "the end before {text:?}: {seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_as_they_are_said_and_a_stop_tells_everybody() {
    let (mut running, _app) = up().await;
    let mut ada = Socket::open(&running, "/chat?name=Ada").await;
    ada.say("before").await;
    ada.told().await;
    let mut events = TcpStream::connect(running.address()).await.unwrap();
    events
        .write_all(b"GET /events HTTP/1.1\r\nHost: listener.localhost\r\n\r\n")
        .await
        .unwrap();
    let mut seen = String::new();
    read_until(&mut events, &mut seen, "\"before\"").await;
    assert!(seen.contains("content-type: text/event-stream"), "{seen}");
    assert!(seen.contains("id: 1\n"), "{seen}");
    ada.say("now").await;
    read_until(&mut events, &mut seen, "\"now\"").await;

    running.signal(Signal::INT);
    ada.told().await;
    assert_eq!(ada.closed().await, CloseCode::Away);
    read_until(&mut events, &mut seen, "event: stopping").await;
    assert_eq!(running.wait().await, Some(0));
}
