//! A compiled component, linked and classified.

use std::sync::Arc;
use std::time::Duration;

use blake3::Hash;
use oarlock_spec::names::AppName;
use wasmparser::Payload;
use wasmtime::component::{Component, Linker};
use wasmtime_wasi::{p2, p3};
use wasmtime_wasi_http::handler::ProxyPre;

use crate::cache::Code;
use crate::capacity::Bound;
use crate::compiler::CompileError;
use crate::engine::{Engine, EngineInner, TABLES_PER_PLACE, Variant};
use crate::resident::{Cell, Full, Loaded};
use crate::state::GuestState;
use crate::trap;

/// Which WASI a component's entry belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wasi {
    /// 0.2
    P2,
    /// 0.3
    P3,
}

/// What a component can be started as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProgramKind {
    /// Exports `wasi:http/incoming-handler@0.2` or `wasi:http/handler@0.3`.
    Handler(Wasi),
    /// Exports `wasi:cli/run`.
    Command(Wasi),
}

/// Where a program's machine code came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Compiled now, in this time.
    Compiled(Duration),
    /// Loaded from the code cache.
    Cached,
}

/// Why a component was refused. All are the app's fault but `Compiler`.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not WebAssembly at all.
    #[error(
        "{name} is not a WebAssembly component: it does not start with the WebAssembly magic number"
    )]
    NotWasm {
        /// The component's path.
        name: String,
    },
    /// A core module.
    #[error(
        "{name} is a core WebAssembly module, not a component; build it for `wasm32-wasip2`, or wrap it with `wasm-tools component new`"
    )]
    CoreModule {
        /// The component's path.
        name: String,
    },
    /// Exports neither a handler nor a command.
    #[error(
        "{name} exports neither `wasi:http/incoming-handler@0.2`, `wasi:http/handler@0.3` nor `wasi:cli/run`; it exports {exports:?}"
    )]
    WrongWorld {
        /// The component's path.
        name: String,
        /// What it does export.
        exports: Vec<String>,
    },
    /// Imports what the host does not provide.
    #[error("{name} imports what Oarlock does not provide: {}", imports.join(", "))]
    MissingImports {
        /// The component's path.
        name: String,
        /// Those imports.
        imports: Vec<String>,
    },
    /// It has more memories, tables or core instances than one instance may take from the pool.
    #[error(
        "{name} has {number} {what}, its nested components' included; an instance may have {bound} at most"
    )]
    TooMany {
        /// The component's path.
        name: String,
        /// What there is too much of.
        what: &'static str,
        /// How many it has.
        number: u32,
        /// How many it may have.
        bound: u32,
    },
    /// The compiler's process failed: it cannot be used, or this component was too much for it.
    #[error("{name} could not be compiled: {reason}")]
    Compiler {
        /// The component's path.
        name: String,
        /// What became of the compiler.
        reason: String,
    },
    /// Invalid or unsupported WebAssembly.
    #[error("{name} is not valid: {reason}")]
    Invalid {
        /// The component's path.
        name: String,
        /// What wasmtime said.
        reason: String,
    },
    /// The host has no room for another program's code; the platform's limit, not the component's fault.
    #[error(
        "there is no room for {name}: the code of {limit} components is in memory, and all of them run; raise {bound}"
    )]
    Full {
        /// The component's path.
        name: String,
        /// How many there is room for.
        limit: u32,
        /// What raises it.
        bound: Bound,
    },
    /// Its code was let go of and cannot be had again; the platform's fault.
    #[error("the code of {name} is gone from the code cache; deploy the app again")]
    Gone {
        /// The component's path.
        name: String,
    },
}

/// A compiled, linked component. Cheap to clone.
#[derive(Clone)]
pub struct Program {
    inner: Arc<ProgramInner>,
}

struct ProgramInner {
    engine: Engine,
    app: Option<AppName>,
    name: String,
    digest: Hash,
    kind: ProgramKind,
    origin: Origin,
    places: u32,
    /// The engine that it was first loaded for, and the one that it is for.
    first: Variant,
    variant: Variant,
    cell: Arc<Cell>,
}

/// What is called in an instance.
pub(crate) enum Entry {
    Handler(ProxyPre<GuestState>),
    CommandP2(p2::bindings::CommandPre<GuestState>),
    CommandP3(p3::bindings::CommandPre<GuestState>),
}

impl Program {
    pub(crate) fn load(
        engine: &Engine,
        app: Option<&AppName>,
        name: &str,
        wasm: &[u8],
    ) -> Result<Self, LoadError> {
        check_header(name, wasm)?;
        check_nesting(name, wasm)?;
        let invalid = |error: wasmtime::Error| LoadError::Invalid {
            name: name.to_owned(),
            reason: trap::describe(&error),
        };
        // Functions that run beside the guest that calls them need the other engine.
        let own = engine.inner.linked(Variant::Serial);
        let mut first = match engine.inner.functions.linked(&own.linker, app) {
            Ok(_) => Variant::Serial,
            Err(_) => Variant::Concurrent,
        };
        let digest = blake3::hash(wasm);
        let (code, origin, kind, entry) = loop {
            let loaded = engine.inner.cache.load(first, digest, wasm);
            let (code, origin) = loaded.map_err(|error| refused(name, error))?;
            match link(engine, app, name, &code) {
                Ok((kind, entry)) => break (code, origin, kind, entry),
                // It imports something of WASI 0.3, though no function of it is async.
                Err(_)
                    if code.variant == Variant::Serial
                        && imports(&engine.inner.linked(code.variant).wasm, &code.component)
                            .iter()
                            .any(|import| is_concurrent_only(&engine.inner, import)) =>
                {
                    first = Variant::Concurrent;
                }
                Err(error) => return Err(error),
            }
        };
        let places = places(name, &code.component)?;
        // Now, rather than in the first request.
        code.component
            .initialize_copy_on_write_image()
            .map_err(invalid)?;
        let variant = code.variant;
        let cell = engine
            .inner
            .residents
            .add(Loaded::new(entry, code), engine.inner.cache.keeps())
            .map_err(|full| no_room(name, full))?;
        Ok(Self {
            inner: Arc::new(ProgramInner {
                engine: engine.clone(),
                app: app.cloned(),
                name: name.to_owned(),
                digest,
                kind,
                origin,
                places,
                first,
                variant,
                cell,
            }),
        })
    }

    /// Its code, held in memory as long as the caller has it; loaded again if it had been let go of.
    pub(crate) async fn loaded(&self) -> Result<Arc<Loaded>, LoadError> {
        if let Some(loaded) = self.inner.cell.get() {
            return Ok(loaded);
        }
        let _turn = self.inner.cell.loading.lock().await;
        if let Some(loaded) = self.inner.cell.get() {
            return Ok(loaded);
        }
        let program = self.clone();
        let loading = tokio::task::spawn_blocking(move || program.load_again());
        // Only a runtime that ends breaks it off.
        loading.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn load_again(&self) -> Result<Arc<Loaded>, LoadError> {
        let inner = &self.inner;
        let cache = &inner.engine.inner.cache;
        let code = cache
            .reload(inner.digest, inner.first, inner.variant)
            .ok_or_else(|| self.gone())?;
        let (_, entry) = link(&inner.engine, inner.app.as_ref(), &inner.name, &code)?;
        code.component
            .initialize_copy_on_write_image()
            .map_err(|error| LoadError::Invalid {
                name: inner.name.clone(),
                reason: trap::describe(&error),
            })?;
        let loaded = Loaded::new(entry, code);
        let residents = &inner.engine.inner.residents;
        residents
            .put(&inner.cell, loaded.clone())
            .map_err(|full| no_room(&inner.name, full))?;
        Ok(loaded)
    }

    fn gone(&self) -> LoadError {
        LoadError::Gone {
            name: self.inner.name.clone(),
        }
    }

    /// What it can be started as.
    pub fn kind(&self) -> ProgramKind {
        self.inner.kind
    }

    /// Where its machine code came from.
    pub fn origin(&self) -> Origin {
        self.inner.origin
    }

    /// The component's path, as messages call it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// The engine of wasmtime's that its stores are of.
    pub(crate) fn wasm(&self) -> &wasmtime::Engine {
        &self.inner.engine.inner.linked(self.inner.variant).wasm
    }

    /// How many places of the engine's pool an instance takes.
    pub fn places(&self) -> u32 {
        self.inner.places
    }
}

fn no_room(name: &str, Full(most): Full) -> LoadError {
    LoadError::Full {
        name: name.to_owned(),
        limit: most.count,
        bound: most.bound,
    }
}

/// The most places of the engine's pool that one instance takes: components of the usual toolchains take one.
const MOST_PLACES: u32 = 16;

/// How many places of the engine's pool an instance of this component takes: one for each of its memories, and one for
/// each [`TABLES_PER_PLACE`] of its tables, empty ones included. All that it instantiates is known from its code.
fn places(name: &str, component: &Component) -> Result<u32, LoadError> {
    let Some(needs) = component.resources_required() else {
        // It imports core modules, which nobody provides: it was refused for that before.
        return Ok(1);
    };
    let too_many = |what, number, bound| LoadError::TooMany {
        name: name.to_owned(),
        what,
        number,
        bound,
    };
    if needs.num_memories > MOST_PLACES {
        return Err(too_many("memories", needs.num_memories, MOST_PLACES));
    }
    let most_tables = MOST_PLACES * TABLES_PER_PLACE;
    if needs.num_tables > most_tables {
        return Err(too_many("tables", needs.num_tables, most_tables));
    }
    let for_tables = needs.num_tables.div_ceil(TABLES_PER_PLACE);
    Ok(needs.num_memories.max(for_tables).max(1))
}

fn refused(name: &str, error: CompileError) -> LoadError {
    let name = name.to_owned();
    match error {
        CompileError::Invalid(reason) => LoadError::Invalid { name, reason },
        CompileError::Child(reason) => LoadError::Compiler { name, reason },
    }
}

/// What the first eight bytes say: magic number, version and layer.
fn check_header(name: &str, wasm: &[u8]) -> Result<(), LoadError> {
    const MODULE: &[u8] = b"\0asm\x01\0\0\0";
    const MAGIC: &[u8] = b"\0asm";
    let name = name.to_owned();
    if !wasm.starts_with(MAGIC) {
        Err(LoadError::NotWasm { name })
    } else if wasm.starts_with(MODULE) {
        Err(LoadError::CoreModule { name })
    } else {
        Ok(())
    }
}

/// Components in each other. Toolchains make three or four; wasmtime's time for them grows with the square.
const MAX_NESTING: usize = 100;

/// Refuses components that are nested too deep, before anything walks them. What cannot be read at all is for the
/// compiler to say.
fn check_nesting(name: &str, wasm: &[u8]) -> Result<(), LoadError> {
    let mut depth = 0_usize;
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        match payload {
            Ok(Payload::ComponentSection { .. } | Payload::ModuleSection { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(_) => {}
            Err(_) => break,
        }
        if depth > MAX_NESTING {
            return Err(LoadError::Invalid {
                name: name.to_owned(),
                reason: format!("it has more than {MAX_NESTING} components in each other"),
            });
        }
    }
    Ok(())
}

/// The entries we can call, the most specific first: a component that exports a handler and `run` is a
/// handler.
const ENTRIES: [(&str, ProgramKind); 4] = [
    ("wasi:http/handler@0.3.", ProgramKind::Handler(Wasi::P3)),
    (
        "wasi:http/incoming-handler@0.2.",
        ProgramKind::Handler(Wasi::P2),
    ),
    ("wasi:cli/run@0.3.", ProgramKind::Command(Wasi::P3)),
    ("wasi:cli/run@0.2.", ProgramKind::Command(Wasi::P2)),
];

fn classify(
    engine: &wasmtime::Engine,
    name: &str,
    component: &Component,
) -> Result<ProgramKind, LoadError> {
    let exports: Vec<String> = component
        .component_type()
        .exports(engine)
        .map(|(export, _)| export.to_owned())
        .collect();
    ENTRIES
        .iter()
        // A pre-release (`0.3.0-rc-…`) is another interface, and cannot be called as this one.
        .find(|(prefix, _)| {
            exports.iter().any(|export| {
                export
                    .strip_prefix(prefix)
                    .is_some_and(|patch| patch.bytes().all(|b| b.is_ascii_digit()))
            })
        })
        .map(|(_, kind)| *kind)
        .ok_or_else(|| LoadError::WrongWorld {
            name: name.to_owned(),
            exports,
        })
}

/// What a component can be started as, and how; with the host functions that this app may import.
fn link(
    engine: &Engine,
    app: Option<&AppName>,
    name: &str,
    code: &Code,
) -> Result<(ProgramKind, Entry), LoadError> {
    let invalid = |error: wasmtime::Error| LoadError::Invalid {
        name: name.to_owned(),
        reason: trap::describe(&error),
    };
    let linked = engine.inner.linked(code.variant);
    let own = engine.inner.functions.linked(&linked.linker, app);
    let own = own.map_err(invalid)?;
    let linker = own.as_ref().unwrap_or(&linked.linker);
    let kind = classify(&linked.wasm, name, &code.component)?;
    let entry = link_as(kind, (&linked.wasm, linker), name, &code.component)?;
    Ok((kind, entry))
}

fn link_as(
    kind: ProgramKind,
    (engine, linker): (&wasmtime::Engine, &Linker<GuestState>),
    name: &str,
    component: &Component,
) -> Result<Entry, LoadError> {
    let pre = linker
        .instantiate_pre(component)
        .map_err(|error| LoadError::MissingImports {
            name: name.to_owned(),
            imports: missing_imports((engine, linker), component, &error),
        })?;
    let invalid = |error: wasmtime::Error| LoadError::Invalid {
        name: name.to_owned(),
        reason: trap::describe(&error),
    };
    Ok(match kind {
        ProgramKind::Handler(Wasi::P2) => Entry::Handler(ProxyPre::P2(
            wasmtime_wasi_http::p2::bindings::ProxyPre::new(pre).map_err(invalid)?,
        )),
        ProgramKind::Handler(Wasi::P3) => Entry::Handler(ProxyPre::P3(
            wasmtime_wasi_http::p3::bindings::ServicePre::new(pre).map_err(invalid)?,
        )),
        ProgramKind::Command(Wasi::P2) => {
            Entry::CommandP2(p2::bindings::CommandPre::new(pre).map_err(invalid)?)
        }
        ProgramKind::Command(Wasi::P3) => {
            Entry::CommandP3(p3::bindings::CommandPre::new(pre).map_err(invalid)?)
        }
    })
}

fn imports(engine: &wasmtime::Engine, component: &Component) -> Vec<String> {
    let component = component.component_type();
    let imports = component.imports(engine);
    imports.map(|(import, _)| import.to_owned()).collect()
}

/// Whether only the concurrent engine has it.
fn is_concurrent_only(engine: &EngineInner, import: &str) -> bool {
    let is_in = |variant| is_provided(&engine.linked(variant).linker, import);
    !is_in(Variant::Serial) && is_in(Variant::Concurrent)
}

/// Every import that the linker has nothing for; if it has all interfaces, what it misses in one.
fn missing_imports(
    (engine, linker): (&wasmtime::Engine, &Linker<GuestState>),
    component: &Component,
    error: &wasmtime::Error,
) -> Vec<String> {
    let missing: Vec<String> = imports(engine, component)
        .into_iter()
        .filter(|import| !is_provided(linker, import))
        .collect();
    if missing.is_empty() {
        vec![trap::describe(error)]
    } else {
        missing
    }
}

/// Patch versions of an interface that the host's may be.
const PATCHES: u32 = 100;

/// Whether the linker has this interface, in any version that is compatible. Linkers cannot be asked;
/// but they refuse to define a name twice. Only on the way to an error.
fn is_provided(linker: &Linker<GuestState>, import: &str) -> bool {
    let mut linker = linker.clone();
    let mut is_taken = |name: &str| linker.root().func_new(name, |_, _, _, _| Ok(())).is_err();
    if is_taken(import) {
        return true;
    }
    // Versions 0.x.* match each other; pre-releases match nothing but themselves.
    let Some((track, patch)) = import.rsplit_once('.') else {
        return false;
    };
    let is_release = !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit());
    is_release
        && (0..PATCHES)
            .map(|patch| format!("{track}.{patch}"))
            .any(|name| name != import && is_taken(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineConfig;

    /// A command whose core module has this in it, instantiated so many times.
    fn load(fields: &str, instances: usize) -> Result<u32, LoadError> {
        let instances: String = (0..instances)
            .map(|index| format!("(core instance $i{index} (instantiate $m))"))
            .collect();
        let wasm = wat::parse_str(format!(
            r#"(component
                (core module $m {fields} (func (export "run") (result i32) (i32.const 0)))
                {instances}
                (func $run (result (result)) (canon lift (core func $i0 "run")))
                (instance $runner (export "run" (func $run)))
                (export "wasi:cli/run@0.2.0" (instance $runner)))"#
        ))
        .unwrap();
        let engine = Engine::new(EngineConfig::default()).unwrap();
        Ok(engine.load("worker.wasm", &wasm)?.places())
    }

    #[test]
    fn an_instance_takes_places_for_its_memories_and_tables() {
        let table = "(table 0 funcref)";
        assert_eq!(load("", 1).unwrap(), 1);
        assert_eq!(load(table, 8).unwrap(), 1);
        assert_eq!(load(table, 9).unwrap(), 2);
        assert_eq!(load("(memory 0) (memory 0)", 3).unwrap(), 6);
        assert_eq!(load(&format!("(memory 0) {table}"), 16).unwrap(), 16);
        assert_eq!(load(&table.repeat(16), 8).unwrap(), 16);
    }

    #[test]
    fn more_than_an_instance_may_have_is_refused_by_name_and_number() {
        let error = |fields: &str, instances| load(fields, instances).unwrap_err().to_string();
        assert_eq!(
            error(&"(table 0 funcref)".repeat(16), 62),
            "worker.wasm has 992 tables, its nested components' included; an instance may have 128 at most"
        );
        assert_eq!(
            error("(memory 0)", 17),
            "worker.wasm has 17 memories, its nested components' included; an instance may have 16 at most"
        );
    }

    #[test]
    fn core_instances_are_counted_through_nested_components() {
        let instances = "(core instance (instantiate $m))".repeat(600);
        let wasm = wat::parse_str(format!(
            r#"(component
                (component $c (core module $m) {instances})
                (instance (instantiate $c)) (instance (instantiate $c))
                (core module $m (func (export "run") (result i32) (i32.const 0)))
                (core instance $i (instantiate $m))
                (func $run (result (result)) (canon lift (core func $i "run")))
                (instance $runner (export "run" (func $run)))
                (export "wasi:cli/run@0.2.0" (instance $runner)))"#
        ))
        .unwrap();
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let error = engine.load("worker.wasm", &wasm).err().unwrap().to_string();
        assert!(
            error.contains("1201 core module instances") && error.contains("1000"),
            "{error}"
        );
    }
}
