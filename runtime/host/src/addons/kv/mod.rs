//! The `kv` add-on: an embedded, durable key-value database per app and add-on name, for
//! `wasi:keyvalue`. It needs no server and sets no variable: the interface is how a guest reaches it.
//!
//! Opened on first use, in `<data>/<addon>/kv.redb`, kept open across releases, and closed when nothing was asked of it
//! for [`IDLE`]: an add-on that is open is a descriptor, a thread and up to 16 MiB of pages. Reads run on
//! blocking threads from snapshots, at most [`READS`] at once; writes go to one thread per add-on.
//! Limits: keys of 1 KiB, values of 8 MiB, 10,000 keys and 12 MiB a call (32 MiB out), and `size` (1 GiB) for
//! keys and values together, each entry counted with 64 bytes more. The file itself can grow to
//! about three times that. Data outlives the manifest's line: an add-on that comes back has it.

mod database;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use oarlock_sandbox::{KvBucket, KvError, KvKeys, KvSwap};
use oarlock_spec::names::AddonName;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::database::{Database, DbError, Place, guarded};
use self::tables::{Done, Op};
use self::writer::{OpenDatabase, WAIT, Writer};
use super::provider::{BindError, Key, Offer, Provider, ProviderInfo, Request};

/// What `check` and the listings say of it.
pub(super) const INFO: ProviderInfo = ProviderInfo {
    name: "kv",
    about: "embedded key-value store (wasi:keyvalue), durable, no server",
    plans: &[],
    keys: &[Key::Size],
    variables: |_, _| Vec::new(),
    sources: |_, _| Vec::new(),
    open: |data| Box::new(Kv::new(data)),
};

/// `size` of an add-on whose manifest names none.
const DEFAULT_SIZE: u64 = oarlock_spec::limits::DEFAULT_KV_SIZE;
/// How long a database stays open without a call.
const IDLE: Duration = Duration::from_secs(60);
/// How often it is looked whether the last calls of a database that is to be closed have ended.
const LAST_CALLS: Duration = Duration::from_millis(10);
/// Reads under way at once, per add-on.
const READS: usize = 8;
/// The largest key.
const KEY_BYTES: usize = 1 << 10;
/// The largest value.
const VALUE_BYTES: usize = 8 << 20;
/// Keys in one call.
const BATCH_KEYS: usize = 10_000;
/// Bytes of keys and values in one call. Below what the sandbox lets one call copy from a guest (16
/// MiB, above which the guest traps), so that it is an error the guest can handle.
const BATCH_BYTES: usize = 12 << 20;

/// The kv add-ons of one app.
struct Kv {
    data: PathBuf,
    stores: Mutex<BTreeMap<AddonName, Arc<Store>>>,
}

impl Kv {
    fn new(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
            stores: Mutex::default(),
        }
    }

    fn store(&self, name: &AddonName) -> Arc<Store> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let store = stores
            .entry(name.clone())
            .or_insert_with(|| Store::new(&self.data, name.as_str(), IDLE));
        Arc::clone(store)
    }
}

/// An add-on as one release has it: two releases that run side by side may differ in its size, and one that never
/// becomes current changes nothing for the other.
struct Bucket {
    store: Arc<Store>,
    /// Bytes of keys and values together.
    size: u64,
}

#[async_trait::async_trait]
impl Provider for Kv {
    async fn bind(&self, request: &Request<'_>) -> Result<Offer, BindError> {
        let bucket = Bucket {
            store: self.store(request.name),
            size: request.addon.size.unwrap_or(DEFAULT_SIZE),
        };
        Ok(Offer {
            kv: Some(Arc::new(bucket)),
            ..Offer::default()
        })
    }

    async fn close(&self) {
        let stores =
            std::mem::take(&mut *self.stores.lock().unwrap_or_else(PoisonError::into_inner));
        for store in stores.into_values() {
            store.close().await;
        }
    }
}

/// One add-on's database, open or not.
pub(super) struct Store {
    me: Weak<Self>,
    place: Place,
    /// How long it stays open without a call.
    idle: Duration,
    made: Instant,
    /// Milliseconds from `made` to the last call.
    called: AtomicU64,
    open: ArcSwapOption<Open>,
    /// Held while it is opened or closed; `true`: closed for good.
    gate: tokio::sync::Mutex<bool>,
    reads: Arc<Semaphore>,
    /// Whether the operator's log has been told that it cannot be opened.
    told: AtomicBool,
}

struct Open {
    shared: Arc<OpenDatabase>,
    writer: Writer,
}

impl Store {
    pub(super) fn new(data: &Path, addon: &str, idle: Duration) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            place: Place {
                data: data.to_owned(),
                addon: addon.to_owned(),
            },
            idle,
            made: Instant::now(),
            called: AtomicU64::new(0),
            open: ArcSwapOption::empty(),
            gate: tokio::sync::Mutex::new(false),
            reads: Arc::new(Semaphore::new(READS)),
            told: AtomicBool::new(false),
        })
    }

    /// The open database. Opens it first if need be, again after a failed commit, and again if that
    /// failed the last time.
    async fn open(&self) -> Result<Arc<Open>, KvError> {
        let now = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.called.store(now, Ordering::Relaxed);
        let whole = |open: &Arc<Open>| !open.shared.broken.load(Ordering::Acquire);
        if let Some(open) = self.open.load_full().filter(whole) {
            return Ok(open);
        }
        let gate = self.gate.lock().await;
        if *gate {
            return Err(KvError::Failed(
                "it is closed: the host is shutting down".to_owned(),
            ));
        }
        if let Some(open) = self.open.load_full().filter(whole) {
            return Ok(open);
        }
        let broken = self.open.swap(None);
        let place = self.place.clone();
        let opened = tokio::task::spawn_blocking(move || {
            // The thread of a broken one has ended; its handle must be given up before another is made.
            if let Some(broken) = &broken {
                broken.writer.close();
            }
            drop(broken);
            open_store(&place)
        });
        let opened = opened
            .await
            .unwrap_or_else(|_| Err(DbError::Damaged("opening it panicked".to_owned())));
        let open = opened.map_err(|error| {
            if !self.told.swap(true, Ordering::Relaxed) {
                tracing::error!(file = %self.place.file().display(), %error, "a kv add-on cannot be opened");
            }
            error.for_guest(&self.place.addon)
        })?;
        self.told.store(false, Ordering::Relaxed);
        let open = Arc::new(open);
        self.open.store(Some(Arc::clone(&open)));
        tokio::spawn(close_when_idle(
            Weak::clone(&self.me),
            Arc::downgrade(&open),
        ));
        Ok(open)
    }

    /// Closes the file if nothing was asked for long enough. `Some`: until when it is to be left.
    async fn close_if_idle(&self, opened: &Weak<Open>) -> Option<Instant> {
        // Whoever wants it meanwhile waits, and opens it anew.
        let _gate = self.gate.lock().await;
        let is_it = |open: &Arc<Open>| Weak::ptr_eq(&Arc::downgrade(open), opened);
        if !self.open.load_full().as_ref().is_some_and(is_it) {
            return None;
        }
        let called = Duration::from_millis(self.called.load(Ordering::Relaxed));
        let until = self.made + called + self.idle;
        if until > Instant::now() {
            return Some(until);
        }
        let open = self.open.swap(None)?;
        // Those who took it just before may still use it.
        while Arc::strong_count(&open) > 1 {
            tokio::time::sleep(LAST_CALLS).await;
        }
        let closing = tokio::task::spawn_blocking(move || {
            open.writer.close();
            drop(open);
        });
        // Fails only if the runtime is shutting down, and then the thread ends with its senders.
        let _ = closing.await;
        None
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, DbError> + Send + 'static,
    ) -> Result<T, KvError> {
        let open = self.open().await?;
        let permit = tokio::time::timeout(WAIT, Arc::clone(&self.reads).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(KvError::Busy {
                seconds: WAIT.as_secs(),
            });
        };
        let read = tokio::task::spawn_blocking(move || {
            // Goes with the thread, not with the caller, who may be gone before the read is done.
            let _permit = permit;
            guarded(|| work(&open.shared.database))
        });
        let read = read
            .await
            .unwrap_or_else(|_| Err(DbError::Damaged("a read panicked".to_owned())));
        read.map_err(|error| {
            tracing::error!(file = %self.place.file().display(), %error, "a kv read failed");
            error.for_guest(&self.place.addon)
        })
    }

    /// Writes what is under way, and closes the file for good.
    pub(super) async fn close(&self) {
        let mut gate = self.gate.lock().await;
        *gate = true;
        if let Some(open) = self.open.swap(None) {
            // Fails only if the runtime is shutting down, and then the thread ends with its senders.
            let _ = tokio::task::spawn_blocking(move || open.writer.close()).await;
        }
    }

    #[cfg(test)]
    async fn commits(&self) -> u64 {
        self.open()
            .await
            .unwrap()
            .shared
            .commits
            .load(Ordering::Relaxed)
    }
}

/// Waits until an open database was not used for long enough, and closes it. Ends with it.
async fn close_when_idle(store: Weak<Store>, opened: Weak<Open>) {
    let Some(idle) = store.upgrade().map(|store| store.idle) else {
        return;
    };
    let mut until = Instant::now() + idle;
    loop {
        tokio::time::sleep_until(until).await;
        let Some(store) = store.upgrade() else { return };
        match store.close_if_idle(&opened).await {
            Some(later) => until = later,
            None => return,
        }
    }
}

fn open_store(place: &Place) -> Result<Open, DbError> {
    let shared = Arc::new(OpenDatabase {
        addon: place.addon.clone(),
        database: Database::open(place)?,
        broken: AtomicBool::new(false),
        commits: AtomicU64::new(0),
    });
    let writer = Writer::start(Arc::clone(&shared))?;
    Ok(Open { shared, writer })
}

/// Refuses keys, values and batches above their limits; the bytes of them all.
fn measure<'a>(keys: impl ExactSizeIterator<Item = (&'a String, usize)>) -> Result<usize, KvError> {
    if keys.len() > BATCH_KEYS {
        let text = format!("{} keys in one call; the limit is {BATCH_KEYS}", keys.len());
        return Err(KvError::TooLarge(text));
    }
    let mut bytes = 0;
    for (key, value) in keys {
        if key.len() > KEY_BYTES {
            return Err(KvError::TooLarge(format!(
                "a key of {} bytes; the limit is {KEY_BYTES}",
                key.len()
            )));
        }
        if value > VALUE_BYTES {
            return Err(KvError::TooLarge(format!(
                "a value of {value} bytes; the limit is {VALUE_BYTES}"
            )));
        }
        bytes += key.len() + value;
    }
    if bytes > BATCH_BYTES {
        return Err(KvError::TooLarge(format!(
            "{bytes} bytes in one call; the limit is {BATCH_BYTES}"
        )));
    }
    Ok(bytes)
}

fn one(key: &String, value: usize) -> Result<usize, KvError> {
    measure(std::iter::once((key, value)))
}

impl Bucket {
    async fn write(&self, op: Op, bytes: usize) -> Result<Done, KvError> {
        let open = self.store.open().await?;
        open.writer.write(op, self.size, bytes).await
    }
}

#[async_trait::async_trait]
impl KvBucket for Bucket {
    async fn get(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        measure(keys.iter().map(|key| (key, 0)))?;
        self.store.read(move |database| database.get(&keys)).await?
    }

    async fn set(&self, pairs: Vec<(String, Vec<u8>)>) -> Result<(), KvError> {
        let bytes = measure(pairs.iter().map(|(key, value)| (key, value.len())))?;
        self.write(Op::Set(pairs), bytes).await.map(drop)
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), KvError> {
        let bytes = measure(keys.iter().map(|key| (key, 0)))?;
        self.write(Op::Delete(keys), bytes).await.map(drop)
    }

    async fn version(&self, key: String) -> Result<u64, KvError> {
        one(&key, 0)?;
        self.store
            .read(move |database| database.version(&key))
            .await
    }

    async fn list(&self, after: Option<String>) -> Result<KvKeys<String>, KvError> {
        self.store
            .read(move |database| database.list(after.as_deref()))
            .await
    }

    async fn list_created(&self, after: u64) -> Result<KvKeys<u64>, KvError> {
        self.store
            .read(move |database| database.list_created(after))
            .await
    }

    async fn increment(
        &self,
        key: String,
        delta: i128,
        range: RangeInclusive<i128>,
    ) -> Result<i128, KvError> {
        let bytes = one(&key, 0)?;
        match self
            .write(Op::Increment { key, delta, range }, bytes)
            .await?
        {
            Done::Number(number) => Ok(number),
            other => Err(KvError::Failed(format!("unexpected answer {other:?}"))),
        }
    }

    async fn swap(&self, key: String, version: u64, value: Vec<u8>) -> Result<KvSwap, KvError> {
        let bytes = one(&key, value.len())?;
        match self
            .write(
                Op::Swap {
                    key,
                    version,
                    value,
                },
                bytes,
            )
            .await?
        {
            Done::Swap(swap) => Ok(swap),
            other => Err(KvError::Failed(format!("unexpected answer {other:?}"))),
        }
    }
}
