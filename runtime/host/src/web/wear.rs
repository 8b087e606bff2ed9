//! When the instance of a web dyno has served its time: after `max_requests`, or when it is about to reach its
//! memory limit. Formation then replaces it, one dyno after the other, before anything fails.

use std::fmt;
use std::sync::Arc;

use oarlock_sandbox::Meter;
use tokio::sync::Notify;

use super::WebDyno;

/// Of `max_requests`, at most this share is taken off, at random for each instance: dynos that started together and
/// share their load evenly would otherwise be replaced together.
const SPREAD: f64 = 0.25;

/// Of `memory`, in percent: an instance that has more than this is replaced.
const MEMORY_PERCENT: u64 = 90;

/// What wears an instance out.
pub(crate) struct Wear {
    /// Replaced after so many requests.
    requests: Option<u64>,
    /// Its limit, in bytes.
    memory: u64,
    meter: Arc<Meter>,
    /// Its memory when it had started: a guest that needs nearly all of its limit to start would be replaced by
    /// one that is no better.
    at_start: u64,
    changed: Notify,
}

/// Why an instance is to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WearReason {
    /// It has served so many.
    Requests(u64),
    /// It has so many bytes, of its limit.
    Memory(u64, u64),
}

impl fmt::Display for WearReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests(served) => write!(
                f,
                "Replacing the process after {served} requests, as `max_requests` in `[limits]` says"
            ),
            Self::Memory(used, limit) => write!(
                f,
                "Replacing the process before it fails: its memory grew to {used} of {limit} bytes"
            ),
        }
    }
}

impl Wear {
    /// Of an instance that has just started; `random` is from 0 to 1.
    pub(crate) fn new(
        max_requests: Option<u64>,
        memory: u64,
        meter: Arc<Meter>,
        random: f64,
    ) -> Self {
        Self {
            requests: max_requests.map(|most| share(most, random)),
            memory,
            at_start: meter.memory_bytes(),
            meter,
            changed: Notify::new(),
        }
    }

    /// A slot was given back. A load or two on the usual path.
    pub(super) fn request_done(&self, dyno: &WebDyno) {
        if self.look(dyno).is_some() {
            self.changed.notify_one();
        }
    }

    pub(super) async fn worn(&self, dyno: &WebDyno) -> WearReason {
        loop {
            // Looked at after this is heard: a long request (a WebSocket, a stream) may use up all memory by itself.
            let mut grew = std::pin::pin!(self.meter.memory_grew());
            grew.as_mut().enable();
            if let Some(worn) = self.look(dyno) {
                return worn;
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = grew => {}
            }
        }
    }

    fn look(&self, dyno: &WebDyno) -> Option<WearReason> {
        let served = dyno.requests();
        if self.requests.is_some_and(|most| served >= most) {
            return Some(WearReason::Requests(served));
        }
        let threshold = self.memory / 100 * MEMORY_PERCENT;
        let used = self.meter.memory_bytes();
        (used > threshold && self.at_start <= threshold)
            .then_some(WearReason::Memory(used, self.memory))
    }
}

/// `most`, less a random part of [`SPREAD`]; at least one.
fn share(most: u64, random: f64) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share need not be exact"
    )]
    let less = (most as f64 * SPREAD * random.clamp(0.0, 1.0)) as u64;
    most.saturating_sub(less).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_that_start_together_are_not_replaced_together() {
        assert_eq!(share(1_000, 0.0), 1_000);
        assert_eq!(share(1_000, 1.0), 750);
        assert_eq!(share(1_000, 0.5), 875);
        assert_eq!(share(1, 1.0), 1);
        assert_eq!(share(3, 1.0), 3);
    }
}
