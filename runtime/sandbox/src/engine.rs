//! The engine: one per host. Pooling allocation sized from configuration and the machine, the epoch
//! ticker, the code cache.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::program::{LoadError, Program};

/// How an engine is made.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Instances alive at once, over all apps; the pool is this large and callers wait for a place in it.
    pub instances: u32,
    /// The largest `memory` limit any dyno may have, in bytes.
    pub max_memory: u64,
    /// How often a running guest is interrupted to let others run.
    pub tick: Duration,
    /// The folder of the code cache (0700, the user's own); `None`: nothing is cached.
    pub code_cache: Option<PathBuf>,
}

/// Why an engine could not be made; the platform's fault.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// wasmtime refused the configuration or the machine has too little address space.
    #[error("the WebAssembly engine could not be set up: {0}")]
    Setup(String),
    /// The code cache's folder cannot be used.
    #[error("the code cache in {path} cannot be used: {reason}")]
    CodeCache {
        /// The folder.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
}

/// Compiles components and holds what all instances share. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<EngineInner>,
}

pub(crate) struct EngineInner {}

impl Engine {
    /// Makes an engine and starts its ticker (an OS thread that ends with the last clone).
    pub fn new(_config: EngineConfig) -> Result<Self, EngineError> {
        unimplemented!()
    }

    /// Compiles a component, or loads it from the code cache. Takes seconds: call it on a blocking
    /// thread. `name` is how messages call it (the path in the manifest).
    pub fn load(&self, _name: &str, _wasm: &[u8]) -> Result<Program, LoadError> {
        unimplemented!()
    }
}
