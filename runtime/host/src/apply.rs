//! What an app shall be, and the one path that makes it so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cap_std::fs::Dir;
use oarlock_sandbox::{Exit, Output, Stdin};
use oarlock_spec::api::Formation;
use oarlock_spec::manifest::Manifest;
use oarlock_spec::names::{AppName, ProcessType, ReleaseId, SlugId};

use crate::events::Event;
use crate::formation::{
    App, ChangeError, Message, NoRoom, Occasional, OccasionalError, Prepared, Purpose, exit_reason,
    release_phase_limit,
};
use crate::host::Inner;

/// Where a component's bytes are.
#[derive(Clone)]
pub enum Component {
    /// In memory.
    Bytes(Bytes),
    /// In a folder.
    File {
        /// The folder.
        dir: Arc<Dir>,
        /// The path below it.
        path: String,
    },
}

/// An immutable build output.
#[derive(Clone)]
pub struct Slug {
    /// The SHA-256 of its contents.
    pub id: SlugId,
    /// Components by the path that the manifest names them with.
    pub components: BTreeMap<String, Component>,
    /// What the app sees at `/app`; `None`: no such folder.
    pub files: Option<Arc<Dir>>,
}

/// Whether the release phase is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleasePhase {
    /// It has not exited 0 for this release yet.
    Run,
    /// It has.
    Done,
}

/// What an app shall be: one release of it, complete.
#[derive(Clone)]
pub struct Desired {
    /// The manifest (with the app's name).
    pub manifest: Manifest,
    /// The release.
    pub release: ReleaseId,
    /// Its slug.
    pub slug: Slug,
    /// Config vars: `[config]`, `.env` and `config set`, merged; without the add-ons' and the host's own.
    pub config: BTreeMap<String, String>,
    /// How many of each.
    pub formation: Formation,
    /// Whether to run the release phase first.
    pub release_phase: ReleasePhase,
}

/// What [`crate::Host::apply`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Whose release it is.
    pub app: AppName,
    /// The release that now runs.
    pub release: ReleaseId,
    /// Components compiled now.
    pub compiled: usize,
    /// Components taken from the code cache or from memory.
    pub cached: usize,
}

/// Why a release could not be applied; the old one goes on serving.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A component was refused (the app's fault).
    #[error(transparent)]
    Load(#[from] oarlock_sandbox::LoadError),
    /// A component's file cannot be read.
    #[error("the component {path} of process `{process}` cannot be read: {source}")]
    Unreadable {
        /// Whose.
        process: ProcessType,
        /// The path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A process type's component is of the wrong kind (a handler as worker, …).
    #[error("process `{process}`: {reason}")]
    WrongKind {
        /// Whose.
        process: ProcessType,
        /// What it is, what is needed and what to do.
        reason: String,
    },
    /// An add-on cannot be bound (unknown provider, a missing or bad URL, a clash of variables).
    #[error("add-on `{addon}` (line {line} of the manifest): {reason}")]
    Addon {
        /// Its name.
        addon: String,
        /// Its line.
        line: u32,
        /// Why, and what to do.
        reason: String,
    },
    /// Its dynos do not fit beside what runs.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The release phase did not exit 0.
    #[error("the release phase failed: {reason}")]
    ReleasePhase {
        /// The code it exited with, if it did.
        code: Option<u8>,
        /// What happened.
        reason: String,
    },
    /// A dyno of the new release did not become ready.
    #[error("{dyno} of {release} did not start: {reason}")]
    Boot {
        /// Which.
        dyno: String,
        /// Of which release.
        release: ReleaseId,
        /// Why.
        reason: String,
    },
    /// The host is shutting down, or a newer release took over.
    #[error("given up: {0}")]
    Superseded(String),
    /// The platform's fault.
    #[error("the host failed: {0}")]
    Platform(String),
}

/// A release's place among those of its app.
enum Place {
    First,
    Next,
}

impl Inner {
    /// The one path that makes an app what it shall be. Runs to its end whether or not it is awaited.
    pub(crate) async fn apply(self: Arc<Self>, desired: Desired) -> Result<Applied, ApplyError> {
        let (app, release) = (desired.manifest.app.clone(), desired.release);
        let events = &self.shared.events;
        let result = self.applied(desired).await;
        events.tell(match &result {
            Ok((Place::First, _)) => Event::AppAdded { app, release },
            Ok((Place::Next, _)) => Event::AppReleased { app, release },
            Err(error) => Event::ReleaseFailed {
                app,
                release,
                reason: error.to_string(),
            },
        });
        result.map(|(_, applied)| applied)
    }

    async fn applied(self: &Arc<Self>, desired: Desired) -> Result<(Place, Applied), ApplyError> {
        let app = self.opened(desired.manifest.app.clone()).await?;
        let _turn = app.applying.lock().await;
        if self.is_closing() {
            return Err(closing());
        }
        let phase = desired.release_phase;
        let prepared = Prepared::new(desired, &app, &self.shared).await?;
        prepared.fits(&self.shared.engine)?;
        if phase == ReleasePhase::Run {
            let limit = release_phase_limit(&self.shared.config.policy);
            run_release_phase(&app, &prepared, limit).await?;
        }
        let place = match app.current.load().as_ref() {
            None => Place::First,
            Some(_) => Place::Next,
        };
        let applied = Applied {
            app: app.name.clone(),
            release: prepared.release,
            compiled: prepared.compiled,
            cached: prepared.cached,
        };
        roll_out(&app, prepared).await?;
        Ok((place, applied))
    }

    async fn opened(self: &Arc<Self>, name: AppName) -> Result<Arc<App>, ApplyError> {
        let inner = Arc::clone(self);
        let opening = tokio::task::spawn_blocking(move || inner.app(&name));
        opening.await.unwrap_or_else(|_| Err(closing()))
    }
}

fn closing() -> ApplyError {
    ApplyError::Superseded("the app is being stopped".into())
}

/// Runs the `release` process, if there is one, to its end.
async fn run_release_phase(
    app: &App,
    prepared: &Prepared,
    limit: Duration,
) -> Result<(), ApplyError> {
    let Some((name, process)) = prepared
        .processes
        .iter()
        .find(|(name, _)| name.is_release())
    else {
        return Ok(());
    };
    let occasional = Occasional {
        purpose: Purpose::Release,
        named: name.clone(),
        process: process.clone(),
        release: prepared.release,
        extra_args: Vec::new(),
        stdin: Stdin::Ended,
        output: Output::Log,
    };
    let started = app
        .ask(|reply| Message::Occasional(Box::new(occasional), reply))
        .await
        .ok_or_else(closing)?;
    let started = match started {
        Ok(started) => started,
        Err(OccasionalError::Closing) => return Err(closing()),
        Err(error @ (OccasionalError::TooMany | OccasionalError::Start(_))) => {
            return Err(ApplyError::ReleasePhase {
                code: None,
                reason: error.to_string(),
            });
        }
    };
    let end = started.end.await.map_err(|_| closing())?;
    if end.late {
        return Err(ApplyError::ReleasePhase {
            code: None,
            reason: format!(
                "it ran longer than {} seconds and was ended; the operator raises that by `release_phase` in the \
                 policy's [caps]",
                limit.as_secs_f64()
            ),
        });
    }
    match &end.exit {
        Exit::Code(0) => Ok(()),
        // The guest's own word; otherwise it had none.
        Exit::Code(code) => Err(ApplyError::ReleasePhase {
            code: Some(*code),
            reason: exit_reason(&end.exit),
        }),
        Exit::Killed if end.told => Err(ApplyError::ReleasePhase {
            code: None,
            reason: "it was stopped, and was ended".into(),
        }),
        Exit::Trap(_) | Exit::Memory | Exit::Killed | Exit::NotStarted(_) => {
            Err(ApplyError::ReleasePhase {
                code: None,
                reason: exit_reason(&end.exit),
            })
        }
    }
}

async fn roll_out(app: &App, prepared: Prepared) -> Result<(), ApplyError> {
    let prepared = Arc::new(prepared);
    let rolled = app.ask(|reply| Message::RollOut(prepared, reply)).await;
    match rolled {
        Some(Ok(())) => Ok(()),
        Some(Err(ChangeError::Boot {
            dyno,
            release,
            reason,
        })) => Err(ApplyError::Boot {
            dyno: dyno.to_string(),
            release,
            reason,
        }),
        Some(Err(ChangeError::Closing)) | None => Err(closing()),
    }
}
