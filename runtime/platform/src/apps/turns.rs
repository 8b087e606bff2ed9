//! How many apps do at the same time what is dear, at a start above all.
//!
//! A bound for each resource, and none for all apps together: what one app waits for is no place of another's. A place
//! is given on when it was held for [`Turn::longest`], though the work goes on: a build or a release phase that hangs
//! holds others up for that long and no longer. What ends it are its own deadlines.

use std::time::Duration;

use tokio::sync::Semaphore;

/// The bounds of one host.
pub(crate) struct Turns {
    /// Reading an app's folder, its records and its slug.
    pub(crate) reading: Turn,
    /// Build commands.
    pub(crate) building: Turn,
    /// Bringing up a release: its components, its release phase, its dynos. (Compiling has a bound in the host.)
    pub(crate) releasing: Turn,
}

impl Turns {
    /// `builds`: the policy's `[build] at_once`.
    pub(crate) fn new(builds: u32) -> Self {
        let builds = usize::try_from(builds).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            // Each of them has a blocking thread.
            reading: Turn::new(8, Duration::from_secs(10), 64),
            // Each may take what the policy's `[build]` allows: a toolchain uses all cores, and gigabytes. An app has one
            // build at a time. Builds that hang hold up nobody until they have all places, and then the next until the first
            // of them has had its `[build] timeout`; who waits comes before them, for `serve` builds each app once.
            building: Turn::new(2, Duration::from_secs(20), builds),
            // As many boots as a small machine gets done in time; release phases that wait are bounded by their apps.
            releasing: Turn::new(8, Duration::from_secs(5), Semaphore::MAX_PERMITS),
        }
    }
}

/// One of the bounds.
pub(crate) struct Turn {
    /// Those that have begun lately.
    lately: Semaphore,
    /// How long one counts as such.
    longest: Duration,
    /// All that have begun.
    all: Semaphore,
}

impl Turn {
    /// At most `at_once` begin within `longest`, and `most` are under way.
    pub(crate) fn new(at_once: usize, longest: Duration, most: usize) -> Self {
        Self {
            lately: Semaphore::new(at_once),
            longest,
            all: Semaphore::new(most),
        }
    }

    /// Does the work when its turn has come. Cancel safe as far as the work is.
    pub(crate) async fn take<T>(&self, work: impl Future<Output = T>) -> T {
        // Neither is ever closed. In this order, so that who waits for a place holds up nobody who has one.
        let _place = self.all.acquire().await;
        let turn = self.lately.acquire().await;
        let mut work = std::pin::pin!(work);
        if let Ok(done) = tokio::time::timeout(self.longest, work.as_mut()).await {
            return done;
        }
        drop(turn);
        work.await
    }
}

#[cfg(test)]
impl Default for Turns {
    fn default() -> Self {
        Self::new(oarlock_spec::policy::BuildLimits::default().at_once)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_hangs_gives_its_turn_on_and_keeps_its_place() {
        let turn = Turn::new(1, Duration::from_secs(5), 3);
        let begun = AtomicUsize::new(0);
        let hang = || {
            turn.take(async {
                begun.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
            })
        };
        let quick = turn.take(async { begun.load(Ordering::SeqCst) });
        tokio::select! {
            () = async { tokio::join!(hang(), hang()); } => unreachable!("they hang"),
            seen = async { tokio::time::sleep(Duration::from_millis(1)).await; quick.await } => {
                assert_eq!(seen, 2, "it began after both had their turns");
            }
        }
        begun.store(0, Ordering::SeqCst);
        tokio::select! {
            () = async { tokio::join!(hang(), hang(), hang(), hang()); } => unreachable!("they hang"),
            () = tokio::time::sleep(Duration::from_secs(100)) => {}
        }
        assert_eq!(begun.load(Ordering::SeqCst), 3, "the fourth finds no place");
    }

    /// When a build begins that comes last, after so many that hang until their timeout of 15 minutes.
    async fn last_begins(hanging: usize) -> Duration {
        const TIMEOUT: Duration = Duration::from_secs(15 * 60);
        let turns = Turns::default();
        let began = tokio::time::Instant::now();
        let hang = || turns.building.take(tokio::time::sleep(TIMEOUT));
        let hanging = futures::future::join_all((0..hanging).map(|_| hang()));
        let last = async {
            // Behind all of them.
            tokio::time::sleep(Duration::from_millis(1)).await;
            turns.building.take(async { began.elapsed() }).await
        };
        tokio::join!(hanging, last).1
    }

    #[tokio::test(start_paused = true)]
    async fn builds_that_hang_hold_up_the_others_for_seconds_unless_they_have_all_places() {
        // Two begin in 20 s.
        assert!(last_begins(2).await <= Duration::from_secs(21));
        assert!(last_begins(15).await <= Duration::from_secs(141 + 20));
        // Then until the first has ended, and no longer.
        let full = last_begins(16).await;
        assert!((900..=901).contains(&full.as_secs()), "{full:?}");
    }
}
