//! The platform without its host: apps, control API, watches. What is tested without a guest.
//!
//! Every app is started by itself: one that fails, hangs or has damaged records holds up no other. What they share is
//! bounded by [`Turns`](crate::apps::Turns). The end may come at any moment of it: then nothing more is begun, builds
//! are ended with what they started, and what a release has begun ends with the host.

use std::path::Path;
use std::sync::Arc;

use futures::stream::StreamExt;
use oarlock_spec::api::Formation;
use oarlock_spec::codes::exit;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::found::{Found, OwnApp};
use super::tenants::{TenantFolder, Tenants};
use super::{Event, StartError};
use crate::apps::{
    Apps, Building, DeployFailure, HOST_FAILED, ManagedApp, PlatformShared, Step, bring_up, resume,
    watch,
};
use crate::control::Server;
use crate::releases::ReleaseError;

/// How long a change under way may take to end, once the host itself has ended.
const WORKERS_END: std::time::Duration = std::time::Duration::from_secs(5);

/// See the module. Dropping it ends its tasks.
pub(super) struct Core {
    apps: Arc<Apps>,
    server: Server,
    /// Starts the apps, and then watches.
    tasks: JoinSet<()>,
    /// What became of the start; `None`: it was told.
    start: Option<oneshot::Receiver<Result<(), StartError>>>,
    workers: TaskTracker,
}

impl Core {
    /// Opens the control API, and begins to bring the apps up.
    pub(super) fn start(
        found: Found,
        shared: &Arc<PlatformShared>,
        data: &Path,
    ) -> Result<Self, StartError> {
        let apps = Arc::new(Apps::default());
        let server =
            Server::start(data, apps.clone(), shared.runtime.clone()).map_err(|error| {
                StartError::new(
                    exit::FAILURE,
                    format!("the control socket in {}: {error}", data.display()),
                )
            })?;
        let (told, start) = oneshot::channel();
        let mut tasks = JoinSet::new();
        match found {
            Found::One(own) => {
                let app = ManagedApp::new(
                    shared.clone(),
                    own.name.clone(),
                    own.dir.clone(),
                    own.scale.clone(),
                );
                apps.add(app.clone());
                tasks.spawn(run_own(app, own, shared.clone(), told));
            }
            Found::Many(Tenants { found, refused }) => {
                for (folder, message) in refused {
                    shared.tell(Event::Refused { folder, message });
                }
                let make = |tenant: TenantFolder| {
                    let (name, dir) = (tenant.name.clone(), tenant.dir.clone());
                    let app = ManagedApp::new(shared.clone(), name, dir, Formation::new());
                    // No two folders have one name.
                    apps.add(app.clone());
                    (app, tenant)
                };
                let found = found.into_iter().map(make).collect();
                tasks.spawn(run_tenants(found, shared.clone(), told));
            }
        }
        Ok(Self {
            apps,
            server,
            tasks,
            start: Some(start),
            workers: shared.workers.clone(),
        })
    }

    /// Waits until each app was brought up, or failed: `up` fails with its app, `serve` goes on without those that do.
    /// Cancel safe.
    pub(super) async fn started(&mut self) -> Result<(), StartError> {
        let Some(start) = &mut self.start else {
            return Ok(());
        };
        let started = start.await;
        self.start = None;
        started.unwrap_or_else(|_| {
            let message = "the start was given up, for the host is ending";
            Err(StartError::new(exit::INTERRUPTED, message))
        })
    }

    pub(super) fn apps(&self) -> &Arc<Apps> {
        &self.apps
    }

    /// Ends starts, watches and their builds. Nothing is released any more but what was begun.
    pub(super) fn stop_changing(&mut self) {
        self.tasks.abort_all();
        self.apps.clear();
    }

    /// Ends the control API and the apps' tasks.
    pub(super) async fn shutdown(mut self) {
        self.tasks.shutdown().await;
        self.apps.clear();
        self.server.shutdown().await;
        self.workers.close();
        if tokio::time::timeout(WORKERS_END, self.workers.wait())
            .await
            .is_err()
        {
            tracing::warn!("a release was still being applied at the end; it is pending");
        }
    }
}

/// Starts the app of `up`, tells what became of it, and then watches its folder if that is wanted.
async fn run_own(
    app: Arc<ManagedApp>,
    own: OwnApp,
    shared: Arc<PlatformShared>,
    told: oneshot::Sender<Result<(), StartError>>,
) {
    app.opened();
    let start = async {
        app.open().await?;
        // Before the first build, so that a change during it is not lost.
        let watching = if own.watch {
            let watching = watch(app.clone())
                .map_err(|error| StartError::new(exit::FAILURE, error.to_string()))?;
            Some(watching)
        } else {
            None
        };
        bring_up(&app).await?;
        Ok(watching)
    };
    let started: Result<_, StartError> = start.await;
    shared.started().await;
    let (told_start, watching) = match started {
        Ok(watching) => (Ok(()), watching),
        Err(error) => (Err(error), None),
    };
    // Whoever started it may have gone.
    let _ = told.send(told_start);
    if let Some(watching) = watching {
        watching.await;
    }
}

/// Starts the apps of `serve`, all at once as far as their turns allow.
async fn run_tenants(
    found: Vec<(Arc<ManagedApp>, TenantFolder)>,
    shared: Arc<PlatformShared>,
    told: oneshot::Sender<Result<(), StartError>>,
) {
    futures::stream::iter(found)
        .for_each_concurrent(None, async |(app, tenant)| {
            app.opened();
            start_tenant(&app, &tenant, &shared).await;
        })
        .await;
    shared.started().await;
    let _ = told.send(Ok(()));
}

/// What the folder says, or else the release that was current before. With a build it is the other way round: what ran
/// before serves while the folder is built.
async fn start_tenant(app: &Arc<ManagedApp>, tenant: &TenantFolder, shared: &Arc<PlatformShared>) {
    let look = async {
        app.is_at(Step::Reading);
        let opened = app.open().await;
        opened.map_err(|error| (error.to_string(), HOST_FAILED.to_owned()))?;
        let checked = tenant.check(shared).await;
        checked.map_err(|message| (message.clone(), message))
    };
    // Whatever keeps it from running: what ran before may run.
    let mut resumed = false;
    let failed = match shared.turns.reading.take(look).await {
        Err(failed) => failed,
        Ok(()) => {
            resumed = shared.building == Building::Yes && resume(app).await.is_ok();
            let Err(failure) = bring_up(app).await else {
                return;
            };
            (failure.to_string(), failure.public())
        }
    };
    let (message, public) = failed;
    // Where the operator keeps the folder is not the tenant's business.
    let public = public.replace(&format!("{}/", tenant.dir.display()), "");
    if resumed || resume(app).await.is_ok() {
        let goes_on = |text: &str| format!("{text}\nthe old release goes on");
        app.say_failed(goes_on(&message), &goes_on(&public));
    } else {
        app.fail(message, public);
    }
}

impl From<DeployFailure> for StartError {
    fn from(failure: DeployFailure) -> Self {
        Self::new(failure.exit_code(), failure.to_string())
    }
}

impl From<ReleaseError> for StartError {
    fn from(error: ReleaseError) -> Self {
        Self::new(exit::FAILURE, error.to_string())
    }
}

#[cfg(test)]
mod tests;
