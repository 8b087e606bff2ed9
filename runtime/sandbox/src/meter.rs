//! What a dyno has used: counters that anyone may read while it runs.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one dyno over all its instances.
#[derive(Debug, Default)]
pub struct Meter {
    pub(crate) cpu_nanos: AtomicU64,
    pub(crate) memory_bytes: AtomicU64,
    pub(crate) requests: AtomicU64,
}

impl Meter {
    /// Guest CPU time so far, in nanoseconds.
    pub fn cpu_nanos(&self) -> u64 {
        self.cpu_nanos.load(Ordering::Relaxed)
    }
    /// Linear memories and tables of live instances, now.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Ordering::Relaxed)
    }
    /// Requests handed to guests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}
