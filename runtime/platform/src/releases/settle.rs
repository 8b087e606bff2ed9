//! Settles commits whose outcome is unknown, by reading again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::store::{Commit, Condition, Store, StoreError, Write};

/// How often an unknown outcome is tried to be settled.
const ATTEMPTS: u32 = 5;

/// Between two attempts; doubled each time.
const PAUSE: Duration = Duration::from_millis(20);

/// Names the writer of a value, and which of its writes it is: no two values are equal, so a value that
/// is read again tells whose commit happened.
pub(super) struct Writer {
    id: u64,
    count: AtomicU64,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self {
            id: rand::random(),
            count: AtomicU64::new(0),
        }
    }

    pub(super) fn stamp(&self) -> String {
        format!(
            "{:016x}-{}",
            self.id,
            self.count.fetch_add(1, Ordering::Relaxed)
        )
    }
}

/// Commits; each value put must be stamped by a [`Writer`]. An unknown outcome is settled: it happened
/// if our value is there; otherwise it is tried again, which its conditions make safe.
pub(super) async fn commit_settled(
    store: &dyn Store,
    conditions: &[Condition],
    writes: &[Write],
) -> Result<Commit, StoreError> {
    let mut pause = PAUSE;
    for _ in 1..ATTEMPTS {
        match store.commit(conditions, writes).await {
            Err(StoreError::Unknown(reason)) => {
                tracing::warn!(%reason, "the outcome of a commit is unknown; reading again");
            }
            known => return known,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
        if let Some(done) = happened(store, writes).await {
            return Ok(done);
        }
    }
    let outcome = store.commit(conditions, writes).await;
    if matches!(outcome, Err(StoreError::Unknown(_)))
        && let Some(done) = happened(store, writes).await
    {
        return Ok(done);
    }
    outcome
}

/// `None`: it did not, or that cannot be read now.
async fn happened(store: &dyn Store, writes: &[Write]) -> Option<Commit> {
    let (key, value) = writes.iter().find_map(|write| match write {
        Write::Put(key, value) => Some((key, value)),
        Write::Delete(_) => None,
    })?;
    let entry = store.get(key).await.ok()??;
    (entry.value == *value).then_some(Commit::Done(entry.modified))
}
