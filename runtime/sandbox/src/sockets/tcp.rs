//! The TCP socket behind both resources: its state, its grant, its place under the limit.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use rustix::net::sockopt;
use tokio::net::TcpSocket as Fresh;
use tokio::sync::OwnedSemaphorePermit;

use super::NetGrant;
use super::code::Code;
use super::connecting::{self, Connecting};
use super::family::Family;
use super::link::{Link, ReadHalf, WriteHalf};
use super::listener::{Listener, Place};
use super::loopback::{self, Loopback};
use super::options::Kept;
use crate::egress::Attempt;
use crate::limiter::MemoryLimiter;

pub(super) enum TcpState {
    /// New, perhaps bound to no port in particular.
    Fresh {
        socket: Fresh,
        slot: OwnedSemaphorePermit,
        bound: bool,
    },
    /// Bound to `$PORT`, or on loopback, where the kernel has no part in it. It may still connect elsewhere.
    Bound {
        socket: Fresh,
        slot: OwnedSemaphorePermit,
        place: Place,
    },
    Connecting(Connecting),
    Connected {
        link: Link,
        receive_taken: bool,
        send_taken: bool,
    },
    /// Its listener belongs to whoever accepts; on loopback this is what waits for it.
    Listening(Option<Arc<loopback::Queue>>),
    Closed(Code),
}

impl TcpState {
    pub(super) fn connected(link: Link) -> Self {
        Self::Connected {
            link,
            receive_taken: false,
            send_taken: false,
        }
    }

    /// Leaves a state that ends everything, should nobody put another.
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Closed(Code::Unknown))
    }
}

/// A TCP socket of a guest.
#[expect(unreachable_pub, reason = "generated code re-exports it")]
pub struct TcpSocket {
    pub(super) state: TcpState,
    pub(super) family: Family,
    pub(super) grant: Arc<NetGrant>,
    pub(super) loopback: Arc<Loopback>,
    /// What the guest bound, where the kernel does not know it.
    shown: Option<SocketAddr>,
    /// Its options, where it has no descriptor.
    pub(super) kept: Option<Arc<Mutex<Kept>>>,
    /// How many may wait to be accepted on loopback.
    backlog: usize,
}

impl TcpSocket {
    pub(crate) fn new(
        grant: Arc<NetGrant>,
        loopback: Arc<Loopback>,
        family: Family,
    ) -> Result<Self, Code> {
        let slot = grant.slot().ok_or(Code::TooManySockets)?;
        let socket = new_socket(family)?;
        let state = TcpState::Fresh {
            socket,
            slot,
            bound: false,
        };
        Ok(Self {
            state,
            family,
            grant,
            loopback,
            shown: None,
            kept: None,
            backlog: loopback::BACKLOG,
        })
    }

    /// One that `listener` accepted.
    pub(super) fn accepted(listener: &Listener, link: Link, kept: Kept) -> Self {
        Self {
            state: TcpState::connected(link),
            family: listener.family,
            grant: listener.grant.clone(),
            loopback: listener.loopback.clone(),
            shown: None,
            kept: Some(Arc::new(Mutex::new(kept))),
            backlog: loopback::BACKLOG,
        }
    }

    /// The descriptor to set options on; of what never leaves the process they are [kept](Self::kept).
    pub(super) fn descriptor(&self) -> Result<BorrowedFd<'_>, Code> {
        match &self.state {
            TcpState::Fresh { socket, .. } | TcpState::Bound { socket, .. } => Ok(socket.as_fd()),
            TcpState::Connecting(connecting) => Ok(connecting.stream().as_fd()),
            TcpState::Connected {
                link: Link::Kernel(connection),
                ..
            } => Ok(connection.stream().as_fd()),
            TcpState::Connected { .. } | TcpState::Listening(_) => Err(Code::InvalidState),
            TcpState::Closed(code) => Err(*code),
        }
    }

    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// Only the unspecified address with port 0, `$PORT` on all addresses or on loopback, and loopback itself.
    pub(crate) fn bind(&mut self, addr: SocketAddr) -> Result<(), Code> {
        let TcpState::Fresh {
            socket,
            bound: bound @ false,
            ..
        } = &mut self.state
        else {
            return Err(Code::InvalidState);
        };
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
        let place = self.place(addr)?;
        self.shown = Some(SocketAddr::new(addr.ip(), place.number()));
        self.state = match self.state.take() {
            TcpState::Fresh { socket, slot, .. } => TcpState::Bound {
                socket,
                slot,
                place,
            },
            other => other,
        };
        Ok(())
    }

    /// Where the guest may listen by this address.
    fn place(&self, addr: SocketAddr) -> Result<Place, Code> {
        let everywhere = addr.ip().is_unspecified() || addr.ip().is_loopback();
        let port = self.grant.listen.as_ref();
        if let Some(port) = port.filter(|port| everywhere && port.number() == addr.port()) {
            return port.claim().map(Place::Port).ok_or(Code::AddressInUse);
        }
        if addr.ip() != self.family.loopback() {
            self.refuse_listening(addr);
            return Err(Code::AccessDenied);
        }
        let claim = if addr.port() == 0 {
            let free = |number| !self.is_granted(SocketAddr::new(addr.ip(), number));
            self.loopback.claim_any(self.family, free)
        } else if self.is_granted(addr) {
            self.grant.remarks.write(&format!(
                "listening on {addr} refused: an add-on or a `[network]` entry grants a server there; take another port"
            ));
            None
        } else {
            self.loopback.claim(self.family, addr.port())
        };
        claim.map(Place::Loopback).ok_or(Code::AddressInUse)
    }

    /// Whether a connection to this address leads out of the dyno: its own sockets must not hide what was granted to it.
    fn is_granted(&self, addr: SocketAddr) -> bool {
        self.grant.egress.judge(&Attempt::Connect(addr)).is_ok()
    }

    fn refuse_listening(&self, addr: SocketAddr) {
        let _ = self.grant.permit(&Attempt::Listen(addr));
    }

    pub(crate) fn is_bound(&self) -> bool {
        !matches!(self.state, TcpState::Fresh { bound: false, .. })
    }

    /// Begins a connection, if it is granted. One to a socket of the instance's own is complete at once, and charged to
    /// `memory`.
    pub(crate) fn start_connect(
        &mut self,
        addr: SocketAddr,
        memory: &mut MemoryLimiter,
    ) -> Result<(), Code> {
        if !matches!(self.state, TcpState::Fresh { .. } | TcpState::Bound { .. }) {
            return Err(Code::InvalidState);
        }
        let ip = addr.ip();
        let unicast =
            !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST) && !ip.is_unspecified();
        if !unicast || addr.port() == 0 || !self.family.has(ip) {
            return Err(Code::InvalidArgument);
        }
        let inside = ip == self.family.loopback();
        if inside && let Some(target) = self.loopback.listener(self.family, addr.port()) {
            return self.connect_inside(&target, addr.port(), memory);
        }
        let granted = match self.grant.egress.judge(&Attempt::Connect(addr)) {
            Ok(granted) => granted,
            // Nobody listens there any more, or not yet: as on any machine, and nothing to remark on.
            Err(_) if inside && self.loopback.is_known(self.family, addr.port()) => {
                self.close(Code::ConnectionRefused);
                return Ok(());
            }
            Err(denial) => {
                self.grant.remarks.write(&denial.reason);
                return Err(Code::AccessDenied);
            }
        };
        let (TcpState::Fresh { socket, slot, .. } | TcpState::Bound { socket, slot, .. }) =
            self.state.take()
        else {
            return Err(Code::InvalidState);
        };
        self.shown = None;
        self.state = match connecting::begin(&socket, addr) {
            Ok(stream) => TcpState::Connecting(Connecting::new(stream, addr, granted, slot)),
            Err(error) => TcpState::Closed(error.into()),
        };
        Ok(())
    }

    fn connect_inside(
        &mut self,
        target: &loopback::Target,
        number: u16,
        memory: &mut MemoryLimiter,
    ) -> Result<(), Code> {
        let other = self.grant.slot().ok_or(Code::TooManySockets)?;
        let Some(memory) = memory.charge(loopback::CONNECTION) else {
            self.grant.remarks.write(&format!(
                "connection inside the dyno refused: its buffers of {} KiB do not fit into `memory`; raise it in `[limits]`",
                loopback::CONNECTION / 1024
            ));
            return Err(Code::OutOfMemory);
        };
        let own = match &self.state {
            TcpState::Fresh { socket, bound, .. } if *bound => Some(socket.local_addr()?.port()),
            _ => None,
        };
        let kept = Kept::of(self);
        let (slot, claimed) = match self.state.take() {
            TcpState::Bound {
                slot,
                place: Place::Loopback(claim),
                ..
            } => (slot, Some(claim)),
            TcpState::Fresh { slot, .. } | TcpState::Bound { slot, .. } => (
                slot,
                own.and_then(|number| self.loopback.claim(self.family, number)),
            ),
            other => {
                self.state = other;
                return Err(Code::InvalidState);
            }
        };
        self.shown = None;
        let Some(name) = claimed.or_else(|| self.loopback.claim_any(self.family, |_| true)) else {
            self.state = TcpState::Closed(Code::AddressInUse);
            return Ok(());
        };
        let local = SocketAddr::new(self.family.loopback(), name.number());
        let (connected, refused) =
            connecting::inside(target, (slot, name), (other, number), memory);
        if refused {
            self.grant.remarks.write(&format!(
                "connection inside the dyno refused: nobody accepts those that wait on port {number}"
            ));
            self.state = TcpState::Closed(Code::ConnectionRefused);
            return Ok(());
        }
        self.state = TcpState::connected(Link::Pipes(Arc::new(connected), local));
        self.kept = Some(Arc::new(Mutex::new(kept)));
        Ok(())
    }

    /// Ends it; the guest hears why from whatever it asks next.
    fn close(&mut self, why: Code) {
        self.state = TcpState::Closed(why);
        self.shown = None;
    }

    /// The outcome of [`TcpSocket::start_connect`].
    pub(crate) fn poll_connect(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Code>> {
        match &mut self.state {
            TcpState::Connecting(connecting) => {
                let outcome = ready!(connecting.poll(cx));
                let TcpState::Connecting(connecting) = self.state.take() else {
                    return Poll::Ready(Err(Code::Unknown));
                };
                let connection = outcome.and_then(|()| connecting.admit(&self.grant));
                let (state, outcome) = match connection {
                    Ok(connection) => (TcpState::connected(Link::Kernel(connection)), Ok(())),
                    Err(code) => (TcpState::Closed(code), Err(code)),
                };
                self.state = state;
                Poll::Ready(outcome)
            }
            TcpState::Connected { .. } => Poll::Ready(Ok(())),
            TcpState::Closed(code) => Poll::Ready(Err(*code)),
            TcpState::Fresh { .. } | TcpState::Bound { .. } | TcpState::Listening(_) => {
                Poll::Ready(Err(Code::InvalidState))
            }
        }
    }

    /// Listens on `$PORT`, or on loopback for the instance's own sockets.
    pub(crate) fn listen(&mut self) -> Result<Arc<Listener>, Code> {
        match &self.state {
            TcpState::Bound { .. } => {}
            TcpState::Fresh { bound, .. } => {
                let addr = if *bound {
                    self.local_address()?
                } else {
                    self.family.unspecified()
                };
                self.refuse_listening(addr);
                return Err(Code::AccessDenied);
            }
            TcpState::Closed(code) => return Err(*code),
            _ => return Err(Code::InvalidState),
        }
        let local = self.local_address()?;
        let kept = Arc::new(Mutex::new(Kept::of(self)));
        let TcpState::Bound { slot, place, .. } = self.state.take() else {
            return Err(Code::InvalidState);
        };
        let listener = Arc::new(Listener::new(
            self,
            place,
            local,
            kept.clone(),
            self.backlog,
            slot,
        ));
        self.kept = Some(kept);
        self.state = TcpState::Listening(listener.queue());
        Ok(listener)
    }

    pub(crate) fn is_listening(&self) -> bool {
        matches!(self.state, TcpState::Listening(_))
    }

    /// The reading half, once.
    pub(crate) fn take_receive(&mut self) -> Result<ReadHalf, Code> {
        match &mut self.state {
            TcpState::Connected {
                link,
                receive_taken,
                ..
            } if !*receive_taken => {
                *receive_taken = true;
                Ok(ReadHalf::new(link.clone()))
            }
            TcpState::Closed(code) => Err(*code),
            _ => Err(Code::InvalidState),
        }
    }

    /// The writing half, once.
    pub(crate) fn take_send(&mut self) -> Result<WriteHalf, Code> {
        match &mut self.state {
            TcpState::Connected {
                link, send_taken, ..
            } if !*send_taken => {
                *send_taken = true;
                Ok(WriteHalf(link.clone()))
            }
            TcpState::Closed(code) => Err(*code),
            _ => Err(Code::InvalidState),
        }
    }

    pub(crate) fn local_address(&self) -> Result<SocketAddr, Code> {
        if let Some(shown) = self.shown {
            return Ok(shown);
        }
        match &self.state {
            TcpState::Fresh {
                socket,
                bound: true,
                ..
            } => Ok(socket.local_addr()?),
            TcpState::Connecting(connecting) => Ok(connecting.stream().local_addr()?),
            TcpState::Connected { link, .. } => Ok(link.local_addr()?),
            TcpState::Fresh { .. } | TcpState::Bound { .. } | TcpState::Listening(_) => {
                Err(Code::InvalidState)
            }
            TcpState::Closed(code) => Err(*code),
        }
    }

    pub(crate) fn remote_address(&self) -> Result<SocketAddr, Code> {
        match &self.state {
            TcpState::Connected { link, .. } => Ok(link.peer()),
            TcpState::Closed(code) => Err(*code),
            _ => Err(Code::InvalidState),
        }
    }

    pub(crate) fn is_ipv6(&self) -> bool {
        self.family == Family::V6
    }

    /// How many may wait on loopback, at most [`loopback::BACKLOG`]. A hint of no use on `$PORT`: there it is the host's to
    /// say, and the port's places bound it.
    pub(crate) fn set_backlog(&mut self, value: u64) -> Result<(), Code> {
        if value == 0 {
            return Err(Code::InvalidArgument);
        }
        let value =
            usize::try_from(value).map_or(loopback::BACKLOG, |value| value.min(loopback::BACKLOG));
        match &self.state {
            TcpState::Fresh { .. } | TcpState::Bound { .. } => self.backlog = value,
            TcpState::Listening(Some(queue)) => queue.set_backlog(value),
            TcpState::Listening(None) => {}
            TcpState::Closed(code) => return Err(*code),
            TcpState::Connecting(_) | TcpState::Connected { .. } => return Err(Code::InvalidState),
        }
        Ok(())
    }
}

fn new_socket(family: Family) -> std::io::Result<Fresh> {
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
