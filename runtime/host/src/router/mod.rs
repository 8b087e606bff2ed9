//! HTTP in: accept, route, lease, call, stream, rescue.

#[cfg(test)]
pub(crate) mod fake;

use std::net::SocketAddr;
use std::sync::Arc;

use oarlock_spec::names::AppName;

use crate::cores::Cores;
use crate::host::ListenError;
use crate::web::WebPool;

/// The router of a host. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Router {}

impl Router {
    pub(crate) fn new(_cores: Cores, _domain: String) -> Self {
        unimplemented!()
    }
    /// One listener per core (SO_REUSEPORT, after a probe without it).
    pub(crate) async fn listen(&self, _addr: SocketAddr) -> Result<SocketAddr, ListenError> {
        unimplemented!()
    }
    /// Routes `<app>.<domain>` to this pool. While there is only one app, every other host name goes to it too.
    pub(crate) fn add(&self, _app: AppName, _pool: Arc<WebPool>) {
        unimplemented!()
    }
    pub(crate) fn remove(&self, _app: &AppName) {
        unimplemented!()
    }
    /// The addresses listened on (never granted to guests).
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        unimplemented!()
    }
    /// Accepts no more; keep-alive connections are closed after the request under way; returns when all are
    /// done or `grace` is over (then the rest is aborted).
    pub(crate) async fn drain(&self, _grace: std::time::Duration) {
        unimplemented!()
    }
}
