//! The wall clock that cron goes by; tests bring their own.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use jiff::Timestamp;

/// A wall clock. Scheduled processes go by it; timeouts and back-off do not.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;
    /// Resolves at `deadline` or shortly after; at once if that is past. May resolve early: the
    /// caller looks at [`Clock::now`] again.
    fn sleep_until(&self, deadline: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// A timer does not see the wall clock being set or the machine asleep, so no sleep is longer.
const LONGEST_SLEEP: Duration = Duration::from_secs(20);

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn sleep_until(&self, deadline: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let left = Duration::try_from(deadline.duration_since(self.now())).unwrap_or_default();
            tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
        })
    }
}
