//! Engine, program, grant, limits, meter and instance: all that touches wasmtime, and nothing else.
//!
//! The host loads a component into a [`Program`], describes what a dyno may touch in a [`Grant`],
//! and joins both in a [`Sandbox`], from which it starts instances: one per request
//! ([`Sandbox::call`]), one that serves many ([`Sandbox::start`]) or one run of a command
//! ([`Sandbox::run`]). Guests run on the tokio runtime that the call is made on.

mod after;
mod bodies;
mod budget;
mod cache;
mod call;
mod capacity;
mod compiler;
mod egress;
mod engine;
mod entries;
mod environment;
mod exchange;
mod fields;
mod files;
mod frames;
mod functions;
mod grant;
mod instance;
mod kv;
mod lifecycle;
mod limiter;
mod linker;
mod machine;
mod meter;
mod pace;
mod place;
mod program;
mod proposals;
mod resident;
mod run;
mod sandbox;
mod serial;
mod shared;
mod slow;
mod sockets;
mod state;
mod stdio;
mod ticker;
mod tmp;
mod trap;
mod tree;
mod trim;
mod unwind;

/// Why a body ended early.
pub use wasmtime_wasi_http::Error as BodyError;
/// The body of a request or response on its way in or out of a guest.
pub use wasmtime_wasi_http::WasiBody as Body;

/// wasmtime, for host functions of the embedder's own.
pub use wasmtime;

pub use after::Hold;
pub use capacity::{Bound, Capacity, Most};
pub use compiler::{Compiler, compile_component};
pub use egress::{
    Attempt, ChosenBy, Decision, Denial, Egress, EgressRules, Endpoint, HostListeners, HttpClient,
    PortsTaken, PrivateNetworks, certificates, other_coding,
};
pub use engine::{COMPILE_DEADLINE, Engine, EngineConfig, EngineError};
pub use frames::poll_content;
pub use functions::HostFunctions;
pub use grant::{DynoLog, Folder, Grant, OutputStream};
pub use instance::{CallError, Instance, InstanceEnd, LiveCallError};
pub use kv::{KvBucket, KvError, KvKeys, KvSwap};
pub use machine::threads;
pub use meter::{Meter, last_used_up_tick};
pub use place::Full;
pub use program::{LoadError, Origin, Program, ProgramKind, Wasi};
pub use run::{Exit, Output, Run, RunHandle, Stdin, StdinSource};
pub use sandbox::{Sandbox, StartError};
pub use sockets::{Port, PortStream, Progress, Refused};
pub use state::GuestState as Guest;
pub use tmp::{CleanedTmp, clean_tmp};
pub use tree::remove as remove_tree;
