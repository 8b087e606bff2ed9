//! The lines in memory: a queue of bounded bytes with a sequence number for each line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use oarlock_spec::api::{LogLine, LogSource};

use super::LogFilter;

/// What a line costs beside its text: the entry, and the allocation's own.
const ENTRY_BYTES: usize = size_of::<Entry>() + 32;

/// A line. Cheap to clone, so that readers hold the ring's lock only briefly.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) seq: u64,
    /// Microseconds since 1970.
    pub(super) micros: i64,
    pub(super) source: LogSource,
    saved: bool,
    /// Where the dyno's name ends and the message begins.
    split: usize,
    text: Arc<str>,
}

impl Entry {
    pub(super) fn dyno(&self) -> &str {
        self.text.get(..self.split).unwrap_or_default()
    }

    pub(super) fn message(&self) -> &str {
        self.text.get(self.split..).unwrap_or_default()
    }

    pub(super) fn to_line(&self) -> LogLine {
        LogLine {
            time: Timestamp::from_microsecond(self.micros).unwrap_or_default(),
            source: self.source,
            dyno: self.dyno().to_owned(),
            message: self.message().to_owned(),
        }
    }

    fn cost(&self) -> usize {
        self.text.len() + ENTRY_BYTES
    }
}

pub(super) struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    limit: usize,
    /// The next line's number.
    next: u64,
    /// The time of the last line: later ones are never earlier.
    last_micros: i64,
    /// The first line that the files' writer has not taken yet.
    unsaved_from: u64,
    unsaved_bytes: usize,
    /// Lines that fell out before the writer took them.
    lost: u64,
}

impl Ring {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            limit,
            next: 0,
            last_micros: 0,
            unsaved_from: 0,
            unsaved_bytes: 0,
            lost: 0,
        }
    }

    /// Appends a line and returns how many bytes wait for the file's writer.
    pub(super) fn push(&mut self, source: LogSource, dyno: &str, message: &str) -> usize {
        let mut text = String::with_capacity(dyno.len() + message.len());
        text.push_str(dyno);
        text.push_str(message);
        self.last_micros = self.last_micros.max(now_micros());
        let entry = Entry {
            seq: self.next,
            micros: self.last_micros,
            source,
            saved: false,
            split: dyno.len(),
            text: text.into(),
        };
        self.next += 1;
        self.bytes += entry.cost();
        self.unsaved_bytes += entry.cost();
        self.entries.push_back(entry);
        while self.bytes > self.limit && self.entries.len() > 1 {
            self.evict();
        }
        self.unsaved_bytes
    }

    fn evict(&mut self) {
        let Some(old) = self.entries.pop_front() else {
            return;
        };
        self.bytes -= old.cost();
        if old.seq >= self.unsaved_from {
            self.unsaved_from = old.seq + 1;
            self.unsaved_bytes -= old.cost();
            self.lost += 1;
        }
    }

    /// The number of the line that comes next.
    pub(super) fn end(&self) -> u64 {
        self.next
    }

    /// The number of the oldest line that is still here.
    pub(super) fn start(&self) -> u64 {
        self.next - self.entries.len() as u64
    }

    /// The newest `n` that match, newest first.
    pub(super) fn newest(&self, n: usize, filter: &LogFilter) -> Vec<Entry> {
        self.entries
            .iter()
            .rev()
            .filter(|entry| filter.matches(entry.source, entry.dyno()))
            .take(n)
            .cloned()
            .collect()
    }

    /// At most `most` lines from number `from` on.
    pub(super) fn since(&self, from: u64, most: usize) -> impl Iterator<Item = &Entry> {
        let skip = usize::try_from(from.saturating_sub(self.start())).unwrap_or(usize::MAX);
        self.entries
            .range(skip.min(self.entries.len())..)
            .take(most)
    }

    /// How many of the lines here are in the file too.
    pub(super) fn saved_lines(&self) -> usize {
        self.entries.iter().filter(|entry| entry.saved).count()
    }

    /// Takes the next lines for the file, about `bytes` of them, and how many were lost since the last time.
    pub(super) fn take_unsaved(&mut self, bytes: usize) -> (Vec<Entry>, u64) {
        let mut taken = 0;
        let mut entries = Vec::new();
        for entry in self.since(self.unsaved_from, usize::MAX) {
            if taken >= bytes {
                break;
            }
            taken += entry.cost();
            entries.push(entry.clone());
        }
        if let Some(last) = entries.last() {
            self.unsaved_from = last.seq + 1;
        }
        self.unsaved_bytes -= taken;
        (entries, std::mem::take(&mut self.lost))
    }

    /// Those of these lines that are still here are in the file now.
    pub(super) fn mark_saved(&mut self, first: u64, last: u64) {
        let skip = usize::try_from(first.saturating_sub(self.start())).unwrap_or(usize::MAX);
        for entry in self
            .entries
            .iter_mut()
            .skip(skip)
            .take_while(|entry| entry.seq <= last)
        {
            entry.saved = true;
        }
    }
}

fn now_micros() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
