//! WASI 0.3: what the rest of the crate asks of the host, over the crate `wasip3`.
//!
//! `p2` has the same items: `handle`, `send`, `Incoming`, `wait_for`, `stopping`, `stopping_now`,
//! `spawn`, and the kv interfaces in `kv`. The macros that export a component differ, in `export`.

#[allow(
    clippy::all,
    clippy::panic,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]
mod bindings;
pub(crate) mod export;
mod http;

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

pub(crate) use http::Incoming;
pub(crate) use http::send;

pub(crate) mod kv {
    pub(crate) use super::bindings::wasi::keyvalue::{atomics, batch, store};
}

use bindings::oarlock::dyno::lifecycle_async;

/// Waits for this long; more than 584 years count as that.
pub(crate) async fn wait_for(duration: Duration) {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    wasip3::clocks::monotonic_clock::wait_for(nanoseconds).await;
}

/// Returns when this dyno is to stop.
pub(crate) async fn stopping() {
    lifecycle_async::stopping().await;
}

/// Whether this dyno is to stop: the host answers a call at once if so, and one that it does not
/// answer at once is cancelled here.
pub(crate) fn stopping_now() -> bool {
    pin!(lifecycle_async::stopping())
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
        .is_ready()
}

pub(crate) fn spawn(future: impl Future<Output = ()> + 'static) {
    drop(wasip3::spawn_local(future));
}
