//! Memory of one instance: linear memories, tables and what is charged to it besides, kept under `limits.memory` together.
//!
//! wasmtime asks per memory and per table; this sums over the store. It answers at once: an async
//! limiter would freeze everything else that runs in the store (wasmtime #11869).

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use wasmtime::ResourceLimiter;

use crate::meter::Meter;

/// Bytes that one table element takes.
const TABLE_ELEMENT: u64 = size_of::<usize>() as u64;

/// Core instances, memories and tables of one store. Components of real toolchains need a dozen;
/// the memory limit is what bounds them.
const ITEMS: usize = 1_000;

/// Sums and limits the memory of one store, and reports it to the dyno's meter.
pub(crate) struct MemoryLimiter {
    limit: u64,
    used: u64,
    /// Whether an allocation was refused: a trap after this is a memory error.
    refused: bool,
    meter: Arc<Meter>,
    /// What the host holds for the guest; made with the first charge.
    held: Option<Arc<Held>>,
}

/// What the host holds for a guest: it counts against the guest's limit, but not against its engine's.
struct Held {
    bytes: AtomicU64,
    meter: Arc<Meter>,
}

/// So many bytes that the host holds for a guest, until it is dropped.
pub(crate) struct Charge {
    held: Arc<Held>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.held.bytes.fetch_sub(self.bytes, Relaxed);
        self.held.meter.memory_bytes.fetch_sub(self.bytes, Relaxed);
    }
}

impl MemoryLimiter {
    pub(crate) fn new(limit: u64, meter: Arc<Meter>) -> Self {
        Self {
            limit,
            used: 0,
            refused: false,
            meter,
            held: None,
        }
    }

    /// Charges what the host is to hold for the guest; `None`: it would be above the limit.
    pub(crate) fn charge(&mut self, bytes: u64) -> Option<Charge> {
        let total = self.used.saturating_add(self.held()).saturating_add(bytes);
        if total > self.limit {
            return None;
        }
        let held = self.held.get_or_insert_with(|| {
            Arc::new(Held {
                bytes: AtomicU64::new(0),
                meter: self.meter.clone(),
            })
        });
        held.bytes.fetch_add(bytes, Relaxed);
        self.meter.memory_bytes.fetch_add(bytes, Relaxed);
        Some(Charge {
            held: held.clone(),
            bytes,
        })
    }

    fn held(&self) -> u64 {
        self.held
            .as_ref()
            .map_or(0, |held| held.bytes.load(Relaxed))
    }

    /// Whether the guest was refused memory at any time.
    pub(crate) fn refused(&self) -> bool {
        self.refused
    }

    fn grow(&mut self, current: u64, desired: u64) -> bool {
        let more = desired.saturating_sub(current);
        let used = self.used.saturating_add(more);
        if used.saturating_add(self.held()) > self.limit {
            self.refused = true;
            return false;
        }
        self.used = used;
        self.meter.memory_bytes.fetch_add(more, Relaxed);
        // What an instance starts with is no growth.
        if current > 0 {
            self.meter.memory_grew.notify_waiters();
        }
        true
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // The component's own maximum is no fault of the limit's.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.grow(current as u64, desired as u64))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.grow(
            current as u64 * TABLE_ELEMENT,
            desired as u64 * TABLE_ELEMENT,
        ))
    }

    fn instances(&self) -> usize {
        ITEMS
    }

    fn tables(&self) -> usize {
        ITEMS
    }

    fn memories(&self) -> usize {
        ITEMS
    }
}

impl Drop for MemoryLimiter {
    fn drop(&mut self) {
        self.meter.memory_bytes.fetch_sub(self.used, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_are_summed_and_returned() {
        let meter = Arc::new(Meter::default());
        let mut limiter = MemoryLimiter::new(1_000, meter.clone());
        assert!(limiter.memory_growing(0, 600, None).unwrap());
        assert!(limiter.table_growing(0, 50, None).unwrap());
        assert_eq!(meter.memory_bytes(), 1_000);
        assert!(!limiter.refused());
        assert!(!limiter.memory_growing(600, 601, None).unwrap());
        assert!(limiter.refused());
        drop(limiter);
        assert_eq!(meter.memory_bytes(), 0);
    }

    #[test]
    fn what_the_host_holds_counts_until_it_lets_go() {
        let meter = Arc::new(Meter::default());
        let mut limiter = MemoryLimiter::new(1_000, meter.clone());
        assert!(limiter.memory_growing(0, 600, None).unwrap());
        assert!(limiter.charge(401).is_none());
        let charge = limiter.charge(400).unwrap();
        assert_eq!(meter.memory_bytes(), 1_000);
        assert!(limiter.charge(1).is_none());
        // The guest was told so, and did not trap.
        assert!(!limiter.refused());
        assert!(!limiter.memory_growing(600, 601, None).unwrap());
        drop(charge);
        assert!(limiter.memory_growing(600, 1_000, None).unwrap());
        // It may outlive the store.
        assert!(!limiter.memory_growing(1_000, 1_001, None).unwrap());
        drop(limiter);
        assert_eq!(meter.memory_bytes(), 0);
    }

    #[test]
    fn a_components_own_maximum_is_no_memory_error() {
        let mut limiter = MemoryLimiter::new(1_000, Arc::default());
        assert!(!limiter.memory_growing(0, 600, Some(500)).unwrap());
        assert!(!limiter.refused());
    }
}
