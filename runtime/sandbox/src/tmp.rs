//! `/tmp` of an instance: a folder of its own below the app's, gone with it.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cap_std::fs::Dir;

use crate::tree;

/// What the folders of instances are called, before a number.
const PREFIX: &str = "tmp-";

/// How many names are tried for a new folder.
const TRIES: u32 = 1_000;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A folder that is removed when this is dropped.
pub(crate) struct TmpDir {
    root: Arc<Dir>,
    name: String,
    dir: Dir,
}

impl TmpDir {
    /// Makes an empty folder that nobody else uses.
    pub(crate) fn create(root: &Arc<Dir>) -> io::Result<Self> {
        let next = || {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            format!("{PREFIX}{}-{number}", std::process::id())
        };
        let mut name = next();
        let mut tries = 0;
        while let Err(error) = root.create_dir(&name) {
            // Left by an earlier host of the same process id, and not to be removed.
            if error.kind() != io::ErrorKind::AlreadyExists || tries == TRIES {
                return Err(error);
            }
            tries += 1;
            name = next();
        }
        let dir = root.open_dir(&name)?;
        Ok(Self {
            root: root.clone(),
            name,
            dir,
        })
    }

    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }
}

impl Drop for TmpDir {
    fn drop(&mut self) {
        // Mostly it is empty, and that is quick; what is in it is removed where blocking harms nobody.
        if self.root.remove_dir(&self.name).is_ok() {
            return;
        }
        let (root, name) = (self.root.clone(), std::mem::take(&mut self.name));
        let remove = move || {
            if let Err(error) = tree::remove(root.as_fd(), &name) {
                tracing::warn!(folder = name, %error, "a dyno's /tmp could not be removed");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// What was left of earlier hosts' `/tmp`s, and what became of it.
#[derive(Debug, Default)]
pub struct CleanedTmp {
    /// Folders that were removed.
    pub removed: usize,
    /// Those that could not be, and why. They are in nobody's way.
    pub kept: Vec<(String, io::Error)>,
}

/// Removes what instances of an earlier host left in `root` (a grant's `tmp_root`) when that host
/// was killed. To be called before any instance uses `root`. Blocks.
///
/// # Errors
///
/// If `root` cannot be listed.
pub fn clean_tmp(root: &Dir) -> io::Result<CleanedTmp> {
    let mut cleaned = CleanedTmp::default();
    for entry in root.entries()? {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        match tree::remove(root.as_fd(), name) {
            Ok(()) => cleaned.removed += 1,
            Err(error) => cleaned.kept.push((name.to_owned(), error)),
        }
    }
    Ok(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tmp_folder_is_removed_with_what_is_in_it() {
        let temp = tempfile::tempdir().unwrap();
        let root =
            Arc::new(Dir::open_ambient_dir(temp.path(), cap_std::ambient_authority()).unwrap());
        let tmp = TmpDir::create(&root).unwrap();
        tmp.dir().write("file", "text").unwrap();
        assert_eq!(root.entries().unwrap().count(), 1);
        drop(tmp);
        assert_eq!(root.entries().unwrap().count(), 0);
    }

    #[test]
    fn a_name_that_is_taken_by_a_leftover_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let root =
            Arc::new(Dir::open_ambient_dir(temp.path(), cap_std::ambient_authority()).unwrap());
        // Other tests make folders too: these are more names than all of them take.
        let next = NEXT.load(Ordering::Relaxed);
        for number in next..next + 50 {
            root.create_dir(format!("{PREFIX}{}-{number}", std::process::id()))
                .unwrap();
        }
        let tmp = TmpDir::create(&root).unwrap();
        assert_eq!(root.entries().unwrap().count(), 51);
        drop(tmp);
        assert_eq!(root.entries().unwrap().count(), 50);
    }

    #[test]
    fn leftovers_are_cleaned_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let root = Dir::open_ambient_dir(temp.path(), cap_std::ambient_authority()).unwrap();
        root.create_dir_all("tmp-1-2/deep").unwrap();
        root.write("tmp-1-2/deep/file", "text").unwrap();
        root.create_dir("kept").unwrap();
        root.write("tmp-9-9", "no folder").unwrap();
        let cleaned = clean_tmp(&root).unwrap();
        assert_eq!(cleaned.removed, 1);
        let kept: Vec<&str> = cleaned.kept.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(kept, ["tmp-9-9"], "it is named, and the rest is cleaned");
        assert!(root.exists("kept"));
    }
}
