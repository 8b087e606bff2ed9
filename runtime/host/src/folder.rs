//! The one way to read an app's folder, which is hostile input: whoever wrote the app may have put anything there.
//!
//! A link that leads out of the folder is refused, so that an app cannot have its host read a file of the operator's
//! or of a neighbour's. Nothing blocks: only regular files are read, and a FIFO, a socket or a device is refused by its
//! kind. Every read has a bound. The host's own data ([`STATE_FOLDER`], where `oarlock up` keeps it) is never read as a
//! part of the app, whichever way a path or a link leads there.
//!
//! The folder itself is the caller's choice: it may be reached by a link.

pub use oarlock_sandbox::remove_tree;

use std::fmt;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, FileType, FileTypeExt as _, OpenOptions, OpenOptionsExt as _};
use rustix::fs::OFlags;

/// The host's own folder in an app's folder, under `oarlock up`.
pub const STATE_FOLDER: &str = ".oarlock";

/// The largest manifest, Procfile or `.env`, in bytes (1 MiB): far more than people write, and little to hold.
pub const MAX_TEXT: u64 = 1 << 20;

/// The largest component, in bytes (256 MiB): what the compiler takes.
pub const MAX_COMPONENT: u64 = 256 << 20;

/// An app's folder, open. Everything of it is read by this handle, which cannot leave it.
///
/// ```
/// use oarlock_host::folder::{AppFolder, FileError, MAX_TEXT};
///
/// let place = tempfile::tempdir()?;
/// std::os::unix::fs::symlink("/etc/passwd", place.path().join(".env"))?;
/// let folder = AppFolder::open(place.path())?;
/// assert!(matches!(folder.read(".env", MAX_TEXT), Err(FileError::Outside)));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct AppFolder {
    dir: Dir,
    path: PathBuf,
}

/// Why a file of an app's folder is not read. The app's fault, or its owner's, unless it is [`FileError::Io`].
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is none.
    #[error("there is no such file")]
    Missing,
    /// It is something else than a file, or a link to something else.
    #[error("this is {0}, and only regular files are read; replace it by a file")]
    NotRegular(Kind),
    /// A link leads out of the folder.
    #[error(
        "a symbolic link leads out of the app's folder, and nothing outside of it is read; put the file itself there"
    )]
    Outside,
    /// It lies in [`STATE_FOLDER`].
    #[error(
        "`{STATE_FOLDER}` holds the host's own data and is never part of an app; move the file elsewhere"
    )]
    State,
    /// It has more than this many bytes.
    #[error("the file is over the limit of {0} bytes")]
    TooLarge(u64),
    /// It should be text.
    #[error("the file is not UTF-8 (at byte {0})")]
    NotText(usize),
    /// The disk, or a permission.
    #[error("{0}")]
    Io(io::Error),
}

/// What lies where a file should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A device.
    Device,
    /// Something that this list does not know.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Folder => "a folder",
            Self::Fifo => "a named pipe (FIFO)",
            Self::Socket => "a socket",
            Self::Device => "a device",
            Self::Other => "something unknown",
        })
    }
}

impl Kind {
    fn of(found: FileType) -> Self {
        if found.is_dir() {
            Self::Folder
        } else if found.is_fifo() {
            Self::Fifo
        } else if found.is_socket() {
            Self::Socket
        } else if found.is_block_device() || found.is_char_device() {
            Self::Device
        } else {
            Self::Other
        }
    }
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            // cap-std's own error for a path that leads out; the system's have a number.
            io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => Self::Outside,
            _ => Self::Io(error),
        }
    }
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        let kind = match &error {
            FileError::Io(_) => io::ErrorKind::Other,
            FileError::Missing => io::ErrorKind::NotFound,
            FileError::Outside | FileError::State => io::ErrorKind::PermissionDenied,
            FileError::NotRegular(_) => io::ErrorKind::InvalidInput,
            FileError::NotText(_) => io::ErrorKind::InvalidData,
            FileError::TooLarge(_) => io::ErrorKind::FileTooLarge,
        };
        match error {
            FileError::Io(error) => error,
            other => Self::new(kind, other),
        }
    }
}

/// A regular file of an app's folder, open for reading.
pub struct AppFile {
    /// The file. Reads do not wait.
    pub file: File,
    /// Where it lies in the folder, with no link left in the path.
    pub place: PathBuf,
}

impl AppFolder {
    /// Opens the folder; a link to it is followed.
    ///
    /// # Errors
    /// If it is not there, is no folder, or may not be read.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let dir = Dir::open_ambient_dir(path, ambient_authority())?;
        Ok(Self {
            dir,
            path: path.to_owned(),
        })
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The handle, for walking.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Whether something of this name lies here, whatever it is.
    pub fn has(&self, name: &str) -> bool {
        self.dir.symlink_metadata(name).is_ok()
    }

    /// An app's text file of at most [`MAX_TEXT`] bytes; `None`: there is none.
    ///
    /// # Errors
    /// As [`AppFolder::read`], and if it is not UTF-8.
    pub fn read_text(&self, name: &str) -> Result<Option<String>, FileError> {
        let bytes = match self.read(name, MAX_TEXT) {
            // A link to nothing is no file that is absent.
            Err(FileError::Missing) if !self.has(name) => return Ok(None),
            bytes => bytes?,
        };
        String::from_utf8(bytes)
            .map(Some)
            .map_err(|error| FileError::NotText(error.utf8_error().valid_up_to()))
    }

    /// Where a folder of the app lies in it, with no link left in the path.
    ///
    /// # Errors
    /// If it is no folder of the app.
    pub fn folder(&self, path: impl AsRef<Path>) -> Result<PathBuf, FileError> {
        let dir = self.dir.open_dir(path)?;
        self.place(&dir)
    }

    /// Whether a path names a regular file of the app that may be read. Opens nothing.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        let path = path.as_ref();
        refuse_state(path)?;
        let found = self.dir.metadata(path)?.file_type();
        if found.is_file() {
            Ok(())
        } else {
            Err(FileError::NotRegular(Kind::of(found)))
        }
    }

    /// Opens a regular file. Never waits.
    ///
    /// # Errors
    /// If it is not one, or lies elsewhere than in the app.
    pub fn file(&self, path: impl AsRef<Path>) -> Result<AppFile, FileError> {
        let path = path.as_ref();
        // Before it is opened, because opening alone does something to some devices.
        self.check(path)?;
        // And by the handle, because whoever owns the folder may have put something else there meanwhile.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = i32::try_from(flags.bits()).unwrap_or(0);
        let file = self
            .dir
            .open_with(path, OpenOptions::new().read(true).custom_flags(flags))?;
        let found = file.metadata()?.file_type();
        if !found.is_file() {
            return Err(FileError::NotRegular(Kind::of(found)));
        }
        // The kernel's word on what was opened: a link inside the folder may lead to the state.
        let place = self.place(&file)?;
        refuse_state(&place)?;
        Ok(AppFile { file, place })
    }

    fn place(&self, handle: &impl AsFd) -> Result<PathBuf, FileError> {
        let root = place_of(&self.dir)?;
        let place = place_of(handle)?;
        match place.strip_prefix(&root) {
            Ok(place) => Ok(place.to_owned()),
            Err(_elsewhere) => Err(FileError::Outside),
        }
    }

    /// All of a file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`AppFolder::file`], and if it is larger.
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>, FileError> {
        let AppFile { file, place: _ } = self.file(path)?;
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(FileError::Io)?;
        if bytes.len() as u64 > limit {
            return Err(FileError::TooLarge(limit));
        }
        Ok(bytes)
    }
}

fn refuse_state(path: &Path) -> Result<(), FileError> {
    if path.iter().any(|part| part == STATE_FOLDER) {
        return Err(FileError::State);
    }
    Ok(())
}

/// Where an open file or folder lies, without links.
fn place_of(handle: &impl AsFd) -> Result<PathBuf, FileError> {
    let link = format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd());
    std::fs::read_link(link).map_err(FileError::Io)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Place {
        root: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(root.path().join("app/.oarlock/deep")).unwrap();
            std::fs::write(root.path().join("secret"), "SECRET").unwrap();
            Self { root }
        }

        fn app(&self) -> PathBuf {
            self.root.path().join("app")
        }

        fn folder(&self) -> AppFolder {
            AppFolder::open(self.app()).unwrap()
        }

        fn link(&self, target: impl AsRef<Path>, name: &str) {
            symlink(target, self.app().join(name)).unwrap();
        }
    }

    fn fifo(path: &Path) {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
    }

    #[test]
    fn links_that_lead_out_are_refused_and_others_followed() {
        let place = Place::new();
        std::fs::write(place.app().join("here"), "here").unwrap();
        place.link("../secret", "relative");
        place.link(place.root.path().join("secret"), "absolute");
        place.link("here", "inside");
        place.link("..", "folder");
        place.link("loop", "loop");
        let folder = place.folder();
        for name in ["relative", "absolute", "folder/secret", "../secret"] {
            let error = folder.read(name, 100).unwrap_err();
            assert!(matches!(error, FileError::Outside), "{name}: {error}");
            assert!(matches!(folder.check(name), Err(FileError::Outside)));
        }
        assert_eq!(folder.read("inside", 100).unwrap(), b"here");
        assert_eq!(folder.file("inside").unwrap().place, Path::new("here"));
        assert!(matches!(folder.read("loop", 100), Err(FileError::Io(_))));
        assert!(matches!(folder.read("none", 100), Err(FileError::Missing)));
    }

    #[test]
    fn what_is_no_regular_file_is_refused_by_its_kind_and_never_waited_for() {
        let place = Place::new();
        fifo(&place.app().join("pipe"));
        place.link("pipe", "link");
        let _socket = std::os::unix::net::UnixListener::bind(place.app().join("socket")).unwrap();
        let folder = place.folder();
        for (name, kind) in [
            ("pipe", Kind::Fifo),
            ("link", Kind::Fifo),
            ("socket", Kind::Socket),
            (".", Kind::Folder),
        ] {
            let error = folder.read(name, 100).unwrap_err();
            assert!(
                matches!(error, FileError::NotRegular(found) if found == kind),
                "{name}: {error}"
            );
            assert!(error.to_string().contains(&kind.to_string()), "{error}");
        }
    }

    #[test]
    fn the_state_is_not_the_apps_by_path_or_by_link() {
        let place = Place::new();
        std::fs::write(place.app().join(".oarlock/deep/state.db"), "state").unwrap();
        place.link(".oarlock/deep", "data");
        place.link("data/state.db", "db");
        let folder = place.folder();
        for name in [".oarlock/deep/state.db", "data/state.db", "db"] {
            let error = folder.read(name, 100).unwrap_err();
            assert!(matches!(error, FileError::State), "{name}: {error}");
        }
    }

    #[test]
    fn a_read_is_bounded() {
        let place = Place::new();
        std::fs::write(place.app().join("four"), "four").unwrap();
        let sparse = std::fs::File::create(place.app().join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let folder = place.folder();
        assert_eq!(folder.read("four", 4).unwrap(), b"four");
        assert!(matches!(
            folder.read("four", 3),
            Err(FileError::TooLarge(3))
        ));
        assert!(matches!(
            folder.read("sparse", 1000),
            Err(FileError::TooLarge(1000))
        ));
    }
}
