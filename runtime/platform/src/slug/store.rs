//! Where slugs lie, and which are still wanted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, OpenOptions, OpenOptionsExt as _};
use oarlock_host::apply::{Component, Slug};
use oarlock_spec::manifest::Manifest;
use oarlock_spec::names::SlugId;
use sha2::{Digest, Sha256};

use super::gather::{gather, identify};
use super::{IdHasher, MANIFEST_NAME, MAX_FILES, Part, SlugError};
use crate::folder::explain_io;

/// The slugs of one data folder, whose lock the owner holds. Cheap to clone.
#[derive(Clone)]
pub struct SlugStore {
    inner: Arc<Inner>,
}

struct Inner {
    slugs: PathBuf,
    /// The same, opened on first use: the components of all slugs are read by it.
    opened: OnceLock<Arc<Dir>>,
    tmp: PathBuf,
    /// Slugs in use by this process, counted: the sweep leaves them.
    pins: Mutex<HashMap<SlugId, usize>>,
}

/// A verified slug. While it lives, the sweep does not take it.
#[derive(Clone)]
pub struct StoredSlug {
    /// For the host.
    pub slug: Slug,
    /// As it was when the slug was made.
    pub manifest: Manifest,
    _pin: Arc<Pin>,
}

impl StoredSlug {
    /// With today's manifest, which is equal but for what a slug does not cover: line numbers, which messages name.
    fn with_manifest(self, manifest: &Manifest) -> Self {
        Self {
            manifest: manifest.clone(),
            ..self
        }
    }
}

struct Pin {
    inner: Arc<Inner>,
    id: SlugId,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.inner.pins();
        if let Some(count) = pins.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.id);
            }
        }
    }
}

impl Inner {
    fn pins(&self) -> MutexGuard<'_, HashMap<SlugId, usize>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// One descriptor for the components of all slugs.
    fn opened(&self) -> Result<Arc<Dir>, SlugError> {
        if let Some(dir) = self.opened.get() {
            return Ok(dir.clone());
        }
        let dir = Arc::new(open_dir(&self.slugs)?);
        Ok(self.opened.get_or_init(|| dir).clone())
    }
}

impl SlugStore {
    /// `data`: a data folder with `slugs` and `tmp` in it.
    pub fn new(data: &Path) -> Self {
        let inner = Inner {
            slugs: data.join("slugs"),
            opened: OnceLock::new(),
            tmp: data.join("tmp"),
            pins: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Makes the slug of the app in `root`, or finds that it is there already: then nothing is written. Blocks on the
    /// disk.
    pub fn create(&self, root: &Path, manifest: &Manifest) -> Result<StoredSlug, SlugError> {
        let id = self.parse(&identify(root, manifest)?)?;
        // What is damaged, or not there, is made; the error would say no more.
        match self.open(&id) {
            Ok(found) => Ok(found.with_manifest(manifest)),
            Err(_) => self.make(root, manifest),
        }
    }

    fn parse(&self, id: &str) -> Result<SlugId, SlugError> {
        id.parse()
            .map_err(|error| storage(&self.inner.slugs, &io::Error::other(error)))
    }

    fn make(&self, root: &Path, manifest: &Manifest) -> Result<StoredSlug, SlugError> {
        let folder = tempfile::Builder::new()
            .prefix("slug-")
            .tempdir_in(&self.inner.tmp)
            .map_err(|error| storage(&self.inner.tmp, &error))?;
        let dir = open_dir(folder.path())?;
        // The app may have changed since it was looked at: the id is that of what was copied.
        let id = self.parse(&gather(root, manifest, &dir, folder.path())?)?;
        let pin = self.pin(&id);
        let place = self.inner.slugs.join(id.as_str());
        if place.exists() {
            if let Ok(found) = self.open(&id) {
                return Ok(found.with_manifest(manifest));
            }
            // Damaged: out of the way, and gone with the temporary folder.
            let aside = tempfile::tempdir_in(&self.inner.tmp)
                .map_err(|error| storage(&self.inner.tmp, &error))?;
            std::fs::rename(&place, aside.path().join("damaged"))
                .map_err(|error| storage(&place, &error))?;
        }
        std::fs::rename(folder.path(), &place).map_err(|error| storage(&place, &error))?;
        // The folder is no longer there to be removed.
        let _ = folder.keep();
        sync_dir(&self.inner.slugs)?;
        let opened = self.open(&id);
        drop(pin);
        opened
    }

    /// Reads and verifies a slug. Blocks on the disk, and reads all of it.
    pub fn open(&self, id: &SlugId) -> Result<StoredSlug, SlugError> {
        let pin = self.pin(id);
        let place = self.inner.slugs.join(id.as_str());
        let damaged = |reason: String| SlugError::Damaged {
            id: id.clone(),
            reason,
        };
        let dir = match std::fs::symlink_metadata(&place) {
            Ok(found) if found.is_dir() => open_dir(&place)?,
            Ok(_) => return Err(damaged("it is not a folder".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged("its files are gone".to_owned()));
            }
            Err(error) => return Err(storage(&place, &error)),
        };
        let mut text = Vec::new();
        open_regular(&dir, MANIFEST_NAME)
            .and_then(|file| file.take(MAX_MANIFEST).read_to_end(&mut text))
            .map_err(|error| damaged(format!("{MANIFEST_NAME}: {error}")))?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| damaged(format!("{MANIFEST_NAME}: {error}")))?;
        let mut hasher = IdHasher::new(&manifest).map_err(|error| damaged(error.to_string()))?;
        let mut components = BTreeMap::new();
        let mut files = None;
        for part in Part::ALL {
            let Some(folder) = open_part(&dir, part).map_err(|error| damaged(error.to_string()))?
            else {
                continue;
            };
            let folder = Arc::new(folder);
            let mut paths = BTreeSet::new();
            list(&folder, "", &mut paths).map_err(|error| damaged(error.to_string()))?;
            for path in paths {
                let (digest, length) =
                    digest(&folder, &path).map_err(|error| damaged(format!("{path}: {error}")))?;
                hasher.file(part, &path, &digest, length);
                if part == Part::Component {
                    let component = Component::File {
                        dir: self.inner.opened()?,
                        path: format!("{id}/{}/{path}", part.folder()),
                    };
                    components.insert(path, component);
                }
            }
            if part == Part::File {
                files = Some(folder);
            }
        }
        if hasher.finish() != id.as_str() {
            return Err(damaged("its contents were changed".to_owned()));
        }
        Ok(StoredSlug {
            slug: Slug {
                id: id.clone(),
                components,
                files,
            },
            manifest,
            _pin: pin,
        })
    }

    /// Removes every slug that is neither in `keep` nor in use; how many. Blocks on the disk.
    pub fn sweep(&self, keep: &BTreeSet<SlugId>) -> Result<usize, SlugError> {
        let mut swept = 0;
        let entries = std::fs::read_dir(&self.inner.slugs)
            .map_err(|error| storage(&self.inner.slugs, &error))?;
        for entry in entries {
            let entry = entry.map_err(|error| storage(&self.inner.slugs, &error))?;
            let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<SlugId>().ok())
            else {
                continue;
            };
            let aside = {
                // Held while the slug leaves its place, so that none is pinned in between.
                let pins = self.inner.pins();
                if keep.contains(&id) || pins.contains_key(&id) {
                    continue;
                }
                let aside = tempfile::tempdir_in(&self.inner.tmp)
                    .map_err(|error| storage(&self.inner.tmp, &error))?;
                // A half-removed slug must not be found under its name.
                std::fs::rename(entry.path(), aside.path().join("swept"))
                    .map_err(|error| storage(&entry.path(), &error))?;
                aside
            };
            aside
                .close()
                .map_err(|error| storage(&self.inner.tmp, &error))?;
            swept += 1;
        }
        Ok(swept)
    }

    fn pin(&self, id: &SlugId) -> Arc<Pin> {
        *self.inner.pins().entry(id.clone()).or_default() += 1;
        Arc::new(Pin {
            inner: self.inner.clone(),
            id: id.clone(),
        })
    }
}

fn storage(path: &Path, error: &io::Error) -> SlugError {
    SlugError::Storage {
        path: path.to_owned(),
        reason: explain_io(error),
    }
}

fn open_dir(path: &Path) -> Result<Dir, SlugError> {
    Dir::open_ambient_dir(path, ambient_authority()).map_err(|error| storage(path, &error))
}

fn sync_dir(path: &Path) -> Result<(), SlugError> {
    std::fs::File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| storage(path, &error))
}

fn open_part(dir: &Dir, part: Part) -> io::Result<Option<Dir>> {
    match dir.symlink_metadata(part.folder()) {
        Ok(found) if found.is_dir() => dir.open_dir(part.folder()).map(Some),
        Ok(_) => Err(io::Error::other(format!(
            "{} is not a folder",
            part.folder()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Parts of a path in a slug: what is gathered has fewer.
const MAX_PATH: usize = 128;

/// What is read of a slug's manifest, in bytes (16 MiB): the text it was made from has at most 1 MiB.
const MAX_MANIFEST: u64 = 16 << 20;

/// Opens without waiting for a pipe's writer, and refuses what is not a regular file.
fn open_regular(dir: &Dir, path: impl AsRef<Path>) -> io::Result<File> {
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = dir.open_with(path, OpenOptions::new().read(true).custom_flags(flags))?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// The regular files below a folder. We write no links, so one that is there was put there by others.
fn list(dir: &Dir, folder: &str, paths: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in dir.read_dir(if folder.is_empty() { "." } else { folder })? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name
            .to_str()
            .ok_or_else(|| io::Error::other("a name is not UTF-8"))?;
        let path = if folder.is_empty() {
            name.to_owned()
        } else {
            format!("{folder}/{name}")
        };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if path.split('/').count() > MAX_PATH {
                return Err(io::Error::other("its folders are too deep"));
            }
            list(dir, &path, paths)?;
        } else if kind.is_file() {
            paths.insert(path);
        } else {
            return Err(io::Error::other(format!(
                "{path} is neither a file nor a folder"
            )));
        }
        if paths.len() > 2 * MAX_FILES {
            return Err(io::Error::other("it has too many files"));
        }
    }
    Ok(())
}

fn digest(dir: &Dir, path: &str) -> io::Result<([u8; 32], u64)> {
    let mut file = open_regular(dir, path)?;
    let mut hash = Sha256::new();
    let length = io::copy(&mut file, &mut HashWriter(&mut hash))?;
    Ok((hash.finalize().into(), length))
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::testing::{self, write};

    fn setup() -> (tempfile::TempDir, SlugStore, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        for name in ["data/slugs", "data/tmp", "app"] {
            std::fs::create_dir_all(root.path().join(name)).unwrap();
        }
        let app = root.path().join("app");
        write(&app, "web.wasm", "web");
        write(&app, "target/worker.wasm", "worker");
        write(&app, "static/a.css", "a");
        write(&app, "static/deep/b.css", "b");
        let store = SlugStore::new(&root.path().join("data"));
        (root, store, app)
    }

    fn manifest() -> Manifest {
        let mut manifest =
            testing::manifest(&[("web", "web.wasm"), ("worker", "target/worker.wasm")]);
        manifest.files = vec!["static/**".to_owned()];
        manifest
    }

    fn id(store: &SlugStore, app: &Path, manifest: &Manifest) -> SlugId {
        store.create(app, manifest).unwrap().slug.id
    }

    fn read(dir: &Dir, path: &str) -> String {
        dir.read_to_string(path).unwrap()
    }

    #[test]
    fn a_slug_has_what_the_manifest_names_and_no_more() {
        let (root, store, app) = setup();
        write(&app, "static/.env", "SECRET=1");
        write(&app, "static/cache/CACHEDIR.TAG", "");
        write(&app, "static/cache/x", "x");
        write(&app, "other.txt", "x");
        let changed = UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
        let style = std::fs::OpenOptions::new()
            .write(true)
            .open(app.join("static/a.css"))
            .unwrap();
        style.set_modified(changed).unwrap();
        let made = store.create(&app, &manifest()).unwrap();
        let components: Vec<_> = made.slug.components.keys().cloned().collect();
        assert_eq!(components, ["target/worker.wasm", "web.wasm"]);
        let Component::File { dir, path } = &made.slug.components["web.wasm"] else {
            panic!()
        };
        assert_eq!(read(dir, path), "web");
        let files = made.slug.files.as_ref().unwrap();
        let mut paths = BTreeSet::new();
        list(files, "", &mut paths).unwrap();
        assert_eq!(
            paths.into_iter().collect::<Vec<_>>(),
            ["static/a.css", "static/deep/b.css"]
        );
        assert_eq!(read(files, "static/deep/b.css"), "b");
        let kept = files.metadata("static/a.css").unwrap().modified().unwrap();
        assert_eq!(kept.into_std(), changed);
        assert_eq!(
            std::fs::read_dir(root.path().join("data/tmp"))
                .unwrap()
                .count(),
            0,
            "nothing is left over"
        );
        let opened = store.open(&made.slug.id).unwrap();
        assert_eq!(opened.manifest, manifest());
    }

    #[test]
    fn the_id_is_the_contents() {
        let (_root, store, app) = setup();
        let first = id(&store, &app, &manifest());
        assert_eq!(id(&store, &app, &manifest()), first);
        // Neither scale, config, build nor a line's number is part of a slug.
        let mut same = manifest();
        same.scale.insert("web".parse().unwrap(), 3);
        same.config.insert("A".to_owned(), "b".to_owned());
        same.processes
            .values_mut()
            .for_each(|process| process.line += 7);
        let again = store.create(&app, &same).unwrap();
        assert_eq!(again.slug.id, first);
        assert_eq!(
            again.manifest, same,
            "messages name the lines of today's manifest"
        );
        let mut other = manifest();
        other
            .processes
            .values_mut()
            .for_each(|process| process.singleton = true);
        let mut ids = BTreeSet::from([first, id(&store, &app, &other)]);
        write(&app, "static/a.css", "changed");
        ids.insert(id(&store, &app, &manifest()));
        std::fs::rename(app.join("static/a.css"), app.join("static/c.css")).unwrap();
        ids.insert(id(&store, &app, &manifest()));
        write(&app, "web.wasm", "web2");
        ids.insert(id(&store, &app, &manifest()));
        assert_eq!(ids.len(), 5);
    }

    #[test]
    fn an_unchanged_app_is_not_written_again() {
        use std::os::unix::fs::MetadataExt;

        let (root, store, app) = setup();
        let first = id(&store, &app, &manifest());
        let data = root.path().join("data");
        let seen = || {
            ["slugs", "tmp"].map(|folder| {
                let found = std::fs::metadata(data.join(folder)).unwrap();
                (found.mtime(), found.mtime_nsec())
            })
        };
        let stored = data.join("slugs").join(first.as_str());
        let inode = || {
            std::fs::metadata(stored.join("components/web.wasm"))
                .unwrap()
                .ino()
        };
        let before = (seen(), inode());
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(id(&store, &app, &manifest()), first);
        assert_eq!(
            (seen(), inode()),
            before,
            "no folder had an entry made or removed"
        );
        write(&app, "static/a.css", "changed");
        let second = id(&store, &app, &manifest());
        assert_ne!(second, first);
        assert!(data.join("slugs").join(second.as_str()).is_dir());
    }

    #[test]
    fn a_damaged_slug_is_noticed_and_made_again() {
        let (root, store, app) = setup();
        let first = id(&store, &app, &manifest());
        let place = root.path().join("data/slugs").join(first.as_str());
        write(&place, "files/static/a.css", "evil");
        let error = store.open(&first).err().unwrap().to_string();
        assert!(
            error.contains("changed") && error.contains("deploy"),
            "{error}"
        );
        assert_eq!(id(&store, &app, &manifest()), first);
        store.open(&first).unwrap();
        // Neither an extra file nor a link passes.
        write(&place, "files/static/extra", "");
        assert!(store.open(&first).is_err());
        id(&store, &app, &manifest());
        std::fs::remove_file(place.join("files/static/a.css")).unwrap();
        write(root.path(), "outside", "a");
        std::os::unix::fs::symlink(
            root.path().join("outside"),
            place.join("files/static/a.css"),
        )
        .unwrap();
        assert!(store.open(&first).is_err());
        assert!(store.open(&"0".repeat(64).parse().unwrap()).is_err());
    }

    #[test]
    fn links_out_of_the_app_are_not_followed() {
        let (root, store, app) = setup();
        write(root.path(), "secret", "s");
        std::os::unix::fs::symlink("../../secret", app.join("static/link")).unwrap();
        let error = store.create(&app, &manifest()).err().unwrap().to_string();
        assert!(
            error.contains("static/link") && error.contains("leads out"),
            "{error}"
        );
        std::fs::remove_file(app.join("static/link")).unwrap();
        std::os::unix::fs::symlink("a.css", app.join("static/link")).unwrap();
        let made = store.create(&app, &manifest()).unwrap();
        assert_eq!(read(made.slug.files.as_ref().unwrap(), "static/link"), "a");
        std::fs::remove_file(app.join("web.wasm")).unwrap();
        std::os::unix::fs::symlink(root.path().join("secret"), app.join("web.wasm")).unwrap();
        assert!(store.create(&app, &manifest()).is_err());
        assert_eq!(
            std::fs::read_dir(root.path().join("data/tmp"))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn a_missing_component_is_named() {
        let (_root, store, app) = setup();
        std::fs::remove_file(app.join("web.wasm")).unwrap();
        let error = store.create(&app, &manifest()).err().unwrap().to_string();
        assert!(
            error.contains("web.wasm")
                && error.contains("`web`")
                && error.contains("build the app"),
            "{error}"
        );
        std::fs::create_dir(app.join("web.wasm")).unwrap();
        let error = store.create(&app, &manifest()).err().unwrap().to_string();
        assert!(error.contains("this is a folder"), "{error}");
    }

    #[test]
    fn the_sweep_keeps_what_is_wanted_or_in_use() {
        let (_root, store, app) = setup();
        let kept = id(&store, &app, &manifest());
        write(&app, "web.wasm", "2");
        let used = store.create(&app, &manifest()).unwrap();
        write(&app, "web.wasm", "3");
        let swept = id(&store, &app, &manifest());
        assert_eq!(store.sweep(&BTreeSet::from([kept.clone()])).unwrap(), 1);
        store.open(&kept).unwrap();
        store.open(&used.slug.id).unwrap();
        assert!(store.open(&swept).is_err());
        drop(used);
        assert_eq!(store.sweep(&BTreeSet::new()).unwrap(), 2);
    }
}
