//! The servers that this program is itself, each in a process of its own.

pub(crate) mod hyper;
pub(crate) mod proxy;
pub(crate) mod threads;

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// What the kernel holds of connections that were not accepted yet.
const BACKLOG: u32 = 1024;

/// A listener that others of this process may stand beside.
fn shared_listener(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}
