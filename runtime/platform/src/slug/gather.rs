//! Gathers a slug's files from an app's folder, through a handle that cannot leave it.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, OpenOptions, OpenOptionsExt};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use oarlock_spec::manifest::Manifest;
use sha2::{Digest, Sha256};

use super::{IdHasher, MANIFEST_NAME, MAX_BYTES, MAX_FILES, Part, SlugError};
use crate::folder::explain_io;

/// Folders and files that are never part of a slug, however wide the globs are: our own data, version
/// control, and `.env`, whose vars the app gets as config.
const NEVER: [&str; 3] = [".oarlock", ".git", ".env"];

/// Marks a folder of build output, as cargo and others write it.
const CACHE_TAG: &str = "CACHEDIR.TAG";

/// Folders below each other that are walked.
const MAX_DEPTH: usize = 64;

/// Copies components, files and manifest of the app in `root` to the empty folder `to`, flushed; gives
/// the id. Blocks on the disk.
pub(super) fn gather(
    root: &Path,
    manifest: &Manifest,
    to: &Dir,
    to_path: &Path,
) -> Result<String, SlugError> {
    let storage = |error: &io::Error| SlugError::Storage {
        path: to_path.to_owned(),
        reason: explain_io(error),
    };
    let app =
        Dir::open_ambient_dir(root, ambient_authority()).map_err(|error| SlugError::Storage {
            path: root.to_owned(),
            reason: explain_io(&error),
        })?;
    let bad_manifest = |error: serde_json::Error| storage(&io::Error::other(error));
    let mut id = IdHasher::new(manifest).map_err(bad_manifest)?;
    let mut copy = Copy {
        app: &app,
        to,
        bytes: 0,
        to_path,
    };

    let mut components = BTreeSet::new();
    for (name, process) in &manifest.processes {
        if !components.insert(process.component.as_str()) {
            continue;
        }
        let missing = |reason: String| SlugError::Component {
            process: name.to_string(),
            path: process.component.clone(),
            root: root.to_owned(),
            reason,
        };
        check_regular(&app, &process.component).map_err(missing)?;
    }
    for path in components {
        let (digest, length) = copy.file(Part::Component, path)?;
        id.file(Part::Component, path, &digest, length);
    }
    for path in find_files(&app, &manifest.files)? {
        let (digest, length) = copy.file(Part::File, &path)?;
        id.file(Part::File, &path, &digest, length);
    }

    let mut file = to.create(MANIFEST_NAME).map_err(|error| storage(&error))?;
    let text = serde_json::to_vec_pretty(manifest).map_err(bad_manifest)?;
    file.write_all(&text).map_err(|error| storage(&error))?;
    // One call instead of one per file; a slug of the examples has a handful, others thousands.
    rustix::fs::syncfs(&file).map_err(|error| storage(&error.into()))?;
    Ok(id.finish())
}

/// Whether a path names a regular file within the app; the error says what to do.
pub(crate) fn check_regular(app: &Dir, path: &str) -> Result<(), String> {
    match app.metadata(path) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => Err("it is not a regular file".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(
            "there is no such file; build the app, or correct the path in the manifest".to_owned(),
        ),
        Err(error) => Err(reason(&error)),
    }
}

/// cap-std answers a path that leads out of the folder with a permission error.
fn reason(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "permission denied: it may not be read, or a symbolic link leads out of the app's folder"
            .to_owned()
    } else {
        explain_io(error)
    }
}

struct Copy<'a> {
    app: &'a Dir,
    to: &'a Dir,
    to_path: &'a Path,
    bytes: u64,
}

impl Copy<'_> {
    /// Copies one file and hashes what was copied, so that a file that changes meanwhile is no matter.
    fn file(&mut self, part: Part, path: &str) -> Result<([u8; 32], u64), SlugError> {
        let unreadable = |error: &io::Error| SlugError::File {
            path: path.to_owned(),
            reason: reason(error),
        };
        let storage = |error: &io::Error| SlugError::Storage {
            path: self.to_path.to_owned(),
            reason: explain_io(error),
        };
        let mut from = open_regular(self.app, path).map_err(|error| unreadable(&error))?;
        let target = Path::new(part.folder()).join(path);
        if let Some(parent) = target.parent() {
            self.to
                .create_dir_all(parent)
                .map_err(|error| storage(&error))?;
        }
        let mut to = self.to.create(&target).map_err(|error| storage(&error))?;
        let mut hash = Sha256::new();
        let mut length = 0u64;
        let mut buffer = vec![0u8; 128 * 1024];
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(&error)),
            };
            let chunk = buffer.get(..read).unwrap_or_default();
            length += u64::try_from(read).unwrap_or(u64::MAX);
            if self.bytes.saturating_add(length) > MAX_BYTES {
                return Err(SlugError::TooLarge {
                    limit: format!("{MAX_BYTES} bytes"),
                });
            }
            hash.update(chunk);
            to.write_all(chunk).map_err(|error| storage(&error))?;
        }
        self.bytes += length;
        Ok((hash.finalize().into(), length))
    }
}

/// Opens without waiting for a pipe's writer, and refuses what is not a regular file.
pub(super) fn open_regular(dir: &Dir, path: impl AsRef<Path>) -> io::Result<File> {
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = dir.open_with(path, OpenOptions::new().read(true).custom_flags(flags))?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// The files that the globs name, in order.
fn find_files(app: &Dir, globs: &[String]) -> Result<BTreeSet<String>, SlugError> {
    let mut found = BTreeSet::new();
    let mut set = GlobSetBuilder::new();
    let mut roots = BTreeSet::new();
    for glob in globs {
        let bad = |error: globset::Error| SlugError::Glob {
            glob: glob.clone(),
            reason: error.kind().to_string(),
        };
        set.add(
            GlobBuilder::new(glob)
                .literal_separator(true)
                .build()
                .map_err(bad)?,
        );
        roots.insert(literal_folder(glob));
    }
    let set = set.build().map_err(|error| SlugError::Glob {
        glob: globs.join(", "),
        reason: error.to_string(),
    })?;
    for root in &roots {
        // One walk for `static` also finds what a glob below it names.
        let covered = |other: &String| {
            other != root && (other.is_empty() || root.starts_with(&format!("{other}/")))
        };
        if !roots.iter().any(covered) {
            walk(app, root, &set, 0, &mut found)?;
        }
    }
    Ok(found)
}

/// The folder that everything a glob names lies in; empty: the app's root.
fn literal_folder(glob: &str) -> String {
    let literal = glob
        .split('/')
        .take_while(|part| !part.contains(['*', '?', '[', '{', '\\']));
    let mut parts: Vec<&str> = literal.collect();
    if parts.len() == glob.split('/').count() {
        parts.pop();
    }
    parts.join("/")
}

fn walk(
    app: &Dir,
    folder: &str,
    set: &GlobSet,
    depth: usize,
    found: &mut BTreeSet<String>,
) -> Result<(), SlugError> {
    let bad = |path: &str, reason: String| SlugError::File {
        path: path.to_owned(),
        reason,
    };
    if depth > MAX_DEPTH {
        return Err(bad(
            folder,
            format!("over {MAX_DEPTH} folders below each other"),
        ));
    }
    let here = if folder.is_empty() { "." } else { folder };
    let entries = match app.read_dir(here) {
        Ok(entries) => entries,
        // A folder that a glob names literally need not exist.
        Err(error) if depth == 0 && error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(bad(here, reason(&error))),
    };
    for entry in entries {
        let entry = entry.map_err(|error| bad(here, reason(&error)))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(bad(
                &format!("{folder}/{}", name.to_string_lossy()),
                "its name is not UTF-8".to_owned(),
            ));
        };
        if NEVER.contains(&name) {
            continue;
        }
        let path = if folder.is_empty() {
            name.to_owned()
        } else {
            format!("{folder}/{name}")
        };
        let kind = entry
            .file_type()
            .map_err(|error| bad(&path, reason(&error)))?;
        if kind.is_dir() {
            if !app.exists(format!("{path}/{CACHE_TAG}")) {
                walk(app, &path, set, depth + 1, found)?;
            }
        } else if set.is_match(&path) {
            // A link to a file within the app counts as that file.
            check_regular(app, &path).map_err(|reason| bad(&path, reason))?;
            found.insert(path);
            if found.len() > MAX_FILES {
                return Err(SlugError::TooLarge {
                    limit: format!("{MAX_FILES} files"),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_start_where_a_glob_starts_to_vary() {
        for (glob, folder) in [
            ("static/**", "static"),
            ("a/b/*.html", "a/b"),
            ("**/*.css", ""),
            ("index.html", ""),
            ("a/b.txt", "a"),
            ("a/{b,c}/d", "a"),
        ] {
            assert_eq!(literal_folder(glob), folder, "{glob}");
        }
    }
}
