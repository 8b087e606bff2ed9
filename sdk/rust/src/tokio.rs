//! For guests that run tokio (and with it axum, hyper or a database client) on WASI 0.2 sockets.
//!
//! Such a guest is an ordinary program with a `main`, built with `--cfg tokio_unstable`. Two things
//! are missing there, and are here: looking up names (tokio does it on a thread, and a guest has none)
//! and `fcntl` on sockets, without which `accept` fails. Enabling the feature `tokio` and naming this
//! module (`use oarlock_sdk::tokio as _;`) links the latter.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// The addresses of `host:port`, for tokio's `connect`, which cannot look them up itself.
///
/// ```no_run
/// # fn example() -> std::io::Result<()> {
/// let addresses = oarlock_sdk::tokio::resolve("db.example.com:5432")?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// If the name does not exist, or the app may not reach it.
pub fn resolve(host_and_port: impl ToSocketAddrs) -> io::Result<Vec<SocketAddr>> {
    let addresses: Vec<_> = host_and_port.to_socket_addrs()?.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ));
    }
    Ok(addresses)
}

/// Replaces the C library's `fcntl`, which refuses sockets: mio sets `O_NONBLOCK` on each that it
/// accepts. `ioctl(FIONBIO)` does the same and works. Guests have no other use for `fcntl`: there are
/// no duplicated descriptors, no `exec` and no locks.
#[cfg(target_os = "wasi")]
mod fcntl {
    const F_GETFD: i32 = 1;
    const F_SETFD: i32 = 2;
    const F_GETFL: i32 = 3;
    const F_SETFL: i32 = 4;
    const O_NONBLOCK: i32 = 4;
    const O_RDWR: i32 = 0x1400_0000;
    const FIONBIO: i32 = 2;

    unsafe extern "C" {
        fn ioctl(descriptor: i32, request: i32, arguments: *const *const i32) -> i32;
    }

    /// # Safety
    /// As C's `fcntl`: on this target a variadic argument arrives as a pointer to its place.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn fcntl(descriptor: i32, command: i32, arguments: *const i32) -> i32 {
        match command {
            F_GETFD | F_SETFD => 0,
            F_GETFL => O_RDWR,
            F_SETFL => {
                // SAFETY: `F_SETFL` has one int argument, which the caller passes.
                let flags = unsafe { arguments.read() };
                let on = i32::from(flags & O_NONBLOCK != 0);
                let on: *const i32 = &raw const on;
                // SAFETY: `FIONBIO` has one argument, a pointer to an int, which outlives the call.
                unsafe { ioctl(descriptor, FIONBIO, &raw const on) }
            }
            _ => -1,
        }
    }
}
