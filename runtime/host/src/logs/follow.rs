//! Followers: cursors into the ring.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use oarlock_spec::api::{LogLine, LogSource};

use super::{Inner, LogFilter, dropped_text, lock};

/// Lines looked at per turn, so that a follower holds the ring's lock only briefly.
const BATCH: usize = 256;

/// Lines as they come.
pub struct LogFollower {
    log: Arc<Inner>,
    ready: VecDeque<LogLine>,
    next: u64,
    filter: LogFilter,
}

impl LogFollower {
    pub(super) fn new(log: Arc<Inner>, ready: Vec<LogLine>, next: u64, filter: LogFilter) -> Self {
        Self {
            log,
            ready: ready.into(),
            next,
            filter,
        }
    }

    /// The next line if it was read already, with others: for those who write several at once.
    pub fn ready(&mut self) -> Option<LogLine> {
        self.ready.pop_front()
    }

    /// The next line; `None` when the log was closed. May be dropped and asked again without loss.
    pub async fn next(&mut self) -> Option<LogLine> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            let log = self.log.clone();
            let mut news = std::pin::pin!(log.news.notified());
            // From here on no line goes unnoticed.
            news.as_mut().enable();
            let closed = log.closed.load(Ordering::SeqCst);
            if self.read() {
                continue;
            }
            if closed {
                return None;
            }
            news.await;
        }
    }

    /// Reads a batch; whether the cursor moved.
    fn read(&mut self) -> bool {
        let before = self.next;
        let entries: Vec<_> = {
            let ring = lock(&self.log.ring);
            let start = ring.start();
            if self.next < start {
                let text = dropped_text(start - self.next, "because this follower is too slow");
                self.next = start;
                self.ready.push_back(LogLine {
                    time: Timestamp::now(),
                    source: LogSource::Oarlock,
                    dyno: "logs".to_owned(),
                    message: text,
                });
            }
            ring.since(self.next, BATCH).cloned().collect()
        };
        if let Some(last) = entries.last() {
            self.next = last.seq + 1;
        }
        let wanted = entries
            .iter()
            .filter(|entry| self.filter.matches(entry.source, entry.dyno()));
        self.ready.extend(wanted.map(|entry| entry.to_line()));
        self.next != before
    }
}
