//! The body of a request or response, whole or streamed.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::{Error, Result, backend};

/// The body of a request or response, whole or streamed.
///
/// Whole ones are made with `Body::from` (text or bytes) or [`Body::json`], streamed ones with
/// [`Body::channel`], [`Body::stream`] or from any [`http_body::Body`]. What came in can go out again
/// as it is: a proxy copies nothing.
#[derive(Default)]
pub struct Body(Kind);

#[derive(Default)]
pub(crate) enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Incoming(backend::Incoming),
    Streamed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = Error> + Send>>),
}

/// A body was longer than its reader allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// The most bytes that were allowed.
    pub limit: usize,
}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the body is longer than the {} bytes allowed",
            self.limit
        )
    }
}

impl std::error::Error for TooLarge {}

impl Body {
    /// No body.
    pub fn empty() -> Body {
        Body(Kind::Empty)
    }

    /// A body from another crate's.
    pub fn new<B>(body: B) -> Body
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Error>,
    {
        Body(Kind::Streamed(Box::pin(MapError(Box::pin(body)))))
    }

    /// A body from a stream of chunks. An error ends it: the receiver sees a body cut short, never a
    /// clean end.
    pub fn stream<S, T, E>(stream: S) -> Body
    where
        S: futures_core::Stream<Item = Result<T, E>> + Send + 'static,
        T: Into<Bytes>,
        E: Into<Error>,
    {
        Body(Kind::Streamed(Box::pin(Chunks(Box::pin(stream)))))
    }

    /// A body and the sender that feeds it, from a task of its own ([`spawn`](crate::spawn)) or from
    /// the handler itself. The sender waits while its last chunk has not been taken; dropping it ends the
    /// body.
    ///
    /// ```no_run
    /// # use oarlock_sdk::{Body, Response};
    /// # async fn example() -> oarlock_sdk::Result<Response> {
    /// let (mut sender, body) = Body::channel();
    /// oarlock_sdk::spawn(async move {
    ///     for n in 0..3 {
    ///         if sender.send(format!("{n}\n")).await.is_err() {
    ///             return; // The client has gone.
    ///         }
    ///         oarlock_sdk::sleep(std::time::Duration::from_secs(1)).await;
    ///     }
    /// });
    /// # Ok(
    /// Response::new(body)
    /// # )}
    /// ```
    pub fn channel() -> (BodySender, Body) {
        let shared = Arc::new(Channel::default());
        (
            BodySender(Arc::clone(&shared)),
            Body(Kind::Streamed(Box::pin(Receiver(shared)))),
        )
    }

    /// `value` as JSON. The caller sets the content type; [`json`](crate::json) does both.
    ///
    /// # Errors
    /// If `value` has no JSON form.
    #[cfg(feature = "json")]
    pub fn json(value: &impl serde::Serialize) -> Result<Body> {
        Ok(Body(Kind::Full(serde_json::to_vec(value)?.into())))
    }

    /// The next chunk of data, or `None` at the end. Trailers are skipped.
    ///
    /// # Errors
    /// If the body was cut short.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame =
                std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(self), cx)).await;
            match frame.transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => return Ok(Some(data)),
                Some(Err(_trailers)) => {}
                None => return Ok(None),
            }
        }
    }

    /// The whole body, if it has at most `limit` bytes.
    ///
    /// # Errors
    /// [`TooLarge`], or the body was cut short.
    pub async fn bytes(mut self, limit: usize) -> Result<Bytes> {
        let Some(first) = self.chunk().await? else {
            return Ok(Bytes::new());
        };
        if first.len() > limit {
            return Err(TooLarge { limit }.into());
        }
        // One chunk is the common case and needs no copy.
        let Some(second) = self.chunk().await? else {
            return Ok(first);
        };
        let mut all = Vec::from(first);
        let mut next = Some(second);
        while let Some(chunk) = next {
            if all.len() + chunk.len() > limit {
                return Err(TooLarge { limit }.into());
            }
            all.extend_from_slice(&chunk);
            next = self.chunk().await?;
        }
        Ok(all.into())
    }

    /// The whole body as UTF-8 text, if it has at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Body::bytes`], or it is not UTF-8.
    pub async fn text(self, limit: usize) -> Result<String> {
        Ok(String::from_utf8(self.bytes(limit).await?.into())?)
    }

    /// The whole body read as JSON, if it has at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Body::bytes`], or it is not the JSON of a `T`.
    #[cfg(feature = "json")]
    pub async fn read_json<T: serde::de::DeserializeOwned>(self, limit: usize) -> Result<T> {
        Ok(serde_json::from_slice(&self.bytes(limit).await?)?)
    }

    pub(crate) fn incoming(incoming: backend::Incoming) -> Body {
        Body(Kind::Incoming(incoming))
    }

    #[cfg(feature = "p3")]
    pub(crate) fn into_kind(self) -> Kind {
        self.0
    }

    #[cfg(feature = "p2")]
    pub(crate) fn kind(&self) -> &Kind {
        &self.0
    }

    /// The body's length, if it is known before it is sent.
    pub(crate) fn length(&self) -> Option<u64> {
        match &self.0 {
            Kind::Empty => Some(0),
            Kind::Full(bytes) => Some(bytes.len() as u64),
            Kind::Incoming(_) => None,
            Kind::Streamed(body) => http_body::Body::size_hint(body).exact(),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.0 {
            Kind::Empty => "empty",
            Kind::Full(bytes) => return write!(f, "Body({} bytes)", bytes.len()),
            Kind::Incoming(_) => "incoming",
            Kind::Streamed(_) => "streamed",
        };
        write!(f, "Body({kind})")
    }
}

macro_rules! from {
    ($($type:ty),*) => {$(
        impl From<$type> for Body {
            fn from(data: $type) -> Body {
                Body(Kind::Full(Bytes::from(data)))
            }
        }
    )*};
}
from!(&'static str, &'static [u8], String, Vec<u8>, Bytes);

impl From<()> for Body {
    fn from((): ()) -> Body {
        Body::empty()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Kind::Incoming(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Error::from),
            Kind::Streamed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Incoming(incoming) => incoming.is_end_stream(),
            Kind::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Incoming(incoming) => incoming.size_hint(),
            Kind::Streamed(body) => body.size_hint(),
        }
    }
}

/// Feeds a body made with [`Body::channel`].
pub struct BodySender(Arc<Channel>);

/// The other side of a [`BodySender`] has gone: nobody reads the body any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody reads this body any more")
    }
}

impl std::error::Error for Closed {}

#[derive(Default)]
struct Channel(Mutex<ChannelState>);

#[derive(Default)]
struct ChannelState {
    frames: VecDeque<Result<Frame<Bytes>>>,
    sender_gone: bool,
    receiver_gone: bool,
    sender: Option<Waker>,
    receiver: Option<Waker>,
}

impl Channel {
    /// A guest has one thread and no call below panics with the lock held.
    fn lock(&self) -> MutexGuard<'_, ChannelState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, frame: Result<Frame<Bytes>>) {
        let mut state = self.lock();
        state.frames.push_back(frame);
        if let Some(waker) = state.receiver.take() {
            waker.wake();
        }
    }
}

impl BodySender {
    /// Sends a chunk; waits until the reader has taken it.
    ///
    /// # Errors
    /// If nobody reads the body any more.
    pub async fn send(&mut self, data: impl Into<Bytes>) -> Result<(), Closed> {
        self.0.push(Ok(Frame::data(data.into())));
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.receiver_gone {
                return Poll::Ready(Err(Closed));
            }
            if state.frames.is_empty() {
                return Poll::Ready(Ok(()));
            }
            state.sender = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Ends the body with trailers.
    pub fn finish(self, trailers: HeaderMap) {
        self.0.push(Ok(Frame::trailers(trailers)));
    }

    /// Ends the body as a failure: the receiver sees it cut short, never a clean end.
    pub fn abort(self, error: impl Into<Error>) {
        self.0.push(Err(error.into()));
    }
}

impl Drop for BodySender {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.sender_gone = true;
        if let Some(waker) = state.receiver.take() {
            waker.wake();
        }
    }
}

struct Receiver(Arc<Channel>);

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.receiver_gone = true;
        if let Some(waker) = state.sender.take() {
            waker.wake();
        }
    }
}

impl http_body::Body for Receiver {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        let mut state = self.0.lock();
        if let Some(frame) = state.frames.pop_front() {
            if let Some(waker) = state.sender.take() {
                waker.wake();
            }
            return Poll::Ready(Some(frame));
        }
        if state.sender_gone {
            return Poll::Ready(None);
        }
        state.receiver = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Another crate's body, its error boxed.
struct MapError<B: ?Sized>(Pin<Box<B>>);

impl<B> http_body::Body for MapError<B>
where
    B: http_body::Body<Data = Bytes> + ?Sized,
    B::Error: Into<Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        self.0.as_mut().poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A stream of chunks as a body.
struct Chunks<S: ?Sized>(Pin<Box<S>>);

impl<S, T, E> http_body::Body for Chunks<S>
where
    S: futures_core::Stream<Item = Result<T, E>> + ?Sized,
    T: Into<Bytes>,
    E: Into<Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        self.0.as_mut().poll_next(cx).map(|item| {
            item.map(|chunk| {
                chunk
                    .map(|data| Frame::data(data.into()))
                    .map_err(Into::into)
            })
        })
    }
}

#[cfg(test)]
mod tests;
