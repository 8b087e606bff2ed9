//! `up --watch`: builds and releases again when files of the app change.
//!
//! What a build itself writes must not start the next one. Folders of build output are not watched
//! (`target` and whatever else has a `CACHEDIR.TAG`, `node_modules`, `.git`, `.oarlock`), components are
//! not looked at while they are built here, and a file counts as changed when its contents differ from
//! those seen last. What changes during a build starts another, so that no edit is lost: an output among
//! the sources costs one more build, which writes the same again, and one that is never the same costs
//! [`MAX_IN_A_ROW`].

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use oarlock_host::folder::AppFolder;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use super::{Building, ManagedApp, bring_up, lock};
use crate::folder::load_manifest;
use crate::platform::Event;

/// After a change, this long without another; an editor's save is several.
const QUIET: Duration = Duration::from_millis(150);

/// A change is acted on after this, even if more keep coming.
const AT_MOST: Duration = Duration::from_secs(2);

/// Builds in a row that are started by what changed during the one before.
const MAX_IN_A_ROW: usize = 4;

/// Folders watched at most.
const MAX_FOLDERS: usize = 8_192;

/// Files up to this size, in bytes, are compared by their contents.
const MAX_READ: u64 = 16 * 1024 * 1024;

/// Changed paths remembered at most; more count as "something changed".
const MAX_CHANGED: usize = 10_000;

/// Why an app's folder cannot be watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchFailure {
    #[error(
        "the app's folder cannot be watched: {0}; raise the sysctl fs.inotify.max_user_watches, or start without --watch"
    )]
    Notify(#[from] notify::Error),
    #[error("the app has over {MAX_FOLDERS} folders, too many to watch; start without --watch")]
    TooManyFolders,
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// Paths that changed, from the watcher's thread to the task.
#[derive(Default)]
struct Changes {
    paths: Mutex<BTreeSet<PathBuf>>,
    some: Notify,
}

impl Changes {
    fn take(&self) -> BTreeSet<PathBuf> {
        std::mem::take(&mut *lock(&self.paths))
    }

    fn is_empty(&self) -> bool {
        lock(&self.paths).is_empty()
    }

    fn note(&self, event: notify::Event) {
        if matches!(event.kind, EventKind::Access(_)) {
            return;
        }
        let mut paths = lock(&self.paths);
        for path in event.paths {
            if paths.len() < MAX_CHANGED {
                paths.insert(path);
            }
        }
        drop(paths);
        self.some.notify_one();
    }
}

/// Watches an app's folder from now on; the future ends only when it is dropped.
pub(crate) fn watch(app: Arc<ManagedApp>) -> Result<impl Future<Output = ()> + Send, WatchFailure> {
    let root = app.dir.canonicalize().map_err(|source| WatchFailure::Io {
        path: app.dir.clone(),
        source,
    })?;
    let changes = Arc::new(Changes::default());
    let noted = changes.clone();
    let watcher =
        notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
            Ok(event) => noted.note(event),
            Err(error) => {
                tracing::warn!(%error, "a change in the app's folder may have been missed")
            }
        })?;
    let mut watching = Watching {
        app,
        root,
        watcher,
        changes,
        folders: BTreeSet::new(),
        seen: HashMap::new(),
    };
    watching.watch_folders()?;
    watching.changes.take();
    Ok(async move { watching.run().await })
}

struct Watching {
    app: Arc<ManagedApp>,
    root: PathBuf,
    watcher: RecommendedWatcher,
    changes: Arc<Changes>,
    folders: BTreeSet<PathBuf>,
    /// Contents when they were looked at last.
    seen: HashMap<PathBuf, Fingerprint>,
}

impl Watching {
    async fn run(&mut self) {
        loop {
            let mut changed = self.next_changes().await;
            let mut in_a_row = 0;
            // Where nothing is built, nothing of ours writes there: every change is an edit, and counts.
            while changed && (in_a_row < MAX_IN_A_ROW || self.app.shared.building == Building::No) {
                changed = self.release().await;
                in_a_row += 1;
            }
        }
    }

    /// Builds and releases; whether something changed meanwhile.
    async fn release(&mut self) -> bool {
        if let Err(failure) = bring_up(&self.app).await {
            self.fail(&failure.to_string());
        }
        // The last of what the build wrote may still be on its way here.
        tokio::time::sleep(QUIET).await;
        self.changed()
    }

    /// Waits for events and for their end; whether they are changes.
    async fn next_changes(&mut self) -> bool {
        while self.changes.is_empty() {
            self.changes.some.notified().await;
        }
        let more = async {
            while tokio::time::timeout(QUIET, self.changes.some.notified())
                .await
                .is_ok()
            {}
        };
        let _ = tokio::time::timeout(AT_MOST, more).await;
        if let Err(failure) = self.watch_folders() {
            self.fail(&failure.to_string());
        }
        self.changed()
    }

    /// Whether the events since the last look changed the contents of a source.
    fn changed(&mut self) -> bool {
        let components = self.components();
        let mut changed = false;
        for path in self.changes.take() {
            let relevant = match (components.contains(&path), self.app.shared.building) {
                (true, Building::Yes) => false,
                (true, Building::No) => true,
                (false, _) => !self.ignored(&path) && !self.folders.contains(&path),
            };
            if relevant {
                if self.seen.len() > MAX_CHANGED {
                    self.seen.clear();
                }
                let now = Fingerprint::of(&self.root, &path);
                changed |= self.seen.insert(path, now) != Some(now);
            }
        }
        changed
    }

    fn ignored(&self, path: &Path) -> bool {
        let Ok(below) = path.strip_prefix(&self.root) else {
            return true;
        };
        let name = below
            .file_name()
            .map(|name| name.to_string_lossy())
            .unwrap_or_default();
        if name.ends_with('~')
            || name.ends_with(".swp")
            || name.ends_with(".swx")
            || name.starts_with(".#")
        {
            return true;
        }
        let mut folder = self.root.clone();
        below.components().any(|part| {
            folder.push(part);
            is_output(&folder)
        })
    }

    fn components(&self) -> BTreeSet<PathBuf> {
        let manifest = load_manifest(&self.root, Some(&self.app.shared.policy));
        manifest.map_or_else(
            |_| BTreeSet::new(),
            |manifest| {
                manifest
                    .processes
                    .values()
                    .map(|process| self.root.join(&process.component))
                    .collect()
            },
        )
    }

    /// Watches every folder that is not watched yet. Not recursively by the watcher itself: that would
    /// spend the system's watches on folders of build output.
    fn watch_folders(&mut self) -> Result<(), WatchFailure> {
        self.folders.retain(|folder| folder.is_dir());
        let walk = walkdir::WalkDir::new(&self.root)
            .into_iter()
            .filter_entry(|entry| {
                entry.file_type().is_dir() && (entry.depth() == 0 || !is_output(entry.path()))
            });
        let mut wanted: BTreeSet<PathBuf> = walk
            .filter_map(Result::ok)
            .map(walkdir::DirEntry::into_path)
            .take(MAX_FOLDERS + 1)
            .collect();
        if wanted.len() > MAX_FOLDERS {
            return Err(WatchFailure::TooManyFolders);
        }
        if self.app.shared.building == Building::No {
            // They may lie in folders of build output.
            let folders = self
                .components()
                .into_iter()
                .filter_map(|path| path.parent().map(Path::to_owned));
            wanted.extend(folders.filter(|folder| folder.is_dir()));
        }
        for folder in wanted {
            if !self.folders.contains(&folder) {
                match self.watcher.watch(&folder, RecursiveMode::NonRecursive) {
                    // Gone since the walk.
                    Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => continue,
                    watched => watched?,
                }
                // What came into a new folder before it was watched had no event.
                let files = std::fs::read_dir(&folder)
                    .into_iter()
                    .flatten()
                    .filter_map(Result::ok);
                lock(&self.changes.paths).extend(files.map(|file| file.path()).take(MAX_CHANGED));
                self.folders.insert(folder);
            }
        }
        Ok(())
    }

    fn fail(&self, message: &str) {
        self.app
            .log_told(&format!("Change not released: {message}"));
        self.app.shared.tell(Event::Failed {
            app: self.app.name.clone(),
            message: format!("{message}\nthe old release goes on"),
        });
    }
}

/// A file's contents, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fingerprint {
    Absent,
    Contents([u8; 32]),
    /// Of what is too large to be read for this, or no file of the app's: length, and time of change.
    Outside(u64, Option<SystemTime>),
}

impl Fingerprint {
    fn of(root: &Path, path: &Path) -> Self {
        let Ok(found) = std::fs::symlink_metadata(path) else {
            return Self::Absent;
        };
        let contents = || {
            let below = path.strip_prefix(root).ok()?;
            AppFolder::open(root).ok()?.read(below, MAX_READ).ok()
        };
        match contents() {
            Some(bytes) => Self::Contents(Sha256::digest(bytes).into()),
            None => Self::Outside(found.len(), found.modified().ok()),
        }
    }
}

/// A folder that no source lies in.
fn is_output(folder: &Path) -> bool {
    let name = folder
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    matches!(&*name, ".oarlock" | ".git" | "node_modules") || folder.join("CACHEDIR.TAG").is_file()
}
