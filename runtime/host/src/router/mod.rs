//! HTTP in: accept, route, lease, call, stream or tunnel, rescue.
//!
//! Connections are accepted on every core and stay there. Bounds: connections by a permit each
//! ([`accept::permits`]; idle ones give way to new clients) and per address by the policy's `[connections]`, heads by
//! [`connection::MAX_HEADER`], the app's `header` and `head_timeout`, bodies by `request_body`, waiting requests by the
//! pool's queue, idle connections by [`connection::KEEP_ALIVE`], idle requests by `idle_timeout`, HTTP/2 frames that
//! carry nothing by [`frames`]. Not here: TLS, domains of apps' own, maintenance mode.

mod accept;
mod body;
mod bounds;
mod connection;
mod drive;
pub(crate) mod embed;
mod exchange;
mod frames;
mod headers;
mod held;
mod io;
mod linger;
mod listen;
mod proxied;
mod proxies;
mod registry;
mod rescue;
mod service;
mod table;
mod timer;
mod transport;
mod tunnel;
mod upload;
mod upstream;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use oarlock_sandbox::HostListeners;
use oarlock_spec::names::AppName;
use oarlock_spec::policy::Connections;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::cores::{CoreId, Cores};
use crate::host::ListenError;
use crate::web::WebPool;
use accept::Remarks;
pub(crate) use accept::{MAX_CONNECTIONS, permits};
use bounds::Bounds;
use proxies::TrustedProxies;
use registry::Registry;
use table::Table;
pub(crate) use table::Unclaimed;
pub(crate) use upstream::Upstream;

/// How long connections that are aborted get to notice it.
const ABORT_GRACE: Duration = Duration::from_secs(2);

/// What clients may have open.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientLimits {
    /// Connections at once, of all clients together.
    pub(crate) connections: u32,
    /// Of one address.
    pub(crate) per_address: Connections,
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Each connection is a trusted proxy's, and says first whose it is.
    pub(crate) proxy_protocol: bool,
}

/// The router of a host. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Router {
    inner: Arc<Inner>,
}

struct Inner {
    cores: Cores,
    table: Table,
    addresses: HostListeners,
    permits: Arc<Semaphore>,
    permit_count: u32,
    /// Per client address.
    bounds: Arc<Bounds>,
    proxies: TrustedProxies,
    proxy_protocol: bool,
    head_timeout: Duration,
    remarks: Remarks,
    /// Ends the accepting.
    stop: CancellationToken,
    /// The open connections, by core.
    registries: Vec<Arc<Registry>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No invariant here spans a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Router {
    pub(crate) fn new(
        cores: Cores,
        domain: String,
        unclaimed: Unclaimed,
        limits: ClientLimits,
    ) -> Self {
        let ClientLimits {
            connections,
            per_address,
            trusted_proxies,
            proxy_protocol,
        } = limits;
        let registries = (0..cores.count()).map(|_| Arc::default()).collect();
        Self {
            inner: Arc::new(Inner {
                cores,
                table: Table::new(&domain, unclaimed),
                addresses: HostListeners::default(),
                permits: Arc::new(Semaphore::new(connections as usize)),
                permit_count: connections,
                bounds: Bounds::new(per_address.per_address, per_address.half_heads_per_address),
                proxies: TrustedProxies::new(trusted_proxies),
                proxy_protocol,
                head_timeout: per_address.head_timeout,
                remarks: Remarks::new(),
                stop: CancellationToken::new(),
                registries,
            }),
        }
    }

    /// Connections at once, of all clients together.
    pub(crate) fn connections(&self) -> u32 {
        self.inner.permit_count
    }

    /// One listener per core (SO_REUSEPORT, after a probe without it).
    pub(crate) async fn listen(&self, addr: SocketAddr) -> Result<SocketAddr, ListenError> {
        let (listeners, bound) = listen::bind(addr, self.inner.cores.count())?;
        for (index, (listener, registry)) in listeners
            .into_iter()
            .zip(&self.inner.registries)
            .enumerate()
        {
            let accept = accept::accept(
                self.inner.clone(),
                CoreId(index),
                registry.clone(),
                listener,
            );
            self.inner.cores.spawn(CoreId(index), accept);
        }
        self.inner.addresses.add(bound);
        Ok(bound)
    }

    /// Routes `<app>.<domain>` to this pool. While there is only one app, every other host name goes to it too, if
    /// [`Unclaimed`] says so.
    pub(crate) fn add(&self, app: &AppName, pool: Arc<WebPool>) {
        self.inner.table.add(app, pool);
    }

    #[cfg(test)]
    pub(crate) fn has(&self, app: &AppName) -> bool {
        self.inner.table.of(app).is_some()
    }

    /// Routes nothing to this pool any more.
    pub(crate) fn remove(&self, app: &AppName, pool: &Arc<WebPool>) {
        self.inner.table.remove(app, pool);
    }

    /// The addresses listened on, later ones included (never granted to guests).
    pub(crate) fn addresses(&self) -> HostListeners {
        self.inner.addresses.clone()
    }

    /// Accepts no more; keep-alive connections are closed after the request under way; returns when all are
    /// done or `grace` is over (then the rest is aborted).
    pub(crate) async fn drain(&self, grace: Duration) {
        self.inner.stop.cancel();
        self.each_connection(connection::Order::Drain);
        if tokio::time::timeout(grace, self.all_closed())
            .await
            .is_err()
        {
            self.each_connection(connection::Order::Abort);
            if tokio::time::timeout(ABORT_GRACE, self.all_closed())
                .await
                .is_err()
            {
                tracing::warn!("some connections did not end; their cores are busy");
            }
        }
        self.inner.addresses.clear();
    }

    fn each_connection(&self, order: connection::Order) {
        for registry in &self.inner.registries {
            registry.order(order);
        }
    }

    /// Every connection holds a permit, and whoever accepts takes one only before the stop.
    async fn all_closed(&self) {
        let _all = self
            .inner
            .permits
            .acquire_many(self.inner.permit_count)
            .await;
    }
}
