//! From an app's folder to a release that runs: manifest, build, slug, release.

use std::sync::Arc;

use oarlock_host::apply::ApplyError;
use oarlock_spec::api::ConfigVars;
use oarlock_spec::codes::exit;
use oarlock_spec::manifest::Manifest;
use tokio::sync::oneshot;

use super::worker::{Command, Deployed, HOST_FAILED, ReleaseFailure, blocking};
use super::{Building, ManagedApp, Step};
use crate::build::{BuildError, Progress, build, build_fenced, planned_command};
use crate::control::ApiError;
use crate::env_file;
use crate::folder::open_app;
use crate::platform::Event;
use crate::releases::ReleaseError;
use crate::slug::SlugError;
use crate::store::StoreError;

/// Why a folder does not run. [`DeployFailure::exit_code`] is the edge to the shell.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployFailure {
    /// The manifest or `.env`; all mistakes, ready to print.
    #[error("{0}")]
    Manifest(String),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Slug(#[from] SlugError),
    #[error("{}", .0.message)]
    Queue(ApiError),
    #[error(transparent)]
    Release(#[from] ReleaseFailureBox),
}

/// The worker's failure; boxed, so that its size does not matter.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct ReleaseFailureBox(Box<ReleaseFailure>);

impl DeployFailure {
    /// For the app's log: without paths and errors of the host, which are the operator's.
    pub(crate) fn public(&self) -> String {
        match self {
            Self::Slug(SlugError::Storage { .. } | SlugError::Damaged { .. }) => {
                HOST_FAILED.to_owned()
            }
            Self::Release(ReleaseFailureBox(failure)) => failure.public(),
            Self::Manifest(_) | Self::Build(_) | Self::Slug(_) | Self::Queue(_) => self.to_string(),
        }
    }

    /// One of `oarlock_spec::codes::exit`, or the release phase's own.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Manifest(_) => exit::MANIFEST,
            Self::Build(_) => exit::BUILD,
            Self::Slug(error) => match error {
                SlugError::Component { .. } => exit::BUILD,
                SlugError::Glob { .. } | SlugError::File { .. } | SlugError::TooLarge { .. } => {
                    exit::MANIFEST
                }
                SlugError::Damaged { .. } | SlugError::Storage { .. } => exit::FAILURE,
            },
            Self::Queue(_) => exit::FAILURE,
            Self::Release(ReleaseFailureBox(failure)) => release_exit_code(failure),
        }
    }
}

fn release_exit_code(failure: &ReleaseFailure) -> u8 {
    match failure {
        ReleaseFailure::Apply(error) => match error {
            ApplyError::Load(_) | ApplyError::Unreadable { .. } | ApplyError::WrongKind { .. } => {
                exit::BUILD
            }
            ApplyError::Addon { .. } | ApplyError::NoRoom(_) | ApplyError::Cap(_) => exit::MANIFEST,
            // 0 would say that all went well.
            ApplyError::ReleasePhase { code, .. } => code
                .filter(|code| *code != 0)
                .unwrap_or(exit::RELEASE_PHASE),
            ApplyError::Boot { .. }
            | ApplyError::WrongSlug { .. }
            | ApplyError::Busy { .. }
            | ApplyError::GivenUp
            | ApplyError::ShuttingDown
            | ApplyError::Platform(_) => exit::FAILURE,
        },
        ReleaseFailure::Scale(_) | ReleaseFailure::NothingCurrent => exit::FAILURE,
        ReleaseFailure::Slug(_) => exit::FAILURE,
        ReleaseFailure::Releases(error) => match error {
            ReleaseError::ConfigSize(_) => exit::MANIFEST,
            ReleaseError::Store(StoreError::Open(_)) => exit::FAILURE,
            ReleaseError::Store(_) | ReleaseError::Damaged { .. } | ReleaseError::Conflict(_) => {
                exit::FAILURE
            }
        },
    }
}

/// Builds the app's folder and makes it run; what is running already stays if it does not differ.
/// Dropping the future ends the build; a release that was begun goes on.
pub(crate) async fn bring_up(app: &Arc<ManagedApp>) -> Result<(), DeployFailure> {
    let turns = &app.shared.turns;
    let (manifest, base) = turns.reading.take(read(app)).await?;
    if app.shared.building == Building::Yes {
        let build = async {
            app.is_at(Step::Building);
            run_build(app, &manifest).await
        };
        // Who has nothing to build waits for nobody's build.
        match planned_command(&app.dir, &manifest) {
            Ok(None) => run_build(app, &manifest).await?,
            Ok(Some(_)) | Err(_) => {
                app.is_at(Step::Waiting);
                turns.building.take(build).await?;
            }
        }
    }
    let (slugs, dir) = (app.shared.slugs.clone(), app.dir.clone());
    let slug = async {
        app.is_at(Step::Reading);
        blocking(move || slugs.create(&dir, &manifest)).await
    };
    let slug = turns.reading.take(slug).await?;
    release(app, |answer| Command::Deploy {
        slug: Box::new(slug),
        base,
        answer,
    })
    .await
}

/// Starts the current release as it is stored; `serve` does so when the folder's own does not run, or is still to be
/// built.
pub(crate) async fn resume(app: &Arc<ManagedApp>) -> Result<(), DeployFailure> {
    release(app, |answer| Command::Resume { answer }).await
}

/// Has the app's task bring up a release, in its turn.
async fn release(
    app: &Arc<ManagedApp>,
    command: impl FnOnce(oneshot::Sender<Result<Deployed, ReleaseFailure>>) -> Command,
) -> Result<(), DeployFailure> {
    app.is_at(Step::Waiting);
    let release = async {
        app.is_at(Step::Compiling);
        app.send(command).await
    };
    let sent = app.shared.turns.releasing.take(release).await;
    match sent.map_err(DeployFailure::Queue)? {
        Ok(Deployed::Running(_) | Deployed::Unchanged(_)) => Ok(()),
        Err(failure) => Err(ReleaseFailureBox(Box::new(failure)).into()),
    }
}

/// The manifest, and the config vars that the folder says.
async fn read(app: &Arc<ManagedApp>) -> Result<(Manifest, ConfigVars), DeployFailure> {
    app.is_at(Step::Reading);
    let reader = app.clone();
    let read = tokio::task::spawn_blocking(move || read_folder(&reader));
    let failed = |error: tokio::task::JoinError| DeployFailure::Manifest(error.to_string());
    let (manifest, base) = read.await.map_err(failed)??;
    // From now on who waits for it is held to its own limits.
    if let Some(web) = manifest.processes.keys().find(|process| process.is_web()) {
        let limits = manifest.limits_of(web);
        app.shared.runtime.expect(&app.name, &limits);
    }
    Ok((manifest, base))
}

fn read_folder(app: &ManagedApp) -> Result<(Manifest, ConfigVars), DeployFailure> {
    let folder = open_app(&app.dir).map_err(DeployFailure::Manifest)?;
    let manifest = app.manifest(&folder).map_err(DeployFailure::Manifest)?;
    if manifest.app != app.name {
        return Err(DeployFailure::Manifest(format!(
            "the manifest now names the app `{}`; it runs as `{}` until oarlock is started again",
            manifest.app, app.name
        )));
    }
    check_scaled(app, &manifest)?;
    let mut base = manifest.config.clone();
    base.extend(env_file::load(&folder).map_err(DeployFailure::Manifest)?);
    Ok((manifest, base))
}

/// `--scale` of a type that the manifest does not have is a mistake of the user's, said at the start.
fn check_scaled(app: &ManagedApp, manifest: &Manifest) -> Result<(), DeployFailure> {
    // Later on, what was scaled of a type that is gone is no mistake.
    let runs = super::lock(&app.shown).release.is_some();
    if runs || app.shared.scale_lasts == super::ScaleLasts::Forever {
        return Ok(());
    }
    let known = manifest.initial_scale();
    let unknown = super::lock(&app.scaled)
        .keys()
        .find(|process| !known.contains_key(*process))
        .cloned();
    let mut formation = known.clone();
    formation.extend(super::lock(&app.scaled).clone());
    if let Err(refused) = app.shared.policy.app_caps.check_dynos(formation.values()) {
        return Err(DeployFailure::Manifest(format!(
            "`{}`: {refused}",
            app.name
        )));
    }
    match unknown {
        None => Ok(()),
        Some(process) => {
            let known: Vec<&str> = known.keys().map(|process| process.as_str()).collect();
            Err(DeployFailure::Manifest(format!(
                "`{process}` cannot be scaled: `{}` has {}",
                app.name,
                known.join(", ")
            )))
        }
    }
}

async fn run_build(app: &Arc<ManagedApp>, manifest: &Manifest) -> Result<(), BuildError> {
    let shared = &app.shared;
    let name = app.name.clone();
    let tell = |progress| match progress {
        Progress::Starting(command) => {
            shared
                .runtime
                .log(&name, "build", &format!("Running `{command}`"));
            shared.tell(Event::Building {
                app: name.clone(),
                command,
            });
        }
        Progress::Output(line) => {
            shared.runtime.log(&name, "build", &line);
            shared.tell(Event::BuildOutput {
                app: name.clone(),
                line,
            });
        }
    };
    match &shared.fence {
        // Of two steps, and large.
        Some(fence) => Box::pin(build_fenced(fence, &app.dir, manifest, tell)).await,
        None => build(&app.dir, manifest, &shared.build_env, tell).await,
    }
}
