//! Watches a shared instance for work that goes on after its answers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

use super::known::Known;
use crate::after::{self, Load, SharedAfterResponse, Step};
use crate::sandbox::SandboxInner;

/// Watches for work after answers.
pub(super) struct Watch {
    sandbox: Arc<SandboxInner>,
    known: Arc<Known>,
    after: SharedAfterResponse,
    /// To be asked again when the guest has had its turn.
    again: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    pub(super) fn new(sandbox: Arc<SandboxInner>, known: Arc<Known>) -> Self {
        Self {
            after: SharedAfterResponse::new(sandbox.limits.after_response),
            sandbox,
            known,
            again: false,
            timer: None,
        }
    }

    /// Before the guest's turn. Ready: the instance is to end.
    pub(super) fn poll(&mut self, load: Load, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let step = self.after.step(load, Instant::now);
            self.again = step == Step::Turn;
            if self.after.has_work() || self.after.paused {
                self.tell();
            }
            let at = match step {
                Step::Nothing | Step::Turn => return Poll::Pending,
                Step::At(at) => at,
                Step::End => {
                    self.sandbox
                        .remark(&after::ended(self.sandbox.limits.after_response));
                    return Poll::Ready(());
                }
            };
            let timer = match &mut self.timer {
                Some(timer) => timer,
                None => self.timer.insert(Box::pin(tokio::time::sleep_until(at))),
            };
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            std::task::ready!(timer.as_mut().poll(cx));
        }
    }

    fn tell(&self) {
        let known = &self.known;
        known.set_work(self.after.has_work(), self.after.paused);
        if self.after.closed && !known.to_be_replaced.is_cancelled() {
            self.sandbox
                .remark(&after::replaced(self.sandbox.limits.after_response));
            known.to_be_replaced.cancel();
        }
    }

    /// When the guest still has work after its turn, another is waited for before any clock is read.
    pub(super) fn after_turn(&self, cx: &Context<'_>) {
        if self.again && !self.known.is_idle() {
            cx.waker().wake_by_ref();
        }
    }
}
