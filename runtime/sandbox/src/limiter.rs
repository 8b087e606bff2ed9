//! Memory of one instance: linear memories, tables and the GC heap, kept under `limits.memory` together with what the
//! host holds for the guest ([`Budget`]).
//!
//! wasmtime asks per memory and per table; this sums over the store. It answers at once: an async
//! limiter would freeze everything else that runs in the store (wasmtime #11869).

use std::sync::Arc;

use wasmtime::ResourceLimiter;

use crate::budget::{Budget, Charge};
use crate::meter::Meter;

/// Bytes that one table element takes.
const TABLE_ELEMENT: u64 = size_of::<usize>() as u64;

/// Core instances, memories and tables of one store. Components of real toolchains need a dozen, large interpreters
/// with their libraries some hundred instances. Memories and tables are bounded more closely when the component is
/// loaded (`program.rs`).
pub(crate) const ITEMS: usize = 1_000;

/// Sums and limits the memory of one store, and reports it to the dyno's meter.
pub(crate) struct MemoryLimiter {
    budget: Arc<Budget>,
    meter: Arc<Meter>,
}

impl MemoryLimiter {
    pub(crate) fn new(limit: u64, meter: Arc<Meter>) -> Self {
        Self {
            budget: Budget::new(limit, meter.clone()),
            meter,
        }
    }

    /// Of the store's dyno.
    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The store's account, for what the host holds.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Charges what the host is to hold for the guest; `None`: it is too much.
    pub(crate) fn charge(&self, bytes: u64) -> Option<Charge> {
        self.budget.hold(bytes)
    }

    /// Whether the guest was refused memory at any time.
    pub(crate) fn refused(&self) -> bool {
        self.budget.refused()
    }

    fn grow(&self, current: u64, desired: u64) -> bool {
        if !self.budget.grow(desired.saturating_sub(current)) {
            return false;
        }
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
        self.budget.release_memory();
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
    fn a_components_own_maximum_is_no_memory_error() {
        let mut limiter = MemoryLimiter::new(1_000, Arc::default());
        assert!(!limiter.memory_growing(0, 600, Some(500)).unwrap());
        assert!(!limiter.refused());
    }
}
