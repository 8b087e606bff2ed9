//! Write Oarlock apps in Rust: web handlers, workers and jobs, as WASI components.
//!
//! The crate makes the common things one line and hides nothing: what it hands out are the types of
//! the `http` crate and plain bytes, and a component made without it works as well. It builds on
//! WASI 0.3 for the target `wasm32-wasip2`; each process of an app is a library with
//! `crate-type = ["cdylib"]`.
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

mod body;
mod command;
mod handler;
mod p3;
mod stopping;
mod time;

pub mod config;
pub mod kv;
#[cfg(feature = "tokio")]
pub mod tokio;

// All that depends on the WASI version is behind this name; another version is another module with
// the same items.
use p3 as backend;

pub use backend::FetchError;
pub use body::{Body, BodySender, TooLarge};
#[cfg(feature = "json")]
pub use handler::json;
pub use handler::{IntoResponse, html, status, text};
pub use stopping::{Interval, Stopping};
pub use time::{Elapsed, sleep, timeout};

/// The types of HTTP, as the ecosystem knows them.
pub use http;

/// A request; as a handler gets it, its URI is absolute.
pub type Request<B = Body> = http::Request<B>;
/// A response.
pub type Response<B = Body> = http::Response<B>;
/// Any error: `?` works on everything that is one.
pub type Error = Box<dyn std::error::Error + Send + Sync + 'static>;
/// What handlers, workers and jobs return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Sends a request and returns the response once its head is there; the body streams.
///
/// The app's manifest must allow the host (`[network] allow`), otherwise the answer is
/// [`FetchError`] with the reason "not permitted", and the app's log names the line to add.
///
/// ```no_run
/// # async fn example() -> oarlock_sdk::Result<()> {
/// let request = http::Request::get("https://api.example.com/v1/now").body(())?;
/// let text = oarlock_sdk::fetch(request).await?.into_body().text(64 * 1024).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// Whatever kept the response's head from coming.
pub async fn fetch(request: http::Request<impl Into<Body>>) -> Result<Response, FetchError> {
    backend::send(request.map(Into::into)).await
}

/// Runs `future` beside the current one, on the same thread. It ends with the request, or the run, that
/// it was started from: a handler's goes on until it is done after the response was returned.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    backend::spawn(future);
}

/// Exports an async function as the component's HTTP handler.
///
/// It takes a [`Request`] and returns anything that is [`IntoResponse`]: a response, or a `Result` of
/// one. An error is written to the log and answered with 500 and no details.
#[macro_export]
macro_rules! handler {
    ($serve:path) => {
        const _: () = {
            struct Component;
            impl $crate::__private::HandlerGuest for Component {
                async fn handle(
                    request: $crate::__private::WasiRequest,
                ) -> ::core::result::Result<$crate::__private::WasiResponse, $crate::__private::WasiErrorCode> {
                    $crate::__private::handle(request, $serve).await
                }
            }
            $crate::__private::wasip3::http::service::export!(Component with_types_in $crate::__private::wasip3);
        };
    };
}

/// Exports an async function as a command that runs until it is told to stop.
///
/// It takes a [`Stopping`] and returns `Result<(), E>`. An error is written to stderr and makes the
/// dyno's exit code 1.
///
/// ```
/// use oarlock_sdk::{Result, Stopping};
/// use std::time::Duration;
///
/// oarlock_sdk::worker!(work);
///
/// async fn work(stopping: Stopping) -> Result<()> {
///     let mut ticks = stopping.every(Duration::from_secs(10));
///     while ticks.tick().await {
///         println!("still here");
///     }
///     Ok(())
/// }
/// ```
#[macro_export]
macro_rules! worker {
    ($main:path) => {
        $crate::__command!($crate::__private::worker($main));
    };
}

/// Exports an async function as a command that runs once: a release phase, a scheduled job, a one-off.
///
/// As [`worker!`], without a [`Stopping`].
///
/// ```
/// oarlock_sdk::job!(migrate);
///
/// async fn migrate() -> oarlock_sdk::Result<()> {
///     println!("done");
///     Ok(())
/// }
/// ```
#[macro_export]
macro_rules! job {
    ($main:path) => {
        $crate::__command!($crate::__private::job($main));
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __command {
    ($run:expr) => {
        const _: () = {
            struct Component;
            impl $crate::__private::CommandGuest for Component {
                async fn run() -> ::core::result::Result<(), ()> {
                    $run.await
                }
            }
            $crate::__private::wasip3::cli::command::export!(Component with_types_in $crate::__private::wasip3);
        };
    };
}

#[doc(hidden)]
pub mod __private {
    pub use crate::backend::{
        CommandGuest, HandlerGuest, WasiErrorCode, WasiRequest, WasiResponse, handle,
    };
    pub use crate::command::{job, worker};
    pub use wasip3;
}
