//! The engine: one per host, in two variants of wasmtime's. Pooling allocation sized from configuration and the
//! machine, the epoch ticker, the code cache.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oarlock_spec::names::AppName;
use oarlock_spec::policy::CompileLimits;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::cache::CodeCache;
use crate::compiler::{Compile, Compiler, Limits};
use crate::functions::HostFunctions;
use crate::machine;
use crate::program::{LoadError, Program};
use crate::sandbox::StartError;
use crate::state::State;
use crate::ticker::Ticker;

/// Address space of one linear memory: what 32-bit addresses can reach, so that no access needs a check.
const RESERVATION: u64 = 4 << 30;
/// Unmapped space behind it, for offsets in the instructions.
const GUARD: u64 = 32 << 20;
/// Of each linear memory, kept when its slot is given back: page faults are most of the price of a
/// fresh instance.
const MEMORY_RESIDENT: usize = 2 << 20;
/// Of each table, kept likewise.
const TABLE_RESIDENT: usize = 128 << 10;
/// Of each stack, kept likewise.
const STACK_RESIDENT: usize = 64 << 10;
/// Slots of a table. Large interpreters (CPython, StarlingMonkey) have tens of thousands of functions.
const TABLE_ELEMENTS: usize = 100_000;
/// Metadata of one component instance, its core instances included.
const INSTANCE_METADATA: usize = 4 << 20;
/// Tables for each place in the pool: a component of the usual toolchains has two or three.
const TABLES_PER_PLACE: u32 = 8;
/// Stacks for each place: each 0.3 call that blocks in a synchronous function holds one.
const STACKS_PER_PLACE: u32 = 4;
/// Core instances for each place; they are counted, not allocated.
const CORE_PER_PLACE: u32 = 64;
/// The least pool that is worth starting with.
const LEAST_PLACES: u32 = 8;
/// A share of the machine's memory that unused, still resident slots of one pool may hold: one part in this many.
const WARM_SHARE: u64 = 16;

/// How an engine is made.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Instances alive at once, over all apps; the pool is this large, or as large as the address
    /// space allows, and callers wait for a place in it. A component with several memories takes
    /// as many places.
    pub instances: u32,
    /// The largest `memory` limit any dyno may have, in bytes.
    pub max_memory: u64,
    /// How often a running guest is interrupted to let others run.
    pub tick: Duration,
    /// The folder of the code cache (0700, the user's own); `None`: nothing is cached.
    pub code_cache: Option<PathBuf>,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// How long a [`Compiler::Child`] may take for one component.
    pub compile_deadline: Duration,
    /// Bytes of address space that a [`Compiler::Child`] may use beyond what it starts with.
    pub compile_memory: u64,
    /// CPU time that a [`Compiler::Child`] may use, in whole seconds.
    pub compile_cpu: Duration,
    /// What components may import beside WASI.
    pub functions: HostFunctions,
}

impl Default for EngineConfig {
    /// A small engine that compiles in this process and caches nothing.
    fn default() -> Self {
        Self {
            instances: 64,
            max_memory: RESERVATION,
            tick: Duration::from_millis(1),
            code_cache: None,
            compiler: Compiler::InProcess,
            compile_deadline: COMPILE_DEADLINE,
            compile_memory: CompileLimits::default().memory,
            compile_cpu: CompileLimits::default().cpu,
            functions: HostFunctions::new(),
        }
    }
}

/// How long a [`Compiler::Child`] may take, unless configured: large interpreters take half a minute on a busy machine.
pub const COMPILE_DEADLINE: Duration = Duration::from_secs(120);

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
    /// The embedder's own functions cannot be linked.
    #[error("the host functions cannot be linked: {0}")]
    Functions(String),
}

/// Whether the stores of an engine can run several calls at once.
///
/// Where they can, wasmtime keeps a task of the component model's for each call into the host, which makes that call
/// about twice as dear; only components that use the async ABI (those of WASI 0.3) have something of it. It is a
/// setting of wasmtime's engines, so there are two of these, and a component runs in the first that takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Variant {
    /// One call at a time, and nothing of WASI 0.3.
    Serial,
    /// Everything.
    Concurrent,
}

impl Variant {
    pub(crate) const ALL: [Self; 2] = [Self::Serial, Self::Concurrent];
}

/// Compiles components and holds what all instances share. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<EngineInner>,
}

/// An engine of wasmtime's, and what its components may import.
pub(crate) struct Linked {
    pub(crate) wasm: wasmtime::Engine,
    pub(crate) linker: Linker<State>,
}

pub(crate) struct EngineInner {
    // Before the engine, so that the ticker has ended when the engine goes.
    _ticker: Ticker,
    serial: Linked,
    concurrent: Linked,
    pub(crate) functions: HostFunctions,
    pub(crate) cache: CodeCache,
    pub(crate) max_memory: u64,
    pub(crate) tick: Duration,
    places: Arc<Semaphore>,
    limit: u32,
}

impl Engine {
    /// Makes an engine and starts its ticker (an OS thread that ends with the last clone).
    ///
    /// # Errors
    ///
    /// If the machine has no address space for even a small pool, or the code cache's folder is not
    /// the user's own.
    pub fn new(config: EngineConfig) -> Result<Self, EngineError> {
        let setup = |error: wasmtime::Error| EngineError::Setup(crate::trap::describe(&error));
        let ([serial, concurrent], limit) = pooled_engines(&config)?;
        let linked = |wasm: wasmtime::Engine, variant| {
            let linker = crate::linker::build(&wasm, variant).map_err(setup)?;
            Ok(Linked { wasm, linker })
        };
        let serial = linked(serial, Variant::Serial)?;
        let concurrent = linked(concurrent, Variant::Concurrent)?;
        config
            .functions
            .check(&concurrent.linker)
            .map_err(|error| EngineError::Functions(crate::trap::describe(&error)))?;
        let limits = Limits {
            memory: config.compile_memory,
            cpu: config.compile_cpu,
            deadline: config.compile_deadline,
        };
        let compile = Compile::new(config.compiler, limits)
            .map_err(|error| EngineError::Setup(format!("the compiler's path: {error}")))?;
        let engines = [&serial.wasm, &concurrent.wasm];
        let cache = CodeCache::open(config.code_cache, compile, engines)?;
        let ticker = Ticker::start(engines, config.tick).map_err(|error| {
            EngineError::Setup(format!("the ticker's thread does not start: {error}"))
        })?;
        let places = Arc::new(Semaphore::new(limit as usize));
        Ok(Self {
            inner: Arc::new(EngineInner {
                _ticker: ticker,
                serial,
                concurrent,
                functions: config.functions,
                cache,
                max_memory: config.max_memory,
                tick: config.tick,
                places,
                limit,
            }),
        })
    }

    /// Compiles a component, or loads it from the code cache. Takes seconds: call it on a blocking
    /// thread. `name` is how messages call it (the path in the manifest).
    ///
    /// # Errors
    ///
    /// If it is no component, exports nothing that can be started, or imports what is not provided.
    pub fn load(&self, name: &str, wasm: &[u8]) -> Result<Program, LoadError> {
        Program::load(self, None, name, wasm)
    }

    /// As [`Engine::load`], with the host functions that this app may import.
    ///
    /// # Errors
    ///
    /// As those of [`Engine::load`].
    pub fn load_for(&self, app: &AppName, name: &str, wasm: &[u8]) -> Result<Program, LoadError> {
        Program::load(self, Some(app), name, wasm)
    }

    /// How many instances can be alive at once: what was asked for, or what the machine has room for.
    pub fn instances(&self) -> u32 {
        self.inner.limit
    }

    /// Waits for room for an instance that takes `places`, at most for `patience`.
    pub(crate) async fn place(
        &self,
        places: u32,
        patience: Duration,
    ) -> Result<OwnedSemaphorePermit, StartError> {
        let semaphore = &self.inner.places;
        // The usual case needs no timer.
        if let Ok(permit) = semaphore.clone().try_acquire_many_owned(places) {
            return Ok(permit);
        }
        let full = StartError::Pool {
            limit: self.inner.limit,
        };
        if places > self.inner.limit {
            return Err(full);
        }
        match tokio::time::timeout(patience, semaphore.clone().acquire_many_owned(places)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(full),
        }
    }
}

impl EngineInner {
    pub(crate) fn linked(&self, variant: Variant) -> &Linked {
        match variant {
            Variant::Serial => &self.serial,
            Variant::Concurrent => &self.concurrent,
        }
    }
}

/// Both engines, each with the largest pool, up to the configured one, that the machine grants. Either may hold all
/// instances; how many there are of both together is counted by [`Engine::place`].
fn pooled_engines(config: &EngineConfig) -> Result<([wasmtime::Engine; 2], u32), EngineError> {
    let fits = machine::address_space() / (RESERVATION + GUARD) / 2;
    let mut places = config
        .instances
        .clamp(1, u32::try_from(fits).unwrap_or(u32::MAX).max(1));
    loop {
        let [serial, concurrent] = Variant::ALL
            .map(|variant| wasmtime::Engine::new(&engine_config(config, variant, places)));
        match serial.and_then(|serial| Ok([serial, concurrent?])) {
            Ok(engines) => {
                if places < config.instances {
                    tracing::warn!(
                        asked = config.instances,
                        places,
                        "the machine has address space for fewer instances than configured"
                    );
                }
                return Ok((engines, places));
            }
            // Another limit of the machine's (overcommit, a container's): try with less.
            Err(_) if places > LEAST_PLACES => places /= 2,
            Err(error) => return Err(EngineError::Setup(crate::trap::describe(&error))),
        }
    }
}

fn engine_config(config: &EngineConfig, variant: Variant, places: u32) -> Config {
    let mut wasm = compile_config(variant);
    wasm.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(config, places)));
    wasm
}

/// All that machine code depends on; a compiler's child has the same.
pub(crate) fn compile_config(variant: Variant) -> Config {
    let concurrent = variant == Variant::Concurrent;
    let mut wasm = Config::new();
    wasm.wasm_component_model(true)
        .concurrency_support(concurrent)
        .wasm_component_model_async(concurrent)
        .epoch_interruption(true)
        .memory_init_cow(true)
        .shared_memory(false)
        .memory_reservation(RESERVATION)
        .memory_guard_size(GUARD)
        // Making a backtrace for every `exit` and trap costs more than the request; and what would be
        // in it are names that most components are stripped of.
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false);
    wasm
}

fn pool(config: &EngineConfig, places: u32) -> PoolingAllocationConfig {
    let slot = (MEMORY_RESIDENT + TABLE_RESIDENT + STACK_RESIDENT) as u64;
    let warm = machine::memory() / WARM_SHARE / slot;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(places)
        .total_core_instances(places.saturating_mul(CORE_PER_PLACE))
        .total_memories(places)
        .total_tables(places.saturating_mul(TABLES_PER_PLACE))
        .total_stacks(places.saturating_mul(STACKS_PER_PLACE))
        .total_gc_heaps(places)
        .max_component_instance_size(INSTANCE_METADATA)
        .max_core_instance_size(INSTANCE_METADATA)
        .max_tables_per_module(16)
        .max_memories_per_module(16)
        .table_elements(TABLE_ELEMENTS)
        .max_memory_size(usize::try_from(config.max_memory.min(RESERVATION)).unwrap_or(usize::MAX))
        .linear_memory_keep_resident(MEMORY_RESIDENT)
        .table_keep_resident(TABLE_RESIDENT)
        .async_stack_keep_resident(STACK_RESIDENT)
        .max_unused_warm_slots(u32::try_from(warm).unwrap_or(u32::MAX).clamp(1, places))
        .pagemap_scan(Enabled::Auto);
    pool
}
