//! WASI 0.2: what the rest of the crate asks of the host, over the crate `wasip2`. It has the items of
//! `p3`, where the component model itself knows how to wait; here `executor` and `reactor` do.
//!
//! A guest that runs tokio uses the bindings alone.

#[allow(
    clippy::all,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]
mod bindings;
#[cfg(feature = "p2")]
mod body;
#[cfg(feature = "p2")]
mod executor;
#[cfg(feature = "p2")]
pub(crate) mod export;
#[cfg(feature = "p2")]
mod guest;
#[cfg(feature = "p2")]
mod http;
#[cfg(feature = "p2")]
mod reactor;

#[cfg(feature = "p2")]
pub(crate) use body::Incoming;
#[cfg(feature = "p2")]
pub(crate) use executor::spawn;
#[cfg(feature = "p2")]
pub(crate) use guest::{stopping, stopping_now, wait_for};
#[cfg(feature = "p2")]
pub(crate) use http::send;

#[cfg(all(feature = "tokio", target_os = "wasi"))]
pub(crate) use bindings::oarlock::dyno::lifecycle;

pub(crate) mod kv {
    pub(crate) use super::bindings::wasi::keyvalue::{atomics, batch, store};
}
