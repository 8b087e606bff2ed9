//! `wasi:keyvalue` (store, atomics, batch; 0.2.0-draft and 0.2.0-draft2) over whatever the host gives.

/// Why a kv call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The store is full.
    #[error("the kv add-on is full: {used} of {limit} bytes; raise its `size` in the manifest")]
    Full {
        /// Bytes used.
        used: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A key or value is larger than a limit.
    #[error("{0}")]
    TooLarge(String),
    /// The value is not what the operation needs (`increment` of something that is no integer).
    #[error("{0}")]
    WrongType(String),
    /// The database failed; the platform's fault.
    #[error("the kv add-on failed: {0}")]
    Failed(String),
}

/// A page of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KvKeys {
    /// The keys, in order.
    pub keys: Vec<String>,
    /// Where the next page starts; `None`: this was the last.
    pub cursor: Option<String>,
}

/// One bucket, open. Async, so that a durable write never blocks the core it was asked on; an
/// acknowledged write survives `kill -9`.
#[async_trait::async_trait]
pub trait KvBucket: Send + Sync + 'static {
    /// The values of these keys, in their order, all from one moment.
    async fn get(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, KvError>;
    /// Sets all of these, or none.
    async fn set(&self, pairs: Vec<(String, Vec<u8>)>) -> Result<(), KvError>;
    /// Deletes these; a key that is not there is no error.
    async fn delete(&self, keys: Vec<String>) -> Result<(), KvError>;
    /// Keys from `cursor` on.
    async fn list(&self, cursor: Option<String>) -> Result<KvKeys, KvError>;
    /// Adds to a decimal integer value (absent: 0), atomically; the new value.
    async fn increment(&self, key: String, delta: i64) -> Result<i64, KvError>;
    /// Sets `key` if its value still is `old`; otherwise says what it is now.
    async fn swap(
        &self,
        key: String,
        old: Option<Vec<u8>>,
        new: Vec<u8>,
    ) -> Result<Result<(), Option<Vec<u8>>>, KvError>;
}

/// The kv add-ons an instance may open.
pub(crate) struct KvCtx {}

impl KvCtx {
    /// For one instance.
    pub(crate) fn new(_grant: &crate::grant::Grant) -> Self {
        Self {}
    }
}

/// Links `wasi:keyvalue`.
pub(crate) fn add_to_linker(
    _linker: &mut wasmtime::component::Linker<crate::state::State>,
) -> wasmtime::Result<()> {
    Ok(())
}
