//! The router over real sockets, with functions in the place of guests.

mod bodies;
mod clients;
mod failures;
mod heads;
mod http2;
mod lives;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use futures::channel::mpsc;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use oarlock_sandbox::{Body, BodyError, CallError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::logs::{AppLog, LogFilter};
use crate::web::{PoolState, RequestLimits, WebDyno};

const SOON: Duration = Duration::from_secs(10);

struct Bench {
    cores: Cores,
    router: Router,
    pool: Arc<WebPool>,
    addr: SocketAddr,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.cores.stop();
    }
}

impl Bench {
    async fn with(limits: RequestLimits, dynos: Vec<Arc<WebDyno>>) -> Self {
        let clients = ClientLimits {
            connections: 4_096,
            ..ClientLimits::default()
        };
        Self::for_clients(clients, limits, dynos).await
    }

    async fn for_clients(
        clients: ClientLimits,
        limits: RequestLimits,
        dynos: Vec<Arc<WebDyno>>,
    ) -> Self {
        let cores = Cores::start(2).unwrap();
        let router = Router::new(
            cores.clone(),
            "localhost".to_owned(),
            Unclaimed::OnlyApps,
            clients,
        );
        let pool = WebPool::new(AppLog::in_memory());
        pool.publish(dynos, PoolState::Serving, limits);
        router.add(&"app".parse().unwrap(), pool.clone());
        let addr = router.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        Self {
            cores,
            router,
            pool,
            addr,
        }
    }

    async fn new<F, R>(answer: F) -> Self
    where
        F: Fn(Request<Body>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response<Body>, CallError>> + Send + 'static,
    {
        Self::with(limits(), vec![fake::dyno("web.1", 10, None, answer)]).await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Sends bytes, and reads until the connection ends; the bytes, and whether it ended by a reset.
    async fn raw(&self, request: &str) -> (String, bool) {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await
    }

    /// The router's lines, once there are `n`.
    async fn lines(&self, n: usize) -> Vec<String> {
        let filter = LogFilter {
            dyno: Some("router".to_owned()),
            source: None,
        };
        for _ in 0..1_000 {
            let lines = self.pool.log.tail(100, &filter);
            if lines.len() >= n {
                return lines.into_iter().map(|line| line.message).collect();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!(
            "not {n} lines: {:?}",
            self.pool.log.tail(100, &LogFilter::default())
        );
    }

    async fn line(&self) -> String {
        self.lines(1).await.remove(0)
    }
}

fn limits() -> RequestLimits {
    RequestLimits::default()
}

async fn read_to_end(stream: &mut TcpStream) -> (String, bool) {
    let mut all = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut all))
        .await
        .expect("the connection stays open");
    (String::from_utf8_lossy(&all).into_owned(), read.is_err())
}

/// Reads until `text` has come.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).contains(text) {
        let read = tokio::time::timeout(SOON, stream.read_buf(&mut all))
            .await
            .expect("nothing comes");
        assert!(
            read.unwrap() > 0,
            "ended after {}",
            String::from_utf8_lossy(&all)
        );
    }
    String::from_utf8(all).unwrap()
}

fn body(text: &str) -> Body {
    Body::new(Full::new(Bytes::from(text.to_owned())).map_err(|never| match never {}))
}

fn hello() -> Result<Response<Body>, CallError> {
    Ok(Response::new(body("hello")))
}

type Frames = mpsc::Sender<Result<Frame<Bytes>, BodyError>>;

/// A body that a test writes, and ends by dropping the sender.
fn channel() -> (Frames, Body) {
    let (send, receive) = mpsc::channel(0);
    (send, Body::new(StreamBody::new(receive)))
}

async fn send(frames: &mut Frames, text: &str) {
    frames
        .send(Ok(Frame::data(Bytes::from(text.to_owned()))))
        .await
        .unwrap();
}

/// All headers as the guest sees them, a line each, and then the body.
async fn echo(request: Request<Body>) -> Result<Response<Body>, CallError> {
    let mut text = format!(
        "{} {} {:?}\n",
        request.method(),
        request.uri(),
        request.version()
    );
    for (name, value) in request.headers() {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    match request.into_body().collect().await {
        Ok(all) => {
            let trailers = all.trailers().cloned();
            text += &String::from_utf8_lossy(&all.to_bytes());
            if let Some(trailers) = trailers {
                text += &format!("{trailers:?}");
            }
        }
        Err(error) => text += &format!("body failed: {error:?}"),
    }
    Ok(Response::new(body(&text)))
}
