//! `/tmp` of an instance: a folder of its own below the app's, gone with it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cap_std::fs::Dir;

/// What the folders of instances are called, before a number.
const PREFIX: &str = "tmp-";

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
        let name = format!(
            "{PREFIX}{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        root.create_dir(&name)?;
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
            if let Err(error) = root.remove_dir_all(&name) {
                tracing::warn!(folder = name, %error, "a dyno's /tmp could not be removed");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Removes what instances of an earlier host left in `root` (a grant's `tmp_root`) when that host
/// was killed; says how many folders it removed. To be called before any instance uses `root`.
///
/// # Errors
///
/// If `root` cannot be listed or a folder in it cannot be removed.
pub fn clean_tmp(root: &Dir) -> io::Result<usize> {
    let mut removed = 0;
    for entry in root.entries()? {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            root.remove_dir_all(&name)?;
            removed += 1;
        }
    }
    Ok(removed)
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
    fn leftovers_are_cleaned_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let root = Dir::open_ambient_dir(temp.path(), cap_std::ambient_authority()).unwrap();
        root.create_dir_all("tmp-1-2/deep").unwrap();
        root.write("tmp-1-2/deep/file", "text").unwrap();
        root.create_dir("kept").unwrap();
        assert_eq!(clean_tmp(&root).unwrap(), 1);
        assert!(root.exists("kept"));
    }
}
