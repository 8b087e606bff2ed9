//! The code cache: machine code of components compiled before.
//!
//! wasmtime trusts the code it is given, and one flipped byte of it ends the host. So an entry is loaded
//! only after a keyed digest over its name and every byte of it matches; anything else is compiled
//! again, and replaced. The key lies in the cache's folder, which must be the user's own: whoever
//! can write there could as well replace the host.
//!
//! An entry's name is the component's digest and a digest of all that wasmtime's code depends on
//! (version, target, settings; so the engine's variants have entries of their own). Its content is the keyed digest, then the code. The folder is
//! bounded: beyond [`CACHE_BYTES`] the entries that were written first go.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use blake3::{Hash, KEY_LEN, OUT_LEN};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use rustix::fs::{Mode, OFlags};
use wasmtime::component::Component;

use crate::compiler::{Compile, CompileError, compatibility};
use crate::engine::{EngineError, Variant};
use crate::program::Origin;

/// All entries together; beyond, the oldest are removed.
const CACHE_BYTES: u64 = 4 << 30;
/// The key of the digests.
const KEY_FILE: &str = "key";
/// What entries end with.
const SUFFIX: &str = ".cwasm";
/// What files end with that are being written.
const UNFINISHED: &str = ".new";
/// Nobody writes one file for so long: who began it was killed.
const UNFINISHED_FOR: Duration = Duration::from_secs(3600);

/// Compiles components, each once, and keeps their code on disk if it has a folder.
pub(crate) struct CodeCache {
    compile: Compile,
    disk: Option<Disk>,
    engines: [Target; 2],
    /// Components by their digest and the first engine that they may be for. The inner lock is held while one is
    /// compiled, so that others who want the same wait for it; the weak reference lets them share it as long as
    /// anyone uses it.
    loaded: Mutex<HashMap<(Hash, Variant), Cell>>,
}

/// What is in memory of a component.
type Cell = Arc<Mutex<Weak<Code>>>;

/// A component's code, and the engine that it is for.
pub(crate) struct Code {
    pub(crate) component: Component,
    pub(crate) variant: Variant,
    /// Of machine code and what belongs to it.
    pub(crate) bytes: u64,
}

/// An engine that components are compiled for.
struct Target {
    variant: Variant,
    engine: wasmtime::Engine,
    /// In the names of its entries.
    compatibility: String,
}

impl Target {
    fn new(variant: Variant, engine: &wasmtime::Engine) -> Self {
        let digest = compatibility(engine).to_hex();
        Self {
            variant,
            engine: engine.clone(),
            compatibility: digest.as_str().chars().take(16).collect(),
        }
    }

    fn code(&self, component: Component) -> Code {
        let image = component.image_range();
        Code {
            bytes: (image.end as usize - image.start as usize) as u64,
            component,
            variant: self.variant,
        }
    }
}

struct Disk {
    folder: Dir,
    key: [u8; KEY_LEN],
}

impl CodeCache {
    /// Opens the cache, making its folder and key if there are none. The engines are those of [`Variant::ALL`].
    pub(crate) fn open(
        path: Option<PathBuf>,
        compile: Compile,
        [serial, concurrent]: [&wasmtime::Engine; 2],
    ) -> Result<Self, EngineError> {
        Ok(Self {
            compile,
            disk: path.map(Disk::open).transpose()?,
            engines: [
                Target::new(Variant::Serial, serial),
                Target::new(Variant::Concurrent, concurrent),
            ],
            loaded: Mutex::default(),
        })
    }

    /// The component's code: from memory, from disk, or compiled now. It is for `first`, or for an engine after it
    /// that can do more, if `first` does not take it.
    pub(crate) fn load(
        &self,
        first: Variant,
        digest: Hash,
        wasm: &[u8],
    ) -> Result<(Arc<Code>, Origin), CompileError> {
        let cell = self.cell((digest, first));
        let mut cell = lock(&cell);
        if let Some(code) = cell.upgrade() {
            return Ok((code, Origin::Cached));
        }
        let (code, origin) = self.load_or_compile(first, wasm, digest)?;
        let code = Arc::new(code);
        *cell = Arc::downgrade(&code);
        Ok((code, origin))
    }

    /// Whether [`CodeCache::load`] is about to find the code of a component, and need not compile it.
    pub(crate) fn has(&self, digest: Hash) -> bool {
        let has = |target: &Target| {
            let cell = self.cell((digest, target.variant));
            // Whoever holds it loads or compiles it now.
            let in_memory = cell.try_lock().is_ok_and(|code| code.strong_count() > 0);
            let name = Disk::name(target, digest);
            let on_disk = |disk: &Disk| disk.folder.exists(&name);
            in_memory || self.disk.as_ref().is_some_and(on_disk)
        };
        self.engines.iter().any(has)
    }

    /// The code of a component that was loaded before for `first`, and is for `variant`: from memory or from disk;
    /// `None`: it is in neither.
    pub(crate) fn reload(
        &self,
        digest: Hash,
        first: Variant,
        variant: Variant,
    ) -> Option<Arc<Code>> {
        let cell = self.cell((digest, first));
        let mut cell = lock(&cell);
        if let Some(code) = cell.upgrade() {
            return Some(code);
        }
        let target = self.engines.iter().find(|it| it.variant == variant)?;
        let component = self.disk.as_ref()?.read(target, digest)?;
        let code = Arc::new(target.code(component));
        *cell = Arc::downgrade(&code);
        Some(code)
    }

    /// Whether what was loaded once can be had again without its component.
    pub(crate) fn keeps(&self) -> bool {
        self.disk.is_some()
    }

    /// The component's cell; those of components that nobody has any more are forgotten.
    fn cell(&self, key: (Hash, Variant)) -> Cell {
        let mut loaded = lock(&self.loaded);
        loaded.retain(|_, cell| {
            Arc::strong_count(cell) > 1 || cell.try_lock().is_ok_and(|weak| weak.strong_count() > 0)
        });
        loaded.entry(key).or_default().clone()
    }

    fn load_or_compile(
        &self,
        first: Variant,
        wasm: &[u8],
        digest: Hash,
    ) -> Result<(Code, Origin), CompileError> {
        let targets = || self.engines.iter().skip_while(|it| it.variant != first);
        let known = self.disk.as_ref().and_then(|disk| {
            targets().find_map(|target| Some(target.code(disk.read(target, digest)?)))
        });
        if let Some(code) = known {
            return Ok((code, Origin::Cached));
        }
        let mut refused = CompileError::Invalid("no engine takes it".to_owned());
        for target in targets() {
            let started = Instant::now();
            // What one engine does not take is refused before any of its functions is compiled.
            let component = match self.compile.compile(&target.engine, wasm) {
                Ok(component) => component,
                Err(error @ CompileError::Invalid(_)) => {
                    refused = error;
                    continue;
                }
                Err(error @ CompileError::Child(_)) => return Err(error),
            };
            let took = started.elapsed();
            if let Some(disk) = &self.disk
                && let Err(error) = disk.write(target, digest, &component)
            {
                // The app runs all the same; the next start compiles again.
                tracing::warn!(%error, "compiled code could not be written to the code cache");
            }
            return Ok((target.code(component), Origin::Compiled(took)));
        }
        Err(refused)
    }
}

impl Disk {
    fn open(path: PathBuf) -> Result<Self, EngineError> {
        let refused = |reason: String| EngineError::CodeCache {
            path: path.clone(),
            reason,
        };
        let folder = open_own_folder(&path).map_err(refused)?;
        let key = read_or_make_key(&folder).map_err(refused)?;
        Ok(Self { folder, key })
    }

    fn name(target: &Target, digest: Hash) -> String {
        format!("{}-{}{SUFFIX}", digest.to_hex(), target.compatibility)
    }

    /// Binds the code to the entry's name, so that entries cannot change places.
    fn seal(&self, name: &str, code: &[u8]) -> Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(name.as_bytes());
        hasher.update(code);
        hasher.finalize()
    }

    /// The entry's code, if there is one and every byte of it is as it was written.
    fn read(&self, target: &Target, digest: Hash) -> Option<Component> {
        let name = Self::name(target, digest);
        let bytes = match self.folder.read(&name) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(entry = name, %error, "an entry of the code cache cannot be read; compiling");
                return None;
            }
        };
        let intact = bytes
            .split_first_chunk::<OUT_LEN>()
            .filter(|(seal, code)| self.seal(&name, code) == Hash::from_bytes(**seal));
        let Some((_, code)) = intact else {
            tracing::warn!(
                entry = name,
                "an entry of the code cache is damaged; compiling again"
            );
            return None;
        };
        // SAFETY: `deserialize` trusts that these bytes came from wasmtime's own compiler. The keyed
        // digest over every one of them says that this user's host wrote them, with a key that only
        // this user can read; they are in our memory, so nobody changes them after the check.
        match unsafe { Component::deserialize(&target.engine, code) } {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(entry = name, %error, "an entry of the code cache does not fit; compiling again");
                None
            }
        }
    }

    /// Writes an entry so that it is there whole or not at all.
    fn write(&self, target: &Target, digest: Hash, component: &Component) -> wasmtime::Result<()> {
        let name = Self::name(target, digest);
        let code = component.serialize()?;
        // In a container every host may have the same process id: what a killed one left must not be in
        // its successor's way.
        let temporary = format!(
            "{}-{:016x}{UNFINISHED}",
            std::process::id(),
            rand::random::<u64>()
        );
        let written = self.write_file(&temporary, &[self.seal(&name, &code).as_bytes(), &code]);
        let renamed = written.and_then(|()| self.folder.rename(&temporary, &self.folder, &name));
        if let Err(error) = renamed {
            drop(self.folder.remove_file(&temporary));
            return Err(error.into());
        }
        self.shrink(&name)?;
        Ok(())
    }

    fn write_file(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let mut file = self.folder.open_with(
            name,
            OpenOptions::new().write(true).create_new(true).mode(0o600),
        )?;
        for part in parts {
            file.write_all(part)?;
        }
        Ok(())
    }

    /// Removes what killed hosts left unfinished, and the oldest entries while the folder is too large.
    /// `newest` stays.
    fn shrink(&self, newest: &str) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in self.folder.entries()? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let modified = metadata.modified().ok();
            let age = modified.and_then(|time| time.into_std().elapsed().ok());
            if name.ends_with(UNFINISHED) && age.is_some_and(|age| age > UNFINISHED_FOR) {
                self.folder.remove_file(&name)?;
            } else if name != KEY_FILE && name != newest {
                entries.push((modified, metadata.len(), name));
            }
        }
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, size, _)| size).sum();
        for (_, size, name) in entries {
            if total <= CACHE_BYTES {
                break;
            }
            self.folder.remove_file(&name)?;
            total -= size;
        }
        Ok(())
    }
}

/// The folder, made if it is missing; only if it is the user's and nobody else's.
fn open_own_folder(path: &PathBuf) -> Result<Dir, String> {
    let failed = |error: io::Error| format!("{error}; give a folder that this user may write to");
    if let Some(parent) = path.parent() {
        Dir::create_ambient_dir_all(parent, ambient_authority()).map_err(failed)?;
    }
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(failed(error.into())),
    }
    // No symlink: it could lead into a folder that someone else writes to.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
        rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => {
            "it is not a folder (or a symlink); remove it or give another".to_owned()
        }
        error => failed(error.into()),
    })?;
    let folder = Dir::from_std_file(folder.into());
    let metadata = folder.dir_metadata().map_err(failed)?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err("it belongs to another user; give a folder of your own".to_owned());
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(format!(
            "others may access it (mode {:03o}), and it holds machine code; `chmod 700` it or give another",
            metadata.mode() & 0o777
        ));
    }
    Ok(folder)
}

/// The key, made on first use or when it is damaged, which makes all entries worthless. Two hosts that
/// start at once agree: the first link wins.
fn read_or_make_key(folder: &Dir) -> Result<[u8; KEY_LEN], String> {
    let failed = |error: io::Error| format!("its key cannot be used: {error}; remove the folder");
    if let Some(key) = read_key(folder).map_err(failed)? {
        return Ok(key);
    }
    match folder.remove_file(KEY_FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => make_key(folder).map_err(failed)?,
    }
    read_key(folder)
        .map_err(failed)?
        .ok_or_else(|| "its key changes under us; let only one user have the folder".to_owned())
}

fn make_key(folder: &Dir) -> io::Result<()> {
    let key: [u8; KEY_LEN] = rand::random();
    let temporary = format!(
        "key-{}-{:016x}.new",
        std::process::id(),
        rand::random::<u64>()
    );
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let made = folder
        .open_with(&temporary, &options)
        .and_then(|mut file| file.write_all(&key).and_then(|()| file.sync_all()))
        .and_then(|()| folder.hard_link(&temporary, folder, KEY_FILE));
    drop(folder.remove_file(&temporary));
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// The key, if there is a whole one that only the user can read.
fn read_key(folder: &Dir) -> io::Result<Option<[u8; KEY_LEN]>> {
    let file = match folder.open(KEY_FILE) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::with_capacity(KEY_LEN);
    (&file).take(KEY_LEN as u64 + 1).read_to_end(&mut bytes)?;
    let private = file.metadata()?.mode() & 0o077 == 0;
    Ok(<[u8; KEY_LEN]>::try_from(bytes).ok().filter(|_| private))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A compiler that panicked leaves nothing half-done in here.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
