//! What a shared instance's task and its callers know of it together.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures::task::AtomicWaker;
use tokio_util::sync::CancellationToken;

use crate::after::{Hold, Load};
use crate::exchange::{CallRecord, Ending};
use crate::instance::InstanceEnd;

/// What the instance's task and its callers share.
pub(super) struct Known {
    /// Calls that the guest has, until they need it no more.
    running: Mutex<Vec<Running>>,
    /// Calls on their way to the guest.
    pub(super) waiting: AtomicUsize,
    /// Wakes the task when a caller is done, or the instance is retired.
    pub(super) wake: AtomicWaker,
    pub(super) retired: AtomicBool,
    /// The guest does nothing: it has no call, and no work of those it had.
    idle: AtomicBool,
    /// It has work after its answers; one of them keeps its slot.
    lingers: AtomicBool,
    /// It takes no calls for now.
    pub(super) paused: AtomicBool,
    pub(super) stopping: CancellationToken,
    pub(super) to_be_replaced: CancellationToken,
    pub(super) end: OnceLock<InstanceEnd>,
    pub(super) ended: CancellationToken,
}

/// A call that the guest has.
struct Running {
    call: Arc<CallRecord>,
    _hold: Hold,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
            waiting: AtomicUsize::new(0),
            wake: AtomicWaker::new(),
            retired: AtomicBool::new(false),
            idle: AtomicBool::new(true),
            lingers: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            to_be_replaced: CancellationToken::new(),
            end: OnceLock::new(),
            ended: CancellationToken::new(),
        }
    }
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of calls that are done; how many are left. As long as the guest works after its answers, or may do so, the
    /// last of them stays, and keeps its slot: wasmtime does not say whose the work is.
    pub(super) fn sweep(&self) -> usize {
        loop {
            let mut running = self.lock();
            let done = running.iter().filter(|it| it.call.is_done()).count();
            let is_last = done == running.len() || self.lingers.load(Ordering::Acquire);
            let kept = usize::from(is_last && !self.idle.load(Ordering::Acquire));
            if done <= kept {
                return running.len();
            }
            // One that was abandoned stands for nothing.
            let abandoned = |it: &Running| it.call.is_done() && it.call.is_abandoned();
            let first = running.iter().position(abandoned);
            let first = first.or_else(|| running.iter().position(|it| it.call.is_done()));
            let gone = first.map(|at| running.swap_remove(at));
            // What it holds may be another's code.
            drop(running);
            drop(gone);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Acquire)
    }

    /// Whether it has work after its answers, and whether it takes no calls for now.
    pub(super) fn set_work(&self, lingers: bool, paused: bool) {
        self.lingers.store(lingers, Ordering::Release);
        self.paused.store(paused, Ordering::Release);
    }

    /// All that the guest had to do is done.
    pub(super) fn set_idle(&self) {
        self.idle.store(true, Ordering::Release);
        self.set_work(false, false);
        self.sweep();
    }

    /// Calls whose callers still want something, or whose guest has not returned.
    pub(super) fn under_way(&self) -> usize {
        self.lock().iter().filter(|it| !it.call.is_done()).count()
    }

    pub(super) fn started(&self, call: &Arc<CallRecord>, hold: Hold) {
        self.idle.store(false, Ordering::Release);
        self.lock().push(Running {
            call: call.clone(),
            _hold: hold,
        });
    }

    /// What the guest has to do; and whether it has calls, all of them were abandoned, and no other call can come to it:
    /// it works for nobody. One that was abandoned beside others is swept away when it is done.
    pub(super) fn load(&self, at_once: usize) -> (Load, bool) {
        let mut load = Load {
            idle: self.idle.load(Ordering::Acquire),
            wanted: 0,
            abandoned: None,
        };
        let running = self.lock();
        let is_full = running.len() >= at_once;
        let mut under_way = 0;
        for it in running.iter() {
            let (done, abandoned) = (it.call.is_done(), it.call.abandoned_at());
            if done && abandoned.is_none() {
                continue;
            }
            under_way += 1;
            load.wanted += usize::from(abandoned.is_none());
            if !done {
                load.abandoned = [load.abandoned, abandoned].into_iter().flatten().min();
            }
        }
        let is_coming = self.waiting.load(Ordering::Acquire) > 0 && !is_full;
        (load, under_way > 0 && load.wanted == 0 && !is_coming)
    }

    /// Says how the instance ended, to its calls first; before its store is dropped.
    pub(super) fn finish(&self, ending: &Ending) {
        for it in self.lock().iter() {
            it.call.end(ending.clone());
        }
        let end = ending.clone().into();
        drop(self.end.set(end));
        self.ended.cancel();
    }
}

/// Says that the instance was killed, unless something else was said before.
pub(super) struct EndOnDrop<'a>(pub(super) &'a Known);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.finish(&Ending::Killed);
    }
}

/// Lets go of what the calls hold; to be dropped after the store.
pub(super) struct Release<'a>(pub(super) &'a Known);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        let running = std::mem::take(&mut *self.0.lock());
        drop(running);
    }
}
