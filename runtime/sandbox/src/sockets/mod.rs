//! `wasi:sockets` for 0.2 and 0.3: the TCP resource and the name look-up are ours, and ask the [`Egress`].
//!
//! wasmtime-wasi's TCP socket shows neither its descriptor nor its end, so that it could not be given TCP_NODELAY,
//! counted, capped or cut from outside; a relay per binding could do most of that, but costs a hop and two more
//! descriptors for each connection. UDP stays wasmtime-wasi's, behind [`udp_check`], but for the creation and
//! the end of a socket, which are counted here. What a guest listens on is no kernel's at all: see [`Port`] for `$PORT`, and
//! [`loopback`] for what its own sockets reach.

mod code;
mod connecting;
mod ends;
mod family;
mod link;
mod listener;
mod loopback;
mod names;
mod options;
mod p2;
mod p3;
mod pipe;
mod port;
mod streams;
mod tcp;
mod udp;

use std::sync::Arc;

use oarlock_spec::limits::Limits;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView as _};

use crate::egress::{Attempt, Egress, Granted, HttpClient, Remarks};
use crate::grant::Grant;
use crate::limiter::MemoryLimiter;
use code::Code;
use family::Family;
use loopback::Loopback;

pub use ends::{PortStream, Progress};
pub use port::{Port, Refused};
pub(crate) use udp::udp_check;

/// The network half of a grant, prepared once per dyno and shared by all its instances, so that its limits hold
/// for the dyno.
pub(crate) struct NetGrant {
    pub(crate) egress: Arc<Egress>,
    pub(crate) http: HttpClient,
    pub(crate) remarks: Remarks,
    pub(crate) outgoing: Arc<Semaphore>,
    pub(crate) outgoing_limit: u32,
    sockets: Arc<Semaphore>,
    sockets_limit: u32,
    listen: Option<Port>,
}

impl NetGrant {
    /// What `grant` and `limits` say of the network.
    pub(crate) fn new(grant: &Grant, limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            egress: grant.egress.clone(),
            http: grant.http.clone(),
            remarks: Remarks::new(grant.log.clone()),
            outgoing: Arc::new(Semaphore::new(limits.outgoing as usize)),
            outgoing_limit: limits.outgoing,
            sockets: Arc::new(Semaphore::new(limits.sockets as usize)),
            sockets_limit: limits.sockets,
            listen: grant.listen.clone(),
        })
    }

    /// Asks the decision point; a denial goes to the log.
    fn permit(&self, what: &Attempt<'_>) -> Option<Granted> {
        match self.egress.judge(what) {
            Ok(granted) => Some(granted),
            Err(denial) => {
                self.remarks.write(&denial.reason);
                None
            }
        }
    }

    /// A place for one more socket.
    fn slot(&self) -> Option<OwnedSemaphorePermit> {
        let slot = self.sockets.clone().try_acquire_owned().ok();
        if slot.is_none() {
            self.remark_full();
        }
        slot
    }

    fn remark_full(&self) {
        self.remarks.write(&format!(
            "socket refused: {} are open, the limit; raise `sockets` in `[limits]`",
            self.sockets_limit
        ));
    }
}

/// The network state of one instance.
pub(crate) struct NetCtx {
    grant: Arc<NetGrant>,
    /// One place for each UDP socket; which is whose does not matter.
    udp: Vec<OwnedSemaphorePermit>,
    /// What its own sockets reach; made with the first of them.
    loopback: Option<Arc<Loopback>>,
}

impl NetCtx {
    /// For one instance of the dyno that `grant` belongs to.
    pub(crate) fn new(grant: Arc<NetGrant>) -> Self {
        Self {
            grant,
            udp: Vec::new(),
            loopback: None,
        }
    }

    fn tcp_socket(&mut self, family: Family) -> Result<tcp::TcpSocket, Code> {
        let loopback = self.loopback.get_or_insert_default().clone();
        tcp::TcpSocket::new(self.grant.clone(), loopback, family)
    }
}

/// What host functions work on.
pub(crate) struct NetCtxView<'a> {
    pub(crate) ctx: &'a mut NetCtx,
    pub(crate) table: &'a mut ResourceTable,
    pub(crate) memory: &'a mut MemoryLimiter,
}

/// A store's state that has a network.
pub(crate) trait NetView: Send {
    fn net(&mut self) -> NetCtxView<'_>;
}

/// Names [`NetCtxView`] for generated code.
pub(crate) struct Net;

impl HasData for Net {
    type Data<'a> = NetCtxView<'a>;
}

/// Links `wasi:sockets` 0.2 but for the network and UDP, which must have been added before: TCP and name look-up
/// are ours, and shadow wasmtime-wasi's.
pub(crate) fn p2<T: NetView + WasiView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let linked = p2::add_to_linker(linker).and_then(|()| udp::count_p2(linker));
    linker.allow_shadowing(false);
    linked
}

/// Links `wasi:sockets` 0.3, where TCP and UDP share an interface.
pub(crate) fn p3<T: NetView + WasiView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    wasmtime_wasi::p3::bindings::sockets::types::add_to_linker::<T, WasiSockets>(
        linker,
        T::sockets,
    )?;
    linker.allow_shadowing(true);
    let linked = p3::add_to_linker(linker).and_then(|()| udp::count_p3(linker));
    linker.allow_shadowing(false);
    linked
}
