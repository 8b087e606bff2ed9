//! The two ends of a connection to a listening guest: the host's, for whatever speaks to it, and the guest's socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use super::pipe::Pipe;

/// The guest's end of a connection.
pub(crate) struct PortSocket {
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
    peer: u16,
    /// The guest did not end well.
    crashed: Arc<AtomicBool>,
    /// Taken until the guest lets go of it.
    _place: OwnedSemaphorePermit,
}

/// The two ends of a new connection; `crashed` says at the guest's end whether it ended well.
pub(super) fn connection(
    peer: u16,
    crashed: Arc<AtomicBool>,
    place: OwnedSemaphorePermit,
) -> (PortStream, PortSocket) {
    let (to_guest, to_host) = (Arc::new(Pipe::new()), Arc::new(Pipe::new()));
    let socket = PortSocket {
        incoming: to_guest.clone(),
        outgoing: to_host.clone(),
        peer,
        crashed,
        _place: place,
    };
    let stream = PortStream {
        incoming: to_host,
        outgoing: to_guest,
    };
    (stream, socket)
}

impl PortSocket {
    /// Whether the host has let go of it.
    pub(super) fn is_abandoned(&self) -> bool {
        self.outgoing.is_abandoned()
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
            if self.crashed.load(Ordering::SeqCst) {
                self.outgoing.cut();
            } else {
                self.outgoing.end_writing();
            }
        }
    }
}

impl Drop for PortSocket {
    fn drop(&mut self) {
        self.shutdown(Shutdown::Write);
        self.incoming.end_reading();
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
