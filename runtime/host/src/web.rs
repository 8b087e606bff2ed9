//! What formation and router share: the web dynos of an app that can be leased.
//!
//! Formation makes [`WebDyno`]s and hands the router the whole list whenever it changes; the router
//! leases slots of them. A list is an immutable snapshot, swapped at once.

use std::sync::Arc;
use std::time::Duration;

use oarlock_sandbox::{Instance, Sandbox};
use oarlock_spec::names::{AppName, DynoName, ReleaseId};

use crate::cores::CoreId;
use crate::logs::AppLog;

/// What answers for a web dyno.
pub(crate) enum Backend {
    /// Isolation `request`: an instance per request, on the core that accepted it.
    Fresh(Sandbox),
    /// Isolation `dyno`: one instance on one core.
    Live {
        /// The instance.
        instance: Instance,
        /// Its core.
        core: CoreId,
    },
}

/// A web dyno that can be leased. Slots are counted here; a [`Lease`] holds one and gives it back.
pub(crate) struct WebDyno {
    pub(crate) name: DynoName,
    pub(crate) release: ReleaseId,
    pub(crate) backend: Backend,
    /// Requests at once.
    pub(crate) capacity: u32,
    // the router's own counters follow
}

impl WebDyno {
    pub(crate) fn new(_name: DynoName, _release: ReleaseId, _backend: Backend, _capacity: u32) -> Arc<Self> {
        unimplemented!()
    }
    /// Requests under way.
    pub(crate) fn in_flight(&self) -> u32 {
        unimplemented!()
    }
    /// Requests leased so far (`ps`).
    pub(crate) fn requests(&self) -> u64 {
        unimplemented!()
    }
    /// Resolves when no request is under way (after it was taken out of the pool).
    pub(crate) async fn drained(&self) {
        unimplemented!()
    }
}

/// What the router enforces per request, from the web process's limits.
#[derive(Debug, Clone)]
pub(crate) struct RequestLimits {
    pub(crate) queue: u32,
    pub(crate) timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) boot_timeout: Duration,
    pub(crate) request_body: u64,
    pub(crate) header: u64,
}

/// What a request meets when no dyno can be leased at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PoolState {
    /// Dynos serve, or are about to: wait in the queue (H11 when it is full, or the wait is longer than `timeout`;
    /// H20 if no dyno has become ready within `boot_timeout`).
    Serving,
    /// The formation has no web dynos: H14.
    NoDynos,
    /// All web dynos are in crash back-off: H10.
    Crashed,
}

/// The web dynos of one app; lives across releases.
pub(crate) struct WebPool {}

impl WebPool {
    pub(crate) fn new(_app: AppName, _log: AppLog) -> Arc<Self> {
        unimplemented!()
    }
    /// From now on leases come from these. Leases of dynos that are gone from the list go on until they end.
    pub(crate) fn publish(&self, _dynos: Vec<Arc<WebDyno>>, _state: PoolState, _limits: RequestLimits) {
        unimplemented!()
    }
    /// A slot of a dyno for a request accepted on `core`: the less busy of two free dynos of its own core,
    /// another core's only when none of these has a slot. (A `Fresh` dyno is of every core.)
    pub(crate) async fn lease(self: &Arc<Self>, _core: Option<CoreId>) -> Result<Lease, oarlock_spec::codes::RouterCode> {
        unimplemented!()
    }
}

/// The right to send one request to one dyno; given back on drop.
pub(crate) struct Lease {}
