//! `wasi:filesystem/preopens`: the grant's folders, opened once per sandbox, and `/tmp`, which is made
//! when the guest first asks what folders there are (libc does so on the first use of a path).
//!
//! What a guest does below these folders is wasmtime-wasi's, but for what `entries.rs` lays over it. The limit `tmp`
//! belongs here too: nothing enforces it yet.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use cap_std::fs::Dir;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::filesystem::{Descriptor, Dir as WasiDir};
use wasmtime_wasi::{FsPerms, OpenMode, p2, p3};

use crate::entries::Entries;
use crate::grant::Folder;
use crate::state::GuestState;
use crate::tmp::TmpDir;
use crate::tree;

/// The grant's folders as the guest will see them.
pub(crate) struct Folders {
    opened: Vec<(WasiDir, String)>,
    tmp_root: Option<Arc<Dir>>,
    /// Entries that an instance may make in them.
    most_entries: u64,
}

impl Folders {
    /// Takes hold of the grant's folders, once for all instances of a sandbox.
    pub(crate) fn open(
        folders: &[Folder],
        tmp_root: Option<Arc<Dir>>,
        most_entries: u64,
    ) -> io::Result<Self> {
        let opened = folders
            .iter()
            .map(|folder| {
                Ok((
                    wasi_dir(&folder.dir, folder.writable)?,
                    folder.guest_path.clone(),
                ))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            opened,
            tmp_root,
            most_entries,
        })
    }
}

fn wasi_dir(dir: &Dir, writable: bool) -> io::Result<WasiDir> {
    let (perms, mode) = if writable {
        (FsPerms::ReadWrite, OpenMode::READ | OpenMode::WRITE)
    } else {
        (FsPerms::ReadOnly, OpenMode::READ)
    };
    // File work runs on blocking threads, never on the core's own.
    Ok(WasiDir::new(
        dir.try_clone()?.into_std_file(),
        perms,
        mode,
        false,
    ))
}

/// The folders of one instance.
pub(crate) struct Files {
    folders: Arc<Folders>,
    /// Removed with the instance.
    tmp: Option<TmpDir>,
    /// Made when the guest first makes something.
    entries: Option<Arc<Entries>>,
}

impl Files {
    pub(crate) fn new(folders: Arc<Folders>) -> Self {
        Self {
            folders,
            tmp: None,
            entries: None,
        }
    }

    /// What the instance has made in its folders.
    pub(crate) fn entries(&mut self) -> io::Result<Arc<Entries>> {
        if let Some(entries) = &self.entries {
            return Ok(entries.clone());
        }
        // Guests have every folder before they make something in one.
        let opened = self.folders.opened.iter().map(|(dir, _)| dir.dir.as_fd());
        let tmp = self.tmp.iter().map(|tmp| tmp.dir().as_fd());
        let roots = opened.chain(tmp).map(tree::identity);
        let roots = roots.collect::<io::Result<Vec<_>>>()?;
        let entries = Arc::new(Entries::new(self.folders.most_entries, roots));
        self.entries = Some(entries.clone());
        Ok(entries)
    }
}

/// What the bindings call.
pub(crate) struct FilesView<'a> {
    files: &'a mut Files,
    table: &'a mut ResourceTable,
}

impl FilesView<'_> {
    fn directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let mut result = Vec::with_capacity(self.files.folders.opened.len() + 1);
        for (dir, path) in &self.files.folders.opened {
            result.push((self.table.push(Descriptor::Dir(dir.clone()))?, path.clone()));
        }
        if let Some(root) = &self.files.folders.tmp_root {
            if self.files.tmp.is_none() {
                self.files.tmp = Some(TmpDir::create(root)?);
            }
            if let Some(tmp) = &self.files.tmp {
                let dir = wasi_dir(tmp.dir(), true)?;
                result.push((self.table.push(Descriptor::Dir(dir))?, "/tmp".to_owned()));
            }
        }
        Ok(result)
    }
}

/// The key under which bindings find [`FilesView`].
struct HasFiles;

impl HasData for HasFiles {
    type Data<'a> = FilesView<'a>;
}

impl p2::bindings::filesystem::preopens::Host for FilesView<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        self.directories()
    }
}

impl p3::bindings::filesystem::preopens::Host for FilesView<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        self.directories()
    }
}

fn view(state: &mut GuestState) -> FilesView<'_> {
    FilesView {
        files: &mut state.files,
        table: &mut state.table,
    }
}

/// Links `wasi:filesystem/preopens` 0.2.
pub(crate) fn p2(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    p2::bindings::filesystem::preopens::add_to_linker::<GuestState, HasFiles>(linker, view)
}

/// Links `wasi:filesystem/preopens` 0.3.
pub(crate) fn p3(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    p3::bindings::filesystem::preopens::add_to_linker::<GuestState, HasFiles>(linker, view)
}
