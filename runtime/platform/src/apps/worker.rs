//! The task that owns one app's releases: one change after the other.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use http::StatusCode;
use oarlock_host::apply::{ApplyError, Desired, ReleasePhase, dynos_of};
use oarlock_spec::api::{ConfigChange, ConfigVars, Formation, ReleaseRow, ReleaseStatus};
use oarlock_spec::manifest::Manifest;
use oarlock_spec::names::{AppName, ReleaseId};
use tokio::sync::{mpsc, oneshot};

use super::{PlatformShared, Shown, lock};
use crate::control::{ApiError, words};
use crate::env_file::refuse_name;
use crate::platform::Event;
use crate::releases::{Draft, ReleaseError, Releases, Step, Stored, change_vars, find_current};
use crate::runtime::StagedRelease;
use crate::slug::{SlugError, StoredSlug};

/// What the task is asked to do.
pub(super) enum Command {
    /// Run this slug with this config: start the current release if it is that, else release it.
    Deploy {
        slug: Box<StoredSlug>,
        base: ConfigVars,
        answer: oneshot::Sender<Result<Deployed, ReleaseFailure>>,
    },
    /// Run the current release, whatever the folder says.
    Resume {
        answer: oneshot::Sender<Result<Deployed, ReleaseFailure>>,
    },
    ChangeConfig {
        change: ConfigChange,
        answer: oneshot::Sender<Result<ReleaseRow, ApiError>>,
    },
    RollBack {
        to: Option<ReleaseId>,
        answer: oneshot::Sender<Result<ReleaseRow, ApiError>>,
    },
}

/// What a deploy did.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Deployed {
    /// This release runs now.
    Running(ReleaseRow),
    /// It ran already.
    Unchanged(ReleaseRow),
}

/// Why a release does not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReleaseFailure {
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Releases(#[from] ReleaseError),
    #[error(transparent)]
    Slug(#[from] SlugError),
    #[error("{0}")]
    Scale(String),
    #[error("there is no current release to go on with")]
    NothingCurrent,
}

/// What the app's own log and whoever asked are told where the fault is the platform's.
pub(crate) const HOST_FAILED: &str = "the host failed; its operator's log says why";

impl ReleaseFailure {
    /// For the app's log: without paths and errors of the host, which are the operator's.
    pub(super) fn public(&self) -> String {
        match self {
            Self::Apply(ApplyError::Platform(_))
            | Self::Releases(ReleaseError::Store(_) | ReleaseError::Damaged { .. })
            | Self::Slug(SlugError::Storage { .. } | SlugError::Damaged { .. }) => {
                HOST_FAILED.to_owned()
            }
            Self::Apply(_)
            | Self::Releases(_)
            | Self::Slug(_)
            | Self::Scale(_)
            | Self::NothingCurrent => self.to_string(),
        }
    }
}

impl From<ReleaseFailure> for ApiError {
    fn from(failure: ReleaseFailure) -> Self {
        let message = failure.to_string();
        match failure {
            ReleaseFailure::Apply(ApplyError::ShuttingDown | ApplyError::GivenUp) => {
                Self::shutting_down()
            }
            ReleaseFailure::Apply(ApplyError::Busy { .. }) => Self::busy(message),
            ReleaseFailure::Apply(ApplyError::Platform(_)) => Self::internal(message),
            ReleaseFailure::Apply(_) | ReleaseFailure::Scale(_) => Self::refused(
                words::RELEASE_FAILED,
                format!("{message}; the old release goes on"),
            ),
            ReleaseFailure::Releases(error) => error.into(),
            ReleaseFailure::Slug(SlugError::Storage { .. }) => Self::internal(message),
            ReleaseFailure::Slug(_) => {
                Self::new(StatusCode::CONFLICT, words::CANNOT_ROLL_BACK, message)
            }
            ReleaseFailure::NothingCurrent => {
                Self::new(StatusCode::CONFLICT, words::NOT_RUNNING, message)
            }
        }
    }
}

pub(super) struct Worker {
    shared: Arc<PlatformShared>,
    app: AppName,
    releases: Releases,
    scaled: Arc<Mutex<Formation>>,
    shown: Arc<Mutex<Shown>>,
    /// What runs in this process; holds its slug against the sweep.
    running: Option<Running>,
}

struct Running {
    release: ReleaseId,
    slug: StoredSlug,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<PlatformShared>,
        app: AppName,
        releases: Releases,
        scaled: Arc<Mutex<Formation>>,
        shown: Arc<Mutex<Shown>>,
    ) -> Self {
        Self {
            shared,
            app,
            releases,
            scaled,
            shown,
            running: None,
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        // An answer that nobody waits for is no reason to stop half-way.
        while let Some(command) = commands.recv().await {
            match command {
                Command::Deploy { slug, base, answer } => {
                    let _ = answer.send(self.deploy(*slug, base).await);
                }
                Command::Resume { answer } => {
                    let _ = answer.send(self.resume().await);
                }
                Command::ChangeConfig { change, answer } => {
                    let _ = answer.send(self.change_config(change).await);
                }
                Command::RollBack { to, answer } => {
                    let _ = answer.send(self.roll_back(to).await);
                }
            }
        }
    }

    async fn deploy(
        &mut self,
        slug: StoredSlug,
        base: ConfigVars,
    ) -> Result<Deployed, ReleaseFailure> {
        let all = self.releases.all().await?;
        let set = find_current(&all)
            .or(all.first())
            .map(|basis| basis.record.set.clone())
            .unwrap_or_default();
        let id = slug.slug.id.clone();
        let description = format!("Deploy {}", id.as_str().get(..8).unwrap_or_default());
        match self
            .releases
            .plan(Draft {
                slug: id,
                base,
                set,
                description,
            })
            .await?
        {
            Step::Start(current) => {
                let unchanged = self.running.as_ref().is_some_and(|running| {
                    running.release == current.record.release
                        && same_run(&running.slug.manifest, &slug.manifest)
                });
                if unchanged {
                    return Ok(Deployed::Unchanged(current.record.row()));
                }
                self.start(&current, slug).await?;
                Ok(Deployed::Running(current.record.row()))
            }
            Step::Release(pending) => Ok(Deployed::Running(self.release(pending, slug).await?)),
        }
    }

    async fn resume(&mut self) -> Result<Deployed, ReleaseFailure> {
        let all = self.releases.all().await?;
        let current = find_current(&all).ok_or(ReleaseFailure::NothingCurrent)?;
        let slug = self.open_slug(current).await?;
        self.start(current, slug).await?;
        Ok(Deployed::Running(current.record.row()))
    }

    async fn change_config(&mut self, change: ConfigChange) -> Result<ReleaseRow, ApiError> {
        for (name, value) in &change {
            let bad = refuse_name(name).or_else(|| {
                value
                    .as_ref()
                    .filter(|value| value.contains('\0'))
                    .map(|_| format!("the value of `{name}` has a NUL byte"))
            });
            if let Some(reason) = bad {
                return Err(ApiError::refused(words::INVALID_CONFIG, reason));
            }
        }
        let all = self.releases.all().await?;
        let basis = find_current(&all)
            .or(all.first())
            .ok_or_else(|| ApiError::not_running(&self.app))?;
        let elsewhere = |(name, value): (&String, &Option<String>)| {
            value.is_none()
                && !basis.record.set.contains_key(name)
                && basis.record.base.contains_key(name)
        };
        if let Some((name, _)) = change.iter().find(|(name, value)| elsewhere((name, value))) {
            let message = format!(
                "`{name}` comes from the manifest's [config] or from .env; remove it there"
            );
            return Err(ApiError::refused(words::INVALID_CONFIG, message));
        }
        let (set, added, removed) = change_vars(&basis.record.set, &change);
        if added.is_empty() && removed.is_empty() {
            return Ok(basis.record.row());
        }
        let draft = Draft {
            slug: basis.record.slug.clone(),
            base: basis.record.base.clone(),
            set,
            description: describe(&added, &removed),
        };
        let slug = self.open_slug(basis).await.map_err(ApiError::from)?;
        let pending = self.releases.create(draft).await?;
        Ok(self.release_asked(pending, slug).await?)
    }

    async fn roll_back(&mut self, to: Option<ReleaseId>) -> Result<ReleaseRow, ApiError> {
        let cannot =
            |message: String| ApiError::new(StatusCode::CONFLICT, words::CANNOT_ROLL_BACK, message);
        let all = self.releases.all().await?;
        let current = find_current(&all).ok_or_else(|| ApiError::not_running(&self.app))?;
        let target = match to {
            Some(to) => all
                .iter()
                .find(|one| one.record.release == to)
                .ok_or_else(|| {
                    let message = format!(
                        "there is no release {to} of `{}`; see `oarlock releases`",
                        self.app
                    );
                    ApiError::new(StatusCode::NOT_FOUND, words::UNKNOWN_RELEASE, message)
                })?,
            None => all
                .iter()
                .find(|one| {
                    one.record.status == ReleaseStatus::Superseded
                        && one.record.release < current.record.release
                })
                .ok_or_else(|| {
                    cannot(format!(
                        "there is no release before {} to go back to",
                        current.record.release
                    ))
                })?,
        };
        match target.record.status {
            ReleaseStatus::Superseded => {}
            ReleaseStatus::Current => {
                return Err(cannot(format!(
                    "{} is the current release",
                    target.record.release
                )));
            }
            ReleaseStatus::Failed | ReleaseStatus::Pending => {
                return Err(cannot(format!(
                    "{} never ran; choose another release",
                    target.record.release
                )));
            }
        }
        let slug = self.open_slug(target).await.map_err(ApiError::from)?;
        let draft = Draft {
            slug: target.record.slug.clone(),
            base: target.record.base.clone(),
            set: target.record.set.clone(),
            description: format!("Rollback to {}", target.record.release),
        };
        let pending = self.releases.create(draft).await?;
        Ok(self.release_asked(pending, slug).await?)
    }

    /// Starts the release that is current already.
    async fn start(&mut self, current: &Stored, slug: StoredSlug) -> Result<(), ReleaseFailure> {
        let (staged, formation) = self.stage(current, &slug).await?;
        self.commit(staged, &slug.manifest, &formation).await?;
        self.now_running(current, slug);
        Ok(())
    }

    /// A release that somebody asked for, who gets the answer. Whoever runs the host hears of its failure, too.
    async fn release_asked(
        &mut self,
        pending: Stored,
        slug: StoredSlug,
    ) -> Result<ReleaseRow, ReleaseFailure> {
        let id = pending.record.release;
        let released = self.release(pending, slug).await;
        match &released {
            Ok(_) | Err(ReleaseFailure::Apply(ApplyError::ShuttingDown)) => {}
            Err(error) => self.shared.tell(Event::Failed {
                app: self.app.clone(),
                message: format!("release {id} failed: {error}"),
            }),
        }
        released
    }

    /// Makes a pending release current, or failed: it is staged, written down, and then committed.
    async fn release(
        &mut self,
        pending: Stored,
        slug: StoredSlug,
    ) -> Result<ReleaseRow, ReleaseFailure> {
        let id = pending.record.release;
        self.log(&format!(
            "Release {id} created: {}",
            pending.record.description
        ));
        let written = async {
            let (staged, formation) = self.stage(&pending, &slug).await?;
            // If it cannot be written down, the staged release is dropped: what served goes on.
            let current = self.releases.succeed(&pending).await?;
            Ok((staged, formation, current))
        };
        match written.await {
            Ok((staged, formation, current)) => {
                self.commit(staged, &slug.manifest, &formation).await?;
                self.log(&format!("Release {id} is current"));
                self.now_running(&current, slug);
                self.shared.sweep().await;
                Ok(current.record.row())
            }
            // The host is ending: the next start finds it pending.
            Err(error @ ReleaseFailure::Apply(ApplyError::ShuttingDown)) => Err(error),
            Err(error) => {
                let public = error.public();
                let line = format!("Release {id} failed: {public}");
                {
                    let mut shown = lock(&self.shown);
                    shown.told.expect(&line);
                    shown.failed = Some(public);
                }
                self.log(&line);
                tracing::debug!(app = %self.app, release = %id, %error, "a release failed");
                if let Err(unwritten) = self.releases.fail(&pending).await {
                    // It stays pending, which the next start gives up.
                    tracing::error!(app = %self.app, release = %id, error = %unwritten, "a failed release could not be marked as such");
                }
                Err(error)
            }
        }
    }

    /// Has the host make a release ready beside what serves; with what it was scaled to.
    async fn stage(
        &self,
        stored: &Stored,
        slug: &StoredSlug,
    ) -> Result<(Box<dyn StagedRelease>, Formation), ReleaseFailure> {
        let record = &stored.record;
        let scaled = lock(&self.scaled).clone();
        let formation = formation_of(&slug.manifest, &scaled).map_err(ReleaseFailure::Scale)?;
        let phase_done =
            record.status == ReleaseStatus::Current || self.releases.is_phase_done(record).await?;
        let desired = Desired {
            manifest: slug.manifest.clone(),
            release: record.release,
            slug: slug.slug.id.clone(),
            config: record.config(),
            formation: dynos_of(&formation),
            release_phase: if phase_done {
                ReleasePhase::Done
            } else {
                ReleasePhase::Run
            },
        };
        self.shared.tell(Event::Loading {
            app: self.app.clone(),
            release: record.release,
        });
        let started = Instant::now();
        let (releases, of) = (self.releases.clone(), record.clone());
        let after_phase = Box::pin(async move {
            let noted = releases.note_phase_done(&of).await;
            noted.map_err(|error| format!("that the release phase succeeded: {error}"))
        });
        let runtime = &self.shared.runtime;
        let staged = runtime.stage(desired, slug.slug.clone(), after_phase);
        let staged = staged.await?;
        let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.shared.tell(Event::Loaded {
            app: self.app.clone(),
            compiled: staged.applied().compiled,
            cached: staged.applied().cached,
            millis,
        });
        Ok((staged, formation))
    }

    async fn commit(
        &self,
        staged: Box<dyn StagedRelease>,
        manifest: &Manifest,
        formation: &Formation,
    ) -> Result<(), ReleaseFailure> {
        staged.commit().await?;
        self.catch_up_scale(manifest, formation).await;
        Ok(())
    }

    /// Somebody may have scaled between our look and the host's: what was asked last holds.
    async fn catch_up_scale(&self, manifest: &Manifest, applied: &Formation) {
        let scaled = lock(&self.scaled).clone();
        let Ok(now) = formation_of(manifest, &scaled) else {
            return;
        };
        let change: Formation = now
            .into_iter()
            .filter(|(process, count)| applied.get(process) != Some(count))
            .collect();
        if !change.is_empty()
            && let Err(error) = self.shared.runtime.scale(&self.app, change).await
        {
            self.log(&format!("The formation is not as it was scaled: {error}"));
        }
    }

    /// Tells the world.
    fn now_running(&mut self, current: &Stored, slug: StoredSlug) {
        let release = current.record.release;
        let serves = slug
            .manifest
            .processes
            .keys()
            .any(|process| process.is_web());
        let url = serves.then(|| self.shared.urls.of(&self.app));
        {
            let mut shown = lock(&self.shown);
            shown.release = Some(release);
            shown.url.clone_from(&url);
            shown.processes = slug.manifest.processes.keys().cloned().collect();
        }
        self.running = Some(Running { release, slug });
        self.shared.tell(Event::Ready {
            app: self.app.clone(),
            release,
            url,
        });
    }

    async fn open_slug(&self, stored: &Stored) -> Result<StoredSlug, ReleaseFailure> {
        if let Some(running) = &self.running
            && running.slug.slug.id == stored.record.slug
        {
            return Ok(running.slug.clone());
        }
        let (slugs, id) = (self.shared.slugs.clone(), stored.record.slug.clone());
        Ok(blocking(move || slugs.open(&id)).await?)
    }

    fn log(&self, message: &str) {
        self.shared.runtime.log(&self.app, "api", message);
    }
}

/// Runs work that blocks on the disk beside the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SlugError> + Send + 'static,
) -> Result<T, SlugError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(SlugError::Storage {
                path: "slugs".into(),
                reason: format!("the work was given up: {error}"),
            })
        })
}

/// Whether two manifests of one slug also agree in what is not of the slug but is read at each start.
fn same_run(running: &Manifest, wanted: &Manifest) -> bool {
    running.initial_scale() == wanted.initial_scale()
}

/// `[scale]` with what was scaled over it. What was scaled of types that are gone is no matter.
fn formation_of(manifest: &Manifest, scaled: &Formation) -> Result<Formation, String> {
    let mut formation = manifest.initial_scale();
    for (process, count) in &mut formation {
        if let Some(scaled) = scaled.get(process) {
            *count = *scaled;
        }
        let singleton = manifest
            .processes
            .get(process)
            .is_some_and(|process| process.singleton);
        if singleton && *count > 1 {
            return Err(format!(
                "`{process}` is a singleton and cannot be scaled to {count}"
            ));
        }
    }
    Ok(formation)
}

/// As in `Set GREETING config var`.
fn describe(added: &[String], removed: &[String]) -> String {
    let say = |verb: &str, names: &[String]| {
        let noun = if names.len() == 1 { "var" } else { "vars" };
        format!("{verb} {} config {noun}", names.join(", "))
    };
    match (added.is_empty(), removed.is_empty()) {
        (false, true) => say("Set", added),
        (true, _) => say("Unset", removed),
        (false, false) => format!("{}, {}", say("Set", added), say("unset", removed)),
    }
}
