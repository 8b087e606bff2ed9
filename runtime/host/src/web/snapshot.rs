//! The list of an app's web dynos at one moment, and the choice among them.

use std::sync::Arc;
use std::time::Duration;

use oarlock_spec::codes::RouterCode;
use tokio::time::Instant;

use super::{PoolState, RequestLimits, WebDyno};
use crate::cores::CoreId;

pub(super) struct Snapshot {
    /// The first is 1.
    number: u64,
    all: Box<[Arc<WebDyno>]>,
    /// By core: those bound to it and those of every core.
    by_core: Box<[Box<[Arc<WebDyno>]>]>,
    /// Those of every core.
    anywhere: Box<[Arc<WebDyno>]>,
    state: PoolState,
    pub(super) limits: Arc<RequestLimits>,
    /// Since when there has been a dyno without a break.
    ready_since: Option<Instant>,
}

impl Snapshot {
    pub(super) fn new(dynos: Vec<Arc<WebDyno>>, state: PoolState, limits: RequestLimits) -> Self {
        let of_core = |dyno: &Arc<WebDyno>| dyno.backend.core();
        let cores = dynos
            .iter()
            .filter_map(of_core)
            .map(|core| core.0 + 1)
            .max();
        let mut by_core = vec![Vec::new(); cores.unwrap_or(0)];
        let mut anywhere = Vec::new();
        for dyno in &dynos {
            if let Some(core) = of_core(dyno) {
                by_core
                    .get_mut(core.0)
                    .into_iter()
                    .for_each(|list| list.push(Arc::clone(dyno)));
                continue;
            }
            anywhere.push(Arc::clone(dyno));
            by_core
                .iter_mut()
                .for_each(|list| list.push(Arc::clone(dyno)));
        }
        Self {
            number: 1,
            by_core: by_core.into_iter().map(Vec::into_boxed_slice).collect(),
            anywhere: anywhere.into(),
            ready_since: (!dynos.is_empty()).then(Instant::now),
            all: dynos.into(),
            state,
            limits: Arc::new(limits),
        }
    }

    /// This one, as the successor of `old`.
    pub(super) fn after(mut self, old: &Self) -> Self {
        self.number = old.number + 1;
        if self.ready_since.is_some() {
            self.ready_since = old.ready_since.or(self.ready_since);
        }
        self
    }

    /// Its place among the lists of its pool.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn state(&self) -> PoolState {
        self.state
    }

    pub(super) fn dynos(&self) -> &[Arc<WebDyno>] {
        &self.all
    }

    /// Why there is nothing to wait for, if there is not.
    pub(super) fn refusal(&self) -> Option<RouterCode> {
        match self.state {
            PoolState::Serving | PoolState::Starting => None,
            PoolState::NoDynos => Some(RouterCode::H14),
            PoolState::Crashed => Some(RouterCode::H10),
        }
    }

    /// What a request is told that finds the queue full.
    pub(super) fn no_place(&self) -> RouterCode {
        match self.state {
            PoolState::Starting => RouterCode::AppStarting,
            PoolState::Serving | PoolState::NoDynos | PoolState::Crashed => RouterCode::H11,
        }
    }

    /// Takes a slot, if one is free.
    pub(super) fn choose(&self, core: Option<CoreId>) -> Option<Arc<WebDyno>> {
        if self.state != PoolState::Serving {
            return None;
        }
        let near = core.map_or(&*self.all, |core| self.near(core));
        let dyno = take_from(near).or_else(|| {
            if near.len() < self.all.len() {
                take_from(&self.all)
            } else {
                None
            }
        });
        dyno.cloned()
    }

    /// The same, of this core's and of those of every core only.
    pub(super) fn choose_near(&self, core: CoreId) -> Option<Arc<WebDyno>> {
        if self.state != PoolState::Serving {
            return None;
        }
        take_from(self.near(core)).cloned()
    }

    /// Whether there are dynos that only other cores have.
    pub(super) fn has_elsewhere(&self, core: CoreId) -> bool {
        self.near(core).len() < self.all.len()
    }

    fn near(&self, core: CoreId) -> &[Arc<WebDyno>] {
        self.by_core.get(core.0).unwrap_or(&self.anywhere)
    }

    /// Until when a request that came at `arrived` may wait, as things are now, and what it is told then.
    pub(super) fn deadline(&self, arrived: Instant) -> (Instant, RouterCode) {
        let booted = arrived + self.limits.boot_timeout;
        match self.ready_since {
            None if self.state == PoolState::Starting => (booted, RouterCode::AppStarting),
            None => (booted, RouterCode::H20),
            Some(ready) => (arrived.max(ready) + self.limits.timeout, RouterCode::H11),
        }
    }

    /// No deadline can be nearer than this, whatever changes.
    pub(super) fn shortest_wait(&self) -> Duration {
        self.limits
            .timeout
            .min(self.limits.boot_timeout)
            .max(Duration::from_millis(1))
    }
}

/// The less busy of two at random, or whichever has a slot.
fn take_from(dynos: &[Arc<WebDyno>]) -> Option<&Arc<WebDyno>> {
    match dynos {
        [] => None,
        [only] => only.take().then_some(only),
        _ => {
            let start = rand::random_range(0..dynos.len());
            let (after, before) = (dynos.iter().skip(start), dynos.iter().take(start));
            let mut turn = after.chain(before);
            let (first, second) = (turn.next()?, turn.next()?);
            let load = |dyno: &WebDyno| {
                u64::from(dyno.in_flight()) * u64::from(u32::MAX) / u64::from(dyno.capacity)
            };
            let (less, more) = if load(second) < load(first) {
                (second, first)
            } else {
                (first, second)
            };
            [less, more]
                .into_iter()
                .chain(turn)
                .find(|dyno| dyno.take())
        }
    }
}
