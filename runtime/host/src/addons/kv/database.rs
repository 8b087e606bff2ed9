//! The file of one kv add-on: opening, reading, committing. Blocking, all of it. One commit is one or
//! more changes; each is applied whole or not at all.

use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use oarlock_sandbox::{KvError, KvKeys};
use redb::backends::FileBackend;
use redb::{Builder, DatabaseError, ReadableDatabase, TableError};

use super::tables::{COUNTERS, CREATED, Done, ENTRIES, Op, Tables};

/// Pages kept in memory, per add-on.
const CACHE: usize = 16 << 20;
/// How long the lock of a process that is just ending is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Keys in a page of a listing, and their bytes.
const PAGE_KEYS: usize = 1_000;
const PAGE_BYTES: usize = 256 << 10;
/// Bytes of values that one `get` brings at most.
const GET_BYTES: usize = 32 << 20;

/// A value, or none, for each key asked for.
type Values = Vec<Option<Vec<u8>>>;

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
            redb::Error::Io(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Self::Damaged(e.to_string())
            }
            other => Self::Failed(other),
        }
    }
}

/// Marks an error as redb's, whose errors are many types.
struct Redb<E>(E);

/// Makes redb's errors ours.
pub(super) trait Checked<T> {
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
            Self::File(e) if e.kind() == io::ErrorKind::StorageFull => {
                "the host's disk is full".to_owned()
            }
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
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(DbError::Damaged("reading it panicked".to_owned())))
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

    pub(super) fn get(&self, keys: &[String]) -> Result<Result<Values, KvError>, DbError> {
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
                return Ok(KvKeys {
                    keys: page.keys,
                    cursor,
                });
            }
            page.push(key.value());
        }
        Ok(KvKeys {
            keys: page.keys,
            cursor: None,
        })
    }

    pub(super) fn list_created(&self, after: u64) -> Result<KvKeys<u64>, DbError> {
        let created = self.0.begin_read().db()?.open_table(CREATED).db()?;
        let mut page = Page::default();
        let mut last = after;
        for entry in created
            .range((Bound::Excluded(after), Bound::Unbounded))
            .db()?
        {
            let (number, key) = entry.db()?;
            if page.is_full() {
                return Ok(KvKeys {
                    keys: page.keys,
                    cursor: Some(last),
                });
            }
            page.push(key.value());
            last = number.value();
        }
        Ok(KvKeys {
            keys: page.keys,
            cursor: None,
        })
    }

    /// Applies these in their order, each with the size of its add-on, and makes them durable together. The inner errors are of single
    /// operations, which then changed nothing.
    pub(super) fn commit(
        &self,
        ops: Vec<(Op, u64)>,
    ) -> Result<Vec<Result<Done, KvError>>, DbError> {
        let write = self.begin_write()?;
        let mut answers = Vec::with_capacity(ops.len());
        let mut tables = Tables::open(&write)?;
        for (op, size) in ops {
            answers.push(tables.apply(op, size)?);
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
            let opened = Builder::new()
                .set_cache_size(CACHE)
                .create_with_backend(backend);
            opened.map_err(|error: DatabaseError| Redb(error).into())
        });
        match opened {
            // A host that was just killed, or this one's own handle that is just being given up.
            Err(DbError::Locked) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20))
            }
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
