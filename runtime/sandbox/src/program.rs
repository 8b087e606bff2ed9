//! A compiled component, linked and classified.

use std::time::Duration;

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
    #[error("{name} is not a WebAssembly component: it does not start with the WebAssembly magic number")]
    NotWasm {
        /// The component's path.
        name: String,
    },
    /// A core module.
    #[error("{name} is a core WebAssembly module, not a component; build it for `wasm32-wasip2`, or wrap it with `wasm-tools component new`")]
    CoreModule {
        /// The component's path.
        name: String,
    },
    /// Exports neither a handler nor a command.
    #[error("{name} exports neither `wasi:http/incoming-handler@0.2`, `wasi:http/handler@0.3` nor `wasi:cli/run`; it exports {exports:?}")]
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
pub struct Program {}

impl Program {
    /// What it can be started as.
    pub fn kind(&self) -> ProgramKind {
        unimplemented!()
    }

    /// Where its machine code came from.
    pub fn origin(&self) -> Origin {
        unimplemented!()
    }

    /// The component's path, as messages call it.
    pub fn name(&self) -> &str {
        unimplemented!()
    }
}
