//! One direction of a connection that never leaves the process: a bounded run of bytes between a writer and a
//! reader. No descriptor, no system call, and no way in for anybody else.
//!
//! At most [`CAPACITY`] bytes are held; a writer that finds no room waits. One task at a time may wait on each side.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Bytes under way in one direction, as of a usual socket buffer.
pub(crate) const CAPACITY: usize = 64 * 1024;

/// An empty pipe gives memory back that is more than this.
const KEPT: usize = 8 * 1024;

/// How far the writer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    Open,
    /// No more will come.
    Ended,
    /// More should have come.
    Cut,
}

/// What becomes of what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Open,
    /// Taken for read, as a kernel takes it after `shutdown(SHUT_RD)`: whoever answers before it has read a
    /// request's body must not lose the answer by an error of ours.
    Ignoring,
    Gone,
}

/// See the module.
pub(crate) struct Pipe(Mutex<PipeState>);

struct PipeState {
    bytes: VecDeque<u8>,
    writer: Writer,
    reader: Reader,
    /// Read so far.
    taken: u64,
    /// Who waits for bytes, for room, and for the reader to take something.
    waiting: [Option<Waker>; 3],
}

const FOR_BYTES: usize = 0;
const FOR_ROOM: usize = 1;
const FOR_TAKING: usize = 2;

impl PipeState {
    /// A call that only looks, with [`Waker::noop`], must not displace somebody who waits. That waker is known by its
    /// data, which tasks have and it has not: its table of functions may be another in each part of the program, and
    /// `will_wake` compares these.
    fn wait<T>(&mut self, place: usize, cx: &Context<'_>) -> Poll<T> {
        if !cx.waker().data().is_null()
            && let Some(waiting) = self.waiting.get_mut(place)
        {
            match waiting {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waiting = Some(cx.waker().clone()),
            }
        }
        Poll::Pending
    }

    fn take_waker(&mut self, place: usize) -> Option<Waker> {
        self.waiting.get_mut(place).and_then(Option::take)
    }

    fn has_room(&self) -> bool {
        self.bytes.len() < CAPACITY || self.reader != Reader::Open || self.writer != Writer::Open
    }
}

impl Pipe {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(PipeState {
            bytes: VecDeque::new(),
            writer: Writer::Open,
            reader: Reader::Open,
            taken: 0,
            waiting: [None, None, None],
        }))
    }

    fn lock(&self) -> MutexGuard<'_, PipeState> {
        // No invariant spans a panic here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something, and wakes all who may care once the lock is free.
    fn change(&self, change: impl FnOnce(&mut PipeState)) {
        let wakers = {
            let mut state = self.lock();
            change(&mut state);
            std::mem::take(&mut state.waiting)
        };
        for waker in wakers.into_iter().flatten() {
            waker.wake();
        }
    }

    /// Ready when a read would not wait.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.bytes.is_empty() && state.writer == Writer::Open && state.reader == Reader::Open {
            return state.wait(FOR_BYTES, cx);
        }
        Poll::Ready(())
    }

    /// Reads what is there; 0 is the end.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let (read, room, taking) = {
            let mut state = self.lock();
            if state.reader != Reader::Open {
                return Poll::Ready(Ok(0));
            }
            if state.bytes.is_empty() {
                return match state.writer {
                    Writer::Open => state.wait(FOR_BYTES, cx),
                    Writer::Ended => Poll::Ready(Ok(0)),
                    Writer::Cut => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                };
            }
            let read = state.bytes.read(buffer)?;
            state.taken += read as u64;
            if state.bytes.is_empty() && state.bytes.capacity() > KEPT {
                state.bytes = VecDeque::new();
            }
            let room = state.take_waker(FOR_ROOM);
            (read, room, state.take_waker(FOR_TAKING))
        };
        for waker in [room, taking].into_iter().flatten() {
            waker.wake();
        }
        Poll::Ready(Ok(read))
    }

    /// Ready when a write would not wait.
    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if !state.has_room() {
            return state.wait(FOR_ROOM, cx);
        }
        Poll::Ready(())
    }

    /// Writes what fits of these, one after the other.
    pub(crate) fn poll_write<'a>(
        &self,
        cx: &mut Context<'_>,
        slices: impl Iterator<Item = &'a [u8]>,
    ) -> Poll<io::Result<usize>> {
        let (written, waker) = {
            let mut state = self.lock();
            if state.reader == Reader::Gone || state.writer != Writer::Open {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if state.reader == Reader::Ignoring {
                return Poll::Ready(Ok(slices.map(<[u8]>::len).sum()));
            }
            let mut written = 0;
            let mut asked = false;
            for slice in slices.filter(|slice| !slice.is_empty()) {
                asked = true;
                let room = CAPACITY - state.bytes.len().min(CAPACITY);
                let fits = slice.get(..room.min(slice.len())).unwrap_or_default();
                state.bytes.extend(fits);
                written += fits.len();
                if fits.len() < slice.len() {
                    break;
                }
            }
            if asked && written == 0 {
                return state.wait(FOR_ROOM, cx);
            }
            (written, state.take_waker(FOR_BYTES))
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Poll::Ready(Ok(written))
    }

    /// The writer is done: the reader meets the end after what is under way.
    pub(crate) fn end_writing(&self) {
        self.end(Writer::Ended);
    }

    /// The writer broke off: the reader meets a reset after what is under way, unless the end came before.
    pub(crate) fn cut(&self) {
        self.end(Writer::Cut);
    }

    fn end(&self, how: Writer) {
        self.change(|state| {
            if state.writer == Writer::Open {
                state.writer = how;
            }
        });
    }

    /// The reader takes no more, though it is still there. Whether something was still to be read.
    pub(crate) fn ignore(&self) -> bool {
        self.stop_reading(Reader::Ignoring)
    }

    /// The reader is gone: writes fail. Whether something was still to be read.
    pub(crate) fn end_reading(&self) -> bool {
        self.stop_reading(Reader::Gone)
    }

    fn stop_reading(&self, how: Reader) -> bool {
        let mut unread = false;
        self.change(|state| {
            state.reader = how;
            unread = !std::mem::take(&mut state.bytes).is_empty();
        });
        unread
    }

    /// Bytes that a write takes now without waiting.
    pub(crate) fn room(&self) -> usize {
        let state = self.lock();
        if state.reader != Reader::Open || state.writer != Writer::Open {
            return CAPACITY;
        }
        CAPACITY - state.bytes.len().min(CAPACITY)
    }

    /// Bytes that were read so far.
    pub(crate) fn taken(&self) -> u64 {
        self.lock().taken
    }

    /// Ready when more than `than` bytes were read, or no more will be.
    pub(crate) fn poll_taken(&self, than: u64, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.taken > than || state.reader != Reader::Open {
            return Poll::Ready(());
        }
        state.wait(FOR_TAKING, cx)
    }

    /// Whether the reader is gone for good.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.lock().reader == Reader::Gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::Arc;

    fn now() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn write(pipe: &Pipe, bytes: &[u8]) -> Poll<io::Result<usize>> {
        pipe.poll_write(&mut now(), std::iter::once(bytes))
    }

    fn read(pipe: &Pipe) -> Poll<io::Result<Vec<u8>>> {
        let mut buffer = vec![0; CAPACITY];
        pipe.poll_read(&mut now(), &mut buffer).map_ok(|read| {
            buffer.truncate(read);
            buffer
        })
    }

    fn bytes(outcome: Poll<io::Result<Vec<u8>>>) -> Vec<u8> {
        match outcome {
            Poll::Ready(Ok(bytes)) => bytes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn holds_no_more_than_its_capacity_and_keeps_the_order() {
        let pipe = Pipe::new();
        let all: Vec<u8> = (0..CAPACITY + 10).map(|n| (n % 251) as u8).collect();
        assert!(matches!(write(&pipe, &all), Poll::Ready(Ok(CAPACITY))));
        assert!(write(&pipe, b"x").is_pending());
        assert!(pipe.poll_write_ready(&mut now()).is_pending());
        let mut back = Vec::new();
        while back.len() < CAPACITY {
            back.extend(bytes(read(&pipe)));
        }
        assert_eq!(back, &all[..CAPACITY]);
        assert!(pipe.poll_write_ready(&mut now()).is_ready());
        assert!(read(&pipe).is_pending());
    }

    #[test]
    fn an_end_and_a_cut_come_after_what_was_written() {
        for (cut, pipe) in [(false, Pipe::new()), (true, Pipe::new())] {
            assert!(write(&pipe, b"ab").is_ready());
            if cut {
                pipe.cut();
            } else {
                pipe.end_writing();
            }
            // The first word counts.
            pipe.cut();
            assert_eq!(bytes(read(&pipe)), b"ab");
            let end = read(&pipe);
            assert_eq!(cut, matches!(end, Poll::Ready(Err(_))), "{end:?}");
            assert!(matches!(write(&pipe, b"c"), Poll::Ready(Err(_))));
        }
    }

    #[test]
    fn a_reader_that_ignores_takes_all_and_one_that_is_gone_nothing() {
        let pipe = Pipe::new();
        pipe.ignore();
        for _ in 0..3 {
            assert!(matches!(
                write(&pipe, &[0; CAPACITY]),
                Poll::Ready(Ok(CAPACITY))
            ));
        }
        assert_eq!(pipe.taken(), 0);
        pipe.end_reading();
        assert!(matches!(write(&pipe, b"x"), Poll::Ready(Err(_))));
        assert!(pipe.is_abandoned());
    }

    #[tokio::test]
    async fn whoever_waits_is_woken() {
        let pipe = Arc::new(Pipe::new());
        let reader = tokio::spawn({
            let pipe = pipe.clone();
            async move {
                let mut buffer = [0; 4];
                poll_fn(|cx| pipe.poll_read(cx, &mut buffer)).await.unwrap();
                buffer
            }
        });
        let watcher = tokio::spawn({
            let pipe = pipe.clone();
            async move { poll_fn(|cx| pipe.poll_taken(0, cx)).await }
        });
        tokio::task::yield_now().await;
        // Looking does not take the reader's place.
        assert!(pipe.poll_read_ready(&mut now()).is_pending());
        assert!(write(&pipe, b"ping").is_ready());
        assert_eq!(&reader.await.unwrap(), b"ping");
        watcher.await.unwrap();
    }
}
