//! One connection: what its requests, its socket and whoever drives it know of each other.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use http::HeaderValue;
use http::header::HeaderMap;
use http::uri::Authority;
use oarlock_spec::codes::RouterCode;
use tokio::time::{Instant, Sleep};

use super::bounds::{Counted, Key, Place};
use super::linger::{Bounds, Unread};
use super::rescue::Failure;
use super::{Inner, lock};
use crate::cores::CoreId;

/// From the end of an answer to the first byte of the next request's head.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// No head may be larger, whatever an app's `header` says: it is read before the app is known.
pub(super) const MAX_HEADER: usize = 256 * 1024;

/// Headers of one head, of requests and of a listening dyno's answers. hyper takes room for all of them for each head.
pub(super) const MAX_HEADERS: usize = 1_000;

/// What a connection is to do.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
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

/// Where a connection is with its next request's head: it was accepted, and nothing came.
const OPENED: u8 = 0;
/// Its first head has begun.
const IN_FIRST_HEAD: u8 = 1;
/// The last head was whole; of HTTP/2 the preface.
const AFTER_HEAD: u8 = 2;
/// HTTP/1: another head has begun.
const IN_HEAD: u8 = 3;

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
    /// Whom its half heads count for; `None`: nobody bounds them.
    key: Option<Key>,
    /// It comes from a trusted proxy, which names the clients of its requests.
    is_proxy: bool,
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
    /// [`OPENED`] and so on.
    head: AtomicU8,
    /// Of HTTP/2: the head of a request has begun and not ended.
    in_block: AtomicBool,
    /// A new client wants its place.
    unwanted: AtomicBool,
    /// Its client does not take what is written.
    stuck: AtomicBool,
    stalled: AtomicBool,
    reset: AtomicBool,
    /// Something was given to its socket that waits for its turn to be written.
    unwritten: AtomicBool,
    /// Nothing waits for its turn any more: it becomes a tunnel, or ends.
    at_once: AtomicBool,
    /// Of the request's body.
    pub(super) unread: Arc<Unread>,
    /// HTTP/1: it is over, and there may be input that nobody has read.
    lingers: AtomicBool,
    /// Of the request under way, between two of them.
    timer: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl Connection {
    pub(super) fn new(
        router: Arc<Inner>,
        core: CoreId,
        (client, key): (SocketAddr, Option<Key>),
        local: SocketAddr,
    ) -> Self {
        let from = From {
            client: address(client.ip()),
            proto: HeaderValue::from_static("http"),
            port: HeaderValue::from(local.port()),
            local: Authority::try_from(local.to_string())
                .unwrap_or_else(|_| Authority::from_static("localhost")),
        };
        Self {
            is_proxy: key.is_none(),
            key,
            ..Self::of(router, core, from)
        }
    }

    /// One that was not accepted here: an embedder's request.
    pub(super) fn of(router: Arc<Inner>, core: CoreId, from: From) -> Self {
        Self {
            router,
            core,
            client: from.client,
            key: None,
            is_proxy: false,
            proto: from.proto,
            port: from.port,
            local: from.local,
            opened: Instant::now(),
            order: AtomicU8::new(Order::Serve as u8),
            waker: AtomicWaker::new(),
            busy: AtomicU32::new(0),
            idle_since: AtomicU64::new(0),
            idle_timeout: AtomicU64::new(millis(KEEP_ALIVE)),
            head: AtomicU8::new(OPENED),
            in_block: AtomicBool::new(false),
            unwanted: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            reset: AtomicBool::new(false),
            unwritten: AtomicBool::new(false),
            at_once: AtomicBool::new(false),
            unread: Arc::default(),
            lingers: AtomicBool::new(false),
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

    pub(super) fn is_trusted_proxy(&self) -> bool {
        self.is_proxy
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

    /// HTTP/1: it is over, what was written is the last. If its client may still be sending, a close at once would take
    /// that from it.
    pub(super) fn is_over(&self) {
        self.lingers
            .store(self.closes_within().is_some(), Ordering::Relaxed);
    }

    pub(super) fn lingers(&self) -> bool {
        self.lingers.load(Ordering::Relaxed)
    }

    /// The bounds of a close in stages.
    pub(super) fn closes_within(&self) -> Option<Bounds> {
        self.unread.bounds(self.is_in_head())
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

    /// Tells it what to do.
    pub(super) fn give(&self, order: Order) {
        self.order.store(order as u8, Ordering::SeqCst);
        self.waker.wake();
    }

    /// HTTP/1: something came.
    pub(super) fn heard(&self) {
        if self.busy.load(Ordering::Relaxed) == 0 {
            let head = if self.has_asked() {
                IN_HEAD
            } else {
                IN_FIRST_HEAD
            };
            self.head.store(head, Ordering::Relaxed);
        }
    }

    /// HTTP/2: what came last is within a head, or not.
    pub(super) fn set_in_head(&self, in_head: bool) {
        self.in_block.store(in_head, Ordering::Relaxed);
    }

    /// HTTP/2: its preface is the first thing that is waited for, and has come.
    pub(super) fn is_greeted(&self) {
        self.head.store(AFTER_HEAD, Ordering::Relaxed);
    }

    /// Whether its first head, or its preface, was whole.
    fn has_asked(&self) -> bool {
        self.head.load(Ordering::Relaxed) >= AFTER_HEAD
    }

    /// Whether the head of a request has begun and not ended.
    pub(super) fn is_in_head(&self) -> bool {
        let head = self.head.load(Ordering::Relaxed);
        self.in_block.load(Ordering::Relaxed) || matches!(head, IN_FIRST_HEAD | IN_HEAD)
    }

    /// When a head that begins now is to be whole; the first one counts from when the connection was accepted.
    pub(super) fn head_due(&self) -> Instant {
        let since = if self.has_asked() {
            Instant::now()
        } else {
            self.opened
        };
        since + self.router.head_timeout
    }

    /// The operator is told that its client has as many half heads as it may.
    pub(super) fn remark_half_heads(&self) {
        let client = self.client.to_str().unwrap_or_default();
        self.router.remarks.refused(client, Counted::HalfHead);
    }

    /// Counts a half head for its client; an error: that has as many as it may.
    pub(super) fn count_half_head(&self) -> Result<Option<Place>, TooMany> {
        match self.key {
            None => Ok(None),
            Some(key) => match self.router.bounds.enter(key, Counted::HalfHead) {
                Some(place) => Ok(Some(place)),
                None => Err(TooMany),
            },
        }
    }

    /// Counts a request for the client that a trusted proxy names.
    pub(super) fn count_request(&self, headers: &HeaderMap) -> Result<Option<Place>, Failure> {
        if !self.is_proxy {
            return Ok(None);
        }
        let Some(client) = self.router.proxies.named(headers) else {
            return Ok(None);
        };
        let place = self.router.bounds.enter(Key::of(client), Counted::Whole);
        if place.is_none() {
            self.router
                .remarks
                .refused(&client.to_string(), Counted::Whole);
        }
        place.map(Some).ok_or(Failure::TooManyRequests)
    }

    /// Its client does not take what is written, or does again.
    pub(super) fn set_stuck(&self, stuck: bool) {
        self.stuck.store(stuck, Ordering::Relaxed);
    }

    fn is_writing(&self) -> bool {
        self.stuck.load(Ordering::Relaxed) || self.is_unwritten()
    }

    /// Since when no request is under way; `None`: one is, or an answer is still to be written, or its place was asked
    /// for already.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let is_busy = self.busy.load(Ordering::SeqCst) > 0
            || self.is_writing()
            || self.unwanted.load(Ordering::Relaxed);
        (!is_busy).then(|| self.since())
    }

    fn since(&self) -> Instant {
        self.opened + Duration::from_millis(self.idle_since.load(Ordering::SeqCst))
    }

    /// Asks for its place; it ends if no request comes first.
    pub(super) fn ask_for_place(&self) {
        self.unwanted.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    /// Whether it is to end for a new client. Asked by whoever drives it.
    pub(super) fn gives_way(&self) -> bool {
        if !self.unwanted.load(Ordering::SeqCst) {
            return false;
        }
        if self.busy.load(Ordering::SeqCst) > 0 {
            self.unwanted.store(false, Ordering::SeqCst);
            return false;
        }
        // The end of an answer is still on its way.
        !self.is_writing()
    }

    /// When it has been idle for too long; `None`: it is not idle.
    pub(super) fn idle_until(&self) -> Option<Instant> {
        if self.busy.load(Ordering::SeqCst) > 0 || self.stuck.load(Ordering::Relaxed) {
            return None;
        }
        if !self.has_asked() {
            return Some(self.opened + self.router.head_timeout);
        }
        Some(self.since() + KEEP_ALIVE)
    }
}

/// Its client has as many half heads as it may.
#[derive(Debug)]
pub(super) struct TooMany;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A request under way on a connection.
pub(super) struct Busy {
    connection: Arc<Connection>,
    /// Where a trusted proxy named the client.
    place: Option<Place>,
}

impl Busy {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        connection.busy.fetch_add(1, Ordering::SeqCst);
        connection.head.store(AFTER_HEAD, Ordering::Relaxed);
        Self {
            connection,
            place: None,
        }
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Counts it for the client that a trusted proxy names.
    pub(super) fn count(&mut self, headers: &HeaderMap) -> Result<(), Failure> {
        self.place = self.connection.count_request(headers)?;
        Ok(())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Self { connection, place } = self;
        drop(place.take());
        connection
            .idle_since
            .store(millis(connection.opened.elapsed()), Ordering::SeqCst);
        connection.busy.fetch_sub(1, Ordering::SeqCst);
    }
}
