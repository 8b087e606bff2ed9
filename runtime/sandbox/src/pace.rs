//! Guests that cannot be interrupted in time.
//!
//! A guest is interrupted at loop heads and calls, each tick. In between lies one instruction or host call, and some of
//! these take long: one `memory.fill` of 120 MB takes 20 ms and more, during which its core's other guests wait; fifty
//! such guests in turn make them wait for a second. wasmtime has no setting that cuts these instructions up. So whoever
//! takes this long goes on by threads of low priority (`slow.rs`), where the kernel interrupts him, and so do all
//! instances of his dyno, until [`REMEMBERED`] after the last time.
//!
//! What counts is processor time, for a thread that the machine takes away is no fault of its guest's. It is a system
//! call to ask for it, so it is asked only of a dyno that has just taken long by the clock. And ticks must have come: where
//! the machine takes the ticker's thread away, nobody has tried to interrupt the guest.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::ticker::Ticks;

/// The most processor time that a guest may take between two points at which it can be interrupted. Usual guests take
/// the engine's tick, 1 ms.
pub(crate) const LONG: Duration = Duration::from_millis(5);

/// Ticks that come while a guest cannot be interrupted: after the first it has had time to stop until the second.
const LEAST_TICKS: u64 = 2;

/// For how long after the last time a dyno's instances stay on the threads of low priority, in milliseconds.
const REMEMBERED: u64 = 10_000;

/// For how long the processor time of a dyno is measured that has taken long by the clock, in milliseconds.
const SUSPECTED: u64 = 500;

/// How a dyno's guests keep to their turns.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Of its engine.
    ticks: Ticks,
    /// Until when its processor time is measured, by [`now`]; 0: it is not.
    suspected: AtomicU64,
    /// Until when its guests are slow, by [`now`]; 0: they are not.
    slow: AtomicU64,
    /// Its log is to be told.
    untold: AtomicBool,
}

impl Pace {
    pub(crate) fn new(ticks: Ticks) -> Self {
        Self {
            ticks,
            ..Self::default()
        }
    }

    /// Whether the guests belong to the threads of low priority.
    pub(crate) fn is_slow(&self) -> bool {
        is_before(&self.slow)
    }

    /// Whether its log is to be told of it; once each time that it becomes slow.
    pub(crate) fn is_untold(&self) -> bool {
        self.untold.load(Relaxed) && self.untold.swap(false, Relaxed)
    }

    /// Begins a turn.
    pub(crate) fn begin(&self) -> Turn {
        let is_suspected = is_before(&self.suspected) || is_before(&self.slow);
        let began = Instant::now();
        Turn {
            began,
            since: Cell::new(began),
            ticks: Cell::new(self.ticks.so_far()),
            processor: Cell::new(is_suspected.then(processor_time)),
            longest: Cell::new(Duration::ZERO),
            spent: Cell::new(Duration::ZERO),
        }
    }

    /// The guest whose turn it is can be interrupted here.
    pub(crate) fn check(&self, turn: &Turn) {
        let now = Instant::now();
        let mut stretch = now.duration_since(turn.since.replace(now));
        if let Some(before) = turn.processor.get() {
            let processor = processor_time();
            turn.processor.set(Some(processor));
            stretch = processor.saturating_sub(before);
        }
        let before = turn.ticks.replace(self.ticks.so_far());
        if is_long(stretch, turn.ticks.get().saturating_sub(before)) {
            turn.longest.set(turn.longest.get().max(stretch));
        }
        turn.spent.set(turn.spent.get().saturating_add(stretch));
    }

    /// Notes how a turn went that is over.
    pub(crate) fn end(&self, turn: &Turn) {
        self.check(turn);
        if turn.longest.get() < LONG {
            return;
        }
        if turn.processor.get().is_none() {
            self.suspected.store(now() + SUSPECTED, Relaxed);
            return;
        }
        if !self.is_slow() {
            self.untold.store(true, Relaxed);
        }
        self.slow.store(now() + REMEMBERED, Relaxed);
    }
}

/// Whether a stretch of a guest was longer than it may be, and not for want of ticks.
fn is_long(stretch: Duration, ticks: u64) -> bool {
    stretch >= LONG && ticks >= LEAST_TICKS
}

fn is_before(until: &AtomicU64) -> bool {
    let until = until.load(Relaxed);
    // The usual case needs no clock.
    until != 0 && now() < until
}

/// Milliseconds of the coarse clock.
fn now() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    millis(now.tv_sec, now.tv_nsec)
}

#[expect(
    clippy::cast_sign_loss,
    reason = "neither is negative: the clock counts from the machine's start"
)]
fn millis(seconds: i64, nanos: i64) -> u64 {
    seconds as u64 * 1_000 + nanos as u64 / 1_000_000
}

/// What this thread has computed so far.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// One turn of a guest on its thread.
pub(crate) struct Turn {
    began: Instant,
    /// The last point at which it could be interrupted.
    since: Cell<Instant>,
    /// The ticks then.
    ticks: Cell<u64>,
    /// The thread's processor time then; `None`: only the clock is looked at.
    processor: Cell<Option<Duration>>,
    /// The longest stretch so far that was too long.
    longest: Cell<Duration>,
    /// All of them.
    spent: Cell<Duration>,
}

impl Turn {
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// What it has taken until its last check: by the clock, or in processor time where that is measured, for a thread
    /// of low priority waits more than it computes.
    pub(crate) fn spent(&self) -> Duration {
        self.spent.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compute(pace: &Pace, time: Duration) {
        let before = processor_time();
        while processor_time() - before < time {
            std::hint::black_box(0);
        }
        for _ in 0..LEAST_TICKS {
            pace.ticks.count();
        }
    }

    #[test]
    fn who_was_not_interrupted_did_not_take_long() {
        assert!(is_long(LONG, LEAST_TICKS));
        assert!(!is_long(LONG, LEAST_TICKS - 1));
        assert!(!is_long(LONG / 2, 100));
    }

    #[test]
    fn a_guest_is_slow_when_it_computes_twice_for_long_without_a_check() {
        let pace = Pace::default();
        let turn = pace.begin();
        compute(&pace, LONG * 2);
        pace.end(&turn);
        assert!(
            !pace.is_slow(),
            "the machine may have taken the thread away"
        );
        let turn = pace.begin();
        compute(&pace, LONG * 2);
        pace.end(&turn);
        assert!(pace.is_slow());
        assert!(pace.is_untold());
        assert!(!pace.is_untold());
    }

    #[test]
    fn waiting_is_not_computing_and_checks_cut_a_turn() {
        let pace = Pace::default();
        for _ in 0..3 {
            let turn = pace.begin();
            std::thread::sleep(LONG * 2);
            pace.end(&turn);
        }
        for _ in 0..3 {
            let turn = pace.begin();
            for _ in 0..10 {
                compute(&pace, LONG / 5);
                pace.check(&turn);
            }
            pace.end(&turn);
        }
        assert!(!pace.is_slow());
    }

    #[test]
    fn a_slow_guest_is_charged_what_it_computes_and_not_what_it_waits() {
        let pace = Pace::default();
        pace.slow.store(u64::MAX, Relaxed);
        let turn = pace.begin();
        std::thread::sleep(LONG * 2);
        compute(&pace, LONG);
        pace.check(&turn);
        assert!(turn.spent() >= LONG && turn.spent() < turn.elapsed() - LONG);
    }
}
