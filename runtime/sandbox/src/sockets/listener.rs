//! A listening socket: on `$PORT`, where the router connects, or on loopback, where only the instance's own sockets do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::sync::OwnedSemaphorePermit;

use super::NetGrant;
use super::code::Code;
use super::family::Family;
use super::link::Link;
use super::loopback::{self, Loopback, Published};
use super::options::Kept;
use super::port;
use super::tcp::TcpSocket;

/// What a socket is bound to.
pub(super) enum Place {
    Port(port::Claim),
    Loopback(loopback::Claim),
}

impl Place {
    pub(super) fn number(&self) -> u16 {
        match self {
            Self::Port(claim) => claim.inside().number(),
            Self::Loopback(claim) => claim.number(),
        }
    }
}

/// Where connections come from.
enum Source {
    Port {
        claim: port::Claim,
        _published: Published,
    },
    Loopback(loopback::Accepting),
}

/// A listening socket, shared by its resource and its stream of connections.
pub(crate) struct Listener {
    source: Source,
    /// What the guest bound.
    local: SocketAddr,
    pub(super) family: Family,
    pub(super) grant: Arc<NetGrant>,
    pub(super) loopback: Arc<Loopback>,
    kept: Arc<Mutex<Kept>>,
    _slot: OwnedSemaphorePermit,
}

impl Listener {
    pub(super) fn new(
        socket: &TcpSocket,
        place: Place,
        local: SocketAddr,
        kept: Arc<Mutex<Kept>>,
        backlog: usize,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        let source = match place {
            Place::Port(claim) => Source::Port {
                _published: socket.loopback.publish(claim.inside()),
                claim,
            },
            Place::Loopback(claim) => Source::Loopback(claim.listen(backlog)),
        };
        Self {
            source,
            local,
            family: socket.family,
            grant: socket.grant.clone(),
            loopback: socket.loopback.clone(),
            kept,
            _slot: slot,
        }
    }

    /// What waits on loopback.
    pub(super) fn queue(&self) -> Option<Arc<loopback::Queue>> {
        match &self.source {
            Source::Port { .. } => None,
            Source::Loopback(accepting) => Some(accepting.queue().clone()),
        }
    }

    /// Whether there will be no connection any more.
    pub(crate) fn is_closed(&self) -> bool {
        match &self.source {
            Source::Port { claim, .. } => claim.is_closed(),
            Source::Loopback(_) => false,
        }
    }

    /// Ready when there is a connection, or an end.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.source {
            Source::Port { claim, .. } => claim.poll_ready(cx),
            Source::Loopback(accepting) => accepting.poll_ready(cx),
        }
    }

    /// The next connection as a socket of its own. On loopback it has its place of `sockets` since it was made; on `$PORT`
    /// it takes none, for the port has its own bound.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Result<TcpSocket, Code>> {
        let socket = match &self.source {
            Source::Port { claim, .. } => ready!(claim.poll_accept(cx)),
            Source::Loopback(accepting) => Some(ready!(accepting.poll_accept(cx))),
        };
        // Guests end their loop on this. Not "invalid state": wasi-libc aborts on it.
        let Some(socket) = socket else {
            return Poll::Ready(Err(Code::ConnectionAborted));
        };
        let local = if self.local.ip().is_unspecified() {
            (self.family.loopback(), self.local.port()).into()
        } else {
            self.local
        };
        let kept = *self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let link = Link::Pipes(Arc::new(socket), local);
        Poll::Ready(Ok(TcpSocket::accepted(self, link, kept)))
    }
}
