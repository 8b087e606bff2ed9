//! The default store: one SQLite file, owned by one thread.
//!
//! Callers are async and never block on the disk: each operation is a message to the thread, which has
//! the only connection. Every commit is BEGIN IMMEDIATE … COMMIT with `synchronous=FULL` in WAL mode:
//! when it is answered it survives a power cut. A log table, trimmed to [`SqliteOptions::log_limit`]
//! changes, feeds the watches.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::{
    Bound, Change, Commit, Condition, Entry, MAX_LIST, Rev, Store, StoreError, Watch, WatchError,
    Write, check_batch, check_key, check_prefix, prefix_range,
};

/// Operations that wait for the thread; a caller beyond them waits too.
const QUEUE: usize = 256;

/// Changes that a watch takes from the log at once.
const WATCH_PAGE: usize = 512;

/// The layout of the tables; a file of another is refused.
const SCHEMA_VERSION: i64 = 1;

/// How a [`SqliteStore`] is opened.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Changes kept for watches.
    pub log_limit: usize,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { log_limit: 10_000 }
    }
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

enum Message {
    Job(Job, OwnedSemaphorePermit),
    Stop,
}

/// The way to the thread. The queue itself is unbounded, so that [`Message::Stop`] never waits; the
/// permits bound it.
#[derive(Clone)]
struct Queue {
    messages: std::sync::mpsc::Sender<Message>,
    permits: Arc<Semaphore>,
}

impl Queue {
    /// Runs a job on the store's thread; `None`: the thread is gone, and the job may have run or not.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> Option<T> {
        let permit = self.permits.clone().acquire_owned().await.ok()?;
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let _ = answer.send(job(connection));
        });
        self.messages.send(Message::Job(job, permit)).ok()?;
        answered.await.ok()
    }
}

/// A store in a SQLite file. Dropping it finishes the operations that wait and joins the thread.
pub struct SqliteStore {
    queue: Queue,
    thread: Option<JoinHandle<()>>,
    changed: watch::Sender<Rev>,
    log_limit: usize,
}

impl SqliteStore {
    /// Opens or makes the file. The caller holds the lock of the folder it lies in. Blocks for some
    /// milliseconds.
    pub fn open(path: &Path, options: &SqliteOptions) -> Result<Self, StoreError> {
        let cannot = |error: &dyn std::fmt::Display| {
            StoreError::Open(format!("{}: {error}", path.display()))
        };
        let mut connection = Connection::open(path).map_err(|error| cannot(&explain(&error)))?;
        let rev = prepare(&mut connection).map_err(|error| cannot(&error))?;
        let (messages, queue) = std::sync::mpsc::channel();
        let run = move || {
            while let Ok(Message::Job(job, permit)) = queue.recv() {
                job(&mut connection);
                drop(permit);
            }
        };
        let thread = std::thread::Builder::new()
            .name("oarlock-store".to_owned())
            .spawn(run)
            .map_err(|error| cannot(&error))?;
        Ok(Self {
            queue: Queue {
                messages,
                permits: Arc::new(Semaphore::new(QUEUE)),
            },
            thread: Some(thread),
            changed: watch::Sender::new(rev),
            log_limit: options.log_limit,
        })
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        let _ = self.queue.messages.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const GONE: &str = "the store was closed";

fn unavailable(error: rusqlite::Error) -> StoreError {
    StoreError::Unavailable(explain(&error))
}

/// What the user can do about an error, where there is something.
fn explain(error: &rusqlite::Error) -> String {
    use rusqlite::ErrorCode::{
        DatabaseBusy, DatabaseCorrupt, DatabaseLocked, DiskFull, NotADatabase, ReadOnly,
        SystemIoFailure,
    };
    match error.sqlite_error_code() {
        Some(DiskFull) => "the disk is full; free some space and try again".to_owned(),
        Some(ReadOnly) => "the file cannot be written; check its permissions".to_owned(),
        Some(DatabaseCorrupt | NotADatabase) => {
            format!("the file is damaged ({error}); move it away to start without its releases")
        }
        Some(DatabaseBusy | DatabaseLocked) => {
            "another process has the file open; end it first".to_owned()
        }
        // A full disk often shows only so: the shared-memory file beside the store cannot grow.
        Some(SystemIoFailure) => {
            format!("{error}; see whether the disk is full or failing, and try again")
        }
        _ => error.to_string(),
    }
}

fn prepare(connection: &mut Connection) -> Result<Rev, String> {
    let say = |error: rusqlite::Error| explain(&error);
    connection
        .busy_timeout(std::time::Duration::from_secs(2))
        .map_err(say)?;
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .map_err(say)?;
    connection
        .pragma_update(None, "synchronous", "FULL")
        .map_err(say)?;
    let version: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(say)?;
    match version {
        0 => {
            let tx = connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(say)?;
            tx.execute_batch(
                "CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, created INTEGER NOT NULL,
                     modified INTEGER NOT NULL) WITHOUT ROWID;
                 CREATE TABLE log (position INTEGER PRIMARY KEY AUTOINCREMENT, rev INTEGER NOT NULL,
                     key TEXT NOT NULL, value BLOB);
                 CREATE INDEX log_rev ON log (rev);
                 CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 1), rev INTEGER NOT NULL,
                     compacted INTEGER NOT NULL);
                 INSERT INTO state VALUES (1, 0, 0);",
            )
            .map_err(say)?;
            tx.pragma_update(None, "user_version", SCHEMA_VERSION)
                .map_err(say)?;
            tx.commit().map_err(say)?;
            Ok(Rev(0))
        }
        SCHEMA_VERSION => current_rev(connection).map_err(say),
        newer => Err(format!(
            "it was written by another version of oarlock (layout {newer})"
        )),
    }
}

/// SQLite's integers are i64; revisions and positions never come near its end.
fn to_sql(rev: Rev) -> i64 {
    i64::try_from(rev.0).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> Rev {
    Rev(u64::try_from(number).unwrap_or(0))
}

fn current_rev(connection: &Connection) -> rusqlite::Result<Rev> {
    connection
        .prepare_cached("SELECT rev FROM state")?
        .query_row([], |row| row.get(0))
        .map(from_sql)
}

fn read_entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: row.get(0)?,
        value: row.get(1)?,
        created: from_sql(row.get(2)?),
        modified: from_sql(row.get(3)?),
    })
}

fn get(connection: &Connection, key: &str) -> rusqlite::Result<Option<Entry>> {
    connection
        .prepare_cached("SELECT key, value, created, modified FROM entries WHERE key = ?1")?
        .query_row([key], read_entry)
        .optional()
}

fn list(connection: &mut Connection, prefix: &str) -> rusqlite::Result<(Vec<Entry>, Rev)> {
    let tx = connection.transaction()?;
    let range = prefix_range(prefix);
    let limit = i64::try_from(MAX_LIST + 1).unwrap_or(i64::MAX);
    let found = tx
        .prepare_cached(
            "SELECT key, value, created, modified FROM entries WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3",
        )?
        .query_map(params![range.start, range.end, limit], read_entry)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let rev = current_rev(&tx)?;
    tx.commit()?;
    Ok((found, rev))
}

fn commit(
    connection: &mut Connection,
    conditions: &[Condition],
    writes: &[Write],
    log_limit: usize,
) -> rusqlite::Result<Commit> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for condition in conditions {
        let modified = get(&tx, condition.key())?.map(|entry| entry.modified);
        let holds = match condition {
            Condition::Absent(_) => modified.is_none(),
            Condition::Unchanged(_, rev) => modified == Some(*rev),
        };
        if !holds {
            return Ok(Commit::Conflict);
        }
    }
    let before = current_rev(&tx)?;
    let rev = Rev(before.0 + 1);
    let mut changed = false;
    for write in writes {
        changed |= apply(&tx, rev, write)?;
    }
    if !changed {
        return Ok(Commit::Done(before));
    }
    tx.prepare_cached("UPDATE state SET rev = ?1")?
        .execute([to_sql(rev)])?;
    trim(&tx, log_limit)?;
    tx.commit()?;
    Ok(Commit::Done(rev))
}

/// Whether it changed something.
fn apply(tx: &Connection, rev: Rev, write: &Write) -> rusqlite::Result<bool> {
    let (key, value) = match write {
        Write::Put(key, value) => {
            tx.prepare_cached(
                "INSERT INTO entries VALUES (?1, ?2, ?3, ?3)
                 ON CONFLICT (key) DO UPDATE SET value = ?2, modified = ?3",
            )?
            .execute(params![key, value, to_sql(rev)])?;
            (key, Some(value))
        }
        Write::Delete(key) => {
            if tx
                .prepare_cached("DELETE FROM entries WHERE key = ?1")?
                .execute([key])?
                == 0
            {
                return Ok(false);
            }
            (key, None)
        }
    };
    tx.prepare_cached("INSERT INTO log (rev, key, value) VALUES (?1, ?2, ?3)")?
        .execute(params![to_sql(rev), key, value])?;
    Ok(true)
}

/// Keeps the last `log_limit` changes. A commit that is cut through counts as compacted whole.
fn trim(tx: &Connection, log_limit: usize) -> rusqlite::Result<()> {
    let limit = i64::try_from(log_limit).unwrap_or(i64::MAX);
    let last: Option<(i64, i64)> = tx
        .prepare_cached(
            "SELECT position, rev FROM log WHERE position <= (SELECT max(position) FROM log) - ?1
             ORDER BY position DESC LIMIT 1",
        )?
        .query_row([limit], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((position, rev)) = last {
        tx.prepare_cached("DELETE FROM log WHERE position <= ?1")?
            .execute([position])?;
        tx.prepare_cached("UPDATE state SET compacted = ?1")?
            .execute([rev])?;
    }
    Ok(())
}

/// A page of the log after a revision: whole commits, and where it ends.
struct Page {
    changes: Vec<Change>,
    end: Rev,
}

/// `None`: compacted.
fn read_log(
    connection: &mut Connection,
    prefix: &str,
    from: Rev,
) -> rusqlite::Result<Option<Page>> {
    let tx = connection.transaction()?;
    let compacted: i64 = tx
        .prepare_cached("SELECT compacted FROM state")?
        .query_row([], |row| row.get(0))?;
    if from < from_sql(compacted) {
        return Ok(None);
    }
    let range = prefix_range(prefix);
    let limit = i64::try_from(WATCH_PAGE).unwrap_or(i64::MAX);
    let mut changes = tx
        .prepare_cached(
            "SELECT rev, key, value FROM log WHERE rev > ?1 AND key >= ?2 AND key < ?3 ORDER BY position LIMIT ?4",
        )?
        .query_map(params![to_sql(from), range.start, range.end, limit], |row| {
            Ok(Change { rev: from_sql(row.get(0)?), key: row.get(1)?, value: row.get(2)? })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut end = current_rev(&tx)?;
    if changes.len() == WATCH_PAGE
        && let Some(last) = changes.last().map(|change| change.rev)
    {
        // The last commit may go on beyond the page; a commit has fewer changes than a page.
        changes.retain(|change| change.rev < last);
        end = Rev(last.0 - 1);
    }
    tx.commit()?;
    Ok(Some(Page { changes, end }))
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        let key = key.to_owned();
        self.queue
            .run(move |connection| get(connection, &key))
            .await
            .ok_or_else(|| StoreError::Unavailable(GONE.to_owned()))?
            .map_err(unavailable)
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Rev), StoreError> {
        check_prefix(prefix)?;
        let owned = prefix.to_owned();
        let (found, rev) = self
            .queue
            .run(move |connection| list(connection, &owned))
            .await
            .ok_or_else(|| StoreError::Unavailable(GONE.to_owned()))?
            .map_err(unavailable)?;
        if found.len() > MAX_LIST {
            return Err(Bound::ListLength(prefix.to_owned()).into());
        }
        Ok((found, rev))
    }

    async fn commit(
        &self,
        conditions: &[Condition],
        writes: &[Write],
    ) -> Result<Commit, StoreError> {
        check_batch(conditions, writes)?;
        let (conditions, writes) = (conditions.to_vec(), writes.to_vec());
        let log_limit = self.log_limit;
        let changed = self.changed.clone();
        self.queue
            .run(move |connection| {
                let outcome = commit(connection, &conditions, &writes, log_limit);
                if let Ok(Commit::Done(rev)) = outcome {
                    // Told here and not by the caller, who may have been dropped meanwhile.
                    changed.send_replace(rev);
                }
                outcome
            })
            .await
            .ok_or_else(|| StoreError::Unknown(GONE.to_owned()))?
            .map_err(|error| StoreError::Unknown(explain(&error)))
    }

    fn watch(&self, prefix: &str, from: Rev) -> Box<dyn Watch> {
        Box::new(SqliteWatch {
            queue: self.queue.clone(),
            changed: self.changed.subscribe(),
            prefix: prefix.to_owned(),
            position: from,
            page: std::collections::VecDeque::new(),
        })
    }
}

struct SqliteWatch {
    queue: Queue,
    changed: watch::Receiver<Rev>,
    prefix: String,
    position: Rev,
    page: std::collections::VecDeque<Change>,
}

impl SqliteWatch {
    fn take_commit(&mut self) -> Option<Vec<Change>> {
        let rev = self.page.front()?.rev;
        let mut found = Vec::new();
        while let Some(change) = self.page.pop_front_if(|change| change.rev == rev) {
            found.push(change);
        }
        Some(found)
    }
}

#[async_trait]
impl Watch for SqliteWatch {
    async fn next(&mut self) -> Result<Vec<Change>, WatchError> {
        check_prefix(&self.prefix).map_err(StoreError::from)?;
        loop {
            if let Some(found) = self.take_commit() {
                return Ok(found);
            }
            // Marked as seen before the look, so that a change between the two is not slept through.
            self.changed.borrow_and_update();
            let (prefix, position) = (self.prefix.clone(), self.position);
            let page = self
                .queue
                .run(move |connection| read_log(connection, &prefix, position))
                .await
                .ok_or_else(|| StoreError::Unavailable(GONE.to_owned()))?
                .map_err(unavailable)?
                .ok_or(WatchError::Compacted)?;
            self.position = page.end.max(self.position);
            self.page = page.changes.into();
            if self.page.is_empty() && self.changed.changed().await.is_err() {
                return Err(StoreError::Unavailable(GONE.to_owned()).into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::super::conformance;
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn conforms() {
        let root = tempfile::tempdir().unwrap();
        let files = std::sync::atomic::AtomicU32::new(0);
        conformance::run(async |log_limit| {
            let number = files.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let path = root.path().join(format!("{number}.db"));
            conformance::Fixture {
                open: Box::new(move || {
                    Arc::new(SqliteStore::open(&path, &SqliteOptions { log_limit }).unwrap())
                }),
            }
        })
        .await;
    }

    /// The child of [`what_was_acknowledged_survives_a_kill`]: commits and says so, until it is killed.
    #[tokio::test]
    #[ignore = "run by another test, as a process of its own"]
    async fn commit_forever() {
        use std::io::Write as _;
        let Some(path) = std::env::var_os("OARLOCK_TEST_STORE") else {
            return;
        };
        let store = SqliteStore::open(Path::new(&path), &SqliteOptions { log_limit: 50 }).unwrap();
        let start = store
            .get("count/a")
            .await
            .unwrap()
            .map_or(0, |entry| number(&entry.value));
        for n in start + 1.. {
            let value = n.to_string().into_bytes();
            // Two keys that must never differ.
            let writes = [
                Write::Put("count/a".to_owned(), value.clone()),
                Write::Put("count/b".to_owned(), value),
            ];
            store.commit(&[], &writes).await.unwrap();
            println!("acknowledged {n}");
            std::io::stdout().flush().unwrap();
        }
    }

    fn number(value: &[u8]) -> u64 {
        std::str::from_utf8(value).unwrap().parse().unwrap()
    }

    #[tokio::test]
    async fn what_was_acknowledged_survives_a_kill() {
        use std::io::BufRead as _;
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state.db");
        for round in 1..=3u64 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "store::sqlite::tests::commit_forever",
                    "--ignored",
                    "--nocapture",
                ])
                .env("OARLOCK_TEST_STORE", &path)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
            let mut acknowledged = 0;
            while acknowledged < round * 20 {
                let line = lines
                    .next()
                    .expect("the child goes on until it is killed")
                    .unwrap();
                if let Some((_, n)) = line.split_once("acknowledged ") {
                    acknowledged = n.parse().unwrap();
                }
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let store = SqliteStore::open(&path, &SqliteOptions { log_limit: 50 }).unwrap();
            let (entries, rev) = store.list("count/").await.unwrap();
            assert_eq!(entries.len(), 2);
            assert_eq!(
                entries[0].value, entries[1].value,
                "a commit is all or nothing"
            );
            assert!(number(&entries[0].value) >= acknowledged);
            assert_eq!(rev, Rev(number(&entries[0].value)), "one revision a commit");
        }
    }

    #[tokio::test]
    async fn a_damaged_file_and_a_newer_layout_are_refused_with_a_reason() {
        let root = tempfile::tempdir().unwrap();
        let damaged = root.path().join("damaged.db");
        std::fs::write(&damaged, vec![b'x'; 8192]).unwrap();
        let error = SqliteStore::open(&damaged, &SqliteOptions::default())
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("damaged") && error.contains("damaged.db"),
            "{error}"
        );
        let newer = root.path().join("newer.db");
        Connection::open(&newer)
            .unwrap()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        let error = SqliteStore::open(&newer, &SqliteOptions::default())
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("another version of oarlock"), "{error}");
    }
}
