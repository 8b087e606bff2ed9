//! The body of a request to a listening dyno: held back until the guest has begun to read the request, so that the
//! request can be sent again as long as the guest has nothing of it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Body as _, Frame, SizeHint};
use oarlock_sandbox::{Body, Progress};
use tokio::time::Sleep;

use super::lock;

/// Of a server that expects `100-continue` to be answered, but does not answer it: clients wait about as long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where the body is until it is sent, and what becomes of it.
pub(super) struct Home {
    body: Mutex<Option<Body>>,
    hint: SizeHint,
    /// How its way ended; said once.
    end: OnceLock<End>,
    waker: AtomicWaker,
}

/// How the way of a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The connection has all of it.
    Sent,
    /// Nobody wants the rest.
    Cut,
}

impl Home {
    pub(super) fn new(body: Body) -> Arc<Self> {
        let home = Self {
            hint: body.size_hint(),
            end: OnceLock::new(),
            body: Mutex::new(None),
            waker: AtomicWaker::new(),
        };
        // There is nothing to send of an empty one, and it can be sent any number of times.
        if body.is_end_stream() {
            home.ends(End::Sent);
        }
        *lock(&home.body) = Some(body);
        Arc::new(home)
    }

    /// Whether nothing of it was given away.
    pub(super) fn is_whole(&self) -> bool {
        lock(&self.body).is_some()
    }

    /// Whether the connection waits for nothing more of it.
    pub(super) fn is_sent(&self) -> bool {
        self.end.get() == Some(&End::Sent)
    }

    /// The first word holds.
    fn ends(&self, end: End) {
        let _later = self.end.set(end).is_err();
    }

    /// The body, if nothing of it was given away.
    pub(super) fn take_back(&self) -> Option<Body> {
        lock(&self.body).take()
    }

    /// Nobody wants the rest: the connection that sends it ends.
    pub(super) fn cut(&self) {
        self.ends(End::Cut);
        self.waker.wake();
    }
}

/// The guest has said `100 Continue`.
#[derive(Clone, Default)]
pub(super) struct Continued(Arc<AtomicBool>);

impl Continued {
    /// Called by the connection's own task, which looks at the body afterwards.
    pub(super) fn give(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The body as a connection sends it.
pub(super) struct Held {
    home: Arc<Home>,
    own: Option<Body>,
    /// The guest has read something of the request when it has taken more than this.
    progress: (Progress, u64),
    /// With `Expect: 100-continue`: until when its answer is waited for.
    expecting: Option<(Continued, Option<Pin<Box<Sleep>>>)>,
}

/// The body was given up.
#[derive(Debug, thiserror::Error)]
#[error("the rest of the request's body is not wanted")]
pub(super) struct NotWanted;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Held {
    pub(super) fn new(
        home: &Arc<Home>,
        progress: (Progress, u64),
        expects: bool,
    ) -> (Self, Continued) {
        let continued = Continued::default();
        let held = Self {
            home: home.clone(),
            own: None,
            progress,
            expecting: expects.then(|| (continued.clone(), None)),
        };
        (held, continued)
    }

    /// Ready when the guest wants the body.
    fn poll_wanted(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (progress, before) = &self.progress;
        ready!(progress.poll_taken(*before, context));
        if progress.taken() <= *before {
            // It reads no more, and has read nothing: the connection is about to end.
            return Poll::Pending;
        }
        if let Some((continued, timer)) = &mut self.expecting
            && !continued.0.load(Ordering::SeqCst)
        {
            let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
            ready!(timer.as_mut().poll(context));
        }
        Poll::Ready(())
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        this.home.waker.register(context.waker());
        if this.home.end.get() == Some(&End::Cut) {
            return Poll::Ready(Some(Err(NotWanted.into())));
        }
        if this.own.is_none() {
            ready!(this.poll_wanted(context));
            let Some(body) = this.home.take_back() else {
                return Poll::Ready(Some(Err(NotWanted.into())));
            };
            this.own = Some(body);
        }
        let Some(body) = &mut this.own else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut *body).poll_frame(context));
        if frame.is_none() || body.is_end_stream() {
            this.home.ends(End::Sent);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.own {
            Some(body) => body.is_end_stream(),
            None => self.home.is_sent(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.own {
            Some(body) => body.size_hint(),
            None => self.home.hint,
        }
    }
}

impl Drop for Held {
    /// A body of a known length may never be asked for its end.
    fn drop(&mut self) {
        if self.own.as_ref().is_some_and(|body| body.is_end_stream()) {
            self.home.ends(End::Sent);
        }
    }
}
