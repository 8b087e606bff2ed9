//! Isolation `dyno`: an instance that serves many calls. Here is its handle; `serial.rs` has the instances of WASI
//! 0.2, `shared.rs` those of 0.3.

use std::sync::Arc;

use http::{Request, Response};
use wasmtime_wasi_http::handler::ProxyPre;

use crate::Body;
use crate::after::Hold;
use crate::call::handler;
use crate::exchange::Ending;
use crate::sandbox::{SandboxInner, StartError};
use crate::serial::{self, Serial};
use crate::shared::{self, SharedInstance};

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
    /// The guest returned without a response. One that does so once may do so for ever.
    #[error("the component gave no response: {0}")]
    NoResponse(String),
    /// The guest answered with an error code in the place of a response.
    #[error("the component answered with an error: {0}")]
    ErrorCode(String),
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

impl From<Ending> for InstanceEnd {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Finished | Ending::Refused(_) => Self::Retired,
            Ending::Trap(text) => Self::Trap(text),
            Ending::Memory { .. } => Self::Memory,
            Ending::Killed | Ending::AfterResponse | Ending::NotStarted(_) => Self::Killed,
        }
    }
}

/// A live instance. May be called from any thread. A guest of WASI 0.3 stays on the runtime it was started on, one of
/// 0.2 runs on that of its caller. Cheap to clone; the instance is killed when the last clone is dropped.
#[derive(Clone)]
pub struct Instance {
    inner: Arc<Handle>,
}

/// The last handle ends the instance.
struct Handle(Kind);

enum Kind {
    Serial(Arc<Serial>),
    Shared(SharedInstance),
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Handle {
    fn kill(&self) {
        match &self.0 {
            Kind::Serial(instance) => instance.kill(),
            Kind::Shared(instance) => instance.kill(),
        }
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
        let called = self.try_call(request, Hold::NONE).await;
        called.map_err(|error| match error {
            LiveCallError::Unserved(_) => CallError::Ended("it takes no further calls".to_owned()),
            LiveCallError::Failed(error) => error,
        })
    }

    /// The same, for callers who have other instances: a request that this one never took comes back. `hold` is kept
    /// until the guest has returned, or the instance is gone.
    ///
    /// # Errors
    ///
    /// As of [`call`](Self::call); see [`LiveCallError`].
    pub async fn try_call(
        &self,
        request: Request<Body>,
        hold: Hold,
    ) -> Result<Response<Body>, LiveCallError> {
        match &self.inner.0 {
            Kind::Serial(instance) => instance.call(request, hold).await,
            Kind::Shared(instance) => instance.call(request, hold).await,
        }
    }

    /// Resolves when it takes no more calls, because work went on for more than `after_response` after an answer while
    /// there were other calls: another instance is to take its place. It ends when its calls are done.
    pub async fn to_be_replaced(&self) {
        match &self.inner.0 {
            // It has one call at a time, and is ended.
            Kind::Serial(_) => std::future::pending().await,
            Kind::Shared(instance) => instance.to_be_replaced().await,
        }
    }

    /// Tells the guest that it is to stop (the WIT event), so that calls which stream without an end may end.
    /// It takes calls all the same until it is retired.
    pub fn announce_stop(&self) {
        match &self.inner.0 {
            Kind::Serial(instance) => instance.announce_stop(),
            Kind::Shared(instance) => instance.announce_stop(),
        }
    }

    /// The same, and it takes no further call; ends when the calls under way are done.
    pub fn retire(&self) {
        match &self.inner.0 {
            Kind::Serial(instance) => instance.retire(),
            Kind::Shared(instance) => instance.retire(),
        }
    }

    /// Ends it now: at its next tick, if it is computing.
    pub fn kill(&self) {
        self.inner.kill();
    }

    /// Whether it has come to its end.
    pub fn has_ended(&self) -> bool {
        match &self.inner.0 {
            Kind::Serial(instance) => instance.has_ended(),
            Kind::Shared(instance) => instance.has_ended(),
        }
    }

    /// Waits for its end. May be asked any number of times.
    pub async fn ended(&self) -> InstanceEnd {
        match &self.inner.0 {
            Kind::Serial(instance) => instance.ended().await,
            Kind::Shared(instance) => instance.ended().await,
        }
    }
}

/// Starts an instance: it is instantiated when this returns.
pub(crate) async fn start(sandbox: &Arc<SandboxInner>) -> Result<Instance, StartError> {
    let place = sandbox.place().await?;
    let kind = match handler(sandbox, &place)?.0 {
        ProxyPre::P2(pre) => {
            let pre = pre.clone();
            Kind::Serial(serial::start(sandbox, &pre, place).await?)
        }
        ProxyPre::P3(pre) => {
            let pre = pre.clone();
            Kind::Shared(shared::start(sandbox, &pre, place).await?)
        }
    };
    Ok(Instance {
        inner: Arc::new(Handle(kind)),
    })
}
