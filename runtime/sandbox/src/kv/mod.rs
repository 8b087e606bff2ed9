//! `wasi:keyvalue` (store, atomics, batch; 0.2.0-draft and 0.2.0-draft2) over whatever the host gives.
//!
//! Both drafts are always linked; what a guest reaches is its grant's buckets. The two differ in
//! cursors, the range of counters, `get-many` and compare-and-swap, so each has a module of its own
//! and both share what is here.
//!
//! The WIT's functions are synchronous, so a guest waits in them: a 0.2 instance as in any other
//! call, a 0.3 instance with all the calls it serves (an async host function of a synchronous import
//! freezes the whole instance). Only that instance waits: a bucket does its work on threads of its
//! own, and the core's other guests go on. A 0.3 guest that wants many keys uses `batch`.

mod draft;
mod draft2;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use wasmtime::component::{HasData, Linker, ResourceTable, ResourceTableError};

use crate::grant::{DynoLog, Grant};

/// Refused `open`s that one grant's log is told of; a guest that goes on asking fills no log.
const REMARKS: u32 = 100;

/// Why a kv call failed. The texts reach the guest: they name no path of the host's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The store is full.
    #[error(
        "the kv add-on is full: this needs {used} of {limit} bytes; delete entries or raise its `size` in the manifest"
    )]
    Full {
        /// Bytes it would have taken.
        used: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A key, value or batch is larger than a limit.
    #[error("{0}")]
    TooLarge(String),
    /// The value is not what the operation needs (`increment` of something that is no integer).
    #[error("{0}")]
    WrongType(String),
    /// Not served within the wait limit; nothing was changed.
    #[error("the kv add-on is busy: the call waited {seconds} s for its turn")]
    Busy {
        /// How long it waited.
        seconds: u64,
    },
    /// The database failed; the platform's fault.
    #[error("the kv add-on failed: {0}")]
    Failed(String),
}

/// A page of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvKeys<C> {
    /// The keys.
    pub keys: Vec<String>,
    /// Where the next page starts; `None`: this was the last.
    pub cursor: Option<C>,
}

impl<C> Default for KvKeys<C> {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            cursor: None,
        }
    }
}

/// What became of a compare-and-swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvSwap {
    /// The value was set.
    Done,
    /// The entry was changed meanwhile; this is its version now.
    Changed(u64),
}

/// One bucket. Async, so that a durable write never blocks the core it was asked on. A write that
/// was acknowledged survives `kill -9`, and every call sees all writes acknowledged before it.
#[async_trait::async_trait]
pub trait KvBucket: Send + Sync + 'static {
    /// The values of these keys, in their order, all from one moment.
    async fn get(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, KvError>;
    /// Sets all of these, or none. Of a key that comes twice the last counts.
    async fn set(&self, pairs: Vec<(String, Vec<u8>)>) -> Result<(), KvError>;
    /// Deletes all of these, or none; a key that is not there is no error.
    async fn delete(&self, keys: Vec<String>) -> Result<(), KvError>;
    /// The entry's version: another after each change, never used twice; 0: no such key.
    async fn version(&self, key: String) -> Result<u64, KvError>;
    /// A page of keys in their byte order, from the first that follows `after` on.
    async fn list(&self, after: Option<String>) -> Result<KvKeys<String>, KvError>;
    /// A page of keys in the order they were created, after the one with this number (0: from the
    /// start). For callers whose cursors are numbers.
    async fn list_created(&self, after: u64) -> Result<KvKeys<u64>, KvError>;
    /// Adds to a decimal integer (absent: 0), atomically; the new value. Fails, and changes nothing,
    /// if the result is not in `range`.
    async fn increment(
        &self,
        key: String,
        delta: i128,
        range: RangeInclusive<i128>,
    ) -> Result<i128, KvError>;
    /// Sets `key` if its version still is this.
    async fn swap(&self, key: String, version: u64, value: Vec<u8>) -> Result<KvSwap, KvError>;
}

/// The buckets that instances of one grant may open. Made once per grant; a clone is one pointer.
#[derive(Clone)]
pub(crate) struct KvCtx(Arc<Opened>);

struct Opened {
    buckets: BTreeMap<String, Arc<dyn KvBucket>>,
    log: Arc<dyn DynoLog>,
    remarks: AtomicU32,
}

impl KvCtx {
    /// The grant's buckets.
    pub(crate) fn new(grant: &Grant) -> Self {
        Self::of(grant.kv.clone(), Arc::clone(&grant.log))
    }

    fn of(buckets: BTreeMap<String, Arc<dyn KvBucket>>, log: Arc<dyn DynoLog>) -> Self {
        Self(Arc::new(Opened {
            buckets,
            log,
            remarks: AtomicU32::new(0),
        }))
    }

    /// `open`: by name, or as "default" the only one.
    fn open(&self, identifier: &str) -> Result<Bucket, Error> {
        let buckets = &self.0.buckets;
        let only = || match (identifier, buckets.len()) {
            ("default", 1) => buckets.values().next(),
            _ => None,
        };
        if let Some(bucket) = buckets.get(identifier).or_else(only) {
            return Ok(Bucket(Arc::clone(bucket)));
        }
        if self.0.remarks.fetch_add(1, Ordering::Relaxed) < REMARKS {
            self.0.log.remark(&refusal(identifier, buckets.keys()));
        }
        Err(Error::AccessDenied)
    }
}

/// What the dyno's log says of an `open` that was refused.
fn refusal<'a>(identifier: &str, names: impl ExactSizeIterator<Item = &'a String>) -> String {
    // The guest chooses the text: no control characters, no endless line.
    let shown: String = identifier
        .chars()
        .take(64)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    let count = names.len();
    let names = names.map(String::as_str).collect::<Vec<_>>().join(", ");
    match count {
        0 => format!(
            "wasi:keyvalue open(\"{shown}\") denied: this process has no kv add-on; `store = \"kv\"` in [addons] gives it one"
        ),
        1 => format!(
            "wasi:keyvalue open(\"{shown}\") denied: this process has the kv add-on {names}; open that or \"default\", \
             or add `{shown} = \"kv\"` to [addons]"
        ),
        _ => format!(
            "wasi:keyvalue open(\"{shown}\") denied: this process has the kv add-ons {names}; open one of these by its \
             name, or add `{shown} = \"kv\"` to [addons]"
        ),
    }
}

/// A guest's open bucket.
#[expect(unreachable_pub, reason = "the generated bindings export it")]
pub struct Bucket(Arc<dyn KvBucket>);

/// Why a call failed, for both drafts.
#[expect(unreachable_pub, reason = "the generated bindings export it")]
pub enum Error {
    /// No such add-on, or not for this process: which of both is not the guest's to know.
    AccessDenied,
    /// Something else, in words.
    Other(String),
    /// The guest's handle is not one; it traps.
    Handle(ResourceTableError),
}

impl From<KvError> for Error {
    fn from(error: KvError) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<ResourceTableError> for Error {
    fn from(error: ResourceTableError) -> Self {
        match error {
            ResourceTableError::Full => {
                Self::Other("too many buckets and handles are open; drop some".to_owned())
            }
            other => Self::Handle(other),
        }
    }
}

/// What the host functions work on.
pub(crate) struct KvCtxView<'a> {
    /// Which buckets there are.
    pub(crate) ctx: &'a KvCtx,
    /// The instance's resources.
    pub(crate) table: &'a mut ResourceTable,
}

/// A store's data that has all that kv needs.
pub(crate) trait KvView: Send {
    /// The parts that kv needs.
    fn kv(&mut self) -> KvCtxView<'_>;
}

struct HasKv;

impl HasData for HasKv {
    type Data<'a> = KvCtxView<'a>;
}

/// Links store, atomics and batch of both drafts.
pub(crate) fn add_to_linker<T: KvView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    draft::add_to_linker(linker)?;
    draft2::add_to_linker(linker)
}
