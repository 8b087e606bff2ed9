//! What a dyno has used: counters that anyone may read while it runs.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::pace::{Pace, Turn};

/// Counters of one dyno over all its instances.
#[derive(Debug, Default)]
pub struct Meter {
    pub(crate) cpu_nanos: AtomicU64,
    pub(crate) memory_bytes: AtomicU64,
    pub(crate) held_bytes: AtomicU64,
    pub(crate) memory_grew: Notify,
    pub(crate) requests: AtomicU64,
    pub(crate) pace: Pace,
}

impl Meter {
    pub(crate) fn new(pace: Pace) -> Self {
        Self {
            pace,
            ..Self::default()
        }
    }
    /// Guest CPU time so far, in nanoseconds: wall time of the guest's turns on its core, which
    /// includes what the machine ran in between; on a thread of low priority, processor time.
    pub fn cpu_nanos(&self) -> u64 {
        self.cpu_nanos.load(Ordering::Relaxed)
    }
    /// Linear memories and tables of live instances, now.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Ordering::Relaxed)
    }
    /// What the host holds for its instances beside these, now: bodies on their way out, field sets.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }
    /// Resolves when a live instance was given more memory than it started with, after this was called and enabled.
    pub fn memory_grew(&self) -> Notified<'_> {
        self.memory_grew.notified()
    }
    /// Requests handed to guests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

tokio::task_local! {
    /// The turn of the guest whose turn it is on this thread.
    static TURN: Turn;
}

thread_local! {
    static USED_UP: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// When a guest last used up its tick on this thread, and had to let others run; `None`: never.
pub fn last_used_up_tick() -> Option<Instant> {
    USED_UP.get()
}

pub(crate) fn has_used_up_tick() {
    USED_UP.set(Some(Instant::now()));
}

/// For how long the guest whose turn it is on this thread, which is of this dyno, has had it; `None`: it is nobody's. To
/// be asked where the guest can be interrupted.
pub(crate) fn turn(meter: &Meter) -> Option<Duration> {
    TURN.try_with(|turn| {
        meter.pace.check(turn);
        turn.elapsed()
    })
    .ok()
}

pin_project! {
    /// A guest's future, each of whose polls is charged to its dyno.
    pub(crate) struct Metered<F> {
        #[pin]
        guest: F,
        meter: Arc<Meter>,
    }
}

impl<F> Metered<F> {
    pub(crate) fn new(guest: F, meter: Arc<Meter>) -> Self {
        Self { guest, meter }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let pace = &this.meter.pace;
        let (result, spent) = TURN.sync_scope(pace.begin(), || {
            let result = this.guest.poll(cx);
            let spent = TURN.with(|turn| {
                pace.end(turn);
                turn.spent()
            });
            (result, spent)
        });
        let spent = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        this.meter.cpu_nanos.fetch_add(spent, Ordering::Relaxed);
        result
    }
}
