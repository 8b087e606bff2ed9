//! The host's own threads: one current-thread tokio runtime per core, on which guests run.

use std::future::Future;
use std::sync::Arc;

/// Which of the threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CoreId(pub(crate) usize);

/// The threads. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cores {
    pub(crate) inner: Arc<CoresInner>,
}

pub(crate) struct CoresInner {}

impl Cores {
    pub(crate) fn start(_count: usize) -> std::io::Result<Self> {
        unimplemented!()
    }
    /// How many.
    pub(crate) fn count(&self) -> usize {
        unimplemented!()
    }
    /// The core whose thread this is, if it is one.
    pub(crate) fn current(&self) -> Option<CoreId> {
        unimplemented!()
    }
    /// The next core for a dyno that needs one: round robin.
    pub(crate) fn assign(&self) -> CoreId {
        unimplemented!()
    }
    /// Spawns on a core's runtime.
    pub(crate) fn spawn<F>(&self, _core: CoreId, _task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        unimplemented!()
    }
    /// Ends the threads (joins them).
    pub(crate) fn stop(&self) {
        unimplemented!()
    }
}
