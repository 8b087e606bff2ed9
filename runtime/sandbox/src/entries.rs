//! What a guest may make below its folders: how deep, and how many entries (`files` in `[limits]`).
//!
//! wasmtime-wasi does the work; these functions are laid over its own where something is made, moved or removed. They
//! take turns within an instance, so that the count is right whatever a guest does at once. An entry is counted before
//! it is made: one whose making the guest gives up half-way stays counted.
//!
//! Bounds: [`MAX_DEPTH`] folders in each other (`name-too-long`), `files` entries made by this instance and not removed
//! (`insufficient-space`). Whoever makes or moves something pays a few system calls more than without.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use cap_std::fs::Dir;
use tokio::sync::{Mutex, OwnedMutexGuard};
use wasmtime::component::{Access, Accessor, Linker, Resource, ResourceTable};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView as _};

use crate::state::GuestState;
use crate::tree::{self, Identity};

mod p2;
mod p3;

pub(crate) use p2::p2;
pub(crate) use p3::p3;

/// Folders in each other below a writable folder. More than any package or build has, and so few that a path to the
/// deepest is no longer than a path may be.
pub(crate) const MAX_DEPTH: usize = 64;

/// The entries that one instance has made.
pub(crate) struct Entries {
    count: Arc<Mutex<u64>>,
    most: u64,
    /// The folders that depth is counted from.
    roots: Vec<Identity>,
}

/// Why something was not made.
#[derive(Debug)]
enum Refused {
    /// Too many folders in each other.
    Depth,
    /// Too many entries.
    Count,
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// An instance's turn to change its folders.
struct Turn {
    count: OwnedMutexGuard<u64>,
    entries: Arc<Entries>,
}

impl Entries {
    pub(crate) fn new(most: u64, roots: Vec<Identity>) -> Self {
        Self {
            count: Arc::default(),
            most,
            roots,
        }
    }

    async fn turn(self: Arc<Self>) -> Turn {
        Turn {
            count: Arc::clone(&self.count).lock_owned().await,
            entries: self,
        }
    }

    /// How many folders lead from a root to `folder`; counted up to one more than are allowed.
    fn depth(&self, folder: OwnedFd) -> io::Result<usize> {
        let mut here = folder;
        for depth in 0..=MAX_DEPTH {
            if self.roots.contains(&tree::identity(&here)?) {
                return Ok(depth);
            }
            here = tree::parent(&here)?;
        }
        Ok(MAX_DEPTH + 1)
    }
}

impl Turn {
    /// Counts an entry that is about to be made.
    fn reserve(&mut self) -> Result<(), Refused> {
        if *self.count >= self.entries.most {
            return Err(Refused::Count);
        }
        *self.count += 1;
        Ok(())
    }

    /// One is gone, or was not made.
    fn release(&mut self) {
        *self.count = self.count.saturating_sub(1);
    }

    /// Whether a folder may be made here.
    async fn check_new_folder(&self, dir: Arc<std::fs::File>, path: String) -> Result<(), Refused> {
        let entries = Arc::clone(&self.entries);
        blocking(move || {
            let Some((above, _)) = above(&dir, &path)? else {
                return Ok(());
            };
            if entries.depth(above.into_std_file().into())? >= MAX_DEPTH {
                return Err(Refused::Depth);
            }
            Ok(())
        })
        .await
    }

    /// Whether something may be moved from here to there, and whether an entry gives way for it.
    async fn check_move(&self, from: Place, to: Place) -> Result<bool, Refused> {
        let entries = Arc::clone(&self.entries);
        blocking(move || {
            let Some((new_above, new_name)) = above(&to.dir, &to.path)? else {
                return Ok(false);
            };
            let replaces = new_above.symlink_metadata(&new_name).is_ok();
            let Some((old_above, old_name)) = above(&from.dir, &from.path)? else {
                return Ok(replaces);
            };
            let Ok(moved) = tree::open(&old_above, &old_name) else {
                return Ok(replaces);
            };
            let old_depth = entries.depth(old_above.into_std_file().into())?;
            let new_depth = entries.depth(new_above.into_std_file().into())?;
            // What is not deeper than before is not too deep.
            if new_depth <= old_depth {
                return Ok(replaces);
            }
            // The folder itself is one.
            let room = MAX_DEPTH.saturating_sub(new_depth + 1);
            if new_depth >= MAX_DEPTH || tree::height(moved, room + 1)? > room {
                return Err(Refused::Depth);
            }
            Ok(replaces)
        })
        .await
    }

    /// Whether there is something by this name, or where it leads.
    async fn exists(&self, place: Place, follow: bool) -> bool {
        let look = move || {
            let dir = dir_of(&place.dir)?;
            if follow {
                dir.metadata(&place.path).map(drop)?;
            } else {
                dir.symlink_metadata(&place.path).map(drop)?;
            }
            Ok(())
        };
        blocking(look).await.is_ok()
    }
}

/// A path in a folder.
#[derive(Clone)]
struct Place {
    dir: Arc<std::fs::File>,
    path: String,
}

/// The folder that is behind a descriptor; `None`: none is, which wasmtime-wasi says in its own way.
fn folder(
    table: &ResourceTable,
    descriptor: &Resource<Descriptor>,
) -> wasmtime::Result<Option<Arc<std::fs::File>>> {
    Ok(match table.get(descriptor)? {
        Descriptor::Dir(dir) => Some(Arc::clone(&dir.dir)),
        Descriptor::File(_) => None,
    })
}

fn dir_of(dir: &std::fs::File) -> io::Result<Dir> {
    Ok(Dir::from_std_file(dir.try_clone()?))
}

/// The folder in which the last name of a path is, within `dir`, and that name; `None`: the path ends with none.
fn above(dir: &std::fs::File, path: &str) -> io::Result<Option<(Dir, String)>> {
    let path = Path::new(path);
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Ok(None);
    };
    let dir = dir_of(dir)?;
    let folder = match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => dir.open_dir(above)?,
        _ => dir,
    };
    Ok(Some((folder, name.to_owned())))
}

/// File work, on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Refused::Io(io::Error::other(error))))
}
