//! Bodies on their way to the client: metered and watched.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Body as _, Frame, SizeHint};
use oarlock_sandbox::{Body, poll_content};
use oarlock_spec::codes::RouterCode;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::exchange::Exchange;
use super::lock;
use super::rescue::Failure;
use super::timer::Timer;
use super::upload::Upload;

/// How often a cut waits for what came before it.
const CUT_TURNS: u32 = 2;

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
    stage: Stage,
}

/// How far a guest's body has come. From the last two nothing leads back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Flowing,
    /// The trailers have come: the client asks for no more.
    Trailed,
    /// It is to be cut when all that came before is written; how often that was waited for.
    Breaking {
        code: RouterCode,
        waited: u32,
    },
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
            stage: Stage::Flowing,
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
        if let Stage::Breaking { code, .. } = self.stage {
            return self.poll_cut(code, context);
        }
        match poll_content(Pin::new(&mut self.body), context) {
            Poll::Ready(Some(Ok(frame))) => {
                exchange.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                // It has bytes, or is the trailers: only these are progress.
                self.last = Instant::now();
                let trailed = frame.is_trailers();
                if trailed {
                    self.stage = Stage::Trailed;
                }
                let bytes = exchange.bytes;
                let wrong = |length| bytes > length || (trailed && bytes < length);
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
        let (code, waited) = match self.stage {
            Stage::Breaking { code, waited } => (code, waited),
            Stage::Flowing | Stage::Trailed => (code, 0),
        };
        let exchange = self.exchange.as_ref();
        let is_unwritten = exchange.is_some_and(|it| it.connection().is_unwritten());
        if waited == 0 || (waited < CUT_TURNS && is_unwritten) {
            self.stage = Stage::Breaking {
                code,
                waited: waited + 1,
            };
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
    pub(super) fn finish_unseen(mut self) {
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
        if let Stage::Breaking { code, .. } = self.stage {
            self.cut(code);
            return;
        }
        let Some(exchange) = &self.exchange else {
            return;
        };
        let whole =
            self.stage == Stage::Trailed || self.declared == Some(exchange.bytes) || self.is_end();
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
            stage: Stage::Flowing,
            ..*self
        };
        rest.finish_unseen();
    }
}

/// A body and the task that ends it when nothing moves: HTTP/2 does not ask for a frame while its
/// client gives it no room, so the body cannot watch itself.
pub(super) struct Watched {
    shared: Arc<WatchedBody>,
    watchdog: AbortHandle,
}

struct WatchedBody {
    body: Mutex<Option<Streaming>>,
    waker: AtomicWaker,
}

impl Watched {
    /// Must be called on a runtime.
    pub(super) fn new(body: Streaming) -> Self {
        let idle_timeout = body.idle_timeout;
        let shared = Arc::new(WatchedBody {
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

async fn watch(shared: Arc<WatchedBody>, idle_timeout: Duration) {
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
