//! An axum server on `$PORT`. With the argument `graceful` it ends its event streams, and then itself, when it is told
//! to stop; otherwise it serves until its port is closed.
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::DefaultBodyLimit;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, Request};
use axum::response::Response;
use axum::routing::{any, get, post};
use futures_util::{StreamExt, stream};
// Links the `fcntl` that tokio's sockets miss.
use oarlock_sdk as _;
use tokio::net::TcpListener;
use tokio::sync::watch;

static CONNECTIONS: AtomicU32 = AtomicU32::new(0);
static UNDER_WAY: AtomicU32 = AtomicU32::new(0);

/// Connections are counted, and never fail for good before the port is closed.
struct Counted(TcpListener, watch::Sender<bool>);

impl axum::serve::Listener for Counted {
    type Io = tokio::net::TcpStream;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.0.accept().await {
            Ok(accepted) => {
                CONNECTIONS.fetch_add(1, Ordering::Relaxed);
                accepted
            }
            Err(_) => {
                self.1.send_replace(true);
                std::future::pending().await
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .await
        .unwrap();
    let (stop, mut stopping) = watch::channel(false);
    let ticking = stopping.clone();
    let app = Router::new()
        .route(
            "/hello",
            get(|| async { format!("Hello from {}", std::env::var("DYNO").unwrap()) }),
        )
        .route(
            "/connections",
            get(|| async { CONNECTIONS.load(Ordering::Relaxed).to_string() }),
        )
        .route(
            "/under-way",
            get(|| async { UNDER_WAY.load(Ordering::Relaxed).to_string() }),
        )
        .route("/slow", get(slow))
        .route(
            "/echo",
            post(|request: Request<Body>| async { request.into_body() }),
        )
        .route(
            "/length",
            post(|body: Bytes| async move { body.len().to_string() }),
        )
        .route(
            "/refuse",
            post(|| async { (axum::http::StatusCode::PAYLOAD_TOO_LARGE, "no, thank you") }),
        )
        .route("/many/{bytes}", get(many))
        .route(
            "/headers",
            get(|headers: HeaderMap| async move { format!("{headers:?}") }),
        )
        .route("/ticks", get(|| async move { ticks(ticking) }))
        .route(
            "/ws",
            any(|upgrade: WebSocketUpgrade| async {
                upgrade.max_message_size(16 << 20).on_upgrade(echo)
            }),
        );
    let app = app.layer(DefaultBodyLimit::disable());
    let server = axum::serve(Counted(listener, stop.clone()), app);
    if std::env::args().nth(1).as_deref() == Some("graceful") {
        tokio::task::spawn(stdin_ends(stop));
    }
    let stopped = async move {
        let _ = stopping.wait_for(|stop| *stop).await;
        println!("stopping");
    };
    server.with_graceful_shutdown(stopped).await.unwrap();
    println!("stopped");
}

/// The stop signal. A blocking read of stdin would hold the whole guest, so it is asked whether one would not wait.
async fn stdin_ends(stop: watch::Sender<bool>) {
    let stdin = wasip2::cli::stdin::get_stdin();
    let ended = stdin.subscribe();
    while !ended.ready() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.send_replace(true);
}

struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers after 700 ms; whoever goes away before is noticed.
async fn slow() -> &'static str {
    UNDER_WAY.fetch_add(1, Ordering::Relaxed);
    let _guard = Guard;
    println!("slow begins");
    tokio::time::sleep(Duration::from_millis(700)).await;
    "slow"
}

async fn many(axum::extract::Path(bytes): axum::extract::Path<usize>) -> Body {
    const PIECE: usize = 10_000;
    let pieces = stream::iter((0..bytes.div_ceil(PIECE)).map(move |n| {
        let length = PIECE.min(bytes - n * PIECE);
        Ok::<_, Infallible>(Bytes::from(vec![(n % 251) as u8; length]))
    }));
    Body::from_stream(pieces)
}

/// Server-sent events, one each 200 ms, until the guest is told to stop.
fn ticks(stopping: watch::Receiver<bool>) -> Response {
    let events = stream::unfold((0, stopping), |(n, mut stopping)| async move {
        if n > 0 {
            let wait = Duration::from_millis(200);
            let told = tokio::time::timeout(wait, stopping.wait_for(|stop| *stop)).await;
            if told.is_ok() {
                return None;
            }
        }
        let event = Bytes::from(format!("data: {n}\n\n"));
        Some((Ok::<_, Infallible>(event), (n + 1, stopping)))
    });
    Response::builder()
        .header("content-type", "text/event-stream")
        .body(Body::from_stream(events))
        .unwrap()
}

/// Sends back what comes; `close` makes it end the conversation, `vanish` the connection.
async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Text(text) if text == "close" => {
                let _ = socket.send(Message::Close(None)).await;
            }
            Message::Text(text) if text == "vanish" => return,
            Message::Text(_) | Message::Binary(_) => {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            Message::Close(_) | Message::Ping(_) | Message::Pong(_) => {}
        }
    }
}
