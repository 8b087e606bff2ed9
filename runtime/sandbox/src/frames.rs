//! Bodies without their empty frames.
//!
//! A frame without a byte costs its sender nothing. Passed on, it looks like progress to whoever measures silence, and
//! HTTP/2 keeps it for a reader that has closed its window. So where a body enters the host, only bytes and
//! trailers come through.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};

use crate::{Body, BodyError};

/// Empty frames that are skipped in one turn. After these the task's neighbours come first: the sender may have any
/// number of them.
const SKIPPED_IN_A_ROW: u32 = 16;

/// What a body's poll may bring.
type FrameOf<B> = Result<Frame<<B as http_body::Body>::Data>, <B as http_body::Body>::Error>;

/// Polls a body for its next frame that says something: bytes, or trailers. A body with nothing but empty frames is
/// pending, and its task is woken to go on.
pub fn poll_content<B: http_body::Body + ?Sized>(
    mut body: Pin<&mut B>,
    cx: &mut Context<'_>,
) -> Poll<Option<FrameOf<B>>> {
    for _ in 0..SKIPPED_IN_A_ROW {
        match ready!(body.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) if frame.data_ref().is_some_and(|data| !data.has_remaining()) => {}
            other => return Poll::Ready(other),
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// A body without its empty frames.
pub(crate) struct Content(pub(crate) Body);

impl http_body::Body for Content {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        poll_content(Pin::new(&mut self.0), cx)
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(&self.0)
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Wake, Waker};

    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn body(frames: impl IntoIterator<Item = Frame<Bytes>, IntoIter: Send + 'static>) -> Content {
        let frames = frames.into_iter().map(Ok);
        Content(StreamBody::new(futures::stream::iter(frames)).boxed_unsync())
    }

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn bytes_and_trailers_come_through_and_nothing_else() {
        let trailers = || {
            [("x-sum".parse().unwrap(), "7".parse().unwrap())]
                .into_iter()
                .collect()
        };
        let mut frames: Vec<_> = (0..100).map(|_| data("")).collect();
        frames.push(data("a"));
        frames.push(data(""));
        frames.push(data("b"));
        frames.push(Frame::trailers(trailers()));
        let all = futures::executor::block_on(body(frames).collect()).unwrap();
        assert_eq!(all.trailers(), Some(&trailers()));
        assert_eq!(all.to_bytes(), "ab");
    }

    #[test]
    fn a_body_of_empty_frames_lets_its_neighbours_run() {
        #[derive(Default)]
        struct Woken(AtomicU32);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(woken.clone());
        let asked = Arc::<AtomicU32>::default();
        let counting = asked.clone();
        let mut endless = body(std::iter::repeat_with(move || {
            counting.fetch_add(1, Ordering::SeqCst);
            data("")
        }));
        for turn in 1..=3 {
            let mut context = Context::from_waker(&waker);
            let polled = http_body::Body::poll_frame(Pin::new(&mut endless), &mut context);
            assert!(polled.is_pending());
            assert_eq!(woken.0.load(Ordering::SeqCst), turn);
            assert_eq!(asked.load(Ordering::SeqCst), turn * SKIPPED_IN_A_ROW);
        }
    }
}
