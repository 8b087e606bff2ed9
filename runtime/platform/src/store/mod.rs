//! Control-plane state: small values under string keys, behind a trait of four operations.
//!
//! A laptop's [`SqliteStore`] and a later cluster's store share this contract, which one conformance
//! suite holds over all of them; [`MemStore`] injects faults. There is no TTL, lock, lease, counter or
//! blob in it. Values name their writer, so that an unknown outcome is settled by reading again
//! ([`StoreError::Unknown`]).
//!
//! Bounds: a key has 1 to [`MAX_KEY`] visible ASCII characters, a value at most [`MAX_VALUE`] bytes, a
//! commit at most [`MAX_BATCH`] conditions and writes together, a list at most [`MAX_LIST`] entries.

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod conformance;
mod mem;
mod sqlite;

pub use mem::{Fault, MemStore};
pub use sqlite::{SqliteOptions, SqliteStore};

/// The longest key, in bytes.
pub const MAX_KEY: usize = 512;
/// The largest value, in bytes.
pub const MAX_VALUE: usize = 1024 * 1024;
/// Conditions and writes of one commit together.
pub const MAX_BATCH: usize = 128;
/// Entries of one list.
pub const MAX_LIST: usize = 10_000;

/// One global, monotonic number: each commit that changes something takes the next.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Rev(pub u64);

impl fmt::Display for Rev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

/// A key and what lies under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// When the key was put for the first time (since it was last absent).
    pub created: Rev,
    /// When it was put last.
    pub modified: Rev,
}

/// What must hold for a commit to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// There is nothing under this key.
    Absent(String),
    /// The key was last put at this revision.
    Unchanged(String, Rev),
}

/// What a commit changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Puts a value.
    Put(String, Vec<u8>),
    /// Removes a key; removing an absent one changes nothing.
    Delete(String),
}

impl Write {
    fn key(&self) -> &str {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

impl Condition {
    fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::Unchanged(key, _) => key,
        }
    }
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// It happened, at this revision (the store's present one if nothing changed).
    Done(Rev),
    /// A condition did not hold; nothing was changed.
    Conflict,
}

/// What a watch tells: one change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The commit's revision; all changes of one commit have the same.
    pub rev: Rev,
    /// The key.
    pub key: String,
    /// The new value; `None`: the key was removed.
    pub value: Option<Vec<u8>>,
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The arguments are over a bound: nothing was done, and never will be with these.
    #[error("the store refuses this: {0}")]
    Invalid(#[from] Bound),
    /// A commit may or may not have happened: read again.
    #[error("the outcome of a write is unknown: {0}")]
    Unknown(String),
    /// A read failed; it may be tried again.
    #[error("the store cannot be read: {0}")]
    Unavailable(String),
    /// The store cannot be opened.
    #[error("the store cannot be opened: {0}")]
    Open(String),
}

/// Which bound was passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Bound {
    /// See [`MAX_KEY`].
    #[error("a key has {0} bytes; it must have 1 to {MAX_KEY}")]
    KeyLength(usize),
    /// Keys are visible ASCII.
    #[error("the key {0:?} has a character that is not visible ASCII")]
    KeyCharacter(String),
    /// See [`MAX_VALUE`].
    #[error("the value of {key} has {size} bytes; at most {MAX_VALUE} are allowed")]
    ValueSize {
        /// Of which key.
        key: String,
        /// Its size.
        size: usize,
    },
    /// See [`MAX_BATCH`].
    #[error("a commit of {0} conditions and writes is over the limit of {MAX_BATCH}")]
    BatchLength(usize),
    /// One key is written twice by one commit.
    #[error("the key {0} is written twice in one commit")]
    DuplicateKey(String),
    /// See [`MAX_LIST`].
    #[error("more than {MAX_LIST} entries lie under {0:?}; list a longer prefix")]
    ListLength(String),
}

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The log no longer reaches back that far: list again, and watch from that list's revision.
    #[error("the changes since then are no longer kept; list again")]
    Compacted,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Changes in order, without a gap. It pulls: one that nobody asks costs nothing and loses nothing,
/// until the log is trimmed past it.
#[async_trait]
pub trait Watch: Send {
    /// The next changes, all those of a commit together; waits for them. Cancel safe.
    async fn next(&mut self) -> Result<Vec<Change>, WatchError>;
}

/// Control-plane state. See the module for the contract.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Linearizable.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// One consistent snapshot, in the order of keys, and its revision.
    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Rev), StoreError>;

    /// Atomic: all writes or none. An error other than [`StoreError::Invalid`] means that the outcome is
    /// unknown.
    async fn commit(
        &self,
        conditions: &[Condition],
        writes: &[Write],
    ) -> Result<Commit, StoreError>;

    /// Changes under a prefix with a revision above `from`.
    fn watch(&self, prefix: &str, from: Rev) -> Box<dyn Watch>;
}

fn check_key(key: &str) -> Result<(), Bound> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(Bound::KeyLength(key.len()));
    }
    check_prefix(key)
}

/// A prefix may be empty: everything.
fn check_prefix(prefix: &str) -> Result<(), Bound> {
    if prefix.len() > MAX_KEY {
        return Err(Bound::KeyLength(prefix.len()));
    }
    if prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(Bound::KeyCharacter(prefix.to_owned()))
    }
}

fn check_batch(conditions: &[Condition], writes: &[Write]) -> Result<(), Bound> {
    let length = conditions.len() + writes.len();
    if length > MAX_BATCH {
        return Err(Bound::BatchLength(length));
    }
    for condition in conditions {
        check_key(condition.key())?;
    }
    let mut seen = std::collections::BTreeSet::new();
    for write in writes {
        check_key(write.key())?;
        if !seen.insert(write.key()) {
            return Err(Bound::DuplicateKey(write.key().to_owned()));
        }
        if let Write::Put(key, value) = write
            && value.len() > MAX_VALUE
        {
            return Err(Bound::ValueSize {
                key: key.clone(),
                size: value.len(),
            });
        }
    }
    Ok(())
}

/// The keys that start with `prefix`: every key is visible ASCII, so DEL is above all of them.
fn prefix_range(prefix: &str) -> Range<String> {
    prefix.to_owned()..format!("{prefix}\u{7f}")
}
