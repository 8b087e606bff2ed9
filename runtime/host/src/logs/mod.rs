//! One log per app: a ring in memory, a size-bounded file, followers.
//!
//! The ring is the one queue: the writer of the files and every follower are cursors into it. A
//! caller takes a short lock, appends, and goes on; whoever cannot keep up finds its lines gone,
//! counts them and says so with an L10 line. Bounds: [`RING_BYTES`] per app in memory,
//! [`FILE_BYTES`] twice per app on disk (`app.log` and `app.log.1`), [`LINE_BYTES`] per line.
//!
//! Lines are kept as the guest wrote them, escape sequences included, but for line ends. Whoever
//! prints them to a terminal goes through [`for_terminal`].

mod file;
mod follow;
mod ring;
mod terminal;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oarlock_spec::api::{LogLine, LogSource};
use oarlock_spec::codes::DynoCode;
use tokio::sync::Notify;

pub use follow::LogFollower;
pub use terminal::for_terminal;

use file::{Appended, Files};
use ring::Ring;
use writer::Writer;

/// Lines of one app in memory, their bookkeeping included.
pub const RING_BYTES: usize = 2 * 1024 * 1024;

/// Bytes not yet in the file at which its writer is hurried.
const HURRY_BYTES: usize = RING_BYTES / 4;

/// One of the two files of one app.
pub const FILE_BYTES: u64 = 8 * 1024 * 1024;

/// One line's text; a longer one comes in pieces.
pub const LINE_BYTES: usize = 64 * 1024;

/// Which lines are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// `web.1`, or a process type for all its dynos, or `router`.
    pub dyno: Option<String>,
    /// Only the app's or only Oarlock's.
    pub source: Option<LogSource>,
}

impl LogFilter {
    fn matches(&self, source: LogSource, dyno: &str) -> bool {
        if self.source.is_some_and(|wanted| wanted != source) {
            return false;
        }
        match &self.dyno {
            None => true,
            Some(wanted) => match dyno.strip_prefix(wanted.as_str()) {
                Some(rest) => rest.is_empty() || rest.starts_with('.'),
                None => false,
            },
        }
    }
}

/// The logs of a host: the thread that writes their files.
pub(crate) struct Logs {
    writer: Arc<Writer>,
}

impl Logs {
    /// Starts the writer's thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        Ok(Self {
            writer: Writer::start()?,
        })
    }

    /// A log whose files are in `dir`, which is made when there is a line to be written. A folder that
    /// cannot be written is said in the log itself.
    pub(crate) fn open(&self, dir: PathBuf) -> AppLog {
        let log = AppLog::new(
            Some(Files::new(dir, FILE_BYTES)),
            Some(self.writer.clone()),
            RING_BYTES,
        );
        self.writer.register(log.inner.clone());
        log
    }

    /// Closes all logs: their last lines are in the files, followers come to their end, the thread
    /// is joined. Blocks for as long as the disk needs.
    pub(crate) fn close(&self) {
        self.writer.stop();
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.close();
    }
}

/// An app's log. Cheap to clone; writing never waits for a disk or a reader.
#[derive(Clone)]
pub struct AppLog {
    inner: Arc<Inner>,
}

struct Inner {
    ring: Mutex<Ring>,
    /// Taken before the ring, never after it; held while a file is written or read.
    files: Mutex<Option<Files>>,
    /// Followers wait here.
    news: Notify,
    closed: AtomicBool,
    writer: Option<Arc<Writer>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned log is still a log: no invariant spans a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AppLog {
    fn new(files: Option<Files>, writer: Option<Arc<Writer>>, ring_bytes: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                ring: Mutex::new(Ring::new(ring_bytes)),
                files: Mutex::new(files),
                news: Notify::new(),
                closed: AtomicBool::new(false),
                writer,
            }),
        }
    }

    /// A log without files and without a thread.
    pub fn in_memory() -> Self {
        Self::new(None, None, RING_BYTES)
    }

    /// Writes a line. Line ends within it make several lines of it; one longer than 64 KiB comes in
    /// pieces. After [`AppLog::close`] it is dropped.
    pub fn write(&self, source: LogSource, dyno: &str, message: &str) {
        if self.inner.closed.load(Ordering::Relaxed) {
            return;
        }
        for line in message.split('\n') {
            let mut rest = line.strip_suffix('\r').unwrap_or(line);
            loop {
                let piece = rest
                    .get(..rest.floor_char_boundary(LINE_BYTES))
                    .unwrap_or(rest);
                self.inner.push(source, dyno, piece);
                rest = rest.get(piece.len()..).unwrap_or_default();
                if rest.is_empty() {
                    break;
                }
            }
        }
    }

    /// The last `n` lines that match, oldest first (ring, then file). May read up to 16 MiB of
    /// files: not for a core's thread when `n` is large.
    pub fn tail(&self, n: usize, filter: &LogFilter) -> Vec<LogLine> {
        self.inner.tail(n, filter).0
    }

    /// The last `n` lines that match and then those to come. A follower that is too slow misses
    /// lines, and gets an L10 line that says how many.
    pub fn follow(&self, n: usize, filter: LogFilter) -> LogFollower {
        let (lines, next) = self.inner.tail(n, &filter);
        LogFollower::new(self.inner.clone(), lines, next, filter)
    }

    /// Closes this log: its last lines are in the file when this returns, followers come to their
    /// end, later lines are dropped. Blocks for as long as the disk needs.
    pub fn close(&self) {
        self.inner.close();
        if let Some(writer) = &self.inner.writer {
            writer.forget(&self.inner);
        }
    }
}

impl Inner {
    fn push(&self, source: LogSource, dyno: &str, message: &str) {
        let unsaved = lock(&self.ring).push(source, dyno, message);
        match &self.writer {
            Some(writer) => writer.signal(unsaved >= HURRY_BYTES),
            None => self.tell(),
        }
    }

    /// Wakes the followers.
    fn tell(&self) {
        self.news.notify_waiters();
    }

    /// The lines, and the sequence number of the one that comes next.
    fn tail(&self, n: usize, filter: &LogFilter) -> (Vec<LogLine>, u64) {
        // With the files locked, the writer cannot move lines between the two while we look at both.
        let files = lock(&self.files);
        let (mut newest_first, saved, next) = {
            let ring = lock(&self.ring);
            let found: Vec<_> = ring.newest(n, filter);
            (found, ring.saved_lines(), ring.end())
        };
        let missing = n - newest_first.len().min(n);
        let older = match files.as_ref() {
            Some(files) if missing > 0 => files.tail(missing, saved, filter),
            _ => Vec::new(),
        };
        newest_first.reverse();
        let lines = older
            .into_iter()
            .chain(newest_first.iter().map(ring::Entry::to_line))
            .collect();
        (lines, next)
    }

    /// Moves what the ring holds to the file. Called by the writer's thread, and at the end.
    fn save(&self) {
        let mut files = lock(&self.files);
        let Some(files) = files.as_mut() else { return };
        loop {
            let (entries, lost) = lock(&self.ring).take_unsaved(HURRY_BYTES);
            if lost > 0 {
                self.remark(&dropped_text(lost, "before they reached the log file"));
            }
            let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
                if lost > 0 {
                    continue;
                }
                return;
            };
            match files.append(&entries) {
                Appended::Saved => lock(&self.ring).mark_saved(first.seq, last.seq),
                Appended::FailedAgain => {}
                Appended::Failed(error) => self.remark(&format!(
                    "the log file cannot be written, lines are kept in memory only until it can: {error}"
                )),
            }
        }
    }

    /// Lets go of a file that was not written for a while; whether it is still open.
    fn release(&self) -> bool {
        lock(&self.files)
            .as_mut()
            .is_some_and(|files| files.release(file::IDLE))
    }

    /// A line of the log about itself, from the writer's thread: it needs no signal.
    fn remark(&self, text: &str) {
        lock(&self.ring).push(LogSource::Oarlock, "logs", text);
        self.news.notify_waiters();
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.save();
        if let Some(files) = lock(&self.files).as_mut() {
            files.sync();
        }
        self.news.notify_waiters();
    }
}

/// What an L10 line says.
fn dropped_text(count: u64, why: &str) -> String {
    let code = DynoCode::L10;
    format!(
        "Error {code} ({}): {count} lines were dropped {why}",
        code.description()
    )
}

#[cfg(test)]
mod tests;
