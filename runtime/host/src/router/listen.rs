//! Listeners: one per core on one address, and nobody else's.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::host::ListenError;

/// Connections that wait to be accepted, per core.
const BACKLOG: i32 = 1024;

/// Binds `count` listeners. The first binds without SO_REUSEPORT, so that an address that any other
/// process has, a second host of the same user included, is refused; it gets the option only
/// afterwards, when the kernel lets the others join it. So there is no moment in which it is free.
pub(super) fn bind(
    addr: SocketAddr,
    count: usize,
) -> Result<(Vec<TcpListener>, SocketAddr), ListenError> {
    let io = |source: std::io::Error| match source.kind() {
        ErrorKind::AddrInUse => ListenError::InUse { addr },
        _ => ListenError::Io { addr, source },
    };
    let first = socket(addr).map_err(io)?;
    first.bind(&addr.into()).map_err(io)?;
    let bound = first.local_addr().map_err(io)?.as_socket().unwrap_or(addr);
    let mut sockets = vec![first];
    for _ in 1..count {
        let next = join(&sockets, bound).map_err(io)?;
        sockets.push(next);
    }
    let mut listeners = Vec::with_capacity(count);
    for socket in sockets {
        socket.listen(BACKLOG).map_err(io)?;
        listeners.push(TcpListener::from(socket));
    }
    Ok((listeners, bound))
}

fn socket(addr: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A host that starts again must not wait for old connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Linux spreads connections over the sockets of one port.
#[cfg(target_os = "linux")]
fn join(sockets: &[Socket], bound: SocketAddr) -> std::io::Result<Socket> {
    if let [first] = sockets {
        first.set_reuse_port(true)?;
    }
    let next = socket(bound)?;
    next.set_reuse_port(true)?;
    next.bind(&bound.into())?;
    Ok(next)
}

/// Elsewhere only one of them would get all: the cores share one socket.
#[cfg(not(target_os = "linux"))]
fn join(sockets: &[Socket], _bound: SocketAddr) -> std::io::Result<Socket> {
    match sockets.first() {
        Some(first) => first.try_clone(),
        None => Err(ErrorKind::NotFound.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_share_an_address_and_nobody_else_gets_it() {
        let (listeners, bound) = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_eq!(listeners.len(), 3);
        assert!(
            listeners
                .iter()
                .all(|listener| listener.local_addr().unwrap() == bound)
        );
        assert!(matches!(bind(bound, 2), Err(ListenError::InUse { addr }) if addr == bound));
        drop(listeners);
        bind(bound, 2).unwrap();
    }

    #[test]
    fn an_address_of_another_machine_is_an_error() {
        let addr = "192.0.2.1:0".parse().unwrap();
        assert!(matches!(bind(addr, 1), Err(ListenError::Io { .. })));
    }
}
