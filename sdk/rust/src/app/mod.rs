//! What handlers, workers and jobs are written with, on either version of WASI.

pub(crate) mod body;
pub(crate) mod command;
pub(crate) mod handler;
pub(crate) mod message;
mod stopping;
mod time;

pub use body::{Body, BodySender, Closed, TooLarge};
#[cfg(feature = "json")]
pub use handler::json;
pub use handler::{IntoResponse, html, status, text};
/// The types of HTTP, as the ecosystem knows them.
pub use http;
pub use message::FetchError;
pub use stopping::{Interval, Stopping};
pub use time::{Elapsed, sleep, timeout};

use crate::backend;

/// A request; as a handler gets it, its URI is absolute.
pub type Request<B = Body> = http::Request<B>;
/// A response.
pub type Response<B = Body> = http::Response<B>;

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
        $crate::__handler!($serve);
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
pub mod __private {
    pub use super::command::{job, worker};
    pub use crate::backend::export::*;
}
