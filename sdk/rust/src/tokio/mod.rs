//! For guests that run tokio, and with it axum, hyper or a database client, on WASI 0.2 sockets.
//!
//! Such a guest is an ordinary program with a `main`, on tokio's current-thread runtime. tokio's network
//! types want `--cfg tokio_unstable` there, best in the guest's `.cargo/config.toml`:
//!
//! ```toml
//! [target.wasm32-wasip2]
//! rustflags = ["--cfg", "tokio_unstable"]
//! ```
//!
//! What tokio lacks on WASI is here: [`resolve`] (tokio looks names up on a thread, and a guest has
//! none), [`stopping`], and an `fcntl` that its sockets need. The latter is linked into every guest
//! that uses anything of this module; `use oarlock_sdk::tokio as _;` is enough.
//!
//! ```no_run
//! # async fn serve(listener: ::tokio::net::TcpListener) -> std::io::Result<()> { Ok(()) }
//! # async fn example() -> std::io::Result<()> {
//! let listener = oarlock_sdk::tokio::listener().await?;
//! ::tokio::select! {
//!     served = serve(listener) => served,
//!     () = oarlock_sdk::tokio::stopping() => Ok(()),
//! }
//! # }
//! ```
//!
//! It needs neither of the features `p2` and `p3`. Where one is on, its `sleep`, `fetch` and `spawn`
//! are for its own handlers and workers and do not run within tokio.

mod names;
mod stop;

use std::io;
use std::net::Ipv4Addr;

use ::tokio::net::TcpListener;

pub use names::resolve;
pub use stop::stopping;

use crate::config;

/// The port that this web process is to listen on, from `PORT`.
///
/// # Errors
/// If there is none: only a web process that is a command has one.
pub fn port() -> Result<u16, config::Error> {
    config::var("PORT").map_err(|error| match error {
        config::Error::Missing(name) => config::Error::Invalid {
            name,
            reason:
                "it is not set; only a `web` process that is a command may listen, and gets one"
                    .to_owned(),
        },
        error => error,
    })
}

/// A listener on [`port`], on all addresses that the host gives this dyno.
///
/// # Errors
/// If there is no port, or it cannot be listened on.
pub async fn listener() -> io::Result<TcpListener> {
    let port = port().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
}
