//! An app's folder and a host's data folder: where things lie, who may use them, one host at a time.
//!
//! The data folder may have come with a cloned app, so nothing in it is followed that is a symbolic
//! link: whoever wrote the app must not choose a file of ours to be overwritten.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt as _, MetadataExt, OpenOptionsExt, PermissionsExt,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oarlock_host::folder::{AppFolder, remove_tree};
use oarlock_spec::manifest::{self, MANIFEST_FILE, Manifest, PROCFILE};
use oarlock_spec::names::AppName;
use oarlock_spec::policy::Policy;
use rustix::io::Errno;

/// The data folder's name in an app's folder.
pub(crate) const DATA_NAME: &str = oarlock_host::folder::STATE_FOLDER;

/// How deep the data folder is searched for symbolic links at the start.
const LINK_DEPTH: usize = 3;
/// The same for an app's own part of it: the things in it. Below lies what guests wrote, which is only reached through
/// handles that do not leave it.
const APP_LINK_DEPTH: usize = 1;

/// How long a holder of the lock may take to write its process id.
const PID_WAIT: Duration = Duration::from_secs(1);

/// A host's own folder (`.oarlock` of an app under `up`, `--data` of `serve`), locked while this lives.
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another host has it.
    #[error("{} is in use by another `oarlock` (process {pid}); stop it first, for example with `kill {pid}`", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who.
        pid: u32,
    },
    /// It cannot be read or written, or is not what it should be (a symlink, a file, another user's).
    #[error("{}: {reason}", path.display())]
    Unusable {
        /// The place.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
}

fn unusable(path: &Path, reason: impl Into<String>) -> FolderError {
    FolderError::Unusable {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

fn failed(path: &Path, error: &io::Error) -> FolderError {
    unusable(path, explain_io(error))
}

/// An I/O error, with what the user can do where there is something.
pub(crate) fn explain_io(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull => "the disk is full; free some space and try again".to_owned(),
        io::ErrorKind::QuotaExceeded => {
            "your disk quota is used up; free some space and try again".to_owned()
        }
        io::ErrorKind::PermissionDenied => "permission denied; check who owns it".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => {
            "the file system is read-only; oarlock needs one that it can write to".to_owned()
        }
        _ => error.to_string(),
    }
}

impl DataDir {
    /// Makes the folder if needed (0700), checks it and takes its lock. The lock ends with the process,
    /// however that ends.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        make(path)?;
        let lock = lock(path)?;
        // A slug's own files are verified against its id, and read without following links; what is an app's is looked at
        // when it is known which apps are to run.
        let later = [path.join("slugs"), path.join("apps")];
        refuse_links(path, LINK_DEPTH, &later)?;
        // So that `git add .` takes none of it.
        let ignore = path.join(".gitignore");
        if let Err(error) = std::fs::write(&ignore, "*\n") {
            return Err(failed(&ignore, &error));
        }
        for name in ["slugs", "apps", "tmp"] {
            make(&path.join(name))?;
        }
        clear(&path.join("tmp"))?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Whether an app's own part of it may be used: no symbolic link, named pipe or device is in it.
    pub(crate) fn check_app(&self, app: &AppName) -> Result<(), FolderError> {
        let path = self.path.join("apps").join(app.as_str());
        match std::fs::symlink_metadata(&path) {
            Ok(found) => {
                refuse_link(&path, found.file_type())?;
                refuse_links(&path, APP_LINK_DEPTH, &[])
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(&path, &error)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The store's file.
    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("state.db")
    }
}

fn make(path: &Path) -> Result<(), FolderError> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(path, &error)),
    }
    let found = std::fs::symlink_metadata(path).map_err(|error| failed(path, &error))?;
    if found.is_symlink() {
        return Err(link(path));
    }
    if !found.is_dir() {
        return Err(unusable(path, "this is not a folder; move it away"));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        // Whose host may be running: its data is nothing to remove.
        let owner = found.uid();
        return Err(unusable(
            path,
            format!(
                "it belongs to another user (uid {owner}); start oarlock as that user, or run a copy of the app's folder"
            ),
        ));
    }
    if found.mode() & 0o077 != 0 {
        let only_us = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(path, only_us).map_err(|error| failed(path, &error))?;
    }
    Ok(())
}

fn link(path: &Path) -> FolderError {
    unusable(
        path,
        "this is a symbolic link, and oarlock follows none in its data folder; remove it",
    )
}

/// Below `folder`, so many folders deep, but not in those of `later`.
fn refuse_links(folder: &Path, depth: usize, later: &[PathBuf]) -> Result<(), FolderError> {
    for entry in std::fs::read_dir(folder).map_err(|error| failed(folder, &error))? {
        let entry = entry.map_err(|error| failed(folder, &error))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(|error| failed(&path, &error))?;
        refuse_link(&path, kind)?;
        if kind.is_dir() && depth > 1 && !later.contains(&path) {
            refuse_links(&path, depth - 1, later)?;
        }
    }
    Ok(())
}

fn refuse_link(path: &Path, kind: FileType) -> Result<(), FolderError> {
    if kind.is_symlink() {
        return Err(link(path));
    }
    if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() {
        return Err(unusable(
            path,
            "this is a named pipe or a device, and oarlock has none in its data folder; remove it",
        ));
    }
    Ok(())
}

/// What a killed host left half-written. What cannot be removed is said, and keeps no host from starting.
fn clear(folder: &Path) -> Result<(), FolderError> {
    let opened = File::open(folder).map_err(|error| failed(folder, &error))?;
    for entry in std::fs::read_dir(folder).map_err(|error| failed(folder, &error))? {
        let entry = entry.map_err(|error| failed(folder, &error))?;
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let name = entry.file_name();
        let removed = match name.to_str().filter(|_| is_folder) {
            // It may be as deep as it likes: whoever made the app's folder may have made this, too.
            Some(name) => remove_tree(opened.as_fd(), name),
            None => std::fs::remove_file(entry.path()),
        };
        if let Err(error) = removed {
            let path = entry.path();
            tracing::warn!(path = %path.display(), %error, "an old temporary file is kept");
        }
    }
    Ok(())
}

fn lock(folder: &Path) -> Result<File, FolderError> {
    let path = folder.join("lock");
    let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(&path);
    let mut file = opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => link(&path),
        _ => failed(&path, &error),
    })?;
    let is_ours = oarlock_process::lock(&file).map_err(|error| failed(&path, &error))?;
    if !is_ours {
        return Err(in_use(folder, &mut file));
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
        .and_then(|()| file.sync_data());
    written.map_err(|error| failed(&path, &error))?;
    Ok(file)
}

/// Who holds the lock. It may have it since a moment, and not have written its id yet.
fn in_use(folder: &Path, file: &mut File) -> FolderError {
    let step = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    while waited < PID_WAIT {
        let mut text = String::new();
        let read = file
            .rewind()
            .and_then(|()| Read::by_ref(file).take(32).read_to_string(&mut text));
        if let (Ok(_), Ok(pid)) = (read, text.trim().parse()) {
            return FolderError::InUse {
                path: folder.to_owned(),
                pid,
            };
        }
        std::thread::sleep(step);
        waited += step;
    }
    unusable(
        folder,
        "it is in use by another `oarlock`, whose process id cannot be read; stop it first",
    )
}

/// Whether an app lies here: a folder with something of the name `oarlock.toml` or `Procfile`. What is no file is refused
/// when it is read, by its name.
pub(crate) fn has_manifest(dir: &Path) -> bool {
    let there = |name: &str| dir.join(name).symlink_metadata().is_ok();
    there(MANIFEST_FILE) || there(PROCFILE)
}

/// Opens an app's folder; the error is ready to print.
pub(crate) fn open_app(dir: &Path) -> Result<AppFolder, String> {
    AppFolder::open(dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            format!("{}: there is no such folder", dir.display())
        }
        _ => format!("{}: {}", dir.display(), explain_io(&error)),
    })
}

/// Reads `oarlock.toml`, or else `Procfile`, of an app's folder. All mistakes at once, ready to print.
///
/// `policy`: the operator's, whose defaults lie below the manifest's limits and whose caps bound them.
pub fn load_manifest(dir: &Path, policy: Option<&Policy>) -> Result<Manifest, String> {
    read_manifest(&open_app(dir)?, &folder_app_name(dir), policy)
}

/// The same of an open folder. `procfile_app`: the name of an app that has a Procfile, which gives none.
pub(crate) fn read_manifest(
    folder: &AppFolder,
    procfile_app: &AppName,
    policy: Option<&Policy>,
) -> Result<Manifest, String> {
    let dir = folder.path();
    let options = manifest::Options {
        policy,
        providers: &[],
    };
    let named = |file: &str| {
        let path = dir.join(file).display().to_string();
        move |mistakes: manifest::ManifestErrors| mistakes.in_file(path).to_string()
    };
    let (file, manifest) = if let Some(text) = read_text(folder, MANIFEST_FILE)? {
        (
            MANIFEST_FILE,
            manifest::parse(&text, &options).map_err(named(MANIFEST_FILE))?,
        )
    } else if let Some(text) = read_text(folder, PROCFILE)? {
        (
            PROCFILE,
            manifest::parse_procfile(&text, procfile_app.clone(), &options)
                .map_err(named(PROCFILE))?,
        )
    } else {
        return Err(format!(
            "{} has no {MANIFEST_FILE} and no {PROCFILE}; `oarlock new` makes an app, or name the app's folder",
            dir.display()
        ));
    };
    if manifest.addons.is_empty() {
        return Ok(manifest);
    }
    let mistakes: Vec<String> = oarlock_host::addons::check(&manifest)
        .into_iter()
        .map(|(line, message)| format!("{}:{line}: {message}", dir.join(file).display()))
        .collect();
    if mistakes.is_empty() {
        Ok(manifest)
    } else {
        Err(mistakes.join("\n"))
    }
}

/// A text file of an app; `None`: there is none.
pub(crate) fn read_text(folder: &AppFolder, name: &str) -> Result<Option<String>, String> {
    folder.read_text(name).map_err(|error| {
        format!(
            "{}: {}",
            folder.path().join(name).display(),
            crate::slug::explain(error)
        )
    })
}

/// An app's name from its folder's: lower case, everything else a `-`.
pub(crate) fn folder_app_name(dir: &Path) -> AppName {
    let full = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let full = full.canonicalize().unwrap_or(full);
    let folder = full
        .file_name()
        .map(|name| name.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    let mut name = String::new();
    for c in folder.chars() {
        if c.is_ascii_lowercase() || (c.is_ascii_digit() && !name.is_empty()) {
            name.push(c);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    name.truncate(30);
    let name = name.trim_end_matches('-');
    name.parse()
        .or_else(|_| "app".parse())
        .unwrap_or_else(|_| unreachable!("`app` is an app name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_in_the_data_folder_is_refused_and_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(DATA_NAME);
        std::fs::create_dir(&path).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        for name in [".gitignore", "state.db", "control.sock"] {
            let pipe = path.join(name);
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, mode, 0).unwrap();
            let error = DataDir::open(&path).err().unwrap().to_string();
            assert!(error.contains(name) && error.contains("pipe"), "{error}");
            std::fs::remove_file(&pipe).unwrap();
        }
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn the_second_is_told_who_runs() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(DATA_NAME);
        let first = DataDir::open(&path).unwrap();
        let error = DataDir::open(&path).err().unwrap();
        assert!(
            matches!(&error, FolderError::InUse { pid, .. } if *pid == std::process::id()),
            "{error}"
        );
        drop(first);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn it_is_ours_alone_and_what_was_half_written_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(DATA_NAME);
        std::fs::create_dir_all(path.join("tmp/half")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        let data = DataDir::open(&path).unwrap();
        assert_eq!(
            std::fs::metadata(data.path()).unwrap().mode() & 0o777,
            0o700
        );
        assert!(!path.join("tmp/half").exists());
    }

    #[test]
    fn a_deep_folder_in_its_tmp_keeps_nobody_from_starting() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(DATA_NAME);
        std::fs::create_dir_all(path.join("tmp")).unwrap();
        let mut here = File::open(path.join("tmp")).unwrap();
        for _ in 0..3_000 {
            rustix::fs::mkdirat(&here, "d", rustix::fs::Mode::RWXU).unwrap();
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
            here = rustix::fs::openat(&here, "d", flags, rustix::fs::Mode::empty())
                .unwrap()
                .into();
        }
        DataDir::open(&path).unwrap();
        assert_eq!(std::fs::read_dir(path.join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn symbolic_links_are_refused_by_name() {
        let guestbook: AppName = "guestbook".parse().unwrap();
        for (place, is_apps) in [
            ("", false),
            ("lock", false),
            ("state.db", false),
            ("slugs", false),
            ("apps/guestbook", true),
            ("apps/guestbook/phase", true),
        ] {
            let root = tempfile::tempdir().unwrap();
            let target = root.path().join("target");
            std::fs::create_dir(&target).unwrap();
            let path = root.path().join(DATA_NAME);
            let link = if place.is_empty() {
                path.clone()
            } else {
                path.join(place)
            };
            std::fs::create_dir_all(link.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(&target, &link).unwrap();
            let opened = DataDir::open(&path);
            // An app's own part is no matter of its neighbours'.
            let refused = if is_apps {
                let data = opened.unwrap();
                assert!(data.check_app(&"neighbour".parse().unwrap()).is_ok());
                data.check_app(&guestbook).err()
            } else {
                opened.err()
            };
            let error = refused.unwrap().to_string();
            assert!(
                error.contains("symbolic link") && error.contains(&*link.to_string_lossy()),
                "{error}"
            );
            assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_file_in_its_place_and_a_missing_parent_are_said() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("file"), "").unwrap();
        let error = DataDir::open(&root.path().join("file"))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("not a folder"), "{error}");
        assert!(DataDir::open(&root.path().join("none/data")).is_err());
    }

    #[test]
    fn names_come_from_folders() {
        for (folder, name) in [
            ("guestbook", "guestbook"),
            ("My App_2", "my-app-2"),
            ("2nd", "nd"),
            ("42", "app"),
            ("ä", "app"),
            ("x--", "x"),
        ] {
            assert_eq!(
                folder_app_name(&Path::new("/none").join(folder)).as_str(),
                name
            );
        }
        assert_eq!(
            folder_app_name(&Path::new("/none").join("a".repeat(40)))
                .as_str()
                .len(),
            30
        );
    }
}
