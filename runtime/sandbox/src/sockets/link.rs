//! What a connected socket has behind it: a connection of the kernel's, or one that never leaves the process.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::net::Shutdown;

use super::ends::PipeSocket;
use crate::egress::OutboundConnection;

/// A connection, shared by the socket and its halves.
#[derive(Clone)]
pub(super) enum Link {
    /// What the guest connected to.
    Kernel(Arc<OutboundConnection>),
    /// A pair of pipes, on `$PORT` or on loopback, and its own address there.
    Pipes(Arc<PipeSocket>, SocketAddr),
}

impl Link {
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Kernel(connection) => connection.local_addr(),
            Self::Pipes(_, local) => Ok(*local),
        }
    }

    pub(super) fn peer(&self) -> SocketAddr {
        match self {
            Self::Kernel(connection) => connection.peer(),
            Self::Pipes(socket, local) => socket.peer(local.is_ipv6()),
        }
    }

    fn shutdown(&self, how: Shutdown) {
        match self {
            Self::Kernel(connection) => connection.shutdown(how),
            Self::Pipes(socket, _) => socket.shutdown(how),
        }
    }

    /// Ends it so that the other side does not take it for whole.
    fn end(&self) {
        match self {
            Self::Kernel(connection) => connection.end(),
            Self::Pipes(socket, _) => {
                socket.outgoing().cut();
                socket.incoming().ignore();
            }
        }
    }
}

/// The reading half; the peer is told when it is gone.
pub(crate) struct ReadHalf {
    link: Link,
    /// The guest said that it reads no more: what it has not read is no loss.
    shut: bool,
}

impl ReadHalf {
    pub(super) fn new(link: Link) -> Self {
        Self { link, shut: false }
    }

    /// Lets go of it as `shutdown` does, which loses nothing.
    pub(crate) fn shut(mut self) {
        self.shut = true;
    }

    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.link {
            Link::Kernel(connection) => connection.poll_read_ready(cx),
            Link::Pipes(socket, _) => socket.incoming().poll_read_ready(cx),
        }
    }

    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match &self.link {
            Link::Kernel(connection) => connection.poll_read(cx, buffer),
            Link::Pipes(socket, _) => socket.incoming().poll_read(cx, buffer),
        }
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        match &self.link {
            Link::Pipes(socket, _) if !self.shut => socket.drop_reader(),
            link => link.shutdown(Shutdown::Read),
        }
    }
}

/// The writing half; the peer sees the end of the stream when it is gone.
pub(crate) struct WriteHalf(pub(super) Link);

impl WriteHalf {
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.0 {
            Link::Kernel(connection) => connection.poll_write_ready(cx),
            Link::Pipes(socket, _) => socket.outgoing().poll_write_ready(cx),
        }
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &self.0 {
            Link::Kernel(connection) => connection.poll_write(cx, bytes),
            Link::Pipes(socket, _) => socket.outgoing().poll_write(cx, std::iter::once(bytes)),
        }
    }

    /// How much a write takes at most; what fits need not be kept anywhere until there is room.
    pub(crate) fn room(&self) -> usize {
        match &self.0 {
            Link::Pipes(socket, _) if socket.is_own() => socket.outgoing().room(),
            Link::Pipes(..) | Link::Kernel(_) => usize::MAX,
        }
    }

    /// Ends the connection so that the other side does not take a part for the whole.
    pub(crate) fn end(&self) {
        self.0.end();
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.0.shutdown(Shutdown::Write);
    }
}
