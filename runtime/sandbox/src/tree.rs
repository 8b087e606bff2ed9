//! Folders that a guest made, walked without recursion: they may be deeper than a stack, and have more folders than a
//! process may have descriptors. Whatever their shape, a walk has three descriptors and a name per level.
//!
//! Symbolic links are not followed. Blocks.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// How often a folder is looked through again that should be empty by now: somebody may still write to it.
const TRIES: u32 = 4;

/// Which folder it is, whatever it is called.
pub(crate) type Identity = (u64, u64);

const FOLDER: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::RDONLY)
    .union(OFlags::CLOEXEC);

/// A folder on the way down, and what it is called where one goes up again.
struct Level {
    name: CString,
    /// Of the folder that it is in.
    above: Identity,
    tries: u32,
}

/// Which folder this is.
pub(crate) fn identity(folder: impl AsFd) -> io::Result<Identity> {
    let stat = rustix::fs::fstat(folder)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The folder of this name in another; a link to one is none.
pub(crate) fn open(folder: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(folder, name, FOLDER, Mode::empty())?)
}

/// The folder that this one is in.
pub(crate) fn parent(folder: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(folder, c"..", FOLDER, Mode::empty())?)
}

/// Up from `folder` to the one in which `level` has its name; somebody may have moved it meanwhile.
fn up(folder: &OwnedFd, level: &Level) -> io::Result<OwnedFd> {
    let above = parent(folder)?;
    if identity(&above)? != level.above {
        return Err(io::Error::other("it was moved while it was looked through"));
    }
    Ok(above)
}

/// Removes the folder of this name with everything in it, however deep it is: three descriptors are enough. Blocks.
///
/// # Errors
/// At the first thing that cannot be removed; what was removed until then is gone.
pub fn remove(root: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    let mut levels: Vec<Level> = Vec::new();
    let mut here = rustix::fs::openat(root, &name, FOLDER, Mode::empty())?;
    loop {
        if let Some(inner) = empty(&here)? {
            let next = rustix::fs::openat(&here, &inner, FOLDER, Mode::empty())?;
            levels.push(Level {
                name: inner,
                above: identity(&here)?,
                tries: 0,
            });
            here = next;
            continue;
        }
        let Some(level) = levels.pop() else { break };
        let above = up(&here, &level)?;
        match rustix::fs::unlinkat(&above, &level.name, AtFlags::REMOVEDIR) {
            // Written to since it was emptied.
            Err(Errno::NOTEMPTY | Errno::EXIST) if level.tries < TRIES => levels.push(Level {
                tries: level.tries + 1,
                ..level
            }),
            Ok(()) | Err(Errno::NOENT) => here = above,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(rustix::fs::unlinkat(root, &name, AtFlags::REMOVEDIR)?)
}

/// Removes what is in a folder, but for folders that are not empty: the name of one, if there is such.
fn empty(folder: &OwnedFd) -> io::Result<Option<CString>> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_dots(name) {
            continue;
        }
        let flags = match is_folder(folder, name, entry.file_type()) {
            Ok(true) => AtFlags::REMOVEDIR,
            Ok(false) => AtFlags::empty(),
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        match rustix::fs::unlinkat(folder, name, flags) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Some(name.to_owned())),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// How many levels of folders are in this one, counted up to `most`.
///
/// # Errors
/// If it cannot be looked through, or is changed meanwhile.
pub(crate) fn height(folder: OwnedFd, most: usize) -> io::Result<usize> {
    let mut levels: Vec<(Level, Vec<CString>)> = Vec::new();
    let mut inner = folders(&folder)?;
    let mut here = folder;
    let mut highest = 0;
    loop {
        if let Some(name) = inner.pop() {
            highest = highest.max(levels.len() + 1);
            if highest >= most {
                return Ok(highest);
            }
            let next = match rustix::fs::openat(&here, &name, FOLDER, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(error) => return Err(error.into()),
            };
            let level = Level {
                name,
                above: identity(&here)?,
                tries: 0,
            };
            levels.push((level, std::mem::replace(&mut inner, folders(&next)?)));
            here = next;
        } else {
            let Some((level, rest)) = levels.pop() else {
                return Ok(highest);
            };
            here = up(&here, &level)?;
            inner = rest;
        }
    }
}

/// The names of the folders in a folder.
fn folders(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if !is_dots(name) && is_folder(folder, name, entry.file_type()).unwrap_or(false) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// Whether it is a folder; some file systems do not say it where they list names.
fn is_folder(folder: &OwnedFd, name: &CStr, listed: FileType) -> Result<bool, Errno> {
    if listed != FileType::Unknown {
        return Ok(listed == FileType::Directory);
    }
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Folders in folders, too deep for any path.
    pub(crate) fn dig(root: &Path, name: &str, depth: usize) {
        let mut here: OwnedFd = std::fs::File::open(root).unwrap().into();
        for _ in 0..depth {
            rustix::fs::mkdirat(&here, name, Mode::RWXU).unwrap();
            here = rustix::fs::openat(&here, name, FOLDER, Mode::empty()).unwrap();
        }
    }

    fn opened(path: &Path) -> OwnedFd {
        std::fs::File::open(path).unwrap().into()
    }

    /// On a stack that holds no recursion over the tree.
    fn on_a_small_stack(work: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .stack_size(128 << 10)
                .spawn_scoped(scope, work)
                .unwrap()
                .join()
                .unwrap();
        });
    }

    #[test]
    fn a_tree_of_any_depth_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        dig(temp.path(), "d", 12_000);
        std::fs::write(temp.path().join("d/d/d/file"), "text").unwrap();
        std::fs::create_dir(temp.path().join("d/d/other")).unwrap();
        std::os::unix::fs::symlink("/", temp.path().join("d/d/link")).unwrap();
        on_a_small_stack(|| remove(opened(temp.path()).as_fd(), "d").unwrap());
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
        assert!(Path::new("/tmp").is_dir(), "no link is followed");
    }

    #[test]
    fn a_broad_tree_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        for outer in 0..20 {
            for inner in 0..20 {
                let folder = temp.path().join(format!("t/{outer}/{inner}/x"));
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join("file"), "text").unwrap();
            }
        }
        remove(opened(temp.path()).as_fd(), "t").unwrap();
        assert!(!temp.path().join("t").exists());
        let missing = remove(opened(temp.path()).as_fd(), "t").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_link_in_a_folder_s_place_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("kept")).unwrap();
        std::fs::write(temp.path().join("kept/file"), "text").unwrap();
        std::os::unix::fs::symlink("kept", temp.path().join("link")).unwrap();
        remove(opened(temp.path()).as_fd(), "link").unwrap_err();
        assert!(temp.path().join("kept/file").exists());
    }

    #[test]
    fn heights_are_counted_up_to_a_bound() {
        let temp = tempfile::tempdir().unwrap();
        let height_of = |most| height(opened(temp.path()), most).unwrap();
        assert_eq!(height_of(100), 0);
        std::fs::create_dir_all(temp.path().join("a/b/c")).unwrap();
        std::fs::create_dir_all(temp.path().join("d/e/f/g/h")).unwrap();
        std::fs::create_dir_all(temp.path().join("i")).unwrap();
        std::fs::write(temp.path().join("d/e/f/g/h/file"), "text").unwrap();
        assert_eq!(height_of(100), 5);
        assert_eq!(height_of(3), 3);
        dig(temp.path(), "x", 12_000);
        on_a_small_stack(|| assert_eq!(height_of(usize::MAX), 12_000));
        remove(opened(temp.path()).as_fd(), "x").unwrap();
    }
}
