//! A compiled component, linked and classified.

use std::sync::Arc;
use std::time::Duration;

use oarlock_spec::names::AppName;
use wasmparser::Payload;
use wasmtime::component::{Component, Linker};
use wasmtime_wasi::{p2, p3};
use wasmtime_wasi_http::handler::ProxyPre;

use crate::cache::Code;
use crate::compiler::CompileError;
use crate::engine::{Engine, EngineInner, Variant};
use crate::state::State;
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
}

/// A compiled, linked component. Cheap to clone.
#[derive(Clone)]
pub struct Program {
    inner: Arc<ProgramInner>,
}

struct ProgramInner {
    engine: Engine,
    name: String,
    kind: ProgramKind,
    origin: Origin,
    entry: Entry,
    places: u32,
    /// Held so that others who load the same component share its code.
    code: Arc<Code>,
}

/// What is called in an instance.
pub(crate) enum Entry {
    Handler(ProxyPre<State>),
    CommandP2(p2::bindings::CommandPre<State>),
    CommandP3(p3::bindings::CommandPre<State>),
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
        let linker = |variant| {
            let linked = engine.inner.linked(variant);
            engine.inner.functions.linked(&linked.linker, app)
        };
        // Functions that run beside the guest that calls them need the other engine.
        let mut first = match linker(Variant::Serial) {
            Ok(_) => Variant::Serial,
            Err(_) => Variant::Concurrent,
        };
        let (code, origin, kind, entry) = loop {
            let loaded = engine.inner.cache.load(first, wasm);
            let (code, origin) = loaded.map_err(|error| refused(name, error))?;
            let linked = engine.inner.linked(code.variant);
            let own = linker(code.variant).map_err(invalid)?;
            let linker = own.as_ref().unwrap_or(&linked.linker);
            let kind = classify(&linked.wasm, name, &code.component)?;
            match link((&linked.wasm, linker), name, kind, &code.component) {
                Ok(entry) => break (code, origin, kind, entry),
                // It imports something of WASI 0.3, though no function of it is async.
                Err(_)
                    if code.variant == Variant::Serial
                        && imports(&linked.wasm, &code.component)
                            .iter()
                            .any(|import| is_concurrent_only(&engine.inner, import)) =>
                {
                    first = Variant::Concurrent;
                }
                Err(error) => return Err(error),
            }
        };
        // Now, rather than in the first request.
        code.component
            .initialize_copy_on_write_image()
            .map_err(invalid)?;
        let places = code
            .component
            .resources_required()
            .map_or(1, |needs| needs.num_memories.max(1));
        Ok(Self {
            inner: Arc::new(ProgramInner {
                engine: engine.clone(),
                name: name.to_owned(),
                kind,
                origin,
                entry,
                places,
                code,
            }),
        })
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
        &self.inner.engine.inner.linked(self.inner.code.variant).wasm
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.inner.entry
    }

    /// How many places of the engine's pool an instance takes: one for each of its memories.
    pub(crate) fn places(&self) -> u32 {
        self.inner.places
    }
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

fn link(
    (engine, linker): (&wasmtime::Engine, &Linker<State>),
    name: &str,
    kind: ProgramKind,
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
    (engine, linker): (&wasmtime::Engine, &Linker<State>),
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
fn is_provided(linker: &Linker<State>, import: &str) -> bool {
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
