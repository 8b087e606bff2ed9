//! Handlers: an instance per request, or one that serves many.

use std::sync::Arc;

use http::{Request, Response};
use oarlock_spec::limits::Limits;

use crate::grant::Grant;
use crate::meter::Meter;
use crate::program::Program;
use crate::run::{Output, Run, Stdin};
use crate::Body;

/// A program joined with its grant and limits: everything an instance needs, prepared once.
/// Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {}

/// Why an instance could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The guest's fault: it trapped while it was instantiated.
    #[error("the component trapped while it started: {0}")]
    Trap(String),
    /// The guest needs more memory than its limit to start (R14).
    #[error("the component needs more memory to start than its limit of {limit} bytes; raise `memory` in `[limits]`")]
    Memory {
        /// The limit.
        limit: u64,
    },
    /// No place in the instance pool within the boot timeout; the platform's fault.
    #[error("no free place for an instance: all {limit} are taken")]
    Pool {
        /// The pool's size.
        limit: u32,
    },
    /// Something else of the platform's.
    #[error("the instance could not be started: {0}")]
    Platform(String),
}

/// Why a call brought no response. Each says whose fault it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The guest trapped before it answered.
    #[error("the component trapped: {0}")]
    Trap(String),
    /// The guest reached its memory limit (R14) and trapped for it.
    #[error("the component reached its memory limit of {limit} bytes")]
    Memory {
        /// The limit.
        limit: u64,
    },
    /// The guest returned without a response, or answered with an error code.
    #[error("the component gave no response: {0}")]
    NoResponse(String),
    /// The instance ended before this call was answered (another call trapped, or it was stopped).
    #[error("the instance ended before it answered: {0}")]
    Ended(String),
    /// The instance could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// How an instance came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceEnd {
    /// It was retired and all its calls were answered.
    Retired,
    /// The guest trapped.
    Trap(String),
    /// The guest reached its memory limit.
    Memory,
    /// It was dropped or ended by the host.
    Killed,
}

impl Sandbox {
    /// Prepares a program to be started with this grant and these limits.
    pub fn new(_program: &Program, _grant: Grant, _limits: &Limits) -> Result<Self, StartError> {
        unimplemented!()
    }

    /// What its instances have used.
    pub fn meter(&self) -> Arc<Meter> {
        unimplemented!()
    }

    /// The program.
    pub fn program(&self) -> &Program {
        unimplemented!()
    }

    /// Isolation `request`: one call in an instance of its own, on the runtime of the caller. The
    /// head comes back as soon as the guest gives it; the body streams. Dropping this future or the
    /// response's body ends the instance. A trap after the head ends the body with an error.
    /// After the body is complete the guest may go on (post-return work) for at most `timeout`.
    pub async fn call(&self, _request: Request<Body>) -> Result<Response<Body>, CallError> {
        unimplemented!()
    }

    /// Isolation `dyno`: one instance that serves many calls, its task spawned on the caller's runtime.
    pub async fn start(&self) -> Result<Instance, StartError> {
        unimplemented!()
    }

    /// One run of a command, with `extra_args` after the grant's; its task is spawned on the
    /// caller's runtime. Never fails at once: [`Run::wait`] says what became of it.
    pub fn run(&self, _stdin: Stdin, _output: Output, _extra_args: &[String]) -> Run {
        unimplemented!()
    }
}

/// A live instance. May be called from any thread; its guest stays on the runtime it was started on.
/// Cheap to clone; the instance is killed when the last clone is dropped.
#[derive(Clone)]
pub struct Instance {}

impl Instance {
    /// One call. WASI 0.3 serves up to `concurrency` at once, 0.2 one after the other: the host's
    /// leases see to it. Dropping the future abandons the call: an instance that serves no other
    /// call is ended; otherwise the call's bodies are closed and `call` counts as running until the
    /// guest returns.
    pub async fn call(&self, _request: Request<Body>) -> Result<Response<Body>, CallError> {
        unimplemented!()
    }

    /// Tells the guest that it is to stop (the WIT event) and takes no further call; ends when the
    /// calls under way are done.
    pub fn retire(&self) {
        unimplemented!()
    }

    /// Ends it now.
    pub fn kill(&self) {
        unimplemented!()
    }

    /// Waits for its end. May be asked any number of times.
    pub async fn ended(&self) -> InstanceEnd {
        unimplemented!()
    }
}
