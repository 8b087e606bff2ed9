//! What formation and router share: the web dynos of an app that can be leased.
//!
//! Formation makes [`WebDyno`]s and hands the router the whole list whenever it changes; the router
//! leases slots of them. A list is an immutable snapshot, swapped at once. A request that finds a
//! slot takes no lock; one that does not waits in a queue of at most `queue` places, first come
//! first served, and each slot given back wakes exactly one of them.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use oarlock_sandbox::{Instance, Sandbox};
use oarlock_spec::codes::RouterCode;
use oarlock_spec::limits::Limits;
use oarlock_spec::names::DynoName;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::cores::CoreId;
use crate::logs::AppLog;
use crate::router::Upstream;

mod queue;
mod snapshot;
#[cfg(test)]
mod tests;
mod wear;

use queue::{Queue, Waiter};
use snapshot::Snapshot;
pub(crate) use wear::{Wear, WearReason};

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
    /// A command that listens on its port.
    Listening(Arc<Upstream>),
    /// What a test says.
    #[cfg(test)]
    Fake {
        /// Answers.
        answer: crate::router::fake::Answer,
        /// As of a live instance; `None`: of every core.
        core: Option<CoreId>,
    },
}

impl Backend {
    /// The core it is bound to; `None`: of every core.
    fn core(&self) -> Option<CoreId> {
        match self {
            Self::Fresh(_) => None,
            Self::Live { core, .. } => Some(*core),
            Self::Listening(upstream) => Some(upstream.core()),
            #[cfg(test)]
            Self::Fake { core, .. } => *core,
        }
    }
}

/// Turns of its own core that a request waits for a slot there, before it takes one of another core.
const TURNS: usize = 3;

/// Set in [`WebDyno::slots`] while the dyno is not in its pool's list: nobody may take a slot.
const CLOSED: u32 = 1 << 31;

/// A web dyno that can be leased. Slots are counted here; a [`Lease`] holds one and gives it back.
pub(crate) struct WebDyno {
    pub(crate) backend: Backend,
    /// Requests at once.
    pub(crate) capacity: u32,
    /// As the router's log prints it.
    pub(crate) label: Box<str>,
    /// Requests under way, and [`CLOSED`]. In one word, so that a dyno that was taken out of its pool
    /// and has drained cannot be leased by somebody who still looks at the old list.
    slots: AtomicU32,
    requests: AtomicU64,
    empty: Notify,
    /// The number of the last list that it was in; 0: none.
    listed: AtomicU64,
    /// What wears its instance out, where that is to be replaced before it fails.
    wear: Option<Wear>,
}

impl WebDyno {
    pub(crate) fn new(name: &DynoName, backend: Backend, capacity: u32) -> Arc<Self> {
        Arc::new(Self {
            label: name.to_string().into(),
            backend,
            capacity: capacity.clamp(1, CLOSED - 1),
            slots: AtomicU32::new(CLOSED),
            requests: AtomicU64::new(0),
            empty: Notify::new(),
            listed: AtomicU64::new(0),
            wear: None,
        })
    }

    /// One whose instance wears out.
    pub(crate) fn with_wear(mut self: Arc<Self>, wear: Wear) -> Arc<Self> {
        if let Some(dyno) = Arc::get_mut(&mut self) {
            dyno.wear = Some(wear);
        }
        self
    }

    /// Resolves when its instance is to be replaced; never, where nothing wears it out.
    pub(crate) async fn worn(&self) -> WearReason {
        match &self.wear {
            Some(wear) => wear.worn(self).await,
            None => std::future::pending().await,
        }
    }

    /// Requests under way.
    pub(crate) fn in_flight(&self) -> u32 {
        self.slots.load(Ordering::SeqCst) & !CLOSED
    }

    /// Requests leased so far (`ps`).
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Resolves when no request is under way (after it was taken out of the pool).
    pub(crate) async fn drained(&self) {
        loop {
            let mut empty = std::pin::pin!(self.empty.notified());
            empty.as_mut().enable();
            if self.in_flight() == 0 {
                return;
            }
            empty.await;
        }
    }

    /// Takes no more requests, though it is still in the pool's list: its instance is known to have
    /// ended before formation has heard of it.
    pub(crate) fn close(&self) {
        self.slots.fetch_or(CLOSED, Ordering::SeqCst);
    }

    fn open(&self) {
        self.slots.fetch_and(!CLOSED, Ordering::SeqCst);
    }

    /// Takes a slot, if one is free.
    fn take(&self) -> bool {
        let free = |slots: u32| (slots < self.capacity).then_some(slots + 1);
        let taken = self
            .slots
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, free)
            .is_ok();
        if taken {
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    fn give_back(&self) {
        let before = self.slots.fetch_sub(1, Ordering::SeqCst);
        if before & !CLOSED == 1 {
            self.empty.notify_waiters();
        }
        if let Some(wear) = &self.wear {
            wear.request_done(self);
        }
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
    pub(crate) after_response: Duration,
}

impl Default for RequestLimits {
    /// Those of a manifest that says nothing: for a pool before its first list.
    fn default() -> Self {
        Self::from(&Limits::default())
    }
}

impl From<&Limits> for RequestLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            queue: limits.queue,
            timeout: limits.timeout,
            idle_timeout: limits.idle_timeout,
            boot_timeout: limits.boot_timeout,
            request_body: limits.request_body,
            header: limits.header,
            after_response: limits.after_response,
        }
    }
}

/// What a request meets when no dyno can be leased at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PoolState {
    /// The app's first release in this host is still to serve: wait in the queue (`app-starting` when it is full, or when
    /// the wait is longer than `boot_timeout`).
    Starting,
    /// Dynos serve, or are about to: wait in the queue (H11 when it is full, or the wait is longer than `timeout`;
    /// H20 if no dyno has become ready within `boot_timeout`).
    Serving,
    /// The formation has no web dynos: H14.
    NoDynos,
    /// All web dynos are in crash back-off: H10.
    Crashed,
}

/// The web dynos of one app; lives across releases.
pub(crate) struct WebPool {
    pub(crate) log: AppLog,
    snapshot: ArcSwap<Snapshot>,
    queue: Mutex<Queue>,
    /// How many wait; read without the lock by those who give a slot back, and by those who come.
    waiting: AtomicU32,
    /// Whether a release has published its dynos; changed under the queue's lock.
    has_served: AtomicBool,
}

impl WebPool {
    pub(crate) fn new(log: AppLog) -> Arc<Self> {
        Arc::new(Self {
            log,
            snapshot: ArcSwap::from_pointee(Snapshot::new(
                Vec::new(),
                PoolState::NoDynos,
                RequestLimits::default(),
            )),
            queue: Mutex::new(Queue::default()),
            waiting: AtomicU32::new(0),
            has_served: AtomicBool::new(false),
        })
    }

    /// From now on leases come from these. Leases of dynos that are gone from the list go on until they end.
    pub(crate) fn publish(
        &self,
        dynos: Vec<Arc<WebDyno>>,
        state: PoolState,
        limits: RequestLimits,
    ) {
        let mut queue = self.lock_queue();
        self.has_served.store(true, Ordering::SeqCst);
        let old = self.snapshot.load_full();
        let new = Arc::new(Snapshot::new(dynos, state, limits).after(&old));
        // The queue's lock is held: lists are made one after the other, and only here a dyno is marked with one.
        for dyno in new.dynos() {
            // Those that were here stay as they are: one whose instance has ended stays closed.
            if dyno.listed.swap(new.number(), Ordering::Relaxed) != old.number() {
                dyno.open();
            }
        }
        self.snapshot.store(new.clone());
        for dyno in old.dynos() {
            if dyno.listed.load(Ordering::Relaxed) != new.number() {
                dyno.close();
            }
        }
        if let Some(code) = new.refusal() {
            queue.refuse_all(code);
        }
        // Slots taken here are handed over after the lock is free.
        self.serve(queue, &new);
    }

    /// The app's first release is still to come: until its first list requests wait for it, within these limits.
    /// Whether that is new.
    pub(crate) fn expect(&self, limits: RequestLimits) -> bool {
        self.before_first_list(PoolState::Starting, limits)
    }

    /// It does not come, and nobody waits for it: H14, until the app is expected again.
    pub(crate) fn give_up(&self) {
        let limits = (*self.limits()).clone();
        self.before_first_list(PoolState::NoDynos, limits);
    }

    /// Changes nothing for an app that has served: its dynos say what requests meet. Whether the state is another one.
    fn before_first_list(&self, state: PoolState, limits: RequestLimits) -> bool {
        let mut queue = self.lock_queue();
        if self.has_served.load(Ordering::SeqCst) {
            return false;
        }
        let new = Snapshot::new(Vec::new(), state, limits);
        if let Some(code) = new.refusal() {
            self.refuse_all(&mut queue, code);
        }
        let before = self.snapshot.swap(Arc::new(new));
        before.state() != state
    }

    /// Whether a release has published its dynos.
    pub(crate) fn has_served(&self) -> bool {
        self.has_served.load(Ordering::SeqCst)
    }

    /// The host is about to end: who waits for an app that is starting is told so at once.
    pub(crate) fn refuse_early(&self) {
        let mut queue = self.lock_queue();
        if !self.has_served.load(Ordering::SeqCst) {
            self.refuse_all(&mut queue, RouterCode::AppStarting);
        }
    }

    fn refuse_all(&self, queue: &mut Queue, code: RouterCode) {
        queue.refuse_all(code);
        self.waiting.store(queue.count(), Ordering::SeqCst);
    }

    /// The host is about to end: guests with long requests (WebSockets, event streams) must hear it before these are
    /// waited for, and requests under way go on.
    pub(crate) fn announce_end(&self) {
        for dyno in self.snapshot.load().dynos() {
            match &dyno.backend {
                Backend::Listening(upstream) => upstream.announce_end(),
                Backend::Live { instance, .. } => instance.announce_stop(),
                // Its instances have one request each, and hear nothing.
                Backend::Fresh(_) => {}
                #[cfg(test)]
                Backend::Fake { .. } => {}
            }
        }
    }

    /// What the router enforces now.
    pub(crate) fn limits(&self) -> Arc<RequestLimits> {
        self.snapshot.load().limits.clone()
    }

    /// How many requests wait for a dyno.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// A slot of a dyno for a request accepted on `core`: the less busy of two free dynos of its own core,
    /// another core's only when none of these has a slot. (A `Fresh` dyno is of every core.)
    pub(crate) async fn lease(self: &Arc<Self>, core: Option<CoreId>) -> Result<Lease, RouterCode> {
        if let Some(core) = core
            && self.snapshot.load().has_elsewhere(core)
        {
            // The guests of this core may be about to give slots back, and only wait for this task to let them run; to a
            // guest of 0.3 a call across cores costs two wake-ups of a thread. Where others wait in the queue already,
            // slots go to them.
            for _ in 0..TURNS {
                if self.waiting.load(Ordering::SeqCst) > 0 {
                    break;
                }
                if let Some(lease) = self.lease_now(|list| list.choose_near(core)) {
                    return Ok(lease);
                }
                tokio::task::yield_now().await;
            }
        }
        match self.lease_now(|list| list.choose(core)) {
            Some(lease) => Ok(lease),
            None => self.wait(core).await,
        }
    }

    /// A slot, unless others wait for one already.
    fn lease_now(
        self: &Arc<Self>,
        choose: impl FnOnce(&Snapshot) -> Option<Arc<WebDyno>>,
    ) -> Option<Lease> {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            return None;
        }
        let dyno = choose(&self.snapshot.load())?;
        Some(Lease {
            pool: self.clone(),
            dyno,
        })
    }

    async fn wait(self: &Arc<Self>, core: Option<CoreId>) -> Result<Lease, RouterCode> {
        let mut place = self.stand_in_line(core)?;
        let arrived = Instant::now();
        loop {
            // The list may change while we wait, and with it what we wait for.
            let (deadline, code) = self.snapshot.load().deadline(arrived);
            let now = Instant::now();
            if deadline <= now {
                return place.answer.try_recv().unwrap_or(Err(code));
            }
            let soonest = self.snapshot.load().shortest_wait();
            tokio::select! {
                biased;
                answer = &mut place.answer => {
                    // The queue answers whom it removes; if it ever did not, nobody would any more.
                    return answer.unwrap_or(Err(RouterCode::H11));
                }
                () = tokio::time::sleep_until(deadline.min(now + soonest)) => {}
            }
        }
    }

    /// Joins the queue's end; or, where a slot is free after all, takes the answer along.
    fn stand_in_line(self: &Arc<Self>, core: Option<CoreId>) -> Result<Place, RouterCode> {
        let mut queue = self.lock_queue();
        let snapshot = self.snapshot.load_full();
        if let Some(code) = snapshot.refusal() {
            return Err(code);
        }
        if queue.len() >= snapshot.limits.queue as usize && queue.len() > 0 {
            return Err(snapshot.no_place());
        }
        let (send, answer) = oneshot::channel();
        let id = queue.push(core, self.clone(), send);
        self.waiting.store(queue.count(), Ordering::SeqCst);
        // A slot given back before `waiting` was stored did not see us: look once more, for whoever is first.
        let place = Place {
            pool: self.clone(),
            id,
            answer,
        };
        let free = self.serve(queue, &snapshot);
        if !free && snapshot.limits.queue == 0 {
            return Err(snapshot.no_place());
        }
        Ok(place)
    }

    /// Hands free slots to those who wait, in their order; whether anybody was served.
    fn serve(&self, mut queue: MutexGuard<'_, Queue>, snapshot: &Snapshot) -> bool {
        let mut served = Vec::new();
        while let Some(core) = queue.first_core() {
            let Some(dyno) = snapshot.choose(core) else {
                break;
            };
            match queue.pop() {
                Some(waiter) => served.push((waiter, dyno)),
                None => dyno.give_back(),
            }
        }
        self.waiting.store(queue.count(), Ordering::SeqCst);
        drop(queue);
        let any = !served.is_empty();
        for (waiter, dyno) in served {
            // If it has gone away meanwhile, the lease comes back here and its drop serves the next.
            let Waiter { pool, answer, .. } = waiter;
            drop(answer.send(Ok(Lease { pool, dyno })));
        }
        any
    }

    fn slot_is_free(&self) {
        let queue = self.lock_queue();
        let snapshot = self.snapshot.load_full();
        self.serve(queue, &snapshot);
    }

    fn lock_queue(&self) -> MutexGuard<'_, Queue> {
        // No invariant spans a panic here.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue; left on drop, without a trace.
struct Place {
    pool: Arc<WebPool>,
    id: u64,
    answer: oneshot::Receiver<Result<Lease, RouterCode>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queue = self.pool.lock_queue();
        // The waiter is dropped after the lock is free.
        let _gone = queue.remove(self.id);
        self.pool.waiting.store(queue.count(), Ordering::SeqCst);
        drop(queue);
    }
}

/// The right to send one request to one dyno; given back on drop. Shared by the request's exchange and its guest: the
/// later of the two gives it back, so that a guest which goes on after its answer keeps its slot.
pub(crate) struct Lease {
    pool: Arc<WebPool>,
    dyno: Arc<WebDyno>,
}

impl Lease {
    /// Of its app.
    pub(crate) fn log(&self) -> &AppLog {
        &self.pool.log
    }

    /// Whose slot it is.
    pub(crate) fn dyno(&self) -> &Arc<WebDyno> {
        &self.dyno
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.dyno.give_back();
        if self.pool.waiting.load(Ordering::SeqCst) > 0 {
            self.pool.slot_is_free();
        }
    }
}
