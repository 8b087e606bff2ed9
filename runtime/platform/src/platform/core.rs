//! The platform without its host: apps, control API, watches. What is tested without a guest.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::stream::StreamExt;
use oarlock_spec::api::Formation;
use oarlock_spec::codes::exit;
use oarlock_spec::names::AppName;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::tenants::{TenantFolder, app_folders};
use super::{Event, Source, StartError};
use crate::apps::{App, Apps, DeployFailure, Shared, bring_up, resume, watch};
use crate::control::Server;
use crate::folder::load_manifest;
use crate::releases::ReleaseError;

/// Apps of `serve` that are built and started at once.
const AT_ONCE: usize = 2;

/// How long a change under way may take to end, once the host itself has ended.
const WORKERS_END: std::time::Duration = std::time::Duration::from_secs(5);

/// See the module. Dropping it ends its tasks.
pub(super) struct Core {
    apps: Arc<Apps>,
    server: Server,
    watches: JoinSet<()>,
    workers: TaskTracker,
}

impl Core {
    /// Opens the control API, then brings the apps up: `up` fails with its app, `serve` goes on without
    /// those that fail.
    pub(super) async fn start(
        source: Source,
        shared: Arc<Shared>,
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
        let workers = shared.workers.clone();
        let mut core = Self {
            apps,
            server,
            watches: JoinSet::new(),
            workers,
        };
        let started = match source {
            Source::App { dir, scale, watch } => core.start_app(&shared, dir, scale, watch).await,
            Source::Apps { dir, .. } => core.start_apps(&shared, &dir).await,
        };
        match started {
            Ok(()) => {
                shared.sweep().await;
                Ok(core)
            }
            Err(error) => {
                core.shutdown().await;
                Err(error)
            }
        }
    }

    async fn start_app(
        &mut self,
        shared: &Arc<Shared>,
        dir: PathBuf,
        scale: Formation,
        watched: bool,
    ) -> Result<(), StartError> {
        let manifest = load_manifest(&dir, Some(&shared.policy))
            .map_err(|mistakes| StartError::new(exit::MANIFEST, mistakes))?;
        let app = App::open(shared.clone(), manifest.app, dir, scale).await?;
        self.apps.add(app.clone());
        app.opened();
        // Before the first build, so that a change during it is not lost.
        let watching = if watched {
            Some(
                watch(app.clone())
                    .map_err(|error| StartError::new(exit::FAILURE, error.to_string()))?,
            )
        } else {
            None
        };
        bring_up(&app).await?;
        if let Some(watching) = watching {
            self.watches.spawn(watching);
        }
        Ok(())
    }

    async fn start_apps(&mut self, shared: &Arc<Shared>, dir: &Path) -> Result<(), StartError> {
        let failed = |app: AppName, message: String| {
            shared.runtime.log(&app, "api", &message);
            shared.tell(Event::Failed { app, message });
        };
        let mut found = Vec::new();
        for dir in app_folders(dir)? {
            let app = match TenantFolder::of(dir) {
                Ok(app) => app,
                Err((folder, message)) => {
                    shared.tell(Event::Refused { folder, message });
                    continue;
                }
            };
            if let Err(message) = app.check(shared).await {
                failed(app.name, message);
                continue;
            }
            let app = App::open(shared.clone(), app.name, app.dir, Formation::new()).await?;
            // No two folders have one name.
            if self.apps.add(app.clone()) {
                app.opened();
                found.push(app);
            }
        }
        futures::stream::iter(found)
            .for_each_concurrent(AT_ONCE, async |app| {
                if let Err(failure) = start_or_resume(&app).await {
                    failed(app.name().clone(), failure);
                }
            })
            .await;
        Ok(())
    }

    pub(super) fn apps(&self) -> &Arc<Apps> {
        &self.apps
    }

    /// Ends watches and their builds. Nothing is released any more but what was begun.
    pub(super) fn stop_changing(&mut self) {
        self.watches.abort_all();
        self.apps.clear();
    }

    /// Ends the control API and the apps' tasks.
    pub(super) async fn shutdown(mut self) {
        self.watches.shutdown().await;
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

/// What the folder says, or else the release that was current before.
async fn start_or_resume(app: &Arc<App>) -> Result<(), String> {
    let Err(failure) = bring_up(app).await else {
        return Ok(());
    };
    match resume(app).await {
        Ok(()) => Err(format!("{failure}\nthe old release goes on")),
        Err(_) => Err(failure.to_string()),
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
