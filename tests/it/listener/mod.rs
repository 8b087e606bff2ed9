//! The example `listener`, an axum server inside a guest, over the real binary: with a published WebSocket client, and
//! in a browser.

mod page;
mod sockets;

use std::path::Path;

use futures::{SinkExt as _, StreamExt as _};
use oarlock_tests::app::{App, PATIENCE, Running};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// The example as it is, built, in a folder of the test's own.
struct Listener {
    running: Running,
    /// Held: the host keeps its data in it.
    _app: App,
}

impl Listener {
    async fn up() -> Self {
        let example = oarlock_tests::repository().join("examples/listener");
        let app = App::new(&std::fs::read_to_string(example.join("oarlock.toml")).unwrap());
        let component = Path::new("target/wasm32-wasip2/release/listener.wasm");
        app.write(component.with_file_name("README").to_str().unwrap(), "");
        std::fs::copy(
            oarlock_tests::example("listener", "listener"),
            app.path().join(component),
        )
        .unwrap();
        let running = app.up(crate::binary()).start().await;
        Self { running, _app: app }
    }

    fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{}{path}", self.running.address())
    }

    async fn open(&self, path: &str) -> Socket {
        let (socket, response) = connect_async(self.url("ws", path)).await.unwrap();
        assert_eq!(response.status(), 101);
        Socket(socket)
    }
}

struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    async fn say(&mut self, message: Message) {
        self.0.send(message).await.unwrap();
    }

    /// The next message that is not about the connection.
    async fn hear(&mut self) -> Message {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.0.next());
            let message = next.await.expect("a message comes").unwrap().unwrap();
            if !message.is_ping() && !message.is_pong() {
                return message;
            }
        }
    }

    async fn json(&mut self) -> Value {
        serde_json::from_str(self.hear().await.to_text().unwrap()).unwrap()
    }
}
