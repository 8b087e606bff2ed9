//! Serves one connection over any transport: finds out which HTTP it is, hands requests over, and ends it when its client is
//! done, an order says so, nothing was asked for too long, a head takes too long, or a new client needs its place.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::HttpService;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, Sleep};

use super::body::ResponseBody;
use super::bounds::Place;
use super::connection::{Busy, Connection, KEEP_ALIVE, MAX_HEADER, MAX_HEADERS, Order, TooMany};
use super::io::{Io, Left};
use super::transport::{Prefix, Transport, Version};
use super::tunnel::TunnelSlot;
use super::{linger, lock, service};

/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 200;

/// HTTP/2: streams that their client has reset before they were looked at, at once. One more ends the connection.
const MAX_PENDING_RESETS: usize = 20;

/// HTTP/2: streams that we reset because of their client's mistakes, per connection. One more ends it.
const MAX_MISTAKES: usize = 200;

/// HTTP/2: how often a silent client is asked whether it is there, and how long it has to answer.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// Serves a connection until its end.
pub(super) async fn serve<T: Transport>(connection: Arc<Connection>, mut transport: T) {
    let mut life = pin!(Life::new(&connection));
    let mut prefix = Prefix::default();
    let detected = std::future::poll_fn(|context| {
        life.as_mut()
            .poll_detect(&mut prefix, &mut transport, context)
    });
    let Some(version) = detected.await else {
        return;
    };
    let left = Left::default();
    let io = Io::new(
        (prefix, transport),
        version,
        connection.clone(),
        left.clone(),
    );
    let io = TokioIo::new(io);
    let tunnel = TunnelSlot::default();
    let handler = (connection.clone(), tunnel.clone());
    let service = hyper::service::service_fn(move |request| {
        let (connection, tunnel) = handler.clone();
        // Now, and not when a stream's own task begins: the connection is not idle any more.
        service::handle(Busy::new(connection), tunnel, request)
    });
    match version {
        Version::Http2 => {
            connection.is_greeted();
            let served = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_STREAMS)
                .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
                .max_local_error_reset_streams(MAX_MISTAKES)
                .max_header_list_size(u32::try_from(MAX_HEADER).unwrap_or(u32::MAX))
                .keep_alive_interval(PING.0)
                .keep_alive_timeout(PING.1)
                // What asks for it gets an answer, instead of a reset stream.
                .enable_connect_protocol()
                .serve_connection(io, service);
            drive(life, pin!(served)).await;
        }
        Version::Http1 => {
            let served = http1::Builder::new()
                .max_header_size(MAX_HEADER)
                .max_headers(MAX_HEADERS)
                // Ours covers the whole wait, and costs no timer per request.
                .header_read_timeout(None)
                .serve_connection(io, service)
                .with_upgrades();
            drive(life, pin!(served)).await;
        }
    }
    let tunnel = lock(&tunnel).take();
    if let Some(tunnel) = tunnel {
        tunnel.run(&connection).await;
    }
    let left = lock(&left).take();
    if let Some(transport) = left {
        linger::close(&connection, transport).await;
    }
}

/// A connection of either version.
trait Served: Future {
    /// Whether its close has stages. A connection of HTTP/2 has streams, which end one by one.
    const IN_STAGES: bool;
    fn finish(self: Pin<&mut Self>);
}

impl<T, S> Served for http1::UpgradeableConnection<TokioIo<Io<T>>, S>
where
    T: Transport,
    S: HttpService<Incoming, ResBody = ResponseBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    const IN_STAGES: bool = true;
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<T, S> Served for http2::Connection<TokioIo<Io<T>>, S, TokioExecutor>
where
    T: Transport,
    S: HttpService<Incoming, ResBody = ResponseBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send + 'static,
{
    const IN_STAGES: bool = false;
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Serves until the end. An error of the connection's is its client's; what it did to requests is in their log lines.
async fn drive<S: Served>(mut life: Pin<&mut Life<'_>>, mut served: Pin<&mut S>) {
    let connection = life.connection;
    let mut finishing = false;
    std::future::poll_fn(|context: &mut Context<'_>| {
        match connection.poll_order(context) {
            Order::Serve => {}
            Order::Drain if finishing => {}
            Order::Drain => {
                finishing = true;
                served.as_mut().finish();
            }
            Order::Abort => {
                if connection.is_unwritten() {
                    // An answer that is finished was only waiting for its turn.
                    connection.write_at_once();
                    let _last = served.as_mut().poll(context);
                }
                connection.reset_at_end();
                return Poll::Ready(());
            }
        }
        if served.as_mut().poll(context).is_ready() {
            if S::IN_STAGES {
                connection.is_over();
            }
            return Poll::Ready(());
        }
        // After the poll: a request that has come already is served.
        life.as_mut().poll_over(connection.is_in_head(), context)
    })
    .await;
}

/// How long a connection lives.
struct Life<'c> {
    connection: &'c Arc<Connection>,
    /// Fires no later than the next deadline, and is set anew only when it fires: requests cost it nothing.
    timer: Pin<Box<Sleep>>,
    /// A head that has begun: when it must be whole, and its place among its client's.
    head: Option<(Instant, Option<Place>)>,
}

impl<'c> Life<'c> {
    fn new(connection: &'c Arc<Connection>) -> Self {
        Self {
            connection,
            timer: Box::pin(tokio::time::sleep_until(connection.head_due())),
            head: None,
        }
    }

    /// Waits for the first bytes, and what they are. `None`: the connection is over.
    fn poll_detect<T: Transport>(
        self: Pin<&mut Self>,
        prefix: &mut Prefix,
        transport: &mut T,
        context: &mut Context<'_>,
    ) -> Poll<Option<Version>> {
        if self.connection.poll_order(context) != Order::Serve {
            return Poll::Ready(None);
        }
        let detected = prefix.poll_detect(transport, context);
        if detected.is_ready() {
            return detected;
        }
        self.poll_over(prefix.has_begun(), context).map(|()| None)
    }

    /// Ready when the connection is over, though its client has not ended it.
    fn poll_over(self: Pin<&mut Self>, in_head: bool, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.connection.gives_way() {
            return Poll::Ready(());
        }
        match (in_head, &this.head) {
            (false, None) | (true, Some(_)) => {}
            (false, Some(_)) => this.head = None,
            (true, None) => match this.connection.count_half_head() {
                Ok(place) => {
                    let due = this.connection.head_due();
                    this.head = Some((due, place));
                    if due < this.timer.deadline() {
                        this.timer.as_mut().reset(due);
                    }
                }
                Err(TooMany) => {
                    this.connection.remark_half_heads();
                    return Poll::Ready(());
                }
            },
        }
        loop {
            ready!(this.timer.as_mut().poll(context));
            let now = Instant::now();
            let due = match &this.head {
                Some((due, _)) => Some(*due),
                None => this.connection.idle_until(),
            };
            match due {
                Some(due) if due <= now => return Poll::Ready(()),
                Some(due) => this.timer.as_mut().reset(due),
                None => this.timer.as_mut().reset(now + KEEP_ALIVE),
            }
        }
    }
}
