//! The stop signal within tokio's runtime.
//!
//! The signal is a pollable of the host's, and tokio can wait for descriptors only: it is asked for at
//! intervals. An ask is one call to the host, some microseconds of CPU a second in all.

use std::time::Duration;

/// The longest that the signal may go unheard.
const INTERVAL: Duration = Duration::from_millis(100);

/// Returns when this dyno is to stop, at most a tenth of a second after the host said so. `stop_grace`
/// later (30 s by default) the dyno is ended. It may be called any number of times.
///
/// It is what `axum::serve(…).with_graceful_shutdown(…)` wants. In a build for another system than
/// WASI it never returns.
///
/// # Panics
/// Without tokio's timer: `#[tokio::main]` and `Builder::enable_all` have it on.
pub async fn stopping() {
    #[cfg(target_os = "wasi")]
    {
        let signal = crate::p2::lifecycle::stopping();
        while !signal.ready() {
            ::tokio::time::sleep(INTERVAL).await;
        }
    }
    #[cfg(not(target_os = "wasi"))]
    {
        let _unused = INTERVAL;
        std::future::pending::<()>().await;
    }
}
