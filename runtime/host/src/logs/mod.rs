//! One log per app: a ring in memory, a size-bounded file, followers.

use oarlock_spec::api::{LogLine, LogSource};

/// Which lines are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// `web.1`, or a process type for all its dynos, or `router`.
    pub dyno: Option<String>,
    /// Only the app's or only Oarlock's.
    pub source: Option<LogSource>,
}

/// An app's log. Cheap to clone; writing never blocks.
#[derive(Clone)]
pub struct AppLog {}

impl AppLog {
    /// Writes a line.
    pub fn write(&self, _source: LogSource, _dyno: &str, _message: &str) {
        unimplemented!()
    }

    /// The last `n` lines that match, oldest first (ring, then file).
    pub fn tail(&self, _n: usize, _filter: &LogFilter) -> Vec<LogLine> {
        unimplemented!()
    }

    /// The last `n` lines that match and then those to come. A follower that is too slow misses
    /// lines, and gets an L10 line that says how many.
    pub fn follow(&self, _n: usize, _filter: LogFilter) -> LogFollower {
        unimplemented!()
    }
}

/// Lines as they come.
pub struct LogFollower {}

impl LogFollower {
    /// The next line; `None` when the log was closed.
    pub async fn next(&mut self) -> Option<LogLine> {
        unimplemented!()
    }
}
