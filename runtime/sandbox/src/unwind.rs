//! Panics below a guest: a bug of the host's, or of an embedder's host function, ends the instance that met it, and
//! neither the thread nor the other instances on it.
//!
//! The panic is caught before the store is dropped. Otherwise the store would be dropped while the thread unwinds,
//! where a second panic, in the destructor of a resource, ends the process.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// The platform's fault. What the panic said is for the operator; the app hears only that there was one.
#[derive(Debug, thiserror::Error)]
#[error("the host failed while it ran this component (a panic, which the operator's log has)")]
pub(crate) struct Panicked(());

pin_project! {
    /// A guest's future that ends with [`Panicked`] where it would panic. It must not be polled again then.
    pub(crate) struct Caught<F> {
        #[pin]
        guest: F,
    }
}

/// See [`Caught`].
pub(crate) fn caught<F: Future>(guest: F) -> Caught<F> {
    Caught { guest }
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let guest = self.project().guest;
        // Nothing looks at what the panic may have left half-done: the store is only dropped.
        match catch_unwind(AssertUnwindSafe(|| guest.poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(payload) => Poll::Ready(Err(told(payload))),
        }
    }
}

/// Drops what belongs to a guest. Destructors of its resources may panic, and whoever drops it is to live on.
pub(crate) fn drop_quietly<T>(value: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        told(payload);
    }
}

fn told(payload: Box<dyn Any + Send>) -> Panicked {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it says nothing");
    tracing::error!(
        panic = text,
        "the host panicked below a guest, which was ended"
    );
    // A payload may panic in turn when it is dropped; there is nothing to be freed that matters.
    drop_payload(payload);
    Panicked(())
}

fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        Box::leak(again);
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }

    #[tokio::test]
    async fn a_panic_becomes_an_error() {
        assert_eq!(caught(ready(1)).await.unwrap(), 1);
        let failed = caught(async { panic!("{}", "a secret") }).await;
        let failed: Result<(), Panicked> = failed;
        assert!(!failed.unwrap_err().to_string().contains("secret"));
        let late = caught(async {
            tokio::task::yield_now().await;
            std::panic::panic_any(Bomb)
        });
        let late: Result<(), Panicked> = late.await;
        late.unwrap_err();
    }

    #[test]
    fn destructors_may_panic() {
        drop_quietly(Bomb);
    }
}
