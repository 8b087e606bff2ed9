//! The file of one kv add-on: what is in it, and what each operation does to it. Blocking, all of it.
//!
//! Three tables: entries by key, keys by the number they were created with (so that a cursor can be
//! a number and stay right while entries come and go), and two counters. One commit is one or more
//! operations; each is applied whole or not at all.

use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, RangeInclusive};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use oarlock_sandbox::{KvError, KvKeys, KvSwap};
use redb::backends::FileBackend;
use redb::{Builder, DatabaseError, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError};

/// Entry by key: the number it was created with, its version, its value.
const ENTRIES: TableDefinition<'_, &str, (u64, u64, &[u8])> = TableDefinition::new("entries");
/// Key by the number its entry was created with.
const CREATED: TableDefinition<'_, u64, &str> = TableDefinition::new("created");
/// `last`: the highest number given out (to a creation or a version). `used`: bytes, as [`cost`] counts.
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

/// Pages kept in memory, per add-on.
const CACHE: usize = 16 << 20;
/// How long the lock of a process that is just ending is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Keys in a page of a listing, and their bytes.
const PAGE_KEYS: usize = 1_000;
const PAGE_BYTES: usize = 256 << 10;
/// Bytes of values that one `get` brings at most.
const GET_BYTES: usize = 32 << 20;
/// Bytes that an entry takes besides its key and its value.
const OVERHEAD: u64 = 64;

/// A change.
#[derive(Debug)]
pub(super) enum Op {
    Set(Vec<(String, Vec<u8>)>),
    Delete(Vec<String>),
    Increment { key: String, delta: i128, range: RangeInclusive<i128> },
    Swap { key: String, version: u64, value: Vec<u8> },
}

/// What a change brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Changed,
    Number(i128),
    Swap(KvSwap),
}

/// Why a database cannot be opened or failed. `Display` is for the operator's log.
#[derive(Debug, thiserror::Error)]
pub(super) enum DbError {
    #[error("its file cannot be opened: {0}")]
    File(#[from] io::Error),
    #[error("its database is in use by another process")]
    Locked,
    #[error("its database is damaged: {0}")]
    Damaged(String),
    #[error("its database failed: {0}")]
    Failed(redb::Error),
}

impl<E: Into<redb::Error>> From<Redb<E>> for DbError {
    fn from(Redb(error): Redb<E>) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::Locked,
            redb::Error::Corrupted(text) => Self::Damaged(text),
            redb::Error::Io(e) if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                Self::Damaged(e.to_string())
            }
            other => Self::Failed(other),
        }
    }
}

/// Marks an error as redb's, whose errors are many types.
struct Redb<E>(E);

trait Checked<T> {
    fn db(self) -> Result<T, DbError>;
}

impl<T, E: Into<redb::Error>> Checked<T> for Result<T, E> {
    fn db(self) -> Result<T, DbError> {
        self.map_err(|error| Redb(error).into())
    }
}

impl DbError {
    /// What the guest is told: what to do, and no path of the host's.
    pub(super) fn for_guest(&self, addon: &str) -> KvError {
        let text = match self {
            Self::File(e) if e.kind() == io::ErrorKind::StorageFull => "the host's disk is full".to_owned(),
            Self::Failed(redb::Error::Io(e)) if e.kind() == io::ErrorKind::StorageFull => {
                "the host's disk is full".to_owned()
            }
            Self::File(e) => format!("the database of `{addon}` cannot be opened: {}", e.kind()),
            Self::Locked => format!(
                "the database of `{addon}` is in use by another process; is a second host running on this data folder?"
            ),
            Self::Damaged(_) => format!(
                "the database of `{addon}` is damaged; bring `{addon}/kv.redb` back from a backup, or remove it to start \
                 empty (the host's log has its whole path)"
            ),
            Self::Failed(_) => format!("the database of `{addon}` failed; the host's log says why"),
        };
        KvError::Failed(text)
    }
}

/// Where the file is: `<data>/<addon>/kv.redb`.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) data: PathBuf,
    pub(super) addon: String,
}

impl Place {
    pub(super) fn file(&self) -> PathBuf {
        self.data.join(&self.addon).join("kv.redb")
    }
}

/// Runs what may panic on a damaged file (redb trusts one that was closed cleanly).
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, DbError>) -> Result<T, DbError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(DbError::Damaged("reading it panicked".to_owned())))
}

/// An open database.
pub(super) struct Database(redb::Database);

impl Database {
    /// Opens the file, or makes it. After a crash this repairs it, at once whatever its size.
    pub(super) fn open(place: &Place) -> Result<Self, DbError> {
        std::fs::create_dir_all(&place.data)?;
        // Below the data folder no link leads out of it.
        let data = Dir::open_ambient_dir(&place.data, ambient_authority())?;
        data.create_dir_all(&place.addon)?;
        let folder = data.open_dir(&place.addon)?;
        let database = Self(open_locked(&folder)?);
        guarded(|| database.prepare())?;
        // The file's name is to survive a power cut as well as its contents.
        folder.open(".")?.sync_all()?;
        Ok(database)
    }

    /// Makes the tables of a new file, so that reads find them.
    fn prepare(&self) -> Result<(), DbError> {
        match self.0.begin_read().db()?.open_table(COUNTERS) {
            Ok(_) => return Ok(()),
            Err(TableError::TableDoesNotExist(_)) => {}
            Err(other) => return Err(Redb(other).into()),
        }
        let write = self.begin_write()?;
        write.open_table(ENTRIES).db()?;
        write.open_table(CREATED).db()?;
        write.open_table(COUNTERS).db()?;
        write.commit().db()
    }

    fn begin_write(&self) -> Result<redb::WriteTransaction, DbError> {
        let mut write = self.0.begin_write().db()?;
        // Two-phase commits, which a guest's choice of bytes cannot fool, and a repair after a crash
        // that need not read the whole file.
        write.set_quick_repair(true);
        Ok(write)
    }

    pub(super) fn get(&self, keys: &[String]) -> Result<Result<Vec<Option<Vec<u8>>>, KvError>, DbError> {
        let entries = self.0.begin_read().db()?.open_table(ENTRIES).db()?;
        let mut values = Vec::with_capacity(keys.len());
        let mut bytes = 0_usize;
        for key in keys {
            let entry = entries.get(key.as_str()).db()?;
            let value = entry.map(|entry| entry.value().2.to_vec());
            bytes = bytes.saturating_add(value.as_ref().map_or(0, Vec::len));
            if bytes > GET_BYTES && keys.len() > 1 {
                return Ok(Err(KvError::TooLarge(format!(
                    "these {} keys have more than {} MiB of values; ask for fewer at once",
                    keys.len(),
                    GET_BYTES >> 20
                ))));
            }
            values.push(value);
        }
        Ok(Ok(values))
    }

    pub(super) fn version(&self, key: &str) -> Result<u64, DbError> {
        let entries = self.0.begin_read().db()?.open_table(ENTRIES).db()?;
        Ok(entries.get(key).db()?.map_or(0, |entry| entry.value().1))
    }

    pub(super) fn list(&self, after: Option<&str>) -> Result<KvKeys<String>, DbError> {
        let entries = self.0.begin_read().db()?.open_table(ENTRIES).db()?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = Page::default();
        for entry in entries.range::<&str>((from, Bound::Unbounded)).db()? {
            let (key, _) = entry.db()?;
            if page.is_full() {
                let cursor = page.keys.last().cloned();
                return Ok(KvKeys { keys: page.keys, cursor });
            }
            page.push(key.value());
        }
        Ok(KvKeys { keys: page.keys, cursor: None })
    }

    pub(super) fn list_created(&self, after: u64) -> Result<KvKeys<u64>, DbError> {
        let created = self.0.begin_read().db()?.open_table(CREATED).db()?;
        let mut page = Page::default();
        let mut last = after;
        for entry in created.range((Bound::Excluded(after), Bound::Unbounded)).db()? {
            let (number, key) = entry.db()?;
            if page.is_full() {
                return Ok(KvKeys { keys: page.keys, cursor: Some(last) });
            }
            page.push(key.value());
            last = number.value();
        }
        Ok(KvKeys { keys: page.keys, cursor: None })
    }

    /// Applies these in their order and makes them durable together. The inner errors are of single
    /// operations, which then changed nothing.
    pub(super) fn commit(&self, ops: Vec<Op>, limit: u64) -> Result<Vec<Result<Done, KvError>>, DbError> {
        let write = self.begin_write()?;
        let mut answers = Vec::with_capacity(ops.len());
        let mut tables = Tables::open(&write)?;
        for op in ops {
            answers.push(tables.apply(op, limit)?);
        }
        // Refused operations and lost swaps cost no flush.
        if tables.save()? {
            write.commit().db()?;
        } else {
            write.abort().db()?;
        }
        Ok(answers)
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        let counters = self.0.begin_read().unwrap().open_table(COUNTERS).unwrap();
        counters.get("used").unwrap().map_or(0, |used| used.value())
    }
}

fn open_locked(folder: &Dir) -> Result<redb::Database, DbError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        let backend = FileBackend::new(folder.open_with("kv.redb", &options)?.into_std()).db()?;
        let opened = guarded(|| {
            let opened = Builder::new().set_cache_size(CACHE).create_with_backend(backend);
            opened.map_err(|error: DatabaseError| Redb(error).into())
        });
        match opened {
            // A host that was just killed, or this one's own handle that is just being given up.
            Err(DbError::Locked) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
}

#[derive(Default)]
struct Page {
    keys: Vec<String>,
    bytes: usize,
}

impl Page {
    fn is_full(&self) -> bool {
        self.keys.len() >= PAGE_KEYS || self.bytes >= PAGE_BYTES
    }
    fn push(&mut self, key: &str) {
        self.bytes += key.len();
        self.keys.push(key.to_owned());
    }
}

/// What an entry counts against the add-on's size.
fn cost(key: &str, value: usize) -> u64 {
    key.len() as u64 + value as u64 + OVERHEAD
}

/// The tables of one transaction, and the counters as they will be.
struct Tables<'w> {
    entries: Table<'w, &'static str, (u64, u64, &'static [u8])>,
    created: Table<'w, u64, &'static str>,
    counters: Table<'w, &'static str, u64>,
    last: u64,
    used: u64,
    changed: bool,
}

impl<'w> Tables<'w> {
    fn open(write: &'w redb::WriteTransaction) -> Result<Self, DbError> {
        let counters = write.open_table(COUNTERS).db()?;
        let last = counters.get("last").db()?.map_or(0, |value| value.value());
        let used = counters.get("used").db()?.map_or(0, |value| value.value());
        let (entries, created) = (write.open_table(ENTRIES).db()?, write.open_table(CREATED).db()?);
        Ok(Self { entries, created, counters, last, used, changed: false })
    }

    /// Whether there is anything to commit.
    fn save(mut self) -> Result<bool, DbError> {
        if self.changed {
            self.counters.insert("last", self.last).db()?;
            self.counters.insert("used", self.used).db()?;
        }
        Ok(self.changed)
    }

    /// All checks come before the first change, so that what is refused changes nothing.
    fn apply(&mut self, op: Op, limit: u64) -> Result<Result<Done, KvError>, DbError> {
        match op {
            Op::Set(pairs) => self.set(pairs, limit).map(|done| done.map(|()| Done::Changed)),
            Op::Delete(keys) => self.delete(&keys).map(|()| Ok(Done::Changed)),
            Op::Increment { key, delta, range } => self.increment(key, delta, &range, limit),
            Op::Swap { key, version, value } => {
                let now = self.entries.get(key.as_str()).db()?.map_or(0, |entry| entry.value().1);
                if now != version {
                    return Ok(Ok(Done::Swap(KvSwap::Changed(now))));
                }
                let done = self.set(vec![(key, value)], limit)?;
                Ok(done.map(|()| Done::Swap(KvSwap::Done)))
            }
        }
    }

    fn set(&mut self, pairs: Vec<(String, Vec<u8>)>, limit: u64) -> Result<Result<(), KvError>, DbError> {
        let pairs: BTreeMap<String, Vec<u8>> = pairs.into_iter().collect();
        let (mut before, mut after) = (0, 0);
        for (key, value) in &pairs {
            before += self.entries.get(key.as_str()).db()?.map_or(0, |entry| cost(key, entry.value().2.len()));
            after += cost(key, value.len());
        }
        let used = (self.used + after).saturating_sub(before);
        // What makes a store smaller is welcome in a full one, too.
        if used > limit && after > before {
            return Ok(Err(KvError::Full { used, limit }));
        }
        for (key, value) in pairs {
            self.put(&key, &value)?;
        }
        self.used = used;
        Ok(Ok(()))
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), DbError> {
        self.changed = true;
        self.last += 1;
        let version = self.last;
        let created = self.entries.get(key).db()?.map(|entry| entry.value().0);
        if created.is_none() {
            self.created.insert(version, key).db()?;
        }
        self.entries.insert(key, (created.unwrap_or(version), version, value)).db()?;
        Ok(())
    }

    fn delete(&mut self, keys: &[String]) -> Result<(), DbError> {
        for key in keys {
            let gone = self.entries.remove(key.as_str()).db()?.map(|entry| {
                let (created, _, value) = entry.value();
                (created, value.len())
            });
            if let Some((created, length)) = gone {
                self.changed = true;
                self.created.remove(created).db()?;
                self.used = self.used.saturating_sub(cost(key, length));
            }
        }
        Ok(())
    }

    fn increment(
        &mut self,
        key: String,
        delta: i128,
        range: &RangeInclusive<i128>,
        limit: u64,
    ) -> Result<Result<Done, KvError>, DbError> {
        let now = self.entries.get(key.as_str()).db()?.map(|entry| integer(entry.value().2));
        let Some(now) = now.unwrap_or(Some(0)) else {
            return Ok(Err(KvError::WrongType(format!("the value of `{key}` is no decimal integer"))));
        };
        let Some(sum) = now.checked_add(delta).filter(|sum| range.contains(sum)) else {
            return Ok(Err(KvError::WrongType(format!(
                "`{key}` is {now}; adding {delta} leaves the range of the counter, {} to {}",
                range.start(),
                range.end()
            ))));
        };
        let done = self.set(vec![(key, sum.to_string().into_bytes())], limit)?;
        Ok(done.map(|()| Done::Number(sum)))
    }
}

fn integer(value: &[u8]) -> Option<i128> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
