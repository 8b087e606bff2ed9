//! The 0.2 streams of a connection.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{InputStream, OutputStream, StreamError, StreamResult};

use super::link::{ReadHalf, WriteHalf};

/// Bytes of one read or write, and so of what the host holds of a connection's output.
const CHUNK: usize = 64 * 1024;
/// What was written but not yet taken by the peer is still sent this long after the guest let go of it.
const LINGER: Duration = Duration::from_secs(30);

fn now() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn failed(error: io::Error) -> StreamError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => StreamError::Closed,
        _ => StreamError::LastOperationFailed(error.into()),
    }
}

/// The input stream; shared with the socket, whose `shutdown` closes it.
#[derive(Clone)]
pub(crate) struct Reader(Arc<Mutex<Option<ReadHalf>>>);

impl Reader {
    pub(crate) fn new(half: ReadHalf) -> Self {
        Self(Arc::new(Mutex::new(Some(half))))
    }

    pub(crate) fn shutdown(&self) {
        let half = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(half) = half {
            half.shut();
        }
    }
}

#[async_trait::async_trait]
impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let half = open.as_ref().ok_or(StreamError::Closed)?;
        if size == 0 {
            return Ok(Bytes::new());
        }
        let mut buffer = BytesMut::zeroed(size.min(CHUNK));
        match half.poll_read(&mut now(), &mut buffer) {
            Poll::Pending => Ok(Bytes::new()),
            Poll::Ready(Ok(0)) => {
                *open = None;
                Err(StreamError::Closed)
            }
            Poll::Ready(Ok(read)) => {
                buffer.truncate(read);
                Ok(buffer.freeze())
            }
            Poll::Ready(Err(error)) => {
                *open = None;
                Err(failed(error))
            }
        }
    }
}

#[async_trait::async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {
        std::future::poll_fn(
            |cx| match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(half) => half.poll_ready(cx),
                None => Poll::Ready(()),
            },
        )
        .await;
    }
}

/// What a write that did not fit at once ends with.
type Rest = oneshot::Receiver<io::Result<WriteHalf>>;

enum Writing {
    /// With the bytes that `check_write` has permitted.
    Ready(WriteHalf, usize),
    /// The rest of a write goes out in a task; `bool`: the stream ends after it.
    Busy(Rest, bool),
    Closed,
    Failed(io::Error),
}

/// The output stream; shared with the socket, whose `shutdown` ends it.
#[derive(Clone)]
pub(crate) struct Writer(Arc<Mutex<Writing>>);

impl Writer {
    pub(crate) fn new(half: WriteHalf) -> Self {
        Self(Arc::new(Mutex::new(Writing::Ready(half, 0))))
    }

    /// Ends the stream, after what was written.
    pub(crate) fn shutdown(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = match std::mem::replace(&mut *state, Writing::Closed) {
            Writing::Ready(..) => Writing::Closed,
            Writing::Busy(rest, _) => Writing::Busy(rest, true),
            other => other,
        };
    }
}

impl Writing {
    /// Ready when something can be written or there is a failure to report, which stays for the next call.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Busy(rest, ends) = self {
            let (outcome, ends) = (ready!(std::pin::Pin::new(rest).poll(cx)), *ends);
            *self = match outcome {
                Ok(Ok(half)) if !ends => Self::Ready(half, 0),
                Ok(Err(error)) => Self::Failed(error),
                Ok(Ok(_)) | Err(_) => Self::Closed,
            };
        }
        match self {
            Self::Ready(half, _) => half.poll_ready(cx),
            Self::Busy(..) | Self::Closed | Self::Failed(_) => Poll::Ready(()),
        }
    }

    /// How much may be written now.
    fn check(&mut self) -> StreamResult<usize> {
        if self.poll_ready(&mut now()).is_pending() {
            return Ok(0);
        }
        match self {
            Self::Ready(half, permitted) => {
                *permitted = half.room().min(CHUNK);
                Ok(*permitted)
            }
            Self::Busy(..) | Self::Closed => Err(StreamError::Closed),
            Self::Failed(_) => match std::mem::replace(self, Self::Closed) {
                Self::Failed(error) => Err(failed(error)),
                _ => Err(StreamError::Closed),
            },
        }
    }

    fn write(&mut self, mut bytes: Bytes) -> StreamResult<()> {
        let half = match std::mem::replace(self, Self::Closed) {
            Self::Ready(half, permitted) if bytes.len() <= permitted => half,
            Self::Closed => return Err(StreamError::Closed),
            Self::Failed(error) => return Err(failed(error)),
            Self::Ready(..) | Self::Busy(..) => {
                return Err(StreamError::trap(
                    "more was written than `check-write` permitted",
                ));
            }
        };
        while !bytes.is_empty() {
            match half.poll_write(&mut now(), &bytes) {
                Poll::Ready(Ok(written)) => {
                    let _ = bytes.split_to(written.min(bytes.len()));
                }
                Poll::Ready(Err(error)) => return Err(failed(error)),
                Poll::Pending => {
                    *self = Self::Busy(finish(half, bytes), false);
                    return Ok(());
                }
            }
        }
        *self = Self::Ready(half, 0);
        Ok(())
    }
}

/// Writes the rest in a task of its own: the guest may go on to something else without asking again. If the guest
/// lets go of the stream, the peer has [`LINGER`] to take what is left.
fn finish(half: WriteHalf, mut bytes: Bytes) -> Rest {
    let (mut done, rest) = oneshot::channel();
    tokio::spawn(async move {
        let writing = async {
            while !bytes.is_empty() {
                let written = std::future::poll_fn(|cx| half.poll_write(cx, &bytes)).await?;
                let _ = bytes.split_to(written.min(bytes.len()));
            }
            Ok(())
        };
        tokio::pin!(writing);
        let outcome = tokio::select! {
            outcome = &mut writing => outcome,
            () = done.closed() => {
                tokio::time::timeout(LINGER, writing).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            }
        };
        if outcome.is_err() && done.is_closed() {
            // Nobody is left to hear of it: the peer must not take a part for the whole.
            half.end();
        }
        // Fails if the guest has let go, and then ends the stream with the half.
        let _ = done.send(outcome.map(|()| half));
    });
    rest
}

#[async_trait::async_trait]
impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        // All that was written is on its way already.
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Writing::Ready(..) | Writing::Busy(_, false) => Ok(()),
            Writing::Busy(_, true) | Writing::Closed | Writing::Failed(_) => {
                Err(StreamError::Closed)
            }
        }
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .check()
    }
}

#[async_trait::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .poll_ready(cx)
        })
        .await;
    }
}
