//! Waiting. `std::thread::sleep` works too, but holds the whole instance.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::backend;

/// Waits; the instance's other requests and tasks go on.
pub async fn sleep(duration: Duration) {
    backend::wait_for(duration).await;
}

/// The time given to [`timeout`] was over first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed(Duration);

impl std::fmt::Display for Elapsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not done within {:?}", self.0)
    }
}

impl std::error::Error for Elapsed {}

/// Gives `future` this much time, then drops it.
///
/// # Errors
/// [`Elapsed`] if it was not done by then.
pub async fn timeout<T>(duration: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    first(async { Ok(future.await) }, async {
        sleep(duration).await;
        Err(Elapsed(duration))
    })
    .await
}

/// The output of whichever is done first, of the left one if both are; the other is dropped.
pub(crate) async fn first<T>(left: impl Future<Output = T>, right: impl Future<Output = T>) -> T {
    let (mut left, mut right) = (pin!(left), pin!(right));
    std::future::poll_fn(|cx| match left.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(output),
        Poll::Pending => right.as_mut().poll(cx),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures::executor::block_on;

    use super::*;

    #[test]
    fn the_first_one_done_wins_and_the_left_one_of_two() {
        assert_eq!(block_on(first(pending(), ready("right"))), "right");
        assert_eq!(block_on(first(ready("left"), pending())), "left");
        assert_eq!(block_on(first(ready("left"), ready("right"))), "left");
    }
}
