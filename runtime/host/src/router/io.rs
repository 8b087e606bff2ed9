//! A client's socket: ends when the client takes nothing for too long, can be reset, and writes in its turn.
//!
//! A small answer waits until the core's other tasks have had their turn. So answers leave in a row, which matters where
//! clients run on the same cores: each answer that leaves alone wakes its client, who takes the core from those who
//! still wait for theirs. Where the core's turns are long, because a guest spins on it, nobody waits.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::connection::Connection;
use super::frames::FrameMeter;
use super::lock;
use super::transport::{PREFACE, Prefix, Transport, Version};

pub(super) struct Io<T: Transport> {
    /// There until the drop.
    stream: Option<T>,
    /// Where the drop leaves it, if its input has not come to its end.
    left: Left<T>,
    /// What was read of it already.
    prefix: Prefix,
    /// Of HTTP/2.
    frames: Option<FrameMeter>,
    connection: Arc<Connection>,
    /// Made when the client first makes us wait.
    sleep: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    turn: Turn,
}

/// Where a socket is left by whoever spoke HTTP over it, when that is over and there may be input that nobody has read.
pub(super) type Left<T> = Arc<Mutex<Option<T>>>;

/// More bytes than these are worth a wake-up of their own, and wait for nothing.
const SMALL: usize = 16 << 10;

/// How long nobody waits after a guest used up its tick: it has every turn last so long.
const HURRY: Duration = Duration::from_millis(20);

/// Whether what is to be written has waited for the core's other tasks.
#[derive(Default)]
struct Turn {
    waited: bool,
}

impl Turn {
    /// Ready when so many bytes may be written.
    fn poll(&mut self, bytes: usize, at_once: bool, context: &Context<'_>) -> Poll<()> {
        if bytes > SMALL || at_once || self.waited {
            return Poll::Ready(());
        }
        self.waited = true;
        // To the end of the core's line.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn written(&mut self) {
        self.waited = false;
    }
}

/// Whether a guest has lately used up its tick on this core.
fn is_computing() -> bool {
    oarlock_sandbox::last_used_up_tick().is_some_and(|at| at.elapsed() < HURRY)
}

impl<T: Transport> Io<T> {
    pub(super) fn new(
        (prefix, stream): (Prefix, T),
        version: Version,
        connection: Arc<Connection>,
        left: Left<T>,
    ) -> Self {
        Self {
            stream: Some(stream),
            left,
            prefix,
            frames: (version == Version::Http2).then(|| FrameMeter::new(PREFACE.len())),
            connection,
            sleep: None,
            waiting: false,
            turn: Turn::default(),
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut T>> {
        let stream = self.stream.as_mut().map(Pin::new);
        stream.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn poll_turn(&mut self, bytes: usize, context: &Context<'_>) -> Poll<()> {
        let at_once = self.connection.writes_at_once() || is_computing();
        let turn = self.turn.poll(bytes, at_once, context);
        if turn.is_pending() {
            self.connection.set_unwritten(true);
        }
        turn
    }

    fn watch(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = &written {
            if std::mem::replace(&mut self.waiting, false) {
                self.connection.set_stuck(false);
            }
            self.turn.written();
            self.connection.set_unwritten(false);
            if let (Some(frames), Ok(bytes)) = (&mut self.frames, result) {
                frames.wrote(*bytes);
            }
            return written;
        }
        if !std::mem::replace(&mut self.waiting, true) {
            self.connection.set_stuck(true);
            let due = Instant::now() + self.connection.idle_timeout();
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(due),
                None => self.sleep = Some(Box::pin(tokio::time::sleep_until(due))),
            }
        }
        let elapsed = self
            .sleep
            .as_mut()
            .is_some_and(|sleep| sleep.as_mut().poll(context).is_ready());
        if elapsed {
            self.connection.stalled();
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<T: Transport> AsyncRead for Io<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let Some(stream) = &mut this.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        std::task::ready!(this.prefix.poll_read(stream, context, into))?;
        let bytes = into.filled().get(before..).unwrap_or_default();
        match &mut this.frames {
            None if bytes.is_empty() => {}
            None => this.connection.heard(),
            Some(frames) => {
                if let Err(flood) = frames.read(bytes) {
                    this.connection.reset_at_end();
                    return Poll::Ready(Err(io::Error::other(flood)));
                }
                this.connection.set_in_head(frames.is_in_head());
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Transport> AsyncWrite for Io<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        std::task::ready!(this.poll_turn(bytes.len(), context));
        let written = this.stream()?.poll_write(context, bytes);
        this.watch(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = bytes.iter().map(|slice| slice.len()).sum();
        std::task::ready!(this.poll_turn(length, context));
        let written = this.stream()?.poll_write_vectored(context, bytes);
        this.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(T::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_shutdown(context)
    }
}

impl<T: Transport> Drop for Io<T> {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else {
            return;
        };
        if self.connection.is_to_be_reset() {
            stream.reset_at_close();
        } else if self.connection.lingers() {
            *lock(&self.left) = Some(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_small_answer_waits_for_one_turn_and_is_woken_for_it() {
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(woken.clone());
        let context = Context::from_waker(&waker);
        let mut turn = Turn::default();
        for answer in 1..=3 {
            assert_eq!(turn.poll(100, false, &context), Poll::Pending);
            assert_eq!(woken.0.load(Ordering::SeqCst), answer);
            assert_eq!(turn.poll(100, false, &context), Poll::Ready(()));
            // The socket took nothing: it is not asked to wait again.
            assert_eq!(turn.poll(100, false, &context), Poll::Ready(()));
            turn.written();
        }
    }

    #[test]
    fn large_answers_and_those_beside_a_computing_guest_wait_for_nothing() {
        let context = Context::from_waker(Waker::noop());
        let mut turn = Turn::default();
        assert_eq!(turn.poll(SMALL + 1, false, &context), Poll::Ready(()));
        assert_eq!(turn.poll(1, true, &context), Poll::Ready(()));
        assert_eq!(turn.poll(1, false, &context), Poll::Pending);
    }
}
