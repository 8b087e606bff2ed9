//! Connections: accepted on every core, each served where it was accepted, each told when to end.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use http::HeaderValue;
use http::uri::Authority;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::HttpService;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use oarlock_spec::codes::RouterCode;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use super::body::ResponseBody;
use super::io::Io;
use super::tunnel::TunnelSlot;
use super::{Inner, lock, service};
use crate::cores::CoreId;

/// From the end of an answer, or the connection's begin, to the end of the next request's head.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// No head may be larger, whatever an app's `header` says: it is read before the app is known.
pub(super) const MAX_HEADER: usize = 256 * 1024;

/// Connections at once, if there are files enough.
const MAX_CONNECTIONS: u64 = 16_384;

/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 200;

/// HTTP/2: how often a silent client is asked whether it is there, and how long it has to answer.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// How long to wait when the system has no more files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a connection of HTTP/2 begins (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Connections at once: at most half of the files that the process may open, for guests need some too.
pub(super) fn permits() -> u32 {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(u64::MAX);
    u32::try_from((files / 2).clamp(64, MAX_CONNECTIONS)).unwrap_or(u32::MAX)
}

/// What a connection is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Serve,
    /// Finish the requests under way, take no more.
    Drain,
    /// End now.
    Abort,
}

impl Order {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Serve,
            1 => Self::Drain,
            _ => Self::Abort,
        }
    }
}

/// The open connections of one core. Its lock is taken when one comes or goes.
#[derive(Default)]
pub(super) struct Registry {
    state: Mutex<RegistryState>,
}

#[derive(Default)]
struct RegistryState {
    open: HashMap<u64, Arc<Connection>>,
    next: u64,
    order: u8,
}

impl Registry {
    /// To all, and to those still to come.
    pub(super) fn order(&self, order: Order) {
        let mut state = lock(&self.state);
        state.order = order as u8;
        for connection in state.open.values() {
            connection.order.store(order as u8, Ordering::SeqCst);
            connection.waker.wake();
        }
    }

    pub(super) fn enter(self: &Arc<Self>, connection: &Arc<Connection>) -> Registered {
        let mut state = lock(&self.state);
        let id = state.next;
        state.next += 1;
        connection.order.store(state.order, Ordering::SeqCst);
        state.open.insert(id, connection.clone());
        Registered {
            registry: self.clone(),
            id,
        }
    }
}

/// Leaves on drop.
pub(super) struct Registered {
    registry: Arc<Registry>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let gone = lock(&self.registry.state).open.remove(&self.id);
        drop(gone);
    }
}

/// Who sends a connection's requests, and to what address.
pub(super) struct From {
    pub(super) client: HeaderValue,
    pub(super) proto: HeaderValue,
    pub(super) port: HeaderValue,
    pub(super) local: Authority,
}

/// As headers say it.
pub(super) fn address(ip: IpAddr) -> HeaderValue {
    HeaderValue::from_str(&ip.to_canonical().to_string())
        .unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// What a connection's requests share.
pub(super) struct Connection {
    pub(super) router: Arc<Inner>,
    pub(super) core: CoreId,
    client: HeaderValue,
    pub(super) proto: HeaderValue,
    pub(super) port: HeaderValue,
    /// The address it connected to, for requests that name no host.
    pub(super) local: Authority,
    opened: Instant,
    order: AtomicU8,
    waker: AtomicWaker,
    /// Requests under way.
    busy: AtomicU32,
    /// Milliseconds from `opened` to the end of the last request.
    idle_since: AtomicU64,
    /// Milliseconds, of the last request's app.
    idle_timeout: AtomicU64,
    stalled: AtomicBool,
    reset: AtomicBool,
    /// Something was given to its socket that waits for its turn to be written.
    unwritten: AtomicBool,
    /// Nothing waits for its turn any more: it becomes a tunnel, or ends.
    at_once: AtomicBool,
    /// Of the request under way, between two of them.
    timer: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl Connection {
    fn new(router: Arc<Inner>, core: CoreId, client: SocketAddr, local: SocketAddr) -> Self {
        let from = From {
            client: address(client.ip()),
            proto: HeaderValue::from_static("http"),
            port: HeaderValue::from(local.port()),
            local: Authority::try_from(local.to_string())
                .unwrap_or_else(|_| Authority::from_static("localhost")),
        };
        Self::of(router, core, from)
    }

    /// One that was not accepted here: an embedder's request.
    pub(super) fn of(router: Arc<Inner>, core: CoreId, from: From) -> Self {
        Self {
            router,
            core,
            client: from.client,
            proto: from.proto,
            port: from.port,
            local: from.local,
            opened: Instant::now(),
            order: AtomicU8::new(Order::Serve as u8),
            waker: AtomicWaker::new(),
            busy: AtomicU32::new(0),
            idle_since: AtomicU64::new(0),
            idle_timeout: AtomicU64::new(millis(KEEP_ALIVE)),
            stalled: AtomicBool::new(false),
            reset: AtomicBool::new(false),
            unwritten: AtomicBool::new(false),
            at_once: AtomicBool::new(false),
            timer: Mutex::new(None),
        }
    }

    /// See [`Timer`](super::timer::Timer).
    pub(super) fn take_timer(&self) -> Option<Pin<Box<Sleep>>> {
        lock(&self.timer).take()
    }

    pub(super) fn keep_timer(&self, timer: Pin<Box<Sleep>>) {
        let other = lock(&self.timer).replace(timer);
        drop(other);
    }

    /// The client's address.
    pub(super) fn client(&self) -> &HeaderValue {
        &self.client
    }

    /// How long its client may take nothing.
    pub(super) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout.load(Ordering::Relaxed))
    }

    pub(super) fn set_idle_timeout(&self, timeout: Duration) {
        self.idle_timeout.store(millis(timeout), Ordering::Relaxed);
    }

    /// Resolves when it is to end now. For whoever drives it, and nobody beside.
    pub(super) async fn aborted(&self) {
        std::future::poll_fn(|context| {
            self.waker.register(context.waker());
            match Order::of(self.order.load(Ordering::SeqCst)) {
                Order::Serve | Order::Drain => Poll::Pending,
                Order::Abort => Poll::Ready(()),
            }
        })
        .await;
    }

    /// The client took nothing for so long.
    pub(super) fn stalled(&self) {
        self.stalled.store(true, Ordering::SeqCst);
    }

    /// What it is to do now; the task is woken when that changes.
    pub(super) fn poll_order(&self, context: &Context<'_>) -> Order {
        self.waker.register(context.waker());
        Order::of(self.order.load(Ordering::SeqCst))
    }

    pub(super) fn write_at_once(&self) {
        self.at_once.store(true, Ordering::Relaxed);
    }

    pub(super) fn writes_at_once(&self) -> bool {
        self.at_once.load(Ordering::Relaxed)
    }

    pub(super) fn set_unwritten(&self, unwritten: bool) {
        self.unwritten.store(unwritten, Ordering::Relaxed);
    }

    /// Whether what came before is still to be written; its task is woken for that.
    pub(super) fn is_unwritten(&self) -> bool {
        self.unwritten.load(Ordering::Relaxed)
    }

    pub(super) fn reset_at_end(&self) {
        self.reset.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_to_be_reset(&self) -> bool {
        self.reset.load(Ordering::SeqCst)
    }

    /// Why a request's answer is dropped before its end.
    pub(super) fn why_dropped(&self) -> RouterCode {
        if self.order.load(Ordering::SeqCst) == Order::Abort as u8 {
            RouterCode::H18
        } else if self.stalled.load(Ordering::SeqCst) {
            RouterCode::H15
        } else {
            RouterCode::H27
        }
    }

    /// When it has been idle for too long; `None`: it is not idle.
    fn idle_until(&self) -> Option<Instant> {
        let since = self.opened + Duration::from_millis(self.idle_since.load(Ordering::SeqCst));
        (self.busy.load(Ordering::SeqCst) == 0).then_some(since + KEEP_ALIVE)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A request under way on a connection.
pub(super) struct Busy(Arc<Connection>);

impl Busy {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        connection.busy.fetch_add(1, Ordering::SeqCst);
        Self(connection)
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0
            .idle_since
            .store(millis(self.0.opened.elapsed()), Ordering::SeqCst);
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Accepts on one core until the router stops.
pub(super) async fn accept(
    router: Arc<Inner>,
    core: CoreId,
    registry: Arc<Registry>,
    listener: std::net::TcpListener,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a listener cannot be used");
            return;
        }
    };
    let stop = router.stop.clone();
    let accepting = async {
        loop {
            // Never closed while the router lives.
            let Ok(permit) = router.permits.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, client)) => {
                    let local = stream.local_addr().unwrap_or(client);
                    let connection = Arc::new(Connection::new(router.clone(), core, client, local));
                    let registered = registry.enter(&connection);
                    tokio::spawn(serve(connection, stream, registered, permit));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = accepting => {}
    }
}

async fn serve(
    connection: Arc<Connection>,
    stream: TcpStream,
    registered: Registered,
    permit: OwnedSemaphorePermit,
) {
    // Without it, answers wait for the client's delayed acknowledgements. If it fails, they only do that.
    let _ = stream.set_nodelay(true);
    if let Some(is_http2) = begin(&connection, &stream).await {
        let io = TokioIo::new(Io::new(stream, connection.clone()));
        let tunnel = TunnelSlot::default();
        let handler = (connection.clone(), tunnel.clone());
        let service = hyper::service::service_fn(move |request| {
            let (connection, tunnel) = handler.clone();
            service::handle(connection, tunnel, request)
        });
        if is_http2 {
            let served = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_STREAMS)
                .max_header_list_size(u32::try_from(MAX_HEADER).unwrap_or(u32::MAX))
                .keep_alive_interval(PING.0)
                .keep_alive_timeout(PING.1)
                // What asks for it gets an answer, instead of a reset stream.
                .enable_connect_protocol()
                .serve_connection(io, service);
            drive(&connection, pin!(served)).await;
        } else {
            let served = http1::Builder::new()
                .max_header_size(MAX_HEADER)
                // Ours covers the whole wait, and costs no timer per request.
                .header_read_timeout(None)
                .serve_connection(io, service)
                .with_upgrades();
            drive(&connection, pin!(served)).await;
        }
        let tunnel = lock(&tunnel).take();
        if let Some(tunnel) = tunnel {
            tunnel.run(&connection).await;
        }
    }
    drop((registered, permit));
}

/// Waits for the first bytes; whether they are those of HTTP/2. `None`: there will be none.
async fn begin(connection: &Connection, stream: &TcpStream) -> Option<bool> {
    let mut bytes = [0; PREFACE.len()];
    let detect = async {
        loop {
            let length = stream
                .peek(&mut bytes)
                .await
                .ok()
                .filter(|length| *length > 0)?;
            let seen = bytes.get(..length).unwrap_or_default();
            // No method of HTTP/1 starts so: three bytes are enough, and fewer are rare.
            if seen.len() >= 3 || !PREFACE.starts_with(seen) {
                return Some(PREFACE.starts_with(seen));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let ordered = std::future::poll_fn(|context| {
        if connection.poll_order(context) == Order::Serve {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    });
    tokio::select! {
        found = detect => found,
        () = ordered => None,
        () = tokio::time::sleep(KEEP_ALIVE) => None,
    }
}

/// A connection of either version.
trait Served: Future {
    fn finish(self: Pin<&mut Self>);
}

impl<S> Served for http1::UpgradeableConnection<TokioIo<Io>, S>
where
    S: HttpService<Incoming, ResBody = ResponseBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S> Served for http2::Connection<TokioIo<Io>, S, TokioExecutor>
where
    S: HttpService<Incoming, ResBody = ResponseBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send + 'static,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Serves until the client is done, an order ends it, or it was idle for too long. An error of the
/// connection's is its client's; what it did to requests is in their log lines.
async fn drive<S: Served>(connection: &Connection, mut served: Pin<&mut S>) {
    let mut idle = pin!(tokio::time::sleep(KEEP_ALIVE));
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
            return Poll::Ready(());
        }
        while idle.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            match connection.idle_until() {
                Some(until) if until <= now => return Poll::Ready(()),
                Some(until) => idle.as_mut().reset(until),
                None => idle.as_mut().reset(now + KEEP_ALIVE),
            }
        }
        Poll::Pending
    })
    .await;
}
