//! When a dyno or a native child that ended by itself is started again.

use std::time::{Duration, Instant};

/// The rule: the first crash restarts at once, each further one waits twice as long as the one
/// before, up to a cap; a healthy run starts the count anew.
#[derive(Debug, Clone, Copy)]
pub struct RestartPolicy {
    /// The wait after the second crash in a row.
    pub first: Duration,
    /// No wait is longer, jitter aside.
    pub cap: Duration,
    /// Having been up this long, a dyno counts as healthy.
    pub healthy: Duration,
    /// Each wait is this share longer or shorter at random, so that dynos that crash for one
    /// reason do not come back in one moment.
    pub jitter: f64,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            cap: Duration::from_secs(120),
            healthy: Duration::from_secs(20),
            jitter: 0.2,
        }
    }
}

/// The crashes in a row of one place.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    crashes: u32,
}

impl Backoff {
    /// Counts a crash of a dyno that was up since `up_since` (`None`: it never was), and says how
    /// long to wait. `random` is from 0 to 1.
    pub fn crashed(
        &mut self,
        policy: &RestartPolicy,
        up_since: Option<Instant>,
        now: Instant,
        random: f64,
    ) -> Duration {
        if up_since.is_some_and(|since| now.saturating_duration_since(since) >= policy.healthy) {
            self.crashes = 0;
        }
        self.crashes = self.crashes.saturating_add(1);
        // The third crash waits 2^1 times the first wait; 2^20 of anything is above the cap.
        let Some(doublings) = self.crashes.checked_sub(2) else {
            return Duration::ZERO;
        };
        let wait = policy
            .first
            .saturating_mul(1 << doublings.min(20))
            .min(policy.cap);
        wait.mul_f64(1.0 + policy.jitter * (2.0 * random.clamp(0.0, 1.0) - 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_crash_is_immediate_then_waits_double_up_to_the_cap() {
        let policy = RestartPolicy {
            jitter: 0.0,
            ..RestartPolicy::default()
        };
        let now = Instant::now();
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12)
            .map(|_| backoff.crashed(&policy, Some(now), now, 0.5).as_millis())
            .collect();
        assert_eq!(
            waits,
            [
                0, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 120_000, 120_000, 120_000
            ]
        );
    }

    #[test]
    fn a_healthy_run_starts_the_count_anew() {
        let policy = RestartPolicy {
            jitter: 0.0,
            ..RestartPolicy::default()
        };
        let start = Instant::now();
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.crashed(&policy, Some(start), start, 0.5);
        }
        let later = start + policy.healthy;
        assert_eq!(
            backoff.crashed(&policy, Some(start), later, 0.5),
            Duration::ZERO
        );
        assert_eq!(
            backoff.crashed(&policy, Some(later), later, 0.5),
            policy.first
        );
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let policy = RestartPolicy::default();
        let now = Instant::now();
        for (random, expected) in [(0.0, 400), (0.5, 500), (1.0, 600)] {
            let mut backoff = Backoff::default();
            backoff.crashed(&policy, None, now, random);
            assert_eq!(
                backoff.crashed(&policy, None, now, random).as_millis(),
                expected
            );
        }
    }
}
