//! An app's folder and a host's data folder: where things lie, who may use them, one host at a time.

use std::path::{Path, PathBuf};

use oarlock_spec::manifest::Manifest;

/// A host's own folder (`.oarlock` of an app under `up`, `--data` of `serve`), locked while this lives.
pub struct DataDir {
    _path: PathBuf,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another host has it.
    #[error("{path} is in use by another `oarlock` (process {pid}); stop it first")]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who.
        pid: u32,
    },
    /// It cannot be read or written, or is not what it should be (a symlink, a file, another user's).
    #[error("{path}: {reason}")]
    Unusable {
        /// The place.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
}

/// Reads `oarlock.toml`, or else `Procfile`, of an app's folder. All mistakes at once, ready to print.
pub fn load_manifest(_dir: &Path) -> Result<Manifest, String> {
    unimplemented!()
}
