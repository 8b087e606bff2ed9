//! What an app shall be: one release of it, which [`Host::stage`](crate::Host::stage) makes ready and
//! [`Staged::commit`] makes current.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cap_std::fs::Dir;
use oarlock_spec::api::Formation;
use oarlock_spec::limits::TooManyDynos;
use oarlock_spec::manifest::Manifest;
use oarlock_spec::names::{AppName, DynoName, ProcessType, ReleaseId, SlugId};
use serde::{Deserialize, Serialize};

use crate::change::ChangeError;
use crate::formation::NoRoom;
pub use crate::stage::{Stage, Staged};

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

/// An immutable build output, opened.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleasePhase {
    /// It has not exited 0 for this release yet.
    Run,
    /// It has.
    Done,
}

/// What an app shall be: one release of it, complete but for the contents of its slug. A plain value: it can be stored,
/// sent, and compared.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// The manifest (with the app's name).
    pub manifest: Manifest,
    /// The release.
    pub release: ReleaseId,
    /// Its slug, which is handed to [`Host::stage`](crate::Host::stage) beside this.
    pub slug: SlugId,
    /// Config vars: `[config]`, `.env` and `config set`, merged; without the add-ons' and the host's own.
    pub config: BTreeMap<String, String>,
    /// The dynos that this host shall run. Those of process types that have no scale are ignored.
    pub formation: BTreeSet<DynoName>,
    /// Whether to run the release phase first.
    pub release_phase: ReleasePhase,
}

/// The names of so many dynos of each type, numbered from 1.
pub fn dynos_of(formation: &Formation) -> BTreeSet<DynoName> {
    let of = |(process, count): (&ProcessType, &u32)| {
        let process = process.clone();
        (1..=*count).map(move |index| DynoName {
            process: process.clone(),
            index,
        })
    };
    formation.iter().flat_map(of).collect()
}

/// What [`Staged::commit`] did.
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
    /// With what was scaled while it was staged it has more dynos than the operator's policy allows.
    #[error(transparent)]
    Cap(#[from] TooManyDynos),
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
    /// The slug that was handed over is another one than is desired (the caller's mistake).
    #[error("the slug {given} was handed over for a release of the slug {wanted}")]
    WrongSlug {
        /// What is desired.
        wanted: SlugId,
        /// What was handed over.
        given: SlugId,
    },
    /// As many changes of this app wait as may; a later try may find a place.
    #[error("{waiting} changes of this app wait already; try again when they are made")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// Whoever had it staged dropped it.
    #[error("it was given up before it was current")]
    GivenUp,
    /// The app is being removed, or the host shuts down.
    #[error("given up: the app is being stopped")]
    ShuttingDown,
    /// The platform's fault. The text is for the operator.
    #[error("the host failed: {0}")]
    Platform(String),
}

impl From<ChangeError> for ApplyError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Boot {
                dyno,
                release,
                reason,
            } => Self::Boot {
                dyno: dyno.to_string(),
                release,
                reason,
            },
            ChangeError::Busy { waiting } => Self::Busy { waiting },
            ChangeError::NoRoom(error) => Self::NoRoom(error),
            ChangeError::Cap(error) => Self::Cap(error),
            ChangeError::ShuttingDown => Self::ShuttingDown,
            // What only scaling and restarts meet.
            other @ (ChangeError::UnknownApp(_)
            | ChangeError::NotRunning(_)
            | ChangeError::UnknownProcess { .. }
            | ChangeError::NoScale(_)
            | ChangeError::TooMany { .. }
            | ChangeError::UnknownTarget { .. }) => Self::Platform(other.to_string()),
        }
    }
}
