//! What the caller's side and the guest's side of one call know of each other, and the body that
//! hands a response out.
//!
//! wasmtime-wasi-http ends a response's body cleanly when its store is dropped. So the body asks here
//! why it ended: the side that ends an instance says so before the store goes.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::channel::oneshot;
use futures::task::AtomicWaker;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::frames::poll_content;
use crate::instance::CallError;
use crate::program::Wasi;
use crate::sandbox::StartError;
use crate::{Body, BodyError, trap};

/// Where a guest puts the head of its response.
pub(crate) type Head = oneshot::Sender<Result<Response<Body>, wasmtime::Error>>;

/// How the instance of a call came to its end.
#[derive(Debug, Clone)]
pub(crate) enum Ending {
    /// As it should.
    Finished,
    Trap(String),
    Memory {
        limit: u64,
    },
    Killed,
    /// It went on for too long after its response.
    AfterResponse,
    NotStarted(StartError),
    /// The request could not be handed to the guest; its instance lives on.
    Refused(String),
}

/// One call, seen from both sides.
pub(crate) struct CallRecord {
    wasi: Wasi,
    /// The guest's function returned.
    returned: AtomicBool,
    /// The caller has all it wanted, or went away.
    closed: AtomicBool,
    /// The caller went away before it had all.
    abandoned: AtomicBool,
    ending: OnceLock<Ending>,
    /// The request, if the instance ended before its guest had anything of it.
    unserved: Mutex<Option<Box<Request<Body>>>>,
    /// Tells either side of a change.
    changed: Notify,
    /// Wakes the guest when it reads a request whose caller has gone.
    reader: AtomicWaker,
    /// Wakes the task of a fresh instance when its caller is done.
    guest: AtomicWaker,
    /// When the caller went away.
    abandoned_at: OnceLock<Instant>,
}

impl CallRecord {
    pub(crate) fn new(wasi: Wasi) -> Arc<Self> {
        Arc::new(Self {
            wasi,
            returned: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            ending: OnceLock::new(),
            unserved: Mutex::default(),
            changed: Notify::new(),
            reader: AtomicWaker::new(),
            guest: AtomicWaker::new(),
            abandoned_at: OnceLock::new(),
        })
    }

    /// The guest's function returned.
    pub(crate) fn set_returned(&self) {
        self.returned.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// The call's instance ended; to be said before its store is dropped. The first word counts.
    pub(crate) fn end(&self, ending: Ending) {
        drop(self.ending.set(ending));
        self.changed.notify_waiters();
    }

    /// The call's instance ended before the guest had it: whoever made it may make it elsewhere.
    pub(crate) fn hand_back(&self, request: Request<Body>) {
        *self.unserved.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(request));
        self.end(Ending::Killed);
    }

    /// The request, if it was handed back.
    pub(crate) fn unserved(&self) -> Option<Box<Request<Body>>> {
        self.unserved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// The caller is done with the call.
    fn close(&self, abandoned: bool) {
        if abandoned {
            // The first word counts.
            let _ = self.abandoned_at.set(Instant::now());
        }
        self.abandoned.store(abandoned, Ordering::Release);
        self.closed.store(true, Ordering::Release);
        self.changed.notify_waiters();
        self.reader.wake();
        self.guest.wake();
    }

    /// Whether the caller is done with the call; if not, the guest's task is woken when it is.
    pub(crate) fn closes(&self, cx: &Context<'_>) -> bool {
        // First registered, then asked: a caller that is done in between is not missed.
        self.guest.register(cx.waker());
        self.is_closed()
    }

    /// When the caller went away before it had all.
    pub(crate) fn abandoned_at(&self) -> Option<Instant> {
        self.abandoned_at.get().copied()
    }

    /// Whether the guest's function returned.
    pub(crate) fn has_returned(&self) -> bool {
        self.returned.load(Ordering::Acquire)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Whether the call of a 0.3 guest needs its instance no more: what the guest returned may still stream out of its
    /// store.
    pub(crate) fn is_done(&self) -> bool {
        self.returned.load(Ordering::Acquire) && self.is_closed()
    }

    /// Waits until the caller is done with the call.
    pub(crate) async fn until_closed(&self) {
        self.until(Self::is_closed).await;
    }

    async fn until(&self, reached: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if reached(self) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until it is known why there was no response. A trap closes the head's channel before the
    /// side that runs the guest can say that it was one.
    async fn verdict(&self, error: Option<wasmtime::Error>) -> CallError {
        self.until(|call| call.ending.get().is_some() || call.returned.load(Ordering::Acquire))
            .await;
        match self.ending.get() {
            None | Some(Ending::Finished) => CallError::NoResponse(error.map_or_else(
                || "it returned without one".to_owned(),
                |error| trap::describe(&error),
            )),
            Some(Ending::Trap(text)) => CallError::Trap(text.clone()),
            Some(Ending::Memory { limit }) => CallError::Memory { limit: *limit },
            Some(Ending::Killed | Ending::AfterResponse) => {
                CallError::Ended("it was ended by the host".to_owned())
            }
            Some(Ending::NotStarted(error)) => CallError::Start(error.clone()),
            Some(Ending::Refused(text)) => CallError::NoResponse(text.clone()),
        }
    }

    /// A request whose body fails when the caller has gone, so that a guest that goes on reads no more.
    pub(crate) fn guard(self: Arc<Self>, request: Request<Body>) -> Request<Body> {
        request.map(|body| {
            RequestBody {
                body,
                exchange: self,
            }
            .boxed_unsync()
        })
    }

    /// Why a body that ended by itself is not whole, if it is not.
    fn cut(&self) -> Option<BodyError> {
        let text = match self.ending.get()? {
            Ending::Finished | Ending::Refused(_) => return None,
            // All of a 0.2 response is the host's once the guest has returned.
            _ if self.wasi == Wasi::P2 && self.returned.load(Ordering::Acquire) => return None,
            Ending::Trap(text) => format!("the component trapped: {text}"),
            Ending::Memory { limit } => {
                format!("the component reached its memory limit of {limit} bytes")
            }
            Ending::Killed | Ending::AfterResponse | Ending::NotStarted(_) => {
                "the instance was ended".to_owned()
            }
        };
        Some(BodyError::InternalError(Some(text)))
    }
}

/// What is done when a caller is done with its call.
pub(crate) trait Owner: Send + Unpin + 'static {
    /// The caller has all it wanted.
    fn completed(&mut self, call: &CallRecord);
    /// The caller went away.
    fn abandoned(&mut self);
}

/// The caller's hold on its call: dropping it abandons the call.
pub(crate) struct Caller<O: Owner> {
    exchange: Arc<CallRecord>,
    owner: O,
    /// The answer has no body, whatever the guest says.
    head_only: bool,
    done: bool,
}

impl<O: Owner> Caller<O> {
    pub(crate) fn new(exchange: Arc<CallRecord>, method: &Method, owner: O) -> Self {
        let head_only = method == Method::HEAD;
        Self {
            exchange,
            owner,
            head_only,
            done: false,
        }
    }

    fn complete(&mut self) {
        if !std::mem::replace(&mut self.done, true) {
            self.exchange.close(false);
            self.owner.completed(&self.exchange);
        }
    }

    /// Waits for the head, and hands out the response.
    pub(crate) async fn response(
        mut self,
        head: oneshot::Receiver<Result<Response<Body>, wasmtime::Error>>,
    ) -> Result<Response<Body>, CallError> {
        let error = match head.await {
            Ok(Ok(response)) => return Ok(self.stream(response)),
            Ok(Err(error)) if is_answer(&error) => CallError::ErrorCode(trap::describe(&error)),
            Ok(Err(error)) => self.exchange.verdict(Some(error)).await,
            Err(oneshot::Canceled) => self.exchange.verdict(None).await,
        };
        self.complete();
        Err(error)
    }

    fn stream(mut self, response: Response<Body>) -> Response<Body> {
        let length = response.headers().get(header::CONTENT_LENGTH);
        let remaining = length.and_then(|length| length.to_str().ok()?.parse().ok());
        self.head_only |= matches!(
            response.status(),
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
        response.map(|body| {
            ResponseBody {
                body,
                caller: self,
                remaining,
                ended: false,
            }
            .boxed_unsync()
        })
    }
}

impl<O: Owner> Drop for Caller<O> {
    fn drop(&mut self) {
        if !self.done {
            self.exchange.close(true);
            self.owner.abandoned();
        }
    }
}

/// Whether the guest itself answered with an error code.
fn is_answer(error: &wasmtime::Error) -> bool {
    error.is::<wasmtime_wasi_http::p2::bindings::http::types::ErrorCode>()
        || error.is::<wasmtime_wasi_http::p3::bindings::http::types::ErrorCode>()
}

/// A response's body: dropped early, it abandons the call; cut short by the guest's end, it fails.
struct ResponseBody<O: Owner> {
    body: Body,
    caller: Caller<O>,
    /// What `content-length` promises still.
    remaining: Option<u64>,
    ended: bool,
}

impl<O: Owner> Drop for ResponseBody<O> {
    fn drop(&mut self) {
        // Servers do not read bodies of which they know that there is nothing to read.
        if self.caller.head_only || self.remaining == Some(0) || self.body.is_end_stream() {
            self.caller.complete();
        }
    }
}

impl<O: Owner> http_body::Body for ResponseBody<O> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let frame = std::task::ready!(poll_content(Pin::new(&mut this.body), cx));
        if let Some(Ok(frame)) = &frame {
            if let (Some(remaining), Some(data)) = (&mut this.remaining, frame.data_ref()) {
                *remaining = remaining.saturating_sub(data.len() as u64);
            }
        } else {
            this.ended = true;
        }
        match frame {
            Some(Ok(frame)) => {
                // hyper asks no further when it has all that was promised.
                if this.remaining == Some(0) {
                    this.caller.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                // A trap says more than the channel that it closed.
                Poll::Ready(Some(Err(this.caller.exchange.cut().unwrap_or(error))))
            }
            None => match this.caller.exchange.cut() {
                Some(error) if this.remaining != Some(0) => Poll::Ready(Some(Err(error))),
                _ => {
                    this.caller.complete();
                    Poll::Ready(None)
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        // A body whose store is gone looks ended; servers that ask here never poll for the error.
        self.ended || (self.body.is_end_stream() && self.caller.exchange.cut().is_none())
    }

    fn size_hint(&self) -> SizeHint {
        match self.remaining {
            Some(remaining) if !self.caller.head_only => SizeHint::with_exact(remaining),
            _ => self.body.size_hint(),
        }
    }
}

/// The body of a request to a shared instance.
struct RequestBody {
    body: Body,
    exchange: Arc<CallRecord>,
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // First registered, then asked: a caller that goes away in between is not missed.
        self.exchange.reader.register(cx.waker());
        if self.exchange.is_abandoned() {
            return Poll::Ready(Some(Err(BodyError::ConnectionTerminated)));
        }
        poll_content(Pin::new(&mut self.body), cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request as `wasi:http` 0.2 demands it: with an authority that is text.
pub(crate) fn with_authority(mut request: Request<Body>) -> Request<Body> {
    let readable = |host: &HeaderValue| host.to_str().is_ok();
    if request.uri().authority().is_none()
        && !request.headers().get(header::HOST).is_some_and(readable)
    {
        request
            .headers_mut()
            .insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    request
}
