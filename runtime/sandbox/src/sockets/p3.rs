//! `wasi:sockets` 0.3: TCP and name look-up. The WIT here leaves out `udp-socket`, whose functions in the same
//! interface stay wasmtime-wasi's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::sync::oneshot;
use wasmtime::StoreContextMut;
use wasmtime::component::{
    Access, Accessor, Destination, FutureReader, Linker, Resource, Source, StreamConsumer,
    StreamProducer, StreamReader, StreamResult,
};

use super::code::Code;
use super::family::Family;
use super::link::{ReadHalf, WriteHalf};
use super::listener::Listener;
use super::tcp::TcpSocket;
use super::{Net, NetCtxView, NetView, names};
use crate::egress::LookupError;
use bindings::wasi::sockets::ip_name_lookup::{self, ErrorCode as LookupCode};
use bindings::wasi::sockets::types::{
    self, ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress,
    Ipv6SocketAddress,
};

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit/sockets-0.3",
        world: "oarlock:sockets-p3/sockets",
        imports: {
            "wasi:sockets/types.[method]tcp-socket.listen": store | trappable,
            "wasi:sockets/types.[method]tcp-socket.send": store | trappable,
            "wasi:sockets/types.[method]tcp-socket.receive": store | trappable,
            default: trappable,
        },
        with: {
            "wasi:clocks/types": wasmtime_wasi::p3::bindings::clocks::types,
            "wasi:sockets/types.tcp-socket": crate::sockets::tcp::TcpSocket,
        },
    });
}

/// Bytes read from a connection at once when the guest does not say how many it wants.
const CHUNK: usize = 8 * 1024;

pub(super) fn add_to_linker<T: NetView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    types::add_to_linker::<_, Net>(linker, T::net)?;
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
            Code::TooManySockets => Self::Other(Some("too many sockets are open".to_owned())),
            Code::AddressNotBindable => Self::AddressNotBindable,
            Code::AddressInUse => Self::AddressInUse,
            Code::RemoteUnreachable => Self::RemoteUnreachable,
            Code::ConnectionRefused => Self::ConnectionRefused,
            Code::ConnectionBroken => Self::ConnectionBroken,
            Code::ConnectionReset => Self::ConnectionReset,
            Code::ConnectionAborted => Self::ConnectionAborted,
            Code::Unknown => Self::Other(None),
        }
    }
}

impl From<IpAddr> for IpAddress {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::Ipv4(ip.octets().into()),
            IpAddr::V6(ip) => Self::Ipv6(ip.segments().into()),
        }
    }
}

impl From<IpSocketAddress> for SocketAddr {
    fn from(address: IpSocketAddress) -> Self {
        match address {
            IpSocketAddress::Ipv4(v4) => {
                let (a, b, c, d) = v4.address;
                SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), v4.port).into()
            }
            IpSocketAddress::Ipv6(v6) => {
                let segments: [u16; 8] = v6.address.into();
                SocketAddrV6::new(Ipv6Addr::from(segments), v6.port, v6.flow_info, v6.scope_id)
                    .into()
            }
        }
    }
}

impl From<SocketAddr> for IpSocketAddress {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => Self::Ipv4(Ipv4SocketAddress {
                port: v4.port(),
                address: v4.ip().octets().into(),
            }),
            SocketAddr::V6(v6) => Self::Ipv6(Ipv6SocketAddress {
                port: v6.port(),
                flow_info: v6.flowinfo(),
                address: v6.ip().segments().into(),
                scope_id: v6.scope_id(),
            }),
        }
    }
}

impl NetCtxView<'_> {
    fn p3(&mut self, this: &Resource<TcpSocket>) -> wasmtime::Result<&mut TcpSocket> {
        Ok(self.table.get_mut(this)?)
    }

    fn p3_option<T>(
        &mut self,
        this: &Resource<TcpSocket>,
        act: impl FnOnce(&mut TcpSocket) -> Result<T, Code>,
    ) -> Answer<T> {
        Ok(act(self.p3(this)?).map_err(ErrorCode::from))
    }
}

/// Says how a stream of a connection ended, once.
type Ending = oneshot::Sender<Result<(), ErrorCode>>;

/// The connections of a listener.
struct Accepting<T: 'static> {
    listener: Arc<Listener>,
    view: for<'a> fn(&'a mut T) -> NetCtxView<'a>,
}

impl<T: 'static> StreamProducer<T> for Accepting<T> {
    type Item = Resource<TcpSocket>;
    type Buffer = Option<Self::Item>;

    fn poll_produce<'a>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, T>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let idle = if finish {
            Poll::Ready(Ok(StreamResult::Cancelled))
        } else {
            Poll::Pending
        };
        // The guest asks for nothing but whether there is something.
        if destination.remaining(&mut store) == Some(0) {
            return match self.listener.poll_ready(cx) {
                Poll::Ready(()) => Poll::Ready(Ok(StreamResult::Completed)),
                Poll::Pending => idle,
            };
        }
        loop {
            match self.listener.poll_accept(cx) {
                Poll::Ready(Ok(socket)) => {
                    let socket = (self.view)(store.data_mut()).table.push(socket)?;
                    destination.set_buffer(Some(socket));
                    return Poll::Ready(Ok(StreamResult::Completed));
                }
                // The port is taken back: the stream ends, and with it the guest's loop.
                Poll::Ready(Err(_)) if self.listener.is_closed() => {
                    return Poll::Ready(Ok(StreamResult::Dropped));
                }
                // One connection's failure is none of the listener's.
                Poll::Ready(Err(Code::ConnectionAborted)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(StreamResult::Dropped)),
                Poll::Pending => return idle,
            }
        }
    }
}

/// What a connection brings.
struct Receiving(Option<(ReadHalf, Ending)>);

impl Receiving {
    fn end(&mut self, outcome: Result<(), ErrorCode>) -> Poll<wasmtime::Result<StreamResult>> {
        if let Some((_, ending)) = self.0.take() {
            // Fails if the guest does not care.
            let _ = ending.send(outcome);
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let _ = self.end(Ok(()));
    }
}

impl<T> StreamProducer<T> for Receiving {
    type Item = u8;
    type Buffer = BytesMut;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, T>,
        destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let Some((half, _)) = &self.0 else {
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        let idle = if finish {
            Poll::Ready(Ok(StreamResult::Cancelled))
        } else {
            Poll::Pending
        };
        if destination.remaining(&mut store) == Some(0) {
            return match half.poll_ready(cx) {
                Poll::Ready(()) => Poll::Ready(Ok(StreamResult::Completed)),
                Poll::Pending => idle,
            };
        }
        let mut destination = destination.as_direct(store, CHUNK);
        match half.poll_read(cx, destination.remaining()) {
            Poll::Ready(Ok(0)) => self.end(Ok(())),
            Poll::Ready(Ok(read)) => {
                destination.mark_written(read);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Poll::Ready(Err(error)) => self.end(Err(Code::from(error).into())),
            Poll::Pending => idle,
        }
    }
}

/// What a guest sends.
struct Sending(Option<(WriteHalf, Ending)>);

impl Sending {
    fn end(&mut self, outcome: Result<(), ErrorCode>) -> Poll<wasmtime::Result<StreamResult>> {
        if let Some((_, ending)) = self.0.take() {
            // Fails if the guest does not care.
            let _ = ending.send(outcome);
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let _ = self.end(Ok(()));
    }
}

impl<T> StreamConsumer<T> for Sending {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, T>,
        source: Source<'_, u8>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let Some((half, _)) = &self.0 else {
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        let idle = if finish {
            Poll::Ready(Ok(StreamResult::Cancelled))
        } else {
            Poll::Pending
        };
        let mut source = source.as_direct(store);
        if source.remaining().is_empty() {
            return match half.poll_ready(cx) {
                Poll::Ready(()) => Poll::Ready(Ok(StreamResult::Completed)),
                Poll::Pending => idle,
            };
        }
        match half.poll_write(cx, source.remaining()) {
            Poll::Ready(Ok(written)) => {
                source.mark_read(written);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Poll::Ready(Err(error)) => self.end(Err(Code::from(error).into())),
            Poll::Pending => idle,
        }
    }
}

impl types::Host for NetCtxView<'_> {}

impl<T: Send> types::HostTcpSocketWithStore<T> for Net {
    async fn connect(
        store: &Accessor<T, Self>,
        this: Resource<TcpSocket>,
        remote_address: IpSocketAddress,
    ) -> Answer<()> {
        let started = store.with(|mut store| {
            let view = store.get();
            let socket = view.table.get_mut(&this)?;
            wasmtime::error::Ok(socket.start_connect(remote_address.into(), view.memory))
        })?;
        if let Err(code) = started {
            return Ok(Err(code.into()));
        }
        std::future::poll_fn(|cx| {
            store.with(|mut store| match store.get().p3(&this) {
                Ok(socket) => socket
                    .poll_connect(cx)
                    .map(|outcome| Ok(outcome.map_err(ErrorCode::from))),
                Err(error) => Poll::Ready(Err(error)),
            })
        })
        .await
    }

    fn listen(
        mut store: Access<'_, T, Self>,
        this: Resource<TcpSocket>,
    ) -> Answer<StreamReader<Resource<TcpSocket>>> {
        let view = store.getter();
        match store.get().p3(&this)?.listen() {
            Ok(listener) => Ok(Ok(StreamReader::new(
                &mut store,
                Accepting { listener, view },
            )?)),
            Err(code) => Ok(Err(code.into())),
        }
    }

    fn send(
        mut store: Access<'_, T, Self>,
        this: Resource<TcpSocket>,
        mut data: StreamReader<u8>,
    ) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>> {
        match store.get().p3(&this)?.take_send() {
            Ok(half) => {
                let (ending, ended) = oneshot::channel();
                data.pipe(&mut store, Sending(Some((half, ending))))?;
                FutureReader::new(&mut store, ended)
            }
            Err(code) => {
                data.close(&mut store)?;
                FutureReader::new(
                    &mut store,
                    async move { wasmtime::error::Ok(Err(code.into())) },
                )
            }
        }
    }

    fn receive(
        mut store: Access<'_, T, Self>,
        this: Resource<TcpSocket>,
    ) -> wasmtime::Result<(StreamReader<u8>, FutureReader<Result<(), ErrorCode>>)> {
        match store.get().p3(&this)?.take_receive() {
            Ok(half) => {
                let (ending, ended) = oneshot::channel();
                let data = StreamReader::new(&mut store, Receiving(Some((half, ending))))?;
                Ok((data, FutureReader::new(&mut store, ended)?))
            }
            Err(code) => {
                let data = StreamReader::new(&mut store, std::iter::empty())?;
                Ok((
                    data,
                    FutureReader::new(
                        &mut store,
                        async move { wasmtime::error::Ok(Err(code.into())) },
                    )?,
                ))
            }
        }
    }
}

impl types::HostTcpSocket for NetCtxView<'_> {
    fn create(&mut self, family: IpAddressFamily) -> Answer<Resource<TcpSocket>> {
        let family = match family {
            IpAddressFamily::Ipv4 => Family::V4,
            IpAddressFamily::Ipv6 => Family::V6,
        };
        match self.ctx.tcp_socket(family) {
            Ok(socket) => Ok(Ok(self.table.push(socket)?)),
            Err(code) => Ok(Err(code.into())),
        }
    }

    fn bind(&mut self, this: Resource<TcpSocket>, local_address: IpSocketAddress) -> Answer<()> {
        self.p3_option(&this, |socket| socket.bind(local_address.into()))
    }

    fn get_local_address(&mut self, this: Resource<TcpSocket>) -> Answer<IpSocketAddress> {
        self.p3_option(&this, |socket| {
            socket.local_address().map(IpSocketAddress::from)
        })
    }

    fn get_remote_address(&mut self, this: Resource<TcpSocket>) -> Answer<IpSocketAddress> {
        self.p3_option(&this, |socket| {
            socket.remote_address().map(IpSocketAddress::from)
        })
    }

    fn get_is_listening(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<bool> {
        Ok(self.p3(&this)?.is_listening())
    }

    fn get_address_family(
        &mut self,
        this: Resource<TcpSocket>,
    ) -> wasmtime::Result<IpAddressFamily> {
        Ok(match self.p3(&this)?.family() {
            Family::V4 => IpAddressFamily::Ipv4,
            Family::V6 => IpAddressFamily::Ipv6,
        })
    }

    fn set_listen_backlog_size(&mut self, this: Resource<TcpSocket>, value: u64) -> Answer<()> {
        self.p3_option(&this, |socket| socket.set_backlog(value))
    }

    fn get_keep_alive_enabled(&mut self, this: Resource<TcpSocket>) -> Answer<bool> {
        self.p3_option(&this, |socket| socket.keep_alive_enabled())
    }

    fn set_keep_alive_enabled(&mut self, this: Resource<TcpSocket>, value: bool) -> Answer<()> {
        self.p3_option(&this, |socket| socket.set_keep_alive_enabled(value))
    }

    fn get_keep_alive_idle_time(&mut self, this: Resource<TcpSocket>) -> Answer<u64> {
        self.p3_option(&this, |socket| socket.keep_alive_idle_time())
    }

    fn set_keep_alive_idle_time(&mut self, this: Resource<TcpSocket>, value: u64) -> Answer<()> {
        self.p3_option(&this, |socket| socket.set_keep_alive_idle_time(value))
    }

    fn get_keep_alive_interval(&mut self, this: Resource<TcpSocket>) -> Answer<u64> {
        self.p3_option(&this, |socket| socket.keep_alive_interval())
    }

    fn set_keep_alive_interval(&mut self, this: Resource<TcpSocket>, value: u64) -> Answer<()> {
        self.p3_option(&this, |socket| socket.set_keep_alive_interval(value))
    }

    fn get_keep_alive_count(&mut self, this: Resource<TcpSocket>) -> Answer<u32> {
        self.p3_option(&this, |socket| socket.keep_alive_count())
    }

    fn set_keep_alive_count(&mut self, this: Resource<TcpSocket>, value: u32) -> Answer<()> {
        self.p3_option(&this, |socket| socket.set_keep_alive_count(value))
    }

    fn get_hop_limit(&mut self, this: Resource<TcpSocket>) -> Answer<u8> {
        self.p3_option(&this, |socket| socket.hop_limit())
    }

    fn set_hop_limit(&mut self, this: Resource<TcpSocket>, value: u8) -> Answer<()> {
        self.p3_option(&this, |socket| socket.set_hop_limit(value))
    }

    fn get_receive_buffer_size(&mut self, this: Resource<TcpSocket>) -> Answer<u64> {
        self.p3_option(&this, |socket| socket.receive_buffer_size())
    }

    fn set_receive_buffer_size(&mut self, this: Resource<TcpSocket>, value: u64) -> Answer<()> {
        self.p3_option(&this, |socket| socket.set_receive_buffer_size(value))
    }

    fn get_send_buffer_size(&mut self, this: Resource<TcpSocket>) -> Answer<u64> {
        self.p3_option(&this, |socket| socket.send_buffer_size())
    }

    fn set_send_buffer_size(&mut self, this: Resource<TcpSocket>, value: u64) -> Answer<()> {
        self.p3_option(&this, |socket| socket.set_send_buffer_size(value))
    }

    fn drop(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl ip_name_lookup::Host for NetCtxView<'_> {}

impl<T: Send> ip_name_lookup::HostWithStore<T> for Net {
    async fn resolve_addresses(
        store: &Accessor<T, Self>,
        name: String,
    ) -> wasmtime::Result<Result<Vec<IpAddress>, LookupCode>> {
        let grant = store.with(|mut store| store.get().ctx.grant.clone());
        Ok(match names::look_up(grant, name).await {
            Ok(addresses) => Ok(addresses.into_iter().map(IpAddress::from).collect()),
            Err(error) => Err(match error {
                LookupError::Denied(_) => LookupCode::AccessDenied,
                LookupError::Invalid => LookupCode::InvalidArgument,
                LookupError::TooMany | LookupError::Timeout => LookupCode::TemporaryResolverFailure,
                LookupError::Unresolvable(_) => LookupCode::NameUnresolvable,
            }),
        })
    }
}
