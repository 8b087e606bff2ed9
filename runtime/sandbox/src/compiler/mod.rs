//! Where components are compiled: in this process, or in a child that may crash in its place.
//!
//! A child is a program that the embedder names (`oarlock`, or one of its own that calls [`compile_component`]);
//! it is never guessed from the running executable. It is started once for each component with the argument
//! [`SUBCOMMAND`], an empty environment, and one request on its stdin; its answer on stdout is taken as it is, for
//! whoever chose the program could as well have chosen another host. Bounds: [`MAX_WASM`] bytes in, [`MAX_CODE`]
//! out, [`Limits`] on address space and CPU time, and a deadline after which it is killed with all that it started.

mod child;
mod parent;

use std::hash::{Hash as _, Hasher};
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use wasmtime::component::Component;

use crate::proposals::Proposals;

pub use child::compile_component;

/// What the child is started with.
const SUBCOMMAND: &str = "compile-component";
/// The first bytes of a request and of an answer, with the protocol's version.
const MAGIC: &[u8; 8] = b"OARLOCK2";
/// The largest component (256 MiB).
const MAX_WASM: u64 = 256 << 20;
/// The largest machine code (2 GiB).
const MAX_CODE: u64 = 2 << 30;
/// The longest error of a compiler.
const MAX_MESSAGE: u64 = 16 << 10;

/// What a child may use for one component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of address space beyond what it has when it starts.
    pub(crate) memory: u64,
    /// CPU time of all its threads; whole seconds, rounded up.
    pub(crate) cpu: Duration,
    /// From its start to its answer.
    pub(crate) deadline: Duration,
}

/// Where components are compiled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Compiler {
    /// In this process: a component that makes the compiler use up all memory takes the process with it.
    #[default]
    InProcess,
    /// In a child: this program, with the one argument `compile-component`. The `oarlock` command is one.
    Child(PathBuf),
}

/// Why a component was not compiled.
#[derive(Debug)]
pub(crate) enum CompileError {
    /// It is not valid.
    Invalid(String),
    /// The compiler's child failed.
    Child(String),
}

/// A compiler, ready for use.
pub(crate) struct Compile {
    compiler: Compiler,
    limits: Limits,
    /// What the engines have; a child finds out for itself.
    proposals: Proposals,
}

impl Compile {
    /// Fails if the child's path cannot be made absolute.
    pub(crate) fn new(
        compiler: Compiler,
        limits: Limits,
        proposals: Proposals,
    ) -> io::Result<Self> {
        let compiler = match compiler {
            Compiler::InProcess => Compiler::InProcess,
            // It does not run in this folder.
            Compiler::Child(path) => Compiler::Child(std::path::absolute(path)?),
        };
        Ok(Self {
            compiler,
            limits,
            proposals,
        })
    }

    /// Takes seconds.
    pub(crate) fn compile(
        &self,
        engine: &wasmtime::Engine,
        wasm: &[u8],
    ) -> Result<Component, CompileError> {
        let path = match &self.compiler {
            Compiler::InProcess => {
                return Component::from_binary(engine, wasm).map_err(|error| {
                    let error = crate::trap::describe(&error);
                    CompileError::Invalid(self.proposals.refusal(wasm, error))
                });
            }
            Compiler::Child(path) => path,
        };
        let code = parent::compile(path, &self.limits, &compatibility(engine), wasm)?;
        // SAFETY: `deserialize` trusts that these bytes came from wasmtime's own compiler. They came, whole (their
        // digest says so), by a pipe that only our own child has, from the program that the embedder named as the
        // compiler, whose engine has our engine's settings; nobody else can write to our memory.
        unsafe { Component::deserialize(engine, &code) }.map_err(|error| {
            CompileError::Child(format!(
                "its code cannot be used: {}",
                crate::trap::describe(&error)
            ))
        })
    }
}

/// What machine code depends on beside the component: wasmtime's version, the target, the settings.
pub(crate) fn compatibility(engine: &wasmtime::Engine) -> blake3::Hash {
    let mut hasher = Digest(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.finalize()
}

/// Feeds std's hashing into blake3.
struct Digest(blake3::Hasher);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.finalize();
        digest
            .as_bytes()
            .first_chunk()
            .map_or(0, |first| u64::from_le_bytes(*first))
    }
}

/// What an answer begins with, behind the magic number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    /// Machine code follows.
    Compiled = 0,
    /// Why the component is not valid.
    Invalid = 1,
    /// Why this compiler is not the host's.
    Unfit = 2,
    /// It was refused memory; what it wanted it for.
    NoMemory = 3,
}

impl Status {
    fn of(byte: u8) -> Option<Self> {
        [Self::Compiled, Self::Invalid, Self::Unfit, Self::NoMemory]
            .into_iter()
            .find(|status| *status as u8 == byte)
    }

    /// The most bytes that may follow.
    fn limit(self) -> u64 {
        match self {
            Self::Compiled => MAX_CODE,
            Self::Invalid | Self::Unfit | Self::NoMemory => MAX_MESSAGE,
        }
    }
}

fn read_array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A length of at most `limit`, and so many bytes.
fn read_bytes(input: &mut impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let length = u64::from_le_bytes(read_array(input)?);
    if length > limit {
        return Err(broken(&format!(
            "{length} bytes are announced, and at most {limit} may come"
        )));
    }
    let mut bytes = Vec::new();
    input.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

fn broken(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn expect_magic(input: &mut impl Read) -> io::Result<()> {
    if read_array(input)? == *MAGIC {
        Ok(())
    } else {
        Err(broken("these are not the words of this version's compiler"))
    }
}
