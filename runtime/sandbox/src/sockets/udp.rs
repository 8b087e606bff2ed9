//! UDP stays wasmtime-wasi's; what is ours are the decision about each address and the count of its sockets.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::p2::UdpSocket as P2UdpSocket;
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode as P2ErrorCode, IpAddressFamily as P2Family,
};
use wasmtime_wasi::p2::bindings::sockets::udp_create_socket::Host as _;
use wasmtime_wasi::p3::bindings::sockets::types::{self as p3, HostUdpSocket as _};
use wasmtime_wasi::sockets::{SocketAddrUse, UdpSocket, WasiSocketsView};

use super::{NetGrant, NetView};
use crate::egress::Attempt;

type Answer = Pin<Box<dyn Future<Output = bool> + Send + Sync>>;

/// For `WasiCtxBuilder::socket_addr_check`, with UDP allowed, TCP and name look-up not.
pub(crate) fn udp_check(
    grant: Arc<NetGrant>,
) -> impl Fn(SocketAddr, SocketAddrUse) -> Answer + Send + Sync + 'static {
    move |addr, what| {
        let allowed = match what {
            // Before every first datagram; a fixed port would be listening.
            SocketAddrUse::UdpBind => {
                let allowed = addr.ip().is_unspecified() && addr.port() == 0;
                if !allowed {
                    grant.remarks.write(&format!(
                        "binding UDP to {addr} denied: UDP is bound to no address and port in particular (0.0.0.0:0 or \
                         [::]:0); sockets of the dyno reach each other by TCP alone, on 127.0.0.1 and ::1"
                    ));
                }
                allowed
            }
            SocketAddrUse::UdpSend => grant.permit(&Attempt::Udp(addr)).is_some(),
            // What a stranger sends is dropped without a word: the guest did nothing to report.
            SocketAddrUse::UdpReceive => grant.egress.judge(&Attempt::Udp(addr)).is_ok(),
            SocketAddrUse::TcpBind
            | SocketAddrUse::TcpListen
            | SocketAddrUse::TcpAccept
            | SocketAddrUse::TcpConnect => false,
        };
        Box::pin(std::future::ready(allowed))
    }
}

/// Links the creation and the end of UDP sockets again, so that they are counted; of 0.2.
pub(super) fn count_p2<T: NetView + WasiView + 'static>(
    linker: &mut Linker<T>,
) -> wasmtime::Result<()> {
    linker
        .instance("wasi:sockets/udp-create-socket@0.2.12")?
        .func_wrap_async("create-udp-socket", |store, (family,)| {
            Box::new(create_p2::<T>(store, family))
        })?;
    linker.instance("wasi:sockets/udp@0.2.12")?.resource(
        "udp-socket",
        ResourceType::host::<P2UdpSocket>(),
        |mut store: StoreContextMut<'_, T>, rep| {
            store.data_mut().net().ctx.udp.pop();
            let mut view = store.data_mut().sockets();
            wasmtime_wasi::p2::bindings::sockets::udp::HostUdpSocket::drop(
                &mut view,
                Resource::new_own(rep),
            )
        },
    )
}

/// The same, of 0.3.
pub(super) fn count_p3<T: NetView + WasiView + 'static>(
    linker: &mut Linker<T>,
) -> wasmtime::Result<()> {
    let mut types = linker.instance("wasi:sockets/types@0.3.0")?;
    types.func_wrap_async("[static]udp-socket.create", |store, (family,)| {
        Box::new(create_p3::<T>(store, family))
    })?;
    types.resource(
        "udp-socket",
        ResourceType::host::<UdpSocket>(),
        |mut store: StoreContextMut<'_, T>, rep| {
            store.data_mut().net().ctx.udp.pop();
            let mut view = store.data_mut().sockets();
            p3::HostUdpSocket::drop(&mut view, Resource::new_own(rep))
        },
    )
}

/// Takes a place for one more; given back by the resource's end, or with the store.
fn take_slot<T: NetView>(store: &mut StoreContextMut<'_, T>) -> bool {
    let ctx = store.data_mut().net().ctx;
    let slot = ctx.grant.slot();
    let taken = slot.is_some();
    ctx.udp.extend(slot);
    taken
}

type Created<S, E> = wasmtime::Result<(Result<Resource<S>, E>,)>;

/// Waits for one turn of tokio's driver, as wasmtime-wasi's own does: a new socket must be writable at once.
async fn create_p2<T: NetView + WasiView>(
    mut store: StoreContextMut<'_, T>,
    family: P2Family,
) -> Created<P2UdpSocket, P2ErrorCode> {
    if !take_slot(&mut store) {
        return Ok((Err(P2ErrorCode::NewSocketLimit),));
    }
    let created = store.data_mut().sockets().create_udp_socket(family).await;
    match created {
        Ok(socket) => Ok((Ok(socket),)),
        Err(error) => {
            store.data_mut().net().ctx.udp.pop();
            Ok((Err(error.downcast()?),))
        }
    }
}

async fn create_p3<T: NetView + WasiView>(
    mut store: StoreContextMut<'_, T>,
    family: p3::IpAddressFamily,
) -> Created<UdpSocket, p3::ErrorCode> {
    if !take_slot(&mut store) {
        let text = "too many sockets are open".to_owned();
        return Ok((Err(p3::ErrorCode::Other(Some(text))),));
    }
    let created = store.data_mut().sockets().create(family).await;
    match created {
        Ok(socket) => Ok((Ok(socket),)),
        Err(error) => {
            store.data_mut().net().ctx.udp.pop();
            Ok((Err(error.downcast()?),))
        }
    }
}
