//! The TCP socket behind both resources: its state, its grant, its place under the limit.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{Shutdown, sockopt};
use tokio::net::{TcpListener, TcpSocket as Fresh, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, DropGuard, PollSemaphore};

use super::NetGrant;
use crate::egress::{Attempt, Connection, Granted};

const DEFAULT_BACKLOG: u32 = 128;
/// More is of no use, and the kernel's memory is everybody's.
const MAX_BACKLOG: u32 = 4096;

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

    /// An address as a socket of this family shows it: libc takes no IPv4 address for an IPv6 socket.
    fn show(self, addr: SocketAddr) -> SocketAddr {
        match (self, addr) {
            (Self::V6, SocketAddr::V4(v4)) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            _ => addr,
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
    /// New, perhaps bound; `listen` if it is bound to `$PORT`.
    Fresh {
        socket: Fresh,
        slot: OwnedSemaphorePermit,
        bound: bool,
        listen: bool,
    },
    Connecting(Connecting),
    Connected {
        connection: Arc<Connection>,
        receive_taken: bool,
        send_taken: bool,
    },
    Listening(Arc<Listener>),
    Closed(Code),
}

/// A TCP socket of a guest.
#[expect(unreachable_pub, reason = "generated code re-exports it")]
pub struct TcpSocket {
    state: State,
    family: Family,
    backlog: u32,
    grant: Arc<NetGrant>,
    stopping: CancellationToken,
    /// What the guest bound, where the host bound `$PORT`'s own address instead.
    shown: Option<SocketAddr>,
}

impl TcpSocket {
    pub(crate) fn new(
        grant: Arc<NetGrant>,
        stopping: CancellationToken,
        family: Family,
    ) -> Result<Self, Code> {
        let slot = grant.slot().ok_or(Code::TooManySockets)?;
        let socket = new_socket(family)?;
        let state = State::Fresh {
            socket,
            slot,
            bound: false,
            listen: false,
        };
        Ok(Self {
            state,
            family,
            backlog: DEFAULT_BACKLOG,
            grant,
            stopping,
            shown: None,
        })
    }

    /// The descriptor, where there is one to set options on.
    pub(crate) fn descriptor(&self) -> Result<BorrowedFd<'_>, Code> {
        match &self.state {
            State::Fresh { socket, .. } => Ok(socket.as_fd()),
            State::Connected { connection, .. } => Ok(connection.stream().as_fd()),
            State::Listening(listener) => Ok(listener.inner.as_fd()),
            State::Connecting(_) => Err(Code::InvalidState),
            State::Closed(code) => Err(*code),
        }
    }

    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// Only the unspecified address with port 0, and `$PORT`: on its own address, on all or on loopback, which
    /// are taken for it.
    pub(crate) fn bind(&mut self, addr: SocketAddr) -> Result<(), Code> {
        let State::Fresh {
            socket,
            bound,
            listen,
            ..
        } = &mut self.state
        else {
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
        let any = addr.ip().is_unspecified() || addr.ip().is_loopback();
        match self
            .grant
            .listen
            .filter(|own| own.port() == addr.port() && (any || own.ip() == addr.ip()))
        {
            Some(own) => {
                let family = if own.is_ipv4() {
                    Family::V4
                } else {
                    Family::V6
                };
                if family != self.family {
                    *socket = new_socket(family)?;
                }
                sockopt::set_socket_reuseaddr(&*socket, true)?;
                socket.bind(own)?;
                (*bound, *listen) = (true, true);
                self.shown = Some(addr);
                Ok(())
            }
            None => {
                self.refuse_listening(addr);
                Err(Code::AccessDenied)
            }
        }
    }

    fn refuse_listening(&self, addr: SocketAddr) {
        let _ = self.grant.permit(&Attempt::Listen(addr));
    }

    pub(crate) fn is_bound(&self) -> bool {
        !matches!(self.state, State::Fresh { bound: false, .. })
    }

    /// Begins a connection, if it is granted.
    pub(crate) fn start_connect(&mut self, addr: SocketAddr) -> Result<(), Code> {
        if !matches!(self.state, State::Fresh { listen: false, .. }) {
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
                            connection,
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
            State::Fresh { .. } | State::Listening(_) => Poll::Ready(Err(Code::InvalidState)),
        }
    }

    /// Listens on `$PORT`.
    pub(crate) fn listen(&mut self) -> Result<Arc<Listener>, Code> {
        match &self.state {
            State::Fresh { listen: true, .. } => {}
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
        let State::Fresh { socket, slot, .. } =
            std::mem::replace(&mut self.state, State::Closed(Code::Unknown))
        else {
            return Err(Code::InvalidState);
        };
        let listener = Arc::new(Listener {
            inner: socket.listen(self.backlog)?,
            closed: AtomicBool::new(false),
            waiting: Mutex::new(Waiting {
                slots: PollSemaphore::new(self.grant.sockets.clone()),
                slot: None,
                full: false,
                accepted: None,
            }),
            family: self.family,
            grant: self.grant.clone(),
            stopping: self.stopping.clone(),
            open: OnceLock::new(),
            _slot: slot,
        });
        close_when(self.stopping.clone(), &listener);
        self.state = State::Listening(listener.clone());
        Ok(listener)
    }

    pub(crate) fn is_listening(&self) -> bool {
        matches!(self.state, State::Listening(_))
    }

    /// The reading half, once.
    pub(crate) fn take_receive(&mut self) -> Result<ReadHalf, Code> {
        match &mut self.state {
            State::Connected {
                connection,
                receive_taken,
                ..
            } if !*receive_taken => {
                *receive_taken = true;
                Ok(ReadHalf(connection.clone()))
            }
            State::Closed(code) => Err(*code),
            _ => Err(Code::InvalidState),
        }
    }

    /// The writing half, once.
    pub(crate) fn take_send(&mut self) -> Result<WriteHalf, Code> {
        match &mut self.state {
            State::Connected {
                connection,
                send_taken,
                ..
            } if !*send_taken => {
                *send_taken = true;
                Ok(WriteHalf(connection.clone()))
            }
            State::Closed(code) => Err(*code),
            _ => Err(Code::InvalidState),
        }
    }

    pub(crate) fn local_address(&self) -> Result<SocketAddr, Code> {
        if let Some(shown) = self.shown {
            return Ok(shown);
        }
        let addr = match &self.state {
            State::Fresh {
                socket,
                bound: true,
                ..
            } => socket.local_addr()?,
            State::Connected { connection, .. } => connection.local_addr()?,
            State::Listening(listener) => listener.inner.local_addr()?,
            State::Fresh { .. } | State::Connecting(_) => return Err(Code::InvalidState),
            State::Closed(code) => return Err(*code),
        };
        Ok(self.family.show(addr))
    }

    pub(crate) fn remote_address(&self) -> Result<SocketAddr, Code> {
        match &self.state {
            State::Connected { connection, .. } => Ok(self.family.show(connection.peer())),
            State::Closed(code) => Err(*code),
            _ => Err(Code::InvalidState),
        }
    }

    /// Whether the descriptor is IPv6: a guest's IPv6 listener may be IPv4 on the host, as `$PORT` is.
    pub(crate) fn is_ipv6(&self) -> Result<bool, Code> {
        Ok(sockopt::socket_domain(self.descriptor()?)? == rustix::net::AddressFamily::INET6)
    }

    pub(crate) fn set_backlog(&mut self, value: u64) -> Result<(), Code> {
        if value == 0 {
            return Err(Code::InvalidArgument);
        }
        let value = u32::try_from(value).unwrap_or(MAX_BACKLOG).min(MAX_BACKLOG);
        match &self.state {
            State::Fresh { .. } => {}
            State::Listening(listener) => {
                let value = i32::try_from(value).unwrap_or(i32::MAX);
                rustix::net::listen(&listener.inner, value).map_err(|_| Code::NotSupported)?;
            }
            State::Closed(code) => return Err(*code),
            _ => return Err(Code::InvalidState),
        }
        self.backlog = value;
        Ok(())
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

/// A listening socket, shared by its resource, its stream of connections and the stop signal.
pub(crate) struct Listener {
    inner: TcpListener,
    closed: AtomicBool,
    waiting: Mutex<Waiting>,
    family: Family,
    grant: Arc<NetGrant>,
    stopping: CancellationToken,
    /// Ends the task that waits for the stop signal.
    open: OnceLock<DropGuard>,
    _slot: OwnedSemaphorePermit,
}

/// At the stop signal the listener closes, whatever the guest is doing then.
fn close_when(stopping: CancellationToken, listener: &Arc<Listener>) {
    let gone = CancellationToken::new();
    let _ = listener.open.set(gone.clone().drop_guard());
    let listener = Arc::downgrade(listener);
    tokio::spawn(async move {
        tokio::select! {
            () = gone.cancelled() => {}
            () = stopping.cancelled() => {
                if let Some(listener) = listener.upgrade() {
                    listener.close();
                }
            }
        }
    });
}

struct Waiting {
    slots: PollSemaphore,
    /// For the next connection.
    slot: Option<OwnedSemaphorePermit>,
    /// It was remarked on that there is none.
    full: bool,
    accepted: Option<io::Result<(TcpStream, SocketAddr)>>,
}

impl Listener {
    /// Connections are refused from now on, and whoever accepts is told so.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // Wakes those who wait, and makes the kernel refuse, though the descriptor stays with the guest.
        let _ = rustix::net::shutdown(&self.inner, Shutdown::Both);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ready when there is a connection with a place under the socket limit, or an end. At the limit the
    /// connections wait in the backlog.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.accepted.is_none() && !self.is_closed() {
            waiting.accepted = Some(ready!(self.inner.poll_accept(cx)));
        }
        if waiting.slot.is_none() && matches!(waiting.accepted, Some(Ok(_))) {
            match waiting.slots.poll_acquire(cx) {
                Poll::Ready(slot) => waiting.slot = slot,
                Poll::Pending => {
                    if !std::mem::replace(&mut waiting.full, true) {
                        self.grant.remark_full();
                    }
                    return Poll::Pending;
                }
            }
        }
        waiting.full = false;
        Poll::Ready(())
    }

    /// The next connection as a socket of its own.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Result<TcpSocket, Code>> {
        ready!(self.poll_ready(cx));
        let (accepted, slot) = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            (waiting.accepted.take(), waiting.slot.take())
        };
        let (stream, peer) = match accepted {
            Some(Ok(accepted)) => accepted,
            // Guests end their loop on this, or pause. Not "invalid state": wasi-libc aborts on it.
            None => return Poll::Ready(Err(Code::Unknown)),
            Some(Err(_)) if self.is_closed() => return Poll::Ready(Err(Code::Unknown)),
            Some(Err(error)) => return Poll::Ready(Err(accept_error(error))),
        };
        let granted = Granted { addon: None };
        let Some(connection) = self.grant.egress.admit(stream, peer, granted, slot) else {
            return Poll::Ready(Err(Code::ConnectionAborted));
        };
        Poll::Ready(Ok(TcpSocket {
            state: State::Connected {
                connection,
                receive_taken: false,
                send_taken: false,
            },
            family: self.family,
            backlog: DEFAULT_BACKLOG,
            grant: self.grant.clone(),
            stopping: self.stopping.clone(),
            shown: None,
        }))
    }
}

/// Linux hands a new connection's own network errors to `accept`; they are not the listener's.
fn accept_error(error: io::Error) -> Code {
    match Code::from(error) {
        Code::ConnectionReset | Code::RemoteUnreachable | Code::NotSupported => {
            Code::ConnectionAborted
        }
        other => other,
    }
}

/// The reading half; the peer is told when it is gone.
pub(crate) struct ReadHalf(Arc<Connection>);

impl ReadHalf {
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_read_ready(cx)
    }

    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_read(cx, buffer)
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        self.0.shutdown(Shutdown::Read);
    }
}

/// The writing half; the peer sees the end of the stream when it is gone.
pub(crate) struct WriteHalf(Arc<Connection>);

impl WriteHalf {
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_write_ready(cx)
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.0.shutdown(Shutdown::Write);
    }
}
