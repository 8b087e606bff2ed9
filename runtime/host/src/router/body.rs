//! Bodies on their way through: bounded and watched on the way in, metered and watched on the way out.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use oarlock_sandbox::{Body, BodyError, poll_content};
use oarlock_spec::codes::RouterCode;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::exchange::Exchange;
use super::lock;
use super::rescue::Failure;
use super::timer::Timer;

/// What the two sides of a request know of its body.
pub(super) struct Upload {
    since: Instant,
    /// Milliseconds from `since` to the last bytes.
    last: AtomicU64,
    fault: AtomicU8,
    waker: AtomicWaker,
}

/// How often a cut waits for what came before it.
const CUT_TURNS: u32 = 2;

const NO_FAULT: u8 = 0;
const TOO_LARGE: u8 = 1;
const GONE: u8 = 2;
const MALFORMED: u8 = 3;

impl Upload {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            since: Instant::now(),
            last: AtomicU64::new(0),
            fault: AtomicU8::new(NO_FAULT),
            waker: AtomicWaker::new(),
        })
    }

    fn touch(&self) {
        let millis = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// When the last bytes came.
    pub(super) fn last(&self) -> Instant {
        self.since + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    fn set(&self, fault: u8) {
        self.fault.store(fault, Ordering::SeqCst);
        self.waker.wake();
    }

    /// What went wrong with the body, if something did.
    pub(super) fn failure(&self) -> Option<Failure> {
        match self.fault.load(Ordering::SeqCst) {
            NO_FAULT => None,
            TOO_LARGE => Some(Failure::BodyTooLarge),
            MALFORMED => Some(Failure::BadRequest("The request's body is malformed.\n")),
            _ => Some(Failure::Code(RouterCode::H27)),
        }
    }

    /// Ready when something has gone wrong with the body.
    pub(super) fn poll_failed(&self, context: &mut Context<'_>) -> Poll<Failure> {
        self.waker.register(context.waker());
        self.failure().map_or(Poll::Pending, Poll::Ready)
    }
}

/// A request's body as it comes: a connection's, or an embedder's.
pub(super) trait Incomes: http_body::Body<Data = Bytes> + Send + Unpin + 'static {
    /// Whether the error is the sender's mistake; otherwise the sender went away.
    fn is_malformed(error: &Self::Error) -> bool;
    /// For the guest.
    fn into_error(error: Self::Error) -> BodyError;
}

impl Incomes for Incoming {
    fn is_malformed(error: &hyper::Error) -> bool {
        is_malformed(error)
    }

    fn into_error(error: hyper::Error) -> BodyError {
        BodyError::Hyper(error)
    }
}

/// A request's body for the guest, of at most `limit` bytes; `None` for the second: there is none.
pub(super) fn request(incoming: impl Incomes, limit: u64) -> (Body, Option<Arc<Upload>>) {
    if incoming.is_end_stream() {
        let empty = http_body_util::Empty::new();
        return (
            Body::new(http_body_util::BodyExt::map_err(
                empty,
                |never| match never {},
            )),
            None,
        );
    }
    let upload = Upload::new();
    (
        Body::new(RequestBody {
            incoming,
            left: limit,
            upload: upload.clone(),
        }),
        Some(upload),
    )
}

struct RequestBody<I> {
    incoming: I,
    left: u64,
    upload: Arc<Upload>,
}

impl<I: Incomes> http_body::Body for RequestBody<I> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = std::task::ready!(poll_content(Pin::new(&mut self.incoming), context));
        match frame {
            None => Poll::Ready(None),
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                match self.left.checked_sub(length) {
                    Some(left) => self.left = left,
                    None => {
                        self.upload.set(TOO_LARGE);
                        return Poll::Ready(Some(Err(BodyError::HttpRequestBodySize(None))));
                    }
                }
                self.upload.touch();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.upload.set(if I::is_malformed(&error) {
                    MALFORMED
                } else {
                    GONE
                });
                Poll::Ready(Some(Err(I::into_error(error))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

fn is_malformed(error: &hyper::Error) -> bool {
    let cause =
        std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| {
        matches!(
            cause.kind(),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
        )
    })
}

/// The answer was cut: the connection, or the stream, is to be aborted.
#[derive(Debug, thiserror::Error)]
#[error("the response was cut: {0}")]
pub(super) struct Cut(pub(super) RouterCode);

/// A response's body for the client.
pub(super) enum ResponseBody {
    /// The router's own.
    Text(Option<Bytes>),
    /// None is sent, as for HEAD; how long it would be, if that is known.
    Left(SizeHint),
    /// A guest's, on a connection whose writing is watched.
    Guest(Streaming),
    /// A guest's, on one of a connection's streams, which a client may stop reading by itself.
    Watched(Watched),
}

impl ResponseBody {
    pub(super) fn text(text: Bytes) -> Self {
        Self::Text(Some(text))
    }

    pub(super) fn empty() -> Self {
        Self::Text(None)
    }

    /// A guest's body that is not sent: it is read to its end in the background, so that its guest can finish.
    pub(super) fn left(body: Streaming) -> Self {
        let hint = body.body.size_hint();
        body.finish_unseen();
        // A guest that wrote nothing because nothing is sent has not said that the answer to GET is empty.
        Self::Left(if hint.exact() == Some(0) {
            SizeHint::new()
        } else {
            hint
        })
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Left(_) => Poll::Ready(None),
            Self::Guest(body) => body.poll_frame(context),
            Self::Watched(body) => body.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Left(_) => false,
            Self::Guest(body) => body.is_end(),
            Self::Watched(body) => lock(&body.shared.body)
                .as_ref()
                .is_some_and(Streaming::is_end),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Self::Left(hint) => *hint,
            Self::Guest(body) => body.body.size_hint(),
            Self::Watched(body) => lock(&body.shared.body)
                .as_ref()
                .map_or_else(SizeHint::new, |b| b.body.size_hint()),
        }
    }
}

/// A guest's body: holds the exchange, and with it the lease, until its end.
pub(super) struct Streaming {
    body: Body,
    exchange: Option<Box<Exchange>>,
    /// What `Content-Length` said.
    declared: Option<u64>,
    upload: Option<Arc<Upload>>,
    idle_timeout: Duration,
    /// How long the guest may go on after the client has all it will get.
    linger: Duration,
    last: Instant,
    timer: Option<Timer>,
    /// The trailers have come: the client asks for no more.
    trailed: bool,
    /// It is to be cut when all that came before is written; how often that is waited for.
    broken: Option<(RouterCode, u32)>,
}

impl Streaming {
    pub(super) fn new(
        body: Body,
        exchange: Box<Exchange>,
        declared: Option<u64>,
        upload: Option<Arc<Upload>>,
        (idle_timeout, linger): (Duration, Duration),
    ) -> Self {
        let last = Instant::now();
        Self {
            body,
            exchange: Some(exchange),
            declared,
            upload,
            idle_timeout,
            linger,
            last,
            timer: None,
            trailed: false,
            broken: None,
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn sent(&self) -> u64 {
        self.exchange.as_ref().map_or(0, |exchange| exchange.bytes)
    }

    fn is_end(&self) -> bool {
        self.body.is_end_stream() && self.declared.is_none_or(|declared| declared == self.sent())
    }

    pub(super) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Some(exchange) = &mut self.exchange else {
            return Poll::Ready(None);
        };
        if let Some((code, _)) = self.broken {
            return self.poll_cut(code, context);
        }
        match poll_content(Pin::new(&mut self.body), context) {
            Poll::Ready(Some(Ok(frame))) => {
                exchange.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                // It has bytes, or is the trailers: only these are progress.
                self.last = Instant::now();
                self.trailed = frame.is_trailers();
                let bytes = exchange.bytes;
                let wrong = |length| bytes > length || (self.trailed && bytes < length);
                if self.declared.is_some_and(wrong) {
                    return self.poll_cut(RouterCode::H18, context);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => self.poll_cut(RouterCode::H18, context),
            Poll::Ready(None) => {
                if self
                    .declared
                    .is_some_and(|declared| exchange.bytes != declared)
                {
                    return self.poll_cut(RouterCode::H18, context);
                }
                self.done();
                Poll::Ready(None)
            }
            Poll::Pending => self
                .poll_idle(context)
                .map(|code| Some(Err(self.cut(code)))),
        }
    }

    /// Cuts the answer. The server forgets what it has not written, so that is waited for: for one turn, in which it
    /// gives it to the socket, and for another, in which the socket takes it.
    fn poll_cut(
        &mut self,
        code: RouterCode,
        context: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let (code, waited) = self.broken.unwrap_or((code, 0));
        let exchange = self.exchange.as_ref();
        let is_unwritten = exchange.is_some_and(|it| it.connection().is_unwritten());
        if waited == 0 || (waited < CUT_TURNS && is_unwritten) {
            self.broken = Some((code, waited + 1));
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(self.cut(code))))
    }

    /// The last moment at which a byte came from either side.
    fn last(&self) -> Instant {
        self.upload
            .as_ref()
            .map_or(self.last, |upload| upload.last().max(self.last))
    }

    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<RouterCode> {
        let due = self.last() + self.idle_timeout;
        let Some(exchange) = &self.exchange else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Timer::of(exchange.connection()));
        timer.poll_until(due, context).map(|()| RouterCode::H15)
    }

    fn done(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.done();
        }
    }

    fn cut(&mut self, code: RouterCode) -> Cut {
        // A guest that breaks off because its request's body did is not the one that went away.
        let code = match self.upload.as_ref().and_then(|upload| upload.failure()) {
            Some(Failure::Code(why)) => why,
            _ => code,
        };
        if let Some(mut exchange) = self.exchange.take() {
            exchange.failed(code);
        }
        Cut(code)
    }

    /// The client has all that it will get, so the request is over: the guest may finish in peace, for a while, and holds
    /// its slot so long.
    fn finish_unseen(mut self) {
        let Some(mut exchange) = self.exchange.take() else {
            return;
        };
        exchange.done();
        let lease = exchange.lease();
        drop(exchange);
        let mut body = std::mem::take(&mut self.body);
        if body.is_end_stream() {
            return;
        }
        let linger = self.linger;
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            let rest = async {
                while let Some(Ok(_)) = http_body_util::BodyExt::frame(&mut body).await {}
            };
            let _ = tokio::time::timeout(linger, rest).await;
            drop((body, lease));
        });
    }
}

impl Drop for Streaming {
    /// HTTP/1 drops a body as soon as it has as many bytes as were declared, without asking for its end.
    fn drop(&mut self) {
        if let Some((code, _)) = self.broken {
            self.cut(code);
            return;
        }
        let Some(exchange) = &self.exchange else {
            return;
        };
        let whole = self.trailed || self.declared == Some(exchange.bytes) || self.is_end();
        if !whole {
            // Dropping the exchange says who went away.
            return;
        }
        if let Some(exchange) = &mut self.exchange {
            exchange.done();
        }
        let mut context = Context::from_waker(Waker::noop());
        if self.body.is_end_stream() || Pin::new(&mut self.body).poll_frame(&mut context).is_ready()
        {
            return;
        }
        let rest = Streaming {
            body: std::mem::take(&mut self.body),
            exchange: self.exchange.take(),
            declared: None,
            upload: None,
            timer: None,
            trailed: false,
            broken: None,
            ..*self
        };
        rest.finish_unseen();
    }
}

/// A body and the task that ends it when nothing moves: HTTP/2 does not ask for a frame while its
/// client gives it no room, so the body cannot watch itself.
pub(super) struct Watched {
    shared: Arc<Shared>,
    watchdog: AbortHandle,
}

struct Shared {
    body: Mutex<Option<Streaming>>,
    waker: AtomicWaker,
}

impl Watched {
    /// Must be called on a runtime.
    pub(super) fn new(body: Streaming) -> Self {
        let idle_timeout = body.idle_timeout;
        let shared = Arc::new(Shared {
            body: Mutex::new(Some(body)),
            waker: AtomicWaker::new(),
        });
        let watchdog = tokio::spawn(watch(shared.clone(), idle_timeout)).abort_handle();
        Self { shared, watchdog }
    }

    fn poll_frame(&self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.shared.waker.register(context.waker());
        match lock(&self.shared.body).as_mut() {
            Some(body) => body.poll_frame(context),
            None => Poll::Ready(Some(Err(Cut(RouterCode::H15)))),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watchdog.abort();
        // Now, not when the aborted task is dropped.
        let body = lock(&self.shared.body).take();
        drop(body);
    }
}

async fn watch(shared: Arc<Shared>, idle_timeout: Duration) {
    loop {
        let last = match lock(&shared.body).as_ref() {
            Some(body) => body.last(),
            None => return,
        };
        let due = last + idle_timeout;
        if due <= Instant::now() {
            let body = lock(&shared.body).take();
            if let Some(mut body) = body {
                body.cut(RouterCode::H15);
            }
            shared.waker.wake();
            return;
        }
        tokio::time::sleep_until(due).await;
    }
}
