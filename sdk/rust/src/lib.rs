//! Write Oarlock apps in Rust: web handlers, workers and jobs, as WASI components.
//!
//! The crate makes the common things one line and hides nothing: what it hands out are the types of
//! the `http` crate and plain bytes, and a component made without it works as well. It builds for the
//! target `wasm32-wasip2`, on WASI 0.3 (feature `p3`, the default) or 0.2 (`p2`, with
//! `default-features = false`), and what it offers is the same on both. Each process of an app is a
//! library with `crate-type = ["cdylib"]`.
//!
//! ```
//! use oarlock_sdk::{Body, Request, Response, Result};
//!
//! oarlock_sdk::handler!(serve);
//!
//! async fn serve(request: Request) -> Result<Response> {
//!     let name = oarlock_sdk::config::var_or("GREETING", "hello".to_owned())?;
//!     Ok(Response::new(Body::from(format!("{name} from {}\n", request.uri().path()))))
//! }
//! ```
//!
//! | what | how |
//! |---|---|
//! | a web process | [`handler!`], [`Body`], [`html`], [`json`] |
//! | a worker or scheduler | [`worker!`], [`Stopping`] |
//! | a release phase, a scheduled or one-off job | [`job!`] |
//! | outgoing HTTP | [`fetch`] |
//! | the kv add-on | [`kv::open`] |
//! | configuration | [`config::var`], [`config::load`] |
//! | time | [`sleep`], [`timeout`], [`Stopping::every`] |
//!
//! `println!`, `std::env::args`, `std::fs` below the folders of the dyno and `std::net` work as they
//! are, but the last two block the whole instance while they wait.

#[cfg(all(feature = "p2", feature = "p3"))]
compile_error!(
    "oarlock-sdk: a component is built on one version of WASI. For 0.2 say `default-features = false, \
     features = [\"p2\"]`. cargo gives all members of a workspace that are built together the same \
     features: build those of the other version by a command of their own."
);

pub mod config;
#[cfg(any(feature = "p2", feature = "p3", feature = "tokio"))]
pub mod kv;
#[cfg(feature = "tokio")]
pub mod tokio;

// All that depends on the version of WASI is in these two; the rest of the crate calls the one that was
// chosen `backend`.
#[cfg(any(feature = "p2", feature = "tokio"))]
mod p2;
#[cfg(feature = "p3")]
mod p3;
#[cfg(all(any(feature = "p2", feature = "tokio"), not(feature = "p3")))]
use p2 as backend;
#[cfg(feature = "p3")]
use p3 as backend;

// What needs one of the two.
#[cfg(any(feature = "p2", feature = "p3"))]
mod app;
#[cfg(any(feature = "p2", feature = "p3"))]
pub use app::*;

/// Any error: `?` works on everything that is one.
pub type Error = Box<dyn std::error::Error + Send + Sync + 'static>;
/// What handlers, workers and jobs return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
