//! `wasi:sockets` 0.2: TCP and name look-up. No function here waits: an async host call would freeze every other
//! call of the store (wasmtime #11869).

use std::net::IpAddr;
use std::task::{Context, Poll, Waker};

use wasmtime::component::{Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::Network;
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress,
};
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream};

use super::code::Code;
use super::family::Family;
use super::listener::Listener;
use super::names::AddressStream;
use super::streams::{Reader, Writer};
use super::tcp::TcpSocket;
use super::{Net, NetCtxView, NetView};
use crate::egress::LookupError;
use bindings::wasi::sockets::tcp::ShutdownType;
use bindings::wasi::sockets::{ip_name_lookup, tcp, tcp_create_socket};

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit/sockets-0.2",
        world: "oarlock:sockets-p2/sockets",
        imports: { default: trappable },
        require_store_data_send: true,
        with: {
            "wasi:io/poll": wasmtime_wasi_io::bindings::wasi::io::poll,
            "wasi:io/streams": wasmtime_wasi_io::bindings::wasi::io::streams,
            "wasi:io/error": wasmtime_wasi_io::bindings::wasi::io::error,
            "wasi:clocks/monotonic-clock": wasmtime_wasi::p2::bindings::clocks::monotonic_clock,
            "wasi:sockets/network": wasmtime_wasi::p2::bindings::sockets::network,
            "wasi:sockets/tcp.tcp-socket": crate::sockets::p2::P2Socket,
            "wasi:sockets/ip-name-lookup.resolve-address-stream": crate::sockets::names::AddressStream,
        },
    });
}

pub(super) fn add_to_linker<T: NetView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    tcp::add_to_linker::<_, Net>(linker, T::net)?;
    tcp_create_socket::add_to_linker::<_, Net>(linker, T::net)?;
    ip_name_lookup::add_to_linker::<_, Net>(linker, T::net)
}

type Answer<T> = wasmtime::Result<Result<T, ErrorCode>>;

impl From<Code> for ErrorCode {
    fn from(code: Code) -> Self {
        match code {
            Code::AccessDenied => Self::AccessDenied,
            Code::NotSupported => Self::NotSupported,
            Code::InvalidArgument => Self::InvalidArgument,
            Code::OutOfMemory => Self::OutOfMemory,
            Code::Timeout => Self::Timeout,
            Code::InvalidState => Self::InvalidState,
            Code::TooManySockets => Self::NewSocketLimit,
            Code::AddressNotBindable => Self::AddressNotBindable,
            Code::AddressInUse => Self::AddressInUse,
            Code::RemoteUnreachable => Self::RemoteUnreachable,
            Code::ConnectionRefused => Self::ConnectionRefused,
            Code::ConnectionReset => Self::ConnectionReset,
            Code::ConnectionAborted => Self::ConnectionAborted,
            Code::ConnectionBroken | Code::Unknown => Self::Unknown,
        }
    }
}

/// The two-step operation that was started and not yet finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Bind,
    Connect,
    Listen,
}

/// `wasi:sockets/tcp.tcp-socket` of 0.2: the socket, and what this version keeps beside it.
#[expect(unreachable_pub, reason = "generated code re-exports it")]
pub struct P2Socket {
    socket: TcpSocket,
    step: Option<Step>,
    listener: Option<std::sync::Arc<Listener>>,
    streams: Option<(Reader, Writer)>,
}

impl P2Socket {
    fn new(socket: TcpSocket) -> Self {
        Self {
            socket,
            step: None,
            listener: None,
            streams: None,
        }
    }

    fn begin(
        &mut self,
        step: Step,
        act: impl FnOnce(&mut Self) -> Result<(), Code>,
    ) -> Result<(), ErrorCode> {
        if self.step.is_some() {
            return Err(ErrorCode::ConcurrencyConflict);
        }
        act(self)?;
        self.step = Some(step);
        Ok(())
    }

    fn finish(&mut self, step: Step) -> Result<(), ErrorCode> {
        if self.step != Some(step) {
            return Err(ErrorCode::NotInProgress);
        }
        self.step = None;
        Ok(())
    }

    fn take_streams(&mut self) -> Result<(DynInputStream, DynOutputStream), Code> {
        let reader = Reader::new(self.socket.take_receive()?);
        let writer = Writer::new(self.socket.take_send()?);
        self.streams = Some((reader.clone(), writer.clone()));
        Ok((Box::new(reader), Box::new(writer)))
    }
}

#[async_trait::async_trait]
impl Pollable for P2Socket {
    async fn ready(&mut self) {
        match (self.step, &self.listener) {
            (Some(Step::Connect), _) => {
                let _ = std::future::poll_fn(|cx| self.socket.poll_connect(cx)).await;
            }
            (None, Some(listener)) => std::future::poll_fn(|cx| listener.poll_ready(cx)).await,
            _ => {}
        }
    }
}

fn now() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl NetCtxView<'_> {
    fn p2(&mut self, this: &Resource<P2Socket>) -> wasmtime::Result<&mut P2Socket> {
        Ok(self.table.get_mut(this)?)
    }

    fn option<T>(
        &mut self,
        this: &Resource<P2Socket>,
        act: impl FnOnce(&mut TcpSocket) -> Result<T, Code>,
    ) -> Answer<T> {
        Ok(act(&mut self.p2(this)?.socket).map_err(ErrorCode::from))
    }
}

/// The network handle is the right to use these functions at all: it must exist, and says nothing else.
fn check_network(table: &ResourceTable, network: &Resource<Network>) -> wasmtime::Result<()> {
    table.get(network)?;
    Ok(())
}

impl tcp_create_socket::Host for NetCtxView<'_> {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> Answer<Resource<P2Socket>> {
        let family = match family {
            IpAddressFamily::Ipv4 => Family::V4,
            IpAddressFamily::Ipv6 => Family::V6,
        };
        match self.ctx.tcp_socket(family) {
            Ok(socket) => Ok(Ok(self.table.push(P2Socket::new(socket))?)),
            Err(code) => Ok(Err(code.into())),
        }
    }
}

impl tcp::Host for NetCtxView<'_> {}

impl tcp::HostTcpSocket for NetCtxView<'_> {
    fn start_bind(
        &mut self,
        this: Resource<P2Socket>,
        network: Resource<Network>,
        local_address: IpSocketAddress,
    ) -> Answer<()> {
        check_network(self.table, &network)?;
        Ok(self
            .p2(&this)?
            .begin(Step::Bind, |this| this.socket.bind(local_address.into())))
    }

    fn finish_bind(&mut self, this: Resource<P2Socket>) -> Answer<()> {
        Ok(self.p2(&this)?.finish(Step::Bind))
    }

    fn start_connect(
        &mut self,
        this: Resource<P2Socket>,
        network: Resource<Network>,
        remote_address: IpSocketAddress,
    ) -> Answer<()> {
        check_network(self.table, &network)?;
        let own = self.table.get_mut(&this)?;
        Ok(own.begin(Step::Connect, |this| {
            this.socket
                .start_connect(remote_address.into(), self.memory)
        }))
    }

    fn finish_connect(
        &mut self,
        this: Resource<P2Socket>,
    ) -> Answer<(Resource<DynInputStream>, Resource<DynOutputStream>)> {
        let own = self.p2(&this)?;
        if own.step != Some(Step::Connect) {
            return Ok(Err(ErrorCode::NotInProgress));
        }
        let Poll::Ready(outcome) = own.socket.poll_connect(&mut now()) else {
            return Ok(Err(ErrorCode::WouldBlock));
        };
        own.step = None;
        match outcome.and_then(|()| own.take_streams()) {
            Ok((input, output)) => {
                let input = self.table.push_child(input, &this)?;
                let output = self.table.push_child(output, &this)?;
                Ok(Ok((input, output)))
            }
            Err(code) => Ok(Err(code.into())),
        }
    }

    fn start_listen(&mut self, this: Resource<P2Socket>) -> Answer<()> {
        Ok(self.p2(&this)?.begin(Step::Listen, |this| {
            // Unlike in 0.3, a socket must be bound before it listens.
            if !this.socket.is_bound() {
                return Err(Code::InvalidState);
            }
            this.listener = Some(this.socket.listen()?);
            Ok(())
        }))
    }

    fn finish_listen(&mut self, this: Resource<P2Socket>) -> Answer<()> {
        Ok(self.p2(&this)?.finish(Step::Listen))
    }

    fn accept(
        &mut self,
        this: Resource<P2Socket>,
    ) -> Answer<(
        Resource<P2Socket>,
        Resource<DynInputStream>,
        Resource<DynOutputStream>,
    )> {
        let own = self.p2(&this)?;
        let (None, Some(listener)) = (own.step, &own.listener) else {
            return Ok(Err(ErrorCode::InvalidState));
        };
        let mut accepted = match listener.poll_accept(&mut now()) {
            Poll::Pending => return Ok(Err(ErrorCode::WouldBlock)),
            Poll::Ready(Err(code)) => return Ok(Err(code.into())),
            Poll::Ready(Ok(socket)) => P2Socket::new(socket),
        };
        match accepted.take_streams() {
            Ok((input, output)) => {
                let accepted = self.table.push(accepted)?;
                let input = self.table.push_child(input, &accepted)?;
                let output = self.table.push_child(output, &accepted)?;
                Ok(Ok((accepted, input, output)))
            }
            Err(code) => Ok(Err(code.into())),
        }
    }

    fn local_address(&mut self, this: Resource<P2Socket>) -> Answer<IpSocketAddress> {
        self.option(&this, |socket| {
            socket.local_address().map(IpSocketAddress::from)
        })
    }

    fn remote_address(&mut self, this: Resource<P2Socket>) -> Answer<IpSocketAddress> {
        self.option(&this, |socket| {
            socket.remote_address().map(IpSocketAddress::from)
        })
    }

    fn is_listening(&mut self, this: Resource<P2Socket>) -> wasmtime::Result<bool> {
        Ok(self.p2(&this)?.socket.is_listening())
    }

    fn address_family(&mut self, this: Resource<P2Socket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(match self.p2(&this)?.socket.family() {
            Family::V4 => IpAddressFamily::Ipv4,
            Family::V6 => IpAddressFamily::Ipv6,
        })
    }

    fn set_listen_backlog_size(&mut self, this: Resource<P2Socket>, value: u64) -> Answer<()> {
        self.option(&this, |socket| socket.set_backlog(value))
    }

    fn keep_alive_enabled(&mut self, this: Resource<P2Socket>) -> Answer<bool> {
        self.option(&this, |socket| socket.keep_alive_enabled())
    }

    fn set_keep_alive_enabled(&mut self, this: Resource<P2Socket>, value: bool) -> Answer<()> {
        self.option(&this, |socket| socket.set_keep_alive_enabled(value))
    }

    fn keep_alive_idle_time(&mut self, this: Resource<P2Socket>) -> Answer<u64> {
        self.option(&this, |socket| socket.keep_alive_idle_time())
    }

    fn set_keep_alive_idle_time(&mut self, this: Resource<P2Socket>, value: u64) -> Answer<()> {
        self.option(&this, |socket| socket.set_keep_alive_idle_time(value))
    }

    fn keep_alive_interval(&mut self, this: Resource<P2Socket>) -> Answer<u64> {
        self.option(&this, |socket| socket.keep_alive_interval())
    }

    fn set_keep_alive_interval(&mut self, this: Resource<P2Socket>, value: u64) -> Answer<()> {
        self.option(&this, |socket| socket.set_keep_alive_interval(value))
    }

    fn keep_alive_count(&mut self, this: Resource<P2Socket>) -> Answer<u32> {
        self.option(&this, |socket| socket.keep_alive_count())
    }

    fn set_keep_alive_count(&mut self, this: Resource<P2Socket>, value: u32) -> Answer<()> {
        self.option(&this, |socket| socket.set_keep_alive_count(value))
    }

    fn hop_limit(&mut self, this: Resource<P2Socket>) -> Answer<u8> {
        self.option(&this, |socket| socket.hop_limit())
    }

    fn set_hop_limit(&mut self, this: Resource<P2Socket>, value: u8) -> Answer<()> {
        self.option(&this, |socket| socket.set_hop_limit(value))
    }

    fn receive_buffer_size(&mut self, this: Resource<P2Socket>) -> Answer<u64> {
        self.option(&this, |socket| socket.receive_buffer_size())
    }

    fn set_receive_buffer_size(&mut self, this: Resource<P2Socket>, value: u64) -> Answer<()> {
        self.option(&this, |socket| socket.set_receive_buffer_size(value))
    }

    fn send_buffer_size(&mut self, this: Resource<P2Socket>) -> Answer<u64> {
        self.option(&this, |socket| socket.send_buffer_size())
    }

    fn set_send_buffer_size(&mut self, this: Resource<P2Socket>, value: u64) -> Answer<()> {
        self.option(&this, |socket| socket.set_send_buffer_size(value))
    }

    fn subscribe(&mut self, this: Resource<P2Socket>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, this)
    }

    fn shutdown(&mut self, this: Resource<P2Socket>, how: ShutdownType) -> Answer<()> {
        let Some((reader, writer)) = &self.p2(&this)?.streams else {
            return Ok(Err(ErrorCode::InvalidState));
        };
        if matches!(how, ShutdownType::Receive | ShutdownType::Both) {
            reader.shutdown();
        }
        if matches!(how, ShutdownType::Send | ShutdownType::Both) {
            writer.shutdown();
        }
        Ok(Ok(()))
    }

    fn drop(&mut self, this: Resource<P2Socket>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

fn lookup_error(error: &LookupError) -> ErrorCode {
    match error {
        LookupError::Denied(_) => ErrorCode::AccessDenied,
        LookupError::Invalid => ErrorCode::InvalidArgument,
        LookupError::TooMany | LookupError::Timeout => ErrorCode::TemporaryResolverFailure,
        LookupError::Unresolvable(_) => ErrorCode::NameUnresolvable,
    }
}

impl ip_name_lookup::Host for NetCtxView<'_> {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> Answer<Resource<AddressStream>> {
        check_network(self.table, &network)?;
        let mut stream = AddressStream::new(self.ctx.grant.clone(), name);
        // Starts the look-up, and tells a denial at once.
        if let Some(error) = stream.start() {
            return Ok(Err(lookup_error(&error)));
        }
        Ok(Ok(self.table.push(stream)?))
    }
}

impl ip_name_lookup::HostResolveAddressStream for NetCtxView<'_> {
    fn resolve_next_address(&mut self, this: Resource<AddressStream>) -> Answer<Option<IpAddress>> {
        Ok(match self.table.get_mut(&this)?.next() {
            Poll::Pending => Err(ErrorCode::WouldBlock),
            Poll::Ready(Ok(address)) => Ok(address.map(|ip: IpAddr| ip.into())),
            Poll::Ready(Err(error)) => Err(lookup_error(&error)),
        })
    }

    fn subscribe(
        &mut self,
        this: Resource<AddressStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, this)
    }

    fn drop(&mut self, this: Resource<AddressStream>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
