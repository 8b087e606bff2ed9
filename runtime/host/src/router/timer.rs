//! Deadlines of requests, without a timer for each of them.
//!
//! Most requests are answered long before their deadline, and to enter and leave tokio's timer wheel costs more
//! than the router's other work for them. So a connection keeps one timer, which its requests take and give back: it
//! is left as it is while it fires no later than the deadline, and looks at the clock when it does. Where a
//! connection has several requests at once (HTTP/2), those that come too late make one of their own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

use super::connection::Connection;

/// The timer of one request at a time; given back on drop.
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    home: Arc<Connection>,
}

impl Timer {
    pub(super) fn of(connection: &Arc<Connection>) -> Self {
        Self {
            sleep: connection.take_timer(),
            home: connection.clone(),
        }
    }

    /// Ready when `due` has come, which may be another moment at each call.
    pub(super) fn poll_until(&mut self, due: Instant, context: &mut Context<'_>) -> Poll<()> {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if due < sleep.deadline() {
            sleep.as_mut().reset(due);
        }
        loop {
            std::task::ready!(sleep.as_mut().poll(context));
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(sleep) = self.sleep.take() {
            self.home.keep_timer(sleep);
        }
    }
}
