//! A request's body on its way to the guest: bounded, and watched for what goes wrong with it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use oarlock_sandbox::{Body, BodyError, poll_content};
use oarlock_spec::codes::RouterCode;
use tokio::time::Instant;

use super::linger::Unread;
use super::rescue::Failure;

/// What the two sides of a request know of its body.
pub(super) struct Upload {
    since: Instant,
    /// Milliseconds from `since` to the last bytes.
    last: AtomicU64,
    /// The first thing that went wrong; what follows from it does not overwrite it.
    fault: OnceLock<Fault>,
    waker: AtomicWaker,
}

/// What can go wrong with a request's body.
#[derive(Debug, Clone, Copy)]
enum Fault {
    TooLarge,
    Malformed,
    /// Its sender went away.
    Gone,
}

impl Upload {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            since: Instant::now(),
            last: AtomicU64::new(0),
            fault: OnceLock::new(),
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

    fn set(&self, fault: Fault) {
        // `Err`: something else went wrong before.
        let _later = self.fault.set(fault).is_err();
        self.waker.wake();
    }

    /// What went wrong with the body, if something did.
    pub(super) fn failure(&self) -> Option<Failure> {
        Some(match self.fault.get()? {
            Fault::TooLarge => Failure::BodyTooLarge,
            Fault::Malformed => Failure::BadRequest("The request's body is malformed.\n"),
            Fault::Gone => Failure::Code(RouterCode::H27),
        })
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

/// A request's body for the guest, of at most `limit` bytes; `None` for the second: there is none. `unread` is told how
/// it ends.
pub(super) fn request(
    incoming: impl Incomes,
    limit: u64,
    unread: &Arc<Unread>,
) -> (Body, Option<Arc<Upload>>) {
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
            unread: unread.clone(),
        }),
        Some(upload),
    )
}

struct RequestBody<I> {
    incoming: I,
    left: u64,
    upload: Arc<Upload>,
    unread: Arc<Unread>,
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
            None => {
                self.unread.ends();
                Poll::Ready(None)
            }
            Some(Ok(frame)) => {
                if self.incoming.is_end_stream() {
                    self.unread.ends();
                }
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                match self.left.checked_sub(length) {
                    Some(left) => self.left = left,
                    None => {
                        self.upload.set(Fault::TooLarge);
                        return Poll::Ready(Some(Err(BodyError::HttpRequestBodySize(None))));
                    }
                }
                self.upload.touch();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.upload.set(if I::is_malformed(&error) {
                    self.unread.is_malformed();
                    Fault::Malformed
                } else {
                    Fault::Gone
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
