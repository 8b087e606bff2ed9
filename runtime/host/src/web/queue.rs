//! Those who wait for a dyno, in the order they came.

use std::collections::VecDeque;
use std::sync::Arc;

use oarlock_spec::codes::RouterCode;
use tokio::sync::oneshot;

use super::{Lease, WebPool};
use crate::cores::CoreId;

pub(super) struct Waiter {
    id: u64,
    core: Option<CoreId>,
    pub(super) pool: Arc<WebPool>,
    pub(super) answer: oneshot::Sender<Result<Lease, RouterCode>>,
}

/// At most `queue` long: its owner sees to it.
#[derive(Default)]
pub(super) struct Queue {
    waiters: VecDeque<Waiter>,
    next: u64,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.waiters.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn push(
        &mut self,
        core: Option<CoreId>,
        pool: Arc<WebPool>,
        answer: oneshot::Sender<Result<Lease, RouterCode>>,
    ) -> u64 {
        let id = self.next;
        self.next += 1;
        self.waiters.push_back(Waiter {
            id,
            core,
            pool,
            answer,
        });
        id
    }

    /// Where the first of them was accepted.
    pub(super) fn first_core(&self) -> Option<Option<CoreId>> {
        self.waiters.front().map(|waiter| waiter.core)
    }

    pub(super) fn pop(&mut self) -> Option<Waiter> {
        self.waiters.pop_front()
    }

    /// Ids rise from front to back.
    pub(super) fn remove(&mut self, id: u64) -> Option<Waiter> {
        let at = self
            .waiters
            .binary_search_by_key(&id, |waiter| waiter.id)
            .ok()?;
        self.waiters.remove(at)
    }

    /// Tells all that there is nothing to wait for.
    pub(super) fn refuse_all(&mut self, code: RouterCode) {
        for waiter in self.waiters.drain(..) {
            // Whoever has gone away needs no answer.
            let _ = waiter.answer.send(Err(code));
        }
    }
}
