//! The TCP socket behind both resources: its state, its grant, its place under the limit.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::net::TcpSocket as Fresh;
use tokio::sync::OwnedSemaphorePermit;

use super::NetGrant;
use super::link::{Link, ReadHalf, WriteHalf};
use super::options::Kept;
use super::port::Claim;
use crate::egress::{Attempt, Connection};

/// What can go wrong, in the words both versions of the WIT share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    AccessDenied,
    NotSupported,
    InvalidArgument,
    OutOfMemory,
    Timeout,
    InvalidState,
    TooManySockets,
    AddressNotBindable,
    AddressInUse,
    RemoteUnreachable,
    ConnectionRefused,
    ConnectionBroken,
    ConnectionReset,
    ConnectionAborted,
    Unknown,
}

impl From<io::Error> for Code {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match Errno::from_io_error(&error) {
            Some(Errno::NOBUFS) => return Self::OutOfMemory,
            Some(Errno::MFILE | Errno::NFILE) => return Self::TooManySockets,
            Some(
                Errno::NOPROTOOPT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT,
            ) => {
                return Self::NotSupported;
            }
            Some(Errno::ISCONN | Errno::DESTADDRREQ) => return Self::InvalidState,
            _ => {}
        }
        match error.kind() {
            Kind::PermissionDenied => Self::AccessDenied,
            Kind::AddrInUse => Self::AddressInUse,
            Kind::AddrNotAvailable => Self::AddressNotBindable,
            Kind::TimedOut => Self::Timeout,
            Kind::BrokenPipe => Self::ConnectionBroken,
            Kind::ConnectionRefused => Self::ConnectionRefused,
            Kind::ConnectionReset => Self::ConnectionReset,
            Kind::ConnectionAborted => Self::ConnectionAborted,
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => {
                Self::RemoteUnreachable
            }
            Kind::InvalidInput => Self::InvalidArgument,
            Kind::NotConnected => Self::InvalidState,
            Kind::OutOfMemory => Self::OutOfMemory,
            Kind::Unsupported => Self::NotSupported,
            _ => Self::Unknown,
        }
    }
}

impl From<Errno> for Code {
    fn from(error: Errno) -> Self {
        io::Error::from(error).into()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    fn unspecified(self) -> SocketAddr {
        match self {
            Self::V4 => (Ipv4Addr::UNSPECIFIED, 0).into(),
            Self::V6 => (Ipv6Addr::UNSPECIFIED, 0).into(),
        }
    }

    fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// IPv4-mapped and -compatible addresses have no place in an IPv6 socket (WIT).
    fn has(self, ip: IpAddr) -> bool {
        match (self, ip) {
            (Self::V4, IpAddr::V4(_)) => true,
            (Self::V6, IpAddr::V6(v6)) => {
                let compatible =
                    matches!(v6.segments(), [0, 0, 0, 0, 0, 0, high, low] if high != 0 || low > 1);
                v6.to_ipv4_mapped().is_none() && !compatible
            }
            _ => false,
        }
    }
}

type Connecting = Pin<Box<dyn Future<Output = Result<Arc<Connection>, Code>> + Send>>;

enum State {
    /// New, perhaps bound to no port in particular.
    Fresh {
        socket: Fresh,
        slot: OwnedSemaphorePermit,
        bound: bool,
    },
    /// Bound to `$PORT`: no socket of the kernel's any more.
    Bound {
        claim: Claim,
        slot: OwnedSemaphorePermit,
    },
    Connecting(Connecting),
    Connected {
        link: Link,
        receive_taken: bool,
        send_taken: bool,
    },
    /// Its listener belongs to whoever accepts.
    Listening,
    Closed(Code),
}

/// A TCP socket of a guest.
#[expect(unreachable_pub, reason = "generated code re-exports it")]
pub struct TcpSocket {
    state: State,
    family: Family,
    grant: Arc<NetGrant>,
    /// What the guest bound, as `$PORT`.
    shown: Option<SocketAddr>,
    /// Its options, where it has no descriptor.
    pub(super) kept: Option<Arc<Mutex<Kept>>>,
}

impl TcpSocket {
    pub(crate) fn new(grant: Arc<NetGrant>, family: Family) -> Result<Self, Code> {
        let slot = grant.slot().ok_or(Code::TooManySockets)?;
        let socket = new_socket(family)?;
        let state = State::Fresh {
            socket,
            slot,
            bound: false,
        };
        Ok(Self {
            state,
            family,
            grant,
            shown: None,
            kept: None,
        })
    }

    /// The descriptor to set options on; of what never leaves the process they are [kept](Self::kept).
    pub(super) fn descriptor(&self) -> Result<BorrowedFd<'_>, Code> {
        match &self.state {
            State::Fresh { socket, .. } => Ok(socket.as_fd()),
            State::Connected {
                link: Link::Kernel(connection),
                ..
            } => Ok(connection.stream().as_fd()),
            State::Connected { .. }
            | State::Bound { .. }
            | State::Listening
            | State::Connecting(_) => Err(Code::InvalidState),
            State::Closed(code) => Err(*code),
        }
    }

    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// Only the unspecified address with port 0, and `$PORT` on all addresses or on loopback.
    pub(crate) fn bind(&mut self, addr: SocketAddr) -> Result<(), Code> {
        let State::Fresh { socket, bound, .. } = &mut self.state else {
            return Err(Code::InvalidState);
        };
        if *bound {
            return Err(Code::InvalidState);
        }
        if !self.family.has(addr.ip())
            || addr.ip().is_multicast()
            || addr.ip() == IpAddr::V4(Ipv4Addr::BROADCAST)
        {
            return Err(Code::InvalidArgument);
        }
        if addr == self.family.unspecified() {
            socket.bind(addr)?;
            *bound = true;
            return Ok(());
        }
        let own = addr.ip().is_unspecified() || addr.ip().is_loopback();
        let port = self.grant.listen.as_ref();
        let Some(port) = port.filter(|port| own && port.number() == addr.port()) else {
            self.refuse_listening(addr);
            return Err(Code::AccessDenied);
        };
        let claim = port.claim().ok_or(Code::AddressInUse)?;
        let kept = Kept::of(self);
        match std::mem::replace(&mut self.state, State::Closed(Code::Unknown)) {
            State::Fresh { slot, .. } => self.state = State::Bound { claim, slot },
            other => self.state = other,
        }
        self.kept = Some(Arc::new(Mutex::new(kept)));
        self.shown = Some(addr);
        Ok(())
    }

    fn refuse_listening(&self, addr: SocketAddr) {
        let _ = self.grant.permit(&Attempt::Listen(addr));
    }

    pub(crate) fn is_bound(&self) -> bool {
        !matches!(self.state, State::Fresh { bound: false, .. })
    }

    /// Begins a connection, if it is granted.
    pub(crate) fn start_connect(&mut self, addr: SocketAddr) -> Result<(), Code> {
        if !matches!(self.state, State::Fresh { .. }) {
            return Err(Code::InvalidState);
        }
        let ip = addr.ip();
        let unicast =
            !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST) && !ip.is_unspecified();
        if !unicast || addr.port() == 0 || !self.family.has(ip) {
            return Err(Code::InvalidArgument);
        }
        let granted = self
            .grant
            .permit(&Attempt::Connect(addr))
            .ok_or(Code::AccessDenied)?;
        let State::Fresh { socket, slot, .. } =
            std::mem::replace(&mut self.state, State::Closed(Code::Unknown))
        else {
            return Err(Code::InvalidState);
        };
        let grant = self.grant.clone();
        self.state = State::Connecting(Box::pin(async move {
            let stream = socket.connect(addr).await?;
            grant
                .egress
                .admit(stream, addr, granted, Some(slot))
                .ok_or(Code::AccessDenied)
        }));
        Ok(())
    }

    /// The outcome of [`TcpSocket::start_connect`].
    pub(crate) fn poll_connect(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Code>> {
        match &mut self.state {
            State::Connecting(connecting) => {
                let (state, outcome) = match ready!(connecting.as_mut().poll(cx)) {
                    Ok(connection) => (
                        State::Connected {
                            link: Link::Kernel(connection),
                            receive_taken: false,
                            send_taken: false,
                        },
                        Ok(()),
                    ),
                    Err(code) => (State::Closed(code), Err(code)),
                };
                self.state = state;
                Poll::Ready(outcome)
            }
            State::Connected { .. } => Poll::Ready(Ok(())),
            State::Closed(code) => Poll::Ready(Err(*code)),
            State::Fresh { .. } | State::Bound { .. } | State::Listening => {
                Poll::Ready(Err(Code::InvalidState))
            }
        }
    }

    /// Listens on `$PORT`.
    pub(crate) fn listen(&mut self) -> Result<Arc<Listener>, Code> {
        match &self.state {
            State::Bound { .. } => {}
            State::Fresh { bound, .. } => {
                let addr = if *bound {
                    self.local_address()?
                } else {
                    self.family.unspecified()
                };
                self.refuse_listening(addr);
                return Err(Code::AccessDenied);
            }
            State::Closed(code) => return Err(*code),
            _ => return Err(Code::InvalidState),
        }
        let local = self.local_address()?;
        let State::Bound { claim, slot } =
            std::mem::replace(&mut self.state, State::Closed(Code::Unknown))
        else {
            return Err(Code::InvalidState);
        };
        let listener = Arc::new(Listener {
            claim,
            local,
            family: self.family,
            grant: self.grant.clone(),
            kept: self.kept.clone().unwrap_or_default(),
            _slot: slot,
        });
        self.state = State::Listening;
        Ok(listener)
    }

    pub(crate) fn is_listening(&self) -> bool {
        matches!(self.state, State::Listening)
    }

    /// The reading half, once.
    pub(crate) fn take_receive(&mut self) -> Result<ReadHalf, Code> {
        match &mut self.state {
            State::Connected {
                link,
                receive_taken,
                ..
            } if !*receive_taken => {
                *receive_taken = true;
                Ok(ReadHalf(link.clone()))
            }
            State::Closed(code) => Err(*code),
            _ => Err(Code::InvalidState),
        }
    }

    /// The writing half, once.
    pub(crate) fn take_send(&mut self) -> Result<WriteHalf, Code> {
        match &mut self.state {
            State::Connected {
                link, send_taken, ..
            } if !*send_taken => {
                *send_taken = true;
                Ok(WriteHalf(link.clone()))
            }
            State::Closed(code) => Err(*code),
            _ => Err(Code::InvalidState),
        }
    }

    pub(crate) fn local_address(&self) -> Result<SocketAddr, Code> {
        if let Some(shown) = self.shown {
            return Ok(shown);
        }
        match &self.state {
            State::Fresh {
                socket,
                bound: true,
                ..
            } => Ok(socket.local_addr()?),
            State::Connected { link, .. } => Ok(link.local_addr()?),
            State::Fresh { .. } | State::Bound { .. } | State::Listening | State::Connecting(_) => {
                Err(Code::InvalidState)
            }
            State::Closed(code) => Err(*code),
        }
    }

    pub(crate) fn remote_address(&self) -> Result<SocketAddr, Code> {
        match &self.state {
            State::Connected { link, .. } => Ok(link.peer()),
            State::Closed(code) => Err(*code),
            _ => Err(Code::InvalidState),
        }
    }

    pub(crate) fn is_ipv6(&self) -> bool {
        self.family == Family::V6
    }

    /// A hint of no use here: how many may wait is the host's to say, and the port's places bound it.
    pub(crate) fn set_backlog(&mut self, value: u64) -> Result<(), Code> {
        match &self.state {
            _ if value == 0 => Err(Code::InvalidArgument),
            State::Fresh { .. } | State::Bound { .. } | State::Listening => Ok(()),
            State::Closed(code) => Err(*code),
            State::Connecting(_) | State::Connected { .. } => Err(Code::InvalidState),
        }
    }
}

fn new_socket(family: Family) -> io::Result<Fresh> {
    let socket = match family {
        Family::V4 => Fresh::new_v4()?,
        Family::V6 => {
            let socket = Fresh::new_v6()?;
            // WIT: it is on and cannot be changed.
            sockopt::set_ipv6_v6only(&socket, true)?;
            socket
        }
    };
    Ok(socket)
}

/// A listening socket, shared by its resource and its stream of connections.
pub(crate) struct Listener {
    claim: Claim,
    /// What the guest bound.
    local: SocketAddr,
    family: Family,
    grant: Arc<NetGrant>,
    kept: Arc<Mutex<Kept>>,
    _slot: OwnedSemaphorePermit,
}

impl Listener {
    pub(crate) fn is_closed(&self) -> bool {
        self.claim.is_closed()
    }

    /// Ready when there is a connection, or an end.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.claim.poll_ready(cx)
    }

    /// The next connection as a socket of its own. It takes no place of `sockets`: the port has its own bound.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Result<TcpSocket, Code>> {
        // Guests end their loop on this, or pause. Not "invalid state": wasi-libc aborts on it.
        let Some(socket) = ready!(self.claim.poll_accept(cx)) else {
            return Poll::Ready(Err(Code::Unknown));
        };
        let local = if self.local.ip().is_unspecified() {
            (self.family.loopback(), self.local.port()).into()
        } else {
            self.local
        };
        let kept = *self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        Poll::Ready(Ok(TcpSocket {
            state: State::Connected {
                link: Link::Port(Arc::new(socket), local),
                receive_taken: false,
                send_taken: false,
            },
            family: self.family,
            grant: self.grant.clone(),
            shown: None,
            kept: Some(Arc::new(Mutex::new(kept))),
        }))
    }
}
