//! What an app shall be, and the one path that makes it so.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cap_std::fs::Dir;
use oarlock_spec::api::Formation;
use oarlock_spec::manifest::Manifest;
use oarlock_spec::names::{ProcessType, ReleaseId, SlugId};

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
