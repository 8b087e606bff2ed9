//! The engine: one per host, in two variants of wasmtime's. Pooling allocation sized from configuration and the
//! machine, the epoch ticker, the code cache.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oarlock_spec::names::AppName;
use oarlock_spec::policy::{CompileLimits, Proposal};
use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::cache::CodeCache;
use crate::capacity::{Bound, Capacity};
use crate::compiler::{Compile, Compiler, Limits};
use crate::functions::HostFunctions;
use crate::limiter::ITEMS;
use crate::place::Places;
use crate::program::{LoadError, Program};
use crate::proposals::Proposals;
use crate::resident::Residents;
use crate::slow::SlowThreads;
use crate::state::GuestState;
use crate::ticker::Ticker;
use crate::trim::Trim;

/// Address space of one linear memory: what 32-bit addresses can reach, so that no access needs a check.
pub(crate) const RESERVATION: u64 = 4 << 30;
/// Of each stack that a guest runs on; its own frames may take a quarter of it, the host's the rest.
pub(crate) const STACK: usize = 2 << 20;
/// Unmapped space behind it, for offsets in the instructions.
const GUARD: u64 = 32 << 20;
/// Of each linear memory, kept when its slot is given back: page faults are most of the price of a
/// fresh instance.
const MEMORY_RESIDENT: usize = 2 << 20;
/// Of each table, kept likewise.
const TABLE_RESIDENT: usize = 128 << 10;
/// Slots of a table. Large interpreters (CPython, StarlingMonkey) have tens of thousands of functions.
const TABLE_ELEMENTS: usize = 100_000;
/// Metadata of one component instance, its core instances included.
const INSTANCE_METADATA: usize = 4 << 20;
/// Tables for each place in the pool: a component of the usual toolchains has two or three.
pub(crate) const TABLES_PER_PLACE: u32 = 8;
/// Core instances for each place: as many as one store may have, so that nobody can use up another's. They are counted,
/// not allocated; what they take is bounded by [`INSTANCE_METADATA`].
const CORE_PER_PLACE: u32 = ITEMS as u32;
/// Unused slots that stay their last program's. Beyond that a program that has none takes another's, rather than one
/// that was never used: what is resident follows use. What is still left of a burst, [`Trim`] gives back.
const WARM_SLOTS: u32 = 128;

/// How an engine is made.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Instances alive at once, over all apps; the pool is this large, or as large as the address
    /// space allows, and callers wait for a place in it. A component with several memories takes
    /// as many places, one with many tables one for each eight.
    pub instances: u32,
    /// Components whose code is in memory at once, at the most, if the machine has room for so many.
    pub programs: u32,
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
    /// WebAssembly proposals that components may use beyond those that every engine takes.
    pub proposals: BTreeSet<Proposal>,
}

impl Default for EngineConfig {
    /// A small engine that compiles in this process and caches nothing.
    fn default() -> Self {
        Self {
            instances: 64,
            programs: u32::MAX,
            max_memory: RESERVATION,
            tick: Duration::from_millis(1),
            code_cache: None,
            compiler: Compiler::InProcess,
            compile_deadline: COMPILE_DEADLINE,
            compile_memory: CompileLimits::default().memory,
            compile_cpu: CompileLimits::default().cpu,
            functions: HostFunctions::new(),
            proposals: BTreeSet::new(),
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
    pub(crate) linker: Linker<GuestState>,
}

pub(crate) struct EngineInner {
    // Before the engine, so that the ticker has ended when the engine goes.
    pub(crate) ticker: Ticker,
    serial: Linked,
    concurrent: Linked,
    pub(crate) functions: HostFunctions,
    pub(crate) cache: CodeCache,
    pub(crate) max_memory: u64,
    pub(crate) tick: Duration,
    trims: [Trim; 2],
    pub(crate) residents: Residents,
    pub(crate) places: Places,
    capacity: Capacity,
    /// For guests that cannot be interrupted in time.
    pub(crate) slow: SlowThreads,
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
        let ([serial, concurrent], capacity) = pooled_engines(&config)?;
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
        let proposals = Proposals::new(&config.proposals);
        let compile = Compile::new(config.compiler, limits, proposals)
            .map_err(|error| EngineError::Setup(format!("the compiler's path: {error}")))?;
        let engines = [&serial.wasm, &concurrent.wasm];
        let cache = CodeCache::open(config.code_cache, compile, engines)?;
        let ticker = Ticker::start(engines, config.tick).map_err(|error| {
            EngineError::Setup(format!("the ticker's thread does not start: {error}"))
        })?;
        Ok(Self {
            inner: Arc::new(EngineInner {
                ticker,
                serial,
                concurrent,
                functions: config.functions,
                cache,
                max_memory: config.max_memory,
                tick: config.tick,
                trims: Default::default(),
                residents: Residents::new(capacity.programs),
                places: Places::new(&capacity),
                capacity,
                slow: SlowThreads::default(),
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

    /// Whether this component can be loaded without compiling it, because its code is in memory or in the code cache.
    pub fn has_code_of(&self, wasm: &[u8]) -> bool {
        self.inner.cache.has(blake3::hash(wasm))
    }

    /// How many instances and programs there is room for, by what was asked for and what the machine has.
    pub fn capacity(&self) -> Capacity {
        self.inner.capacity
    }

    /// Gives memory back to the machine that is kept of a burst and was not needed since the last calls: pages of slots,
    /// and code that nothing runs. Blocks for some
    /// milliseconds: call it every few seconds, on a blocking thread.
    pub fn trim(&self) {
        let inner = &self.inner;
        for (trim, variant) in inner.trims.iter().zip(Variant::ALL) {
            trim.look(inner, variant);
        }
        inner.residents.shrink();
    }

    /// Components whose code is in memory now.
    pub fn loaded_programs(&self) -> usize {
        self.inner.residents.count()
    }

    /// Bytes that are resident in slots of memories that nobody uses now.
    pub fn unused_bytes(&self) -> usize {
        let engines = [&self.inner.serial.wasm, &self.inner.concurrent.wasm];
        let metrics = engines.map(wasmtime::Engine::pooling_allocator_metrics);
        let of =
            |metrics: wasmtime::PoolingAllocatorMetrics| metrics.unused_memory_bytes_resident();
        metrics.into_iter().flatten().map(of).sum()
    }

    /// Instances that could be started now.
    pub fn free_instances(&self) -> u32 {
        self.inner.places.free()
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
/// instances; how many there are of both together is counted by [`Places`].
fn pooled_engines(config: &EngineConfig) -> Result<([wasmtime::Engine; 2], Capacity), EngineError> {
    let asked = (config.instances, config.programs);
    let mut capacity = Capacity::of_machine(asked, RESERVATION + GUARD);
    loop {
        let [serial, concurrent] = Variant::ALL
            .map(|variant| wasmtime::Engine::new(&engine_config(config, variant, &capacity)));
        match serial.and_then(|serial| Ok([serial, concurrent?])) {
            Ok(engines) => return Ok((engines, capacity)),
            // Another limit of the machine's (overcommit, a container's): try with less.
            Err(error) => match capacity.halved() {
                Some(less) => capacity = less,
                None => return Err(no_space(&error, &capacity)),
            },
        }
    }
}

/// Even the smallest pools do not fit.
fn no_space(error: &wasmtime::Error, capacity: &Capacity) -> EngineError {
    let instances = capacity.instances.count;
    let gib = (2 * u64::from(instances) * (RESERVATION + GUARD)).div_ceil(1 << 30);
    EngineError::Setup(format!(
        "{}; {instances} instances reserve {gib} GiB of address space, which costs no memory: raise {}",
        crate::trap::describe(error),
        Bound::AddressSpace
    ))
}

fn engine_config(config: &EngineConfig, variant: Variant, capacity: &Capacity) -> Config {
    let mut wasm = compile_config(variant, Proposals::new(&config.proposals));
    wasm.async_stack_size(STACK);
    let pool = pool(config, variant, capacity);
    wasm.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    wasm
}

/// All that machine code depends on; a compiler's child has the same.
pub(crate) fn compile_config(variant: Variant, proposals: Proposals) -> Config {
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
    proposals.configure(&mut wasm);
    wasm
}

fn pool(config: &EngineConfig, variant: Variant, capacity: &Capacity) -> PoolingAllocationConfig {
    let places = capacity.instances.count;
    let [serial, concurrent] = capacity.stacks();
    let stacks = match variant {
        Variant::Serial => serial,
        Variant::Concurrent => concurrent,
    };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(places)
        .total_core_instances(places.saturating_mul(CORE_PER_PLACE))
        .total_memories(places)
        .total_tables(places.saturating_mul(TABLES_PER_PLACE))
        .total_stacks(stacks)
        .total_gc_heaps(places)
        .max_component_instance_size(INSTANCE_METADATA)
        .max_core_instance_size(INSTANCE_METADATA)
        .max_core_instances_per_component(CORE_PER_PLACE)
        .max_tables_per_module(16)
        .max_memories_per_module(16)
        .table_elements(TABLE_ELEMENTS)
        .max_memory_size(usize::try_from(config.max_memory.min(RESERVATION)).unwrap_or(usize::MAX))
        .linear_memory_keep_resident(MEMORY_RESIDENT)
        .table_keep_resident(TABLE_RESIDENT)
        .max_unused_warm_slots(WARM_SLOTS.min(places))
        .pagemap_scan(Enabled::Auto);
    pool
}
