//! The stop signal of a dyno.

use std::time::{Duration, Instant};

use super::time::{first, sleep};
use crate::backend;

/// Tells a worker that it is to stop: a new release has taken over, the formation shrank or the host
/// shuts down. It should finish what it is doing and return; `stop_grace` later (30 s by default) it
/// is ended.
#[derive(Debug, Clone)]
pub struct Stopping(());

impl Stopping {
    pub(crate) fn new() -> Stopping {
        Stopping(())
    }

    /// Returns when this dyno is to stop; at once if it already was.
    pub async fn wait(&self) {
        backend::stopping().await;
    }

    /// Whether this dyno is to stop, for long computations that never wait.
    pub fn is_set(&self) -> bool {
        backend::stopping_now()
    }

    /// Waits for `future`, but no longer than until the dyno is to stop: then it is dropped, and this is
    /// `None`.
    pub async fn race<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let stopped = async {
            self.wait().await;
            None
        };
        first(stopped, async { Some(future.await) }).await
    }

    /// Waits that long, but no longer than until the dyno is to stop. `true`: the time is over;
    /// `false`: stop.
    pub async fn sleep(&self, duration: Duration) -> bool {
        self.race(sleep(duration)).await.is_some()
    }

    /// Ticks at once and then once in each `period`, until the dyno is to stop.
    pub fn every(&self, period: Duration) -> Interval {
        Interval {
            stopping: self.clone(),
            clock: Clock {
                period,
                next: Instant::now(),
            },
        }
    }
}

/// Ticks until the dyno is to stop; made by [`Stopping::every`].
#[derive(Debug)]
pub struct Interval {
    stopping: Stopping,
    clock: Clock,
}

impl Interval {
    /// Waits for the next tick. `false`: stop. Ticks missed meanwhile are skipped, and the rhythm is
    /// kept.
    pub async fn tick(&mut self) -> bool {
        let wait = self.clock.wait(Instant::now());
        self.stopping.sleep(wait).await
    }
}

#[derive(Debug)]
struct Clock {
    period: Duration,
    next: Instant,
}

impl Clock {
    /// How long until the tick that is due next; after it comes the first one that lies ahead of it.
    fn wait(&mut self, now: Instant) -> Duration {
        let wait = self.next.saturating_duration_since(now);
        let late = now.saturating_duration_since(self.next);
        // A period of zero has no rhythm to keep.
        let missed = late
            .as_nanos()
            .checked_div(self.period.as_nanos())
            .unwrap_or(0);
        self.next += self.period * u32::try_from(missed + 1).unwrap_or(u32::MAX);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_keep_their_rhythm_and_skip_what_was_missed() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut clock = Clock {
            period: Duration::from_millis(100),
            next: start,
        };
        assert_eq!(clock.wait(start), Duration::ZERO);
        assert_eq!(clock.wait(after(30)), Duration::from_millis(70));
        // Due at 200, asked at 450: at once, and the next one at 500.
        assert_eq!(clock.wait(after(450)), Duration::ZERO);
        assert_eq!(clock.wait(after(460)), Duration::from_millis(40));
    }

    #[test]
    fn a_period_of_zero_never_waits() {
        let start = Instant::now();
        let mut clock = Clock {
            period: Duration::ZERO,
            next: start,
        };
        assert_eq!(clock.wait(start + Duration::from_secs(1)), Duration::ZERO);
    }
}
