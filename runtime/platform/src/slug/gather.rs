//! Gathers a slug's files from an app's folder, through a handle that cannot leave it.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use cap_std::fs::{Dir, File};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use oarlock_host::folder::{AppFile, AppFolder, FileError, MAX_COMPONENT, STATE_FOLDER};
use oarlock_spec::manifest::{Manifest, Process};
use oarlock_spec::names::ProcessType;
use rustix::fs::{Timespec, Timestamps, UTIME_OMIT, fstat, futimens};
use sha2::{Digest, Sha256};

use super::{IdHasher, MANIFEST_NAME, MAX_BYTES, MAX_FILES, Part, SlugError};
use crate::folder::explain_io;

/// Folders and files that are never part of a slug, however wide the globs are: our own data, version
/// control, and `.env`, whose vars the app gets as config.
const NEVER: [&str; 3] = [STATE_FOLDER, ".git", ".env"];

/// Marks a folder of build output, as cargo and others write it.
const CACHE_TAG: &str = "CACHEDIR.TAG";

/// Folders below each other that are walked.
const MAX_DEPTH: usize = 64;

/// Files and folders that are looked at, whether a glob matches them or not: a walk of so many takes seconds.
const MAX_ENTRIES: usize = 500_000;

/// The id of the slug that the app in `root` makes now: reads all of it, and writes nothing. Blocks on the disk.
pub(super) fn identify(root: &Path, manifest: &Manifest) -> Result<String, SlugError> {
    read_all(root, manifest, None)
}

/// Copies components, files and manifest of the app in `root` to the empty folder `to`, flushed; gives
/// the id. Blocks on the disk.
pub(super) fn gather(
    root: &Path,
    manifest: &Manifest,
    to: &Dir,
    to_path: &Path,
) -> Result<String, SlugError> {
    let target = Target {
        dir: to,
        path: to_path,
    };
    let id = read_all(root, manifest, Some(target))?;
    let mut file = to
        .create(MANIFEST_NAME)
        .map_err(|error| target.failed(&error))?;
    let text = serde_json::to_vec_pretty(manifest).map_err(|error| target.failed(&error.into()))?;
    file.write_all(&text)
        .map_err(|error| target.failed(&error))?;
    // One call instead of one per file; a slug of the examples has a handful, others thousands.
    rustix::fs::syncfs(&file).map_err(|error| target.failed(&error.into()))?;
    Ok(id)
}

/// Reads components and files in the order of the id, and copies them if there is where to.
fn read_all(root: &Path, manifest: &Manifest, to: Option<Target<'_>>) -> Result<String, SlugError> {
    let failed = |error: io::Error| SlugError::Storage {
        path: root.to_owned(),
        reason: explain_io(&error),
    };
    let app = AppFolder::open(root).map_err(failed)?;
    let mut id = IdHasher::new(manifest).map_err(|error| failed(error.into()))?;
    let mut reading = Reading {
        app: &app,
        manifest,
        to,
        bytes: 0,
    };
    let mut components = BTreeSet::new();
    for process in manifest.processes.values() {
        if !components.insert(process.component.as_str()) {
            continue;
        }
        check_component(&app, &process.component)
            .map_err(|reason| reading.refuse(Part::Component, &process.component, reason))?;
    }
    for path in components {
        let (digest, length) = reading.file(Part::Component, path)?;
        id.file(Part::Component, path, &digest, length);
    }
    for path in find_files(&app, &manifest.files)? {
        let (digest, length) = reading.file(Part::File, &path)?;
        id.file(Part::File, &path, &digest, length);
    }
    Ok(id.finish())
}

/// Whether a component of the manifest is there; the error says what to do.
pub(crate) fn check_component(app: &AppFolder, path: &str) -> Result<(), String> {
    app.check(path).map_err(|error| match error {
        FileError::Missing => {
            "there is no such file; build the app, or correct the path in the manifest".to_owned()
        }
        other => explain(other),
    })
}

/// Why a file of the app is not taken.
pub(crate) fn explain(error: FileError) -> String {
    match error {
        FileError::Io(error) => explain_io(&error),
        other => other.to_string(),
    }
}

/// Where a slug is put together.
#[derive(Clone, Copy)]
struct Target<'a> {
    dir: &'a Dir,
    path: &'a Path,
}

impl Target<'_> {
    fn failed(&self, error: &io::Error) -> SlugError {
        SlugError::Storage {
            path: self.path.to_owned(),
            reason: explain_io(error),
        }
    }

    /// A new file, and the folders above it.
    fn create(&self, path: &Path) -> Result<File, SlugError> {
        if let Some(parent) = path.parent() {
            self.dir
                .create_dir_all(parent)
                .map_err(|error| self.failed(&error))?;
        }
        self.dir.create(path).map_err(|error| self.failed(&error))
    }
}

struct Reading<'a> {
    app: &'a AppFolder,
    manifest: &'a Manifest,
    to: Option<Target<'a>>,
    bytes: u64,
}

impl Reading<'_> {
    fn refuse(&self, part: Part, path: &str, reason: String) -> SlugError {
        let path = path.to_owned();
        let process = |(name, process): (&ProcessType, &Process)| {
            (process.component == path).then(|| name.to_string())
        };
        match part {
            Part::Component => SlugError::Component {
                process: self
                    .manifest
                    .processes
                    .iter()
                    .find_map(process)
                    .unwrap_or_default(),
                root: self.app.path().to_owned(),
                path,
                reason,
            },
            Part::File => SlugError::File { path, reason },
        }
    }

    /// Hashes one file, and copies what it hashed, so that a file that changes meanwhile is no matter.
    fn file(&mut self, part: Part, path: &str) -> Result<([u8; 32], u64), SlugError> {
        let AppFile {
            file: mut from,
            place,
        } = self
            .app
            .file(path)
            .map_err(|error| self.refuse(part, path, explain(error)))?;
        if part == Part::File
            && let Some(name) = never(&place)
        {
            let reason = format!("it is a link to `{name}`, which is never part of an app");
            return Err(self.refuse(part, path, reason));
        }
        let mut to = match self.to {
            None => None,
            Some(target) => {
                let copy = target.create(&Path::new(part.folder()).join(path))?;
                Some((target, copy))
            }
        };
        let mut hash = Sha256::new();
        let mut length = 0u64;
        let mut buffer = vec![0u8; 128 * 1024];
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.refuse(part, path, explain_io(&error))),
            };
            let chunk = buffer.get(..read).unwrap_or_default();
            length += u64::try_from(read).unwrap_or(u64::MAX);
            if part == Part::Component && length > MAX_COMPONENT {
                return Err(self.refuse(part, path, explain(FileError::TooLarge(MAX_COMPONENT))));
            }
            if self.bytes.saturating_add(length) > MAX_BYTES {
                return Err(SlugError::TooLarge {
                    limit: format!("{MAX_BYTES} bytes"),
                });
            }
            hash.update(chunk);
            if let Some((target, copy)) = &mut to {
                copy.write_all(chunk)
                    .map_err(|error| target.failed(&error))?;
            }
        }
        if let Some((target, copy)) = &to {
            keep_time(&from, copy).map_err(|error| target.failed(&error.into()))?;
        }
        self.bytes += length;
        Ok((hash.finalize().into(), length))
    }
}

/// Gives a copy the time at which its original was changed. It is not part of the slug's id: a runtime that keeps
/// compiled code beside its source (Python) compares the two times.
fn keep_time(from: &impl AsFd, to: &impl AsFd) -> rustix::io::Result<()> {
    let from = fstat(from)?;
    let changed = Timespec {
        tv_sec: from.st_mtime,
        tv_nsec: i64::try_from(from.st_mtime_nsec).unwrap_or_default(),
    };
    let unchanged = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    };
    let times = Timestamps {
        last_access: unchanged,
        last_modification: changed,
    };
    futimens(to, &times)
}

/// The part of a path that is of no slug.
fn never(path: &Path) -> Option<&'static str> {
    path.iter()
        .find_map(|part| NEVER.into_iter().find(|never| part == *never))
}

/// The files that the globs name, in order.
fn find_files(app: &AppFolder, globs: &[String]) -> Result<BTreeSet<String>, SlugError> {
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
        let root = literal_folder(glob);
        if let Some(name) = never(Path::new(glob)).or_else(|| leads_to_never(app, &root)) {
            return Err(SlugError::Glob {
                glob: glob.clone(),
                reason: format!("`{name}` is never part of an app; remove this entry"),
            });
        }
        roots.insert(root);
    }
    let set = set.build().map_err(|error| SlugError::Glob {
        glob: globs.join(", "),
        reason: error.to_string(),
    })?;
    let mut walk = Walk {
        app,
        set: &set,
        entries: 0,
        found: BTreeSet::new(),
    };
    for root in &roots {
        // One walk for `static` also finds what a glob below it names.
        let covered = |other: &String| {
            other != root && (other.is_empty() || root.starts_with(&format!("{other}/")))
        };
        if !roots.iter().any(covered) {
            walk.folder(root, 0)?;
        }
    }
    Ok(walk.found)
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

/// Where a glob's walk would begin, if links lead to what is of no slug.
fn leads_to_never(app: &AppFolder, root: &str) -> Option<&'static str> {
    if root.is_empty() {
        return None;
    }
    // A folder that is not there, or not the app's, fails in the walk.
    never(&app.folder(root).ok()?)
}

/// One walk over the app's folder for all globs.
struct Walk<'a> {
    app: &'a AppFolder,
    set: &'a GlobSet,
    entries: usize,
    found: BTreeSet<String>,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &str, depth: usize) -> Result<(), SlugError> {
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
        let entries = match self.app.dir().read_dir(here) {
            Ok(entries) => entries,
            // A folder that a glob names literally need not exist.
            Err(error) if depth == 0 && error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(bad(here, explain(error.into()))),
        };
        for entry in entries {
            let entry = entry.map_err(|error| bad(here, explain(error.into())))?;
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(bad(
                    here,
                    format!(
                        "over {MAX_ENTRIES} files and folders lie where the globs look; begin them with a folder, \
                         for example `static/**`"
                    ),
                ));
            }
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
                .map_err(|error| bad(&path, explain(error.into())))?;
            if kind.is_dir() {
                if !self.app.dir().exists(format!("{path}/{CACHE_TAG}")) {
                    self.folder(&path, depth + 1)?;
                }
            } else if self.set.is_match(&path) {
                // A link to a file within the app counts as that file.
                self.app
                    .check(&path)
                    .map_err(|error| bad(&path, explain(error)))?;
                self.found.insert(path);
                if self.found.len() > MAX_FILES {
                    return Err(SlugError::TooLarge {
                        limit: format!("{MAX_FILES} files"),
                    });
                }
            }
        }
        Ok(())
    }
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
