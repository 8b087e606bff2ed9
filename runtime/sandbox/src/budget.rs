//! What one instance may make the host hold, in bytes: its linear memories and tables, and what the host keeps for it
//! (bodies on their way out, field sets). All of it is charged to `limits.memory` and to the dyno's meter.
//!
//! A [`Charge`] belongs to the bytes themselves and is given back when they are dropped, wherever they are by then: in
//! a channel, in a connection's buffer, with a slow client. It may outlive the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::meter::Meter;

/// Bytes that the host holds for an instance beyond its `memory` before they count towards that limit. Without it, a
/// guest whose linear memory fills its limit could answer nothing. So one instance costs at most `memory` and this.
pub(crate) const HELD_FREE: u64 = 1 << 20;

/// The account of one store.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    /// Linear memories and tables.
    used: AtomicU64,
    /// What the host keeps for the guest.
    held: AtomicU64,
    /// Whether memory was refused: a trap after this is a memory error.
    refused: AtomicBool,
    /// Tells writers that wait when something was given back.
    freed: Notify,
    meter: Arc<Meter>,
}

impl Budget {
    pub(crate) fn new(limit: u64, meter: Arc<Meter>) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicU64::new(0),
            held: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            freed: Notify::new(),
            meter,
        })
    }

    /// Whether the guest was refused memory at any time.
    pub(crate) fn refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// The limit, in bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Notes that the guest was refused memory.
    pub(crate) fn refuse(&self) {
        self.refused.store(true, Relaxed);
    }

    fn fits(&self, used: u64, held: u64) -> bool {
        used.saturating_add(held.saturating_sub(HELD_FREE)) <= self.limit
    }

    /// A memory or table grows by this; `false`: it may not. Only the store's own thread calls this.
    pub(crate) fn grow(&self, more: u64) -> bool {
        let used = self.used.load(Relaxed).saturating_add(more);
        if !self.fits(used, self.held.load(Relaxed)) {
            self.refuse();
            return false;
        }
        self.used.store(used, Relaxed);
        self.meter.memory_bytes.fetch_add(more, Relaxed);
        true
    }

    /// The memories and tables are gone.
    pub(crate) fn release_memory(&self) {
        let used = self.used.swap(0, Relaxed);
        self.meter.memory_bytes.fetch_sub(used, Relaxed);
    }

    /// How many bytes more the host may hold.
    pub(crate) fn room(&self) -> u64 {
        let (used, held) = (self.used.load(Relaxed), self.held.load(Relaxed));
        self.limit
            .saturating_sub(used)
            .saturating_add(HELD_FREE)
            .saturating_sub(held)
    }

    /// Charges what the host is to hold; `None`: it is too much.
    pub(crate) fn hold(self: &Arc<Self>, bytes: u64) -> Option<Charge> {
        // First added, so that two threads cannot both take the last of it.
        let held = self.held.fetch_add(bytes, Relaxed).saturating_add(bytes);
        if !self.fits(self.used.load(Relaxed), held) {
            self.held.fetch_sub(bytes, Relaxed);
            return None;
        }
        self.meter.held_bytes.fetch_add(bytes, Relaxed);
        Some(Charge {
            budget: self.clone(),
            bytes,
        })
    }

    /// Waits until at least `bytes` may be held. Whoever asks for more than there can ever be waits for ever.
    pub(crate) async fn until_room(&self, bytes: u64) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // First registered, then asked: what is given back in between is not missed.
            freed.as_mut().enable();
            if self.room() >= bytes {
                return;
            }
            freed.await;
        }
    }
}

/// Bytes that are charged until this is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Charge {
    /// These bytes, which carry the charge wherever they go.
    pub(crate) fn on(self, bytes: Bytes) -> Bytes {
        struct Charged(
            Bytes,
            #[expect(dead_code, reason = "held for its drop")] Charge,
        );
        impl AsRef<[u8]> for Charged {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        Bytes::from_owner(Charged(bytes, self))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Relaxed);
        self.budget.meter.held_bytes.fetch_sub(self.bytes, Relaxed);
        self.budget.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn memory_and_what_the_host_holds_share_one_limit() {
        let meter = Arc::new(Meter::default());
        let budget = Budget::new(4 * MIB, meter.clone());
        assert!(budget.grow(2 * MIB));
        // The rest of the limit, and what is free.
        assert_eq!(budget.room(), 3 * MIB);
        let first = budget.hold(2 * MIB).unwrap();
        assert!(budget.hold(2 * MIB).is_none());
        assert!(!budget.refused(), "the guest can wait");
        let second = budget.hold(MIB).unwrap();
        assert_eq!(
            (meter.memory_bytes(), meter.held_bytes()),
            (2 * MIB, 3 * MIB)
        );
        assert!(!budget.grow(1));
        assert!(budget.refused());
        drop(first);
        assert!(budget.grow(2 * MIB));
        drop(second);
        assert_eq!(meter.held_bytes(), 0);
        budget.release_memory();
        assert_eq!(meter.memory_bytes(), 0);
    }

    #[test]
    fn a_guest_that_fills_its_memory_can_still_answer() {
        let budget = Budget::new(MIB, Arc::default());
        assert!(budget.grow(MIB));
        assert!(budget.hold(HELD_FREE).is_some());
        assert!(budget.hold(HELD_FREE + 1).is_none());
    }

    #[tokio::test]
    async fn a_charge_goes_with_its_bytes_and_wakes_who_waits() {
        let budget = Budget::new(0, Arc::default());
        let bytes = budget
            .hold(HELD_FREE)
            .unwrap()
            .on(Bytes::from_static(b"abc"));
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!(&part[..], b"bc");
        assert_eq!(budget.room(), 0);
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.until_room(HELD_FREE).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(part);
        waiting.await.unwrap();
    }
}
