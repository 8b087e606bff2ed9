//! Connections that are being made: by the kernel, which takes its time, and inside the instance, at once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use tokio::net::{TcpSocket as Fresh, TcpStream};
use tokio::sync::OwnedSemaphorePermit;

use super::NetGrant;
use super::code::Code;
use super::ends::{Keeps, OwnEnd, PipeSocket, own_connection};
use super::loopback::{Claim, Target};
use crate::budget::Charge;
use crate::egress::{Granted, OutboundConnection};

/// A connection that the kernel is making. The guest may ask for its options and its own address meanwhile: wasi-libc
/// does, and would abort the guest without an answer.
pub(super) struct Connecting {
    stream: TcpStream,
    peer: SocketAddr,
    granted: Granted,
    slot: OwnedSemaphorePermit,
}

/// Begins a connection of the kernel's.
pub(super) fn begin(socket: &Fresh, peer: SocketAddr) -> io::Result<TcpStream> {
    use std::os::fd::AsFd as _;

    match rustix::net::connect(socket, &peer) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    // tokio gives its socket back only with a finished connection; the copy of its descriptor is the same socket.
    let socket = socket.as_fd().try_clone_to_owned()?;
    TcpStream::from_std(socket.into())
}

impl Connecting {
    pub(super) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        granted: Granted,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            stream,
            peer,
            granted,
            slot,
        }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Code>> {
        ready!(self.stream.poll_write_ready(cx))?;
        Poll::Ready(match self.stream.take_error()? {
            Some(error) => Err(error.into()),
            None => Ok(()),
        })
    }

    /// Takes the finished connection in, unless its grant was withdrawn meanwhile.
    pub(super) fn admit(self, grant: &NetGrant) -> Result<Arc<OutboundConnection>, Code> {
        grant
            .egress
            .admit(self.stream, self.peer, self.granted, Some(self.slot))
            .ok_or(Code::AccessDenied)
    }
}

/// Connects two sockets of one instance; whether nobody took the other end, so that this one is of no use.
pub(super) fn inside(
    target: &Target,
    (slot, name): (OwnedSemaphorePermit, Claim),
    (other, number): (OwnedSemaphorePermit, u16),
    memory: Charge,
) -> (PipeSocket, bool) {
    let connecting = OwnEnd {
        port: name.number(),
        place: slot,
    };
    let accepting = OwnEnd {
        port: number,
        place: other,
    };
    let keeps = Keeps {
        _memory: memory,
        _name: name,
    };
    let (connected, accepted) = own_connection(connecting, accepting, keeps);
    let refused = target.push(accepted).is_err();
    (connected, refused)
}
