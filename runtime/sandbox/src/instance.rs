//! Isolation `dyno`: an instance that serves many calls. Here are its handles, which send calls to the
//! task that owns its store (`worker.rs`).

use std::sync::Arc;

use http::{Request, Response};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::Body;
use crate::call::handler;
use crate::exchange::{Caller, Exchange, Owner, with_authority};
use crate::meter::Metered;
use crate::program::Wasi;
use crate::sandbox::{SandboxInner, StartError};
use crate::worker::{Call, Shared, Unserved, Worker};

/// Calls at once in a 0.3 instance whose limits name no `concurrency`.
const CONCURRENCY: u32 = 16;

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

/// Why a call of a live instance brought no response.
#[derive(Debug, thiserror::Error)]
pub enum LiveCallError {
    /// The instance ended before its guest had anything of this request: it may be sent to another.
    #[error("the instance ended before it took the request")]
    Unserved(Box<Request<Body>>),
    /// As it says.
    #[error(transparent)]
    Failed(#[from] CallError),
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

/// A live instance. May be called from any thread; its guest stays on the runtime it was started on.
/// Cheap to clone; the instance is killed when the last clone is dropped.
#[derive(Clone)]
pub struct Instance {
    inner: Arc<Handle>,
}

struct Handle {
    sandbox: Arc<SandboxInner>,
    wasi: Wasi,
    calls: mpsc::Sender<Unserved>,
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A caller of a shared instance.
struct Guest(Arc<Shared>);

impl Owner for Guest {
    fn completed(&mut self) {
        self.0.wake();
    }

    fn abandoned(&mut self) {
        self.0.wake();
    }
}

impl Instance {
    /// One call. WASI 0.3 serves up to `concurrency` at once, 0.2 one after the other: the host's
    /// leases see to it. Dropping the future abandons the call: an instance that serves no other
    /// call is ended; otherwise the call's bodies are closed and `call` counts as running until the
    /// guest returns.
    ///
    /// # Errors
    ///
    /// If the instance takes no more calls, or ends without a response; see [`CallError`].
    pub async fn call(&self, request: Request<Body>) -> Result<Response<Body>, CallError> {
        self.try_call(request).await.map_err(|error| match error {
            LiveCallError::Unserved(_) => CallError::Ended("it takes no further calls".to_owned()),
            LiveCallError::Failed(error) => error,
        })
    }

    /// The same, for callers who have other instances: a request that this one never took comes back.
    ///
    /// # Errors
    ///
    /// As of [`call`](Self::call); see [`LiveCallError`].
    pub async fn try_call(&self, request: Request<Body>) -> Result<Response<Body>, LiveCallError> {
        let handle = &self.inner;
        let exchange = Exchange::new(handle.wasi);
        let (head, answer) = futures::channel::oneshot::channel();
        let caller = Caller::new(
            exchange.clone(),
            request.method(),
            Guest(handle.shared.clone()),
        );
        let request = exchange.clone().guard(with_authority(request));
        handle.sandbox.count_request();
        let call = Unserved::new(
            Call {
                request,
                head,
                exchange: exchange.clone(),
            },
            &handle.shared,
        );
        // If it takes no more, the call comes back like those that it had not come to.
        drop(handle.calls.send(call).await);
        caller.response(answer).await.map_err(|error| {
            exchange
                .unserved()
                .map_or(LiveCallError::Failed(error), LiveCallError::Unserved)
        })
    }

    /// Tells the guest that it is to stop (the WIT event) and takes no further call; ends when the
    /// calls under way are done.
    pub fn retire(&self) {
        self.inner.shared.retire();
    }

    /// Ends it now: at its next tick, if it is computing.
    pub fn kill(&self) {
        self.inner.task.abort();
    }

    /// Whether it has come to its end.
    pub fn has_ended(&self) -> bool {
        self.inner.shared.has_ended()
    }

    /// Waits for its end. May be asked any number of times.
    pub async fn ended(&self) -> InstanceEnd {
        self.inner.shared.ended().await
    }
}

/// Starts an instance: it is instantiated when this returns.
pub(crate) async fn start(sandbox: &Arc<SandboxInner>) -> Result<Instance, StartError> {
    let (_, wasi) = handler(sandbox)?;
    let at_once = match wasi {
        Wasi::P2 => 1,
        Wasi::P3 => sandbox.limits.concurrency.unwrap_or(CONCURRENCY).max(1) as usize,
    };
    let shared = Arc::<Shared>::default();
    let (calls, queue) = mpsc::channel(at_once);
    let (ready, started) = oneshot::channel();
    let worker = Worker::new(sandbox.clone(), shared.clone(), queue, at_once);
    let task = tokio::spawn(Metered::new(worker.run(ready), sandbox.meter.clone()));
    // Dropping this handle, as when the caller goes away, ends the task.
    let inner = Arc::new(Handle {
        sandbox: sandbox.clone(),
        wasi,
        calls,
        shared,
        task: task.abort_handle(),
    });
    match started.await {
        Ok(Ok(())) => Ok(Instance { inner }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(StartError::Platform(
            "the host failed while it started".to_owned(),
        )),
    }
}
