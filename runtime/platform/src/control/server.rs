//! The server's life: bind, accept, end.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{routes, socket};
use crate::apps::Apps;
use crate::runtime::Runtime;

/// Connections at once; the next waits in the socket's backlog.
const MAX_CONNECTIONS: usize = 256;

/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long connections may go on once the server is to end.
const END_GRACE: Duration = Duration::from_secs(2);

/// What the endpoints work on. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ControlState {
    pub(crate) apps: Arc<Apps>,
    pub(crate) runtime: Arc<dyn Runtime>,
    /// Fires when the server ends: streams without an end of their own end then.
    pub(crate) ending: CancellationToken,
    /// One-off dynos' connections, which outlive their HTTP request.
    pub(crate) tasks: TaskTracker,
}

/// The running server. Dropping it closes every connection at once; [`Server::shutdown`] lets answers
/// under way finish.
pub(crate) struct Server {
    ending: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    /// Binds the socket of a data folder, whose lock the caller holds, and serves.
    pub(crate) fn start(
        data: &Path,
        apps: Arc<Apps>,
        runtime: Arc<dyn Runtime>,
    ) -> io::Result<Self> {
        let listener = socket::bind(data)?;
        let server = Self {
            ending: CancellationToken::new(),
            abort: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let state = ControlState {
            apps,
            runtime,
            ending: server.ending.clone(),
            tasks: server.tasks.clone(),
        };
        server
            .tasks
            .spawn(accept(listener, state, server.abort.clone()));
        Ok(server)
    }

    /// Accepts no more, ends log streams, lets other answers finish (at most [`END_GRACE`]).
    pub(crate) async fn shutdown(self) {
        self.ending.cancel();
        self.tasks.close();
        if tokio::time::timeout(END_GRACE, self.tasks.wait())
            .await
            .is_err()
        {
            self.abort.cancel();
            self.tasks.wait().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.cancel();
        self.abort.cancel();
    }
}

async fn accept(listener: UnixListener, state: ControlState, abort: CancellationToken) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let ending = state.ending.clone();
    loop {
        let accepted = async {
            let permit = permits.clone().acquire_owned().await.ok()?;
            Some((listener.accept().await, permit))
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            () = ending.cancelled() => return,
        };
        match accepted {
            None => return,
            Some((Ok((stream, _)), permit)) => {
                let connection = serve(stream, permit, state.clone());
                let abort = abort.clone();
                state.tasks.spawn(async move {
                    tokio::select! {
                        () = connection => {}
                        () = abort.cancelled() => {}
                    }
                });
            }
            Some((Err(error), _)) => {
                // Out of descriptors, most likely: others may be given back soon.
                tracing::warn!(%error, "the control socket cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, permit: OwnedSemaphorePermit, state: ControlState) {
    let ending = state.ending.clone();
    let service = TowerToHyperService::new(routes::router(state));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = ending.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // A client that went away; the request's own end is in the app's log.
        tracing::debug!(%error, "a control connection ended early");
    }
    drop(permit);
}
