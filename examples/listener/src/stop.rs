//! Tells every connection that the dyno is to stop, and knows when the last one has gone.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// The longest wait for connections to close: less than the host's `stop_grace`, 30 s.
const LONGEST: Duration = Duration::from_secs(10);

/// Held by each connection.
#[derive(Clone)]
pub(crate) struct Stop {
    told: watch::Sender<bool>,
    _open: mpsc::Sender<()>,
}

/// Waits for those who hold a [`Stop`].
pub(crate) struct Stopped(mpsc::Receiver<()>);

pub(crate) fn new() -> (Stop, Stopped) {
    let (open, all) = mpsc::channel(1);
    let stop = Stop {
        told: watch::Sender::new(false),
        _open: open,
    };
    (stop, Stopped(all))
}

impl Stop {
    pub(crate) fn set(&self) {
        self.told.send_replace(true);
    }

    /// Returns once it is to stop.
    pub(crate) async fn wait(&self) {
        // It cannot fail: this is a sender itself.
        let mut told = self.told.subscribe();
        let _told = told.wait_for(|told| *told).await;
    }
}

impl Stopped {
    /// Returns when no connection is open any more, or has had its time.
    pub(crate) async fn all_closed(mut self) {
        // Nothing is ever sent: this ends with the last sender.
        let _in_time = timeout(LONGEST, self.0.recv()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_told_and_the_last_one_is_waited_for() {
        let (stop, stopped) = new();
        let connection = stop.clone();
        let closing = tokio::spawn(async move {
            connection.wait().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        stop.set();
        drop(stop);
        stopped.all_closed().await;
        assert!(closing.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_never_closes_is_not_waited_for_for_ever() {
        let (stop, stopped) = new();
        let start = tokio::time::Instant::now();
        stopped.all_closed().await;
        assert_eq!(start.elapsed(), LONGEST);
        drop(stop);
    }
}
