//! The ends of connections by pipes: the guest's sockets, and the host's end of what the guest accepts on `$PORT`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use super::loopback::Claim;
use super::pipe::Pipe;
use crate::budget::Charge;

/// A guest's end of a connection by pipes: with the host, or with another socket of its own.
pub(crate) struct PipeSocket {
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
    peer: u16,
    with: With,
    /// Taken until the guest lets go of it: of the port's places, or of `sockets`.
    _place: OwnedSemaphorePermit,
}

/// Who has the other end.
enum With {
    /// The host: for whatever speaks to a listening guest.
    Host {
        /// The guest did not end well.
        crashed: Arc<AtomicBool>,
    },
    /// A socket of the same instance.
    Own {
        /// The guest let go of it before it had read everything: the peer meets a reset, as from a kernel.
        lost: AtomicBool,
        /// What the connection keeps: its share of the guest's memory, and the number of the end that connected.
        _keeps: Arc<Keeps>,
    },
}

/// Released when both ends are gone.
pub(super) struct Keeps {
    pub(super) _memory: Charge,
    pub(super) _name: Claim,
}

/// The two ends of a new connection; `crashed` says at the guest's end whether it ended well.
pub(super) fn connection(
    peer: u16,
    crashed: Arc<AtomicBool>,
    place: OwnedSemaphorePermit,
) -> (PortStream, PipeSocket) {
    let (to_guest, to_host) = (Arc::new(Pipe::new()), Arc::new(Pipe::new()));
    let socket = PipeSocket {
        incoming: to_guest.clone(),
        outgoing: to_host.clone(),
        peer,
        with: With::Host { crashed },
        _place: place,
    };
    let stream = PortStream {
        incoming: to_host,
        outgoing: to_guest,
    };
    (stream, socket)
}

/// One end of a connection inside an instance, when it is made.
pub(super) struct OwnEnd {
    pub(super) port: u16,
    pub(super) place: OwnedSemaphorePermit,
}

/// The two ends of a connection inside an instance: of who connected, and of who accepts.
pub(super) fn own_connection(
    connecting: OwnEnd,
    accepting: OwnEnd,
    keeps: Keeps,
) -> (PipeSocket, PipeSocket) {
    let (there, back) = (Arc::new(Pipe::new()), Arc::new(Pipe::new()));
    let keeps = Arc::new(keeps);
    let with = |keeps| With::Own {
        lost: AtomicBool::new(false),
        _keeps: keeps,
    };
    let connected = PipeSocket {
        incoming: back.clone(),
        outgoing: there.clone(),
        peer: accepting.port,
        with: with(keeps.clone()),
        _place: connecting.place,
    };
    let accepted = PipeSocket {
        incoming: there,
        outgoing: back,
        peer: connecting.port,
        with: with(keeps),
        _place: accepting.place,
    };
    (connected, accepted)
}

impl PipeSocket {
    /// Whether nobody needs to accept it any more: the host has let go of it. What a guest sent itself is still to be had.
    pub(super) fn is_abandoned(&self) -> bool {
        !self.is_own() && self.outgoing.is_abandoned()
    }

    /// Whether both ends are the guest's.
    pub(super) fn is_own(&self) -> bool {
        matches!(self.with, With::Own { .. })
    }

    /// Who connected, as a socket of this family shows it.
    pub(crate) fn peer(&self, ipv6: bool) -> SocketAddr {
        let ip = if ipv6 {
            IpAddr::V6(Ipv6Addr::LOCALHOST)
        } else {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        };
        SocketAddr::new(ip, self.peer)
    }

    pub(crate) fn incoming(&self) -> &Pipe {
        &self.incoming
    }

    pub(crate) fn outgoing(&self) -> &Pipe {
        &self.outgoing
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            self.incoming.ignore();
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            let cut = match &self.with {
                With::Host { crashed } => crashed.load(Ordering::SeqCst),
                With::Own { lost, .. } => lost.load(Ordering::SeqCst),
            };
            if cut {
                self.outgoing.cut();
            } else {
                self.outgoing.end_writing();
            }
        }
    }

    /// The guest let go of its reading half.
    pub(super) fn drop_reader(&self) {
        let unread = self.incoming.ignore();
        self.lose(unread);
    }

    fn lose(&self, unread: bool) {
        if let (With::Own { lost, .. }, true) = (&self.with, unread) {
            lost.store(true, Ordering::SeqCst);
        }
    }

    /// Ends it without having been accepted.
    pub(super) fn refuse(self) {
        self.outgoing.cut();
    }
}

impl Drop for PipeSocket {
    fn drop(&mut self) {
        if self.is_own() {
            let unread = self.incoming.end_reading();
            self.lose(unread);
            self.shutdown(Shutdown::Write);
        } else {
            self.shutdown(Shutdown::Write);
            self.incoming.end_reading();
        }
    }
}

/// The host's end of a connection.
pub struct PortStream {
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
}

impl PortStream {
    /// What the guest takes of what is written here, to be asked while somebody else has the stream.
    pub fn progress(&self) -> Progress {
        Progress(self.outgoing.clone())
    }
}

impl Drop for PortStream {
    fn drop(&mut self) {
        self.outgoing.end_writing();
        self.incoming.end_reading();
    }
}

impl AsyncRead for PortStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = std::task::ready!(self.incoming.poll_read(cx, buffer.initialize_unfilled()))?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PortStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.outgoing.poll_write(cx, std::iter::once(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.outgoing
            .poll_write(cx, bytes.iter().map(|slice| &**slice))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.end_writing();
        Poll::Ready(Ok(()))
    }
}

/// How much a guest has read of a connection.
#[derive(Clone)]
pub struct Progress(Arc<Pipe>);

impl Progress {
    /// Bytes so far.
    pub fn taken(&self) -> u64 {
        self.0.taken()
    }

    /// Ready when the guest has read more than `than` bytes, or will read no more.
    pub fn poll_taken(&self, than: u64, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_taken(than, cx)
    }
}
