//! The files of one log: `app.log`, and `app.log.1` with what came before it.
//!
//! Opened for the first line and let go of when nothing was written for [`IDLE`]: a silent app holds no descriptor.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, OpenOptions, OpenOptionsExt as _};
use jiff::Timestamp;
use oarlock_spec::api::{LogLine, LogSource};
use rustix::fs::OFlags;

use super::LogFilter;
use super::ring::Entry;

const CURRENT: &str = "app.log";
const OLDER: &str = "app.log.1";

/// `2026-11-22T10:00:00.123456+00:00`
const STAMP_BYTES: usize = 32;

/// How long a file stays open without a line.
pub(super) const IDLE: Duration = Duration::from_secs(10);

/// What became of an [`Files::append`].
pub(super) enum Appended {
    /// All lines are in the file.
    Saved,
    /// They are not, and it was the first time.
    Failed(std::io::Error),
    /// They are not, like those before them: the disk may be full for a long time.
    FailedAgain,
}

pub(super) struct Files {
    dir: PathBuf,
    /// Of one of the two.
    limit: u64,
    current: Option<(File, u64)>,
    written: Instant,
    failing: bool,
    buffer: Vec<u8>,
    stamp: Stamp,
}

impl Files {
    /// Opens nothing yet.
    pub(super) fn new(dir: PathBuf, limit: u64) -> Self {
        Self {
            dir,
            limit,
            current: None,
            written: Instant::now(),
            failing: false,
            buffer: Vec::new(),
            stamp: Stamp::default(),
        }
    }

    pub(super) fn append(&mut self, entries: &[Entry]) -> Appended {
        self.written = Instant::now();
        match self.try_append(entries) {
            Ok(()) => {
                self.failing = false;
                Appended::Saved
            }
            Err(error) => {
                self.buffer.clear();
                // What was written of the batch is cut off again, so that no line is there by half.
                if let Some((file, size)) = self.current.take() {
                    let _ = file.set_len(size);
                }
                if std::mem::replace(&mut self.failing, true) {
                    Appended::FailedAgain
                } else {
                    Appended::Failed(error)
                }
            }
        }
    }

    fn try_append(&mut self, entries: &[Entry]) -> std::io::Result<()> {
        let mut size = match &self.current {
            Some((_, size)) => *size,
            None => self.open_current()?,
        };
        for entry in entries {
            let start = self.buffer.len();
            self.stamp.write(entry.micros, &mut self.buffer);
            let (source, dyno, message) = (entry.source.as_str(), entry.dyno(), entry.message());
            writeln!(self.buffer, " {source}[{dyno}]: {message}")?;
            let line = (self.buffer.len() - start) as u64;
            if size > 0 && size + line > self.limit {
                let last = self.buffer.split_off(start);
                self.flush()?;
                self.rotate()?;
                self.buffer = last;
                size = 0;
            }
            size += line;
        }
        self.flush()
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let Some((file, size)) = &mut self.current else {
            return Err(std::io::ErrorKind::NotFound.into());
        };
        file.write_all(&self.buffer)?;
        *size += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn dir(&self) -> std::io::Result<Dir> {
        Dir::open_ambient_dir(&self.dir, ambient_authority())
    }

    /// Lets go of the file if it was not written for `idle`; whether it is still open.
    pub(super) fn release(&mut self, idle: Duration) -> bool {
        if self.current.is_some() && self.written.elapsed() >= idle {
            self.sync();
            self.current = None;
        }
        self.current.is_some()
    }

    /// Never waits: who made the folder (it may have been cloned) may have put a named pipe there.
    fn open_regular(&self, name: &str, style: &mut OpenOptions) -> std::io::Result<File> {
        let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
        style.custom_flags(i32::try_from(flags.bits()).unwrap_or_default());
        let file = self.dir()?.open_with(name, style)?;
        if file.metadata()?.is_file() {
            return Ok(file);
        }
        let reason = format!("{name} is no regular file; remove it");
        Err(std::io::Error::other(reason))
    }

    fn open_current(&mut self) -> std::io::Result<u64> {
        std::fs::create_dir_all(&self.dir)?;
        let mut style = OpenOptions::new();
        let mut file = self.open_regular(CURRENT, style.read(true).append(true).create(true))?;
        let mut size = file.metadata()?.len();
        if size > 0 {
            // A host that was killed may have left half a line: ours must not be glued to it.
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                size += 1;
            }
        }
        self.current = Some((file, size));
        Ok(size)
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        self.current = None;
        let dir = self.dir()?;
        dir.rename(CURRENT, &dir, OLDER)?;
        self.open_current().map(drop)
    }

    /// Waits until what was written is on the disk.
    pub(super) fn sync(&self) {
        if let Some((file, _)) = &self.current
            && let Err(error) = file.sync_all()
        {
            tracing::warn!(%error, "a log file could not be synced");
        }
    }

    /// The last `n` lines that match, oldest first, without the newest `skip` lines of the files
    /// (which the caller has). A file that cannot be read has no lines.
    pub(super) fn tail(&self, n: usize, skip: usize, filter: &LogFilter) -> Vec<LogLine> {
        let mut skip = skip;
        let mut newest_first = Vec::new();
        for name in [CURRENT, OLDER] {
            let mut bytes = Vec::new();
            let read = self
                .open_regular(name, OpenOptions::new().read(true))
                .and_then(|file| file.take(2 * self.limit).read_to_end(&mut bytes));
            if read.is_err() || bytes.is_empty() {
                continue;
            }
            let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            for line in text.rsplit(|byte| *byte == b'\n') {
                if newest_first.len() >= n {
                    break;
                }
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                let found = parse(line).filter(|line| filter.matches(line.source, &line.dyno));
                newest_first.extend(found);
            }
        }
        newest_first.reverse();
        newest_first
    }
}

/// A line of the file; `None` for half a line.
fn parse(line: &[u8]) -> Option<LogLine> {
    let line = String::from_utf8_lossy(line);
    let time: Timestamp = line.get(..STAMP_BYTES)?.parse().ok()?;
    let (head, message) = line.get(STAMP_BYTES + 1..)?.split_once("]: ")?;
    let (source, dyno) = head.split_once('[')?;
    let source = [LogSource::App, LogSource::Oarlock]
        .into_iter()
        .find(|known| known.as_str() == source)?;
    Some(LogLine {
        time,
        source,
        dyno: dyno.to_owned(),
        message: message.to_owned(),
    })
}

/// Writes times, and formats the calendar's part only once a second.
#[derive(Default)]
struct Stamp {
    second: Option<i64>,
    text: String,
}

impl Stamp {
    fn write(&mut self, micros: i64, out: &mut Vec<u8>) {
        let second = micros.div_euclid(1_000_000);
        if self.second != Some(second) {
            self.second = Some(second);
            let time = Timestamp::from_second(second).unwrap_or_default();
            self.text = time.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        }
        out.extend_from_slice(self.text.as_bytes());
        let fraction = micros.rem_euclid(1_000_000);
        // Writing to a Vec cannot fail.
        let _ = write!(out, ".{fraction:06}+00:00");
    }
}
