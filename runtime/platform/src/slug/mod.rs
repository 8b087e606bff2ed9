//! Slugs: an app's components, files and manifest, immutable, named by the SHA-256 of their contents.
//!
//! A slug lies at `slugs/<id>/`: `manifest.json`, `components/<path>`, `files/<path>`. It is gathered in
//! `tmp/`, flushed and renamed into place, so it is there whole or not at all, and it is verified against
//! its id before it is used.
//!
//! What is hashed: the kind, path, length and bytes of every file in the order of paths, and the manifest
//! without what does not belong to a slug (`[scale]`, `[config]`, `[build]`, line numbers): a comment in
//! the manifest makes no new slug.

mod gather;
mod store;

pub(crate) use gather::{check_component, explain};
pub use store::{SlugStore, StoredSlug};

use std::path::PathBuf;

use oarlock_spec::manifest::Manifest;
use oarlock_spec::names::SlugId;
use sha2::{Digest, Sha256};

/// Files of one slug.
pub const MAX_FILES: usize = 20_000;
/// Bytes of one slug.
pub const MAX_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// Why a slug could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum SlugError {
    /// A component of the manifest is not there.
    #[error("the component {path} of process `{process}` is not in {}: {reason}", root.display())]
    Component {
        /// Whose.
        process: String,
        /// Its path in the manifest.
        path: String,
        /// The app's folder.
        root: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// A file of `[files] include` cannot be taken.
    #[error("{path} of `[files] include`: {reason}")]
    File {
        /// Its path in the app's folder.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A glob of `[files] include` is not one.
    #[error("`{glob}` of `[files] include`: {reason}")]
    Glob {
        /// As written.
        glob: String,
        /// Why.
        reason: String,
    },
    /// See [`MAX_FILES`] and [`MAX_BYTES`].
    #[error("the slug has over {limit}; make `[files] include` narrower")]
    TooLarge {
        /// Which limit, with its unit.
        limit: String,
    },
    /// The slug is not there, or was changed since it was made.
    #[error("the slug {id} cannot be used: {reason}; deploy the app again")]
    Damaged {
        /// Which.
        id: SlugId,
        /// What is wrong.
        reason: String,
    },
    /// The data folder.
    #[error("{}: {reason}", path.display())]
    Storage {
        /// Where.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
}

/// Which part of a slug a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Component,
    File,
}

impl Part {
    const ALL: [Self; 2] = [Self::Component, Self::File];

    /// Its folder in a slug.
    fn folder(self) -> &'static str {
        match self {
            Self::Component => "components",
            Self::File => "files",
        }
    }
}

const MANIFEST_NAME: &str = "manifest.json";

/// The id in the making. Files come in the order of (part, path).
struct IdHasher(Sha256);

impl IdHasher {
    fn new(manifest: &Manifest) -> Result<Self, serde_json::Error> {
        let manifest = serde_json::to_vec(&essential(manifest))?;
        let mut hash = Sha256::new();
        hash.update(b"oarlock slug 1\n");
        field(&mut hash, &manifest);
        Ok(Self(hash))
    }

    /// `digest`: of the file's bytes.
    fn file(&mut self, part: Part, path: &str, digest: &[u8; 32], length: u64) {
        field(&mut self.0, part.folder().as_bytes());
        field(&mut self.0, path.as_bytes());
        self.0.update(length.to_be_bytes());
        self.0.update(digest);
    }

    fn finish(self) -> String {
        self.0
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// With its length first, so that no two lists of fields read alike.
fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(bytes);
}

/// The part of a manifest that belongs to the slug.
fn essential(manifest: &Manifest) -> Manifest {
    let mut manifest = manifest.clone();
    manifest.scale.clear();
    manifest.config.clear();
    manifest.build = None;
    manifest
        .processes
        .values_mut()
        .for_each(|process| process.line = 0);
    manifest
        .addons
        .values_mut()
        .for_each(|addon| addon.line = 0);
    manifest.allow.iter_mut().for_each(|entry| entry.line = 0);
    manifest
}
