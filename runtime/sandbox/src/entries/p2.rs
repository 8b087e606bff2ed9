//! The functions of `wasi:filesystem` 0.2 that make, move or remove something.

use wasmtime::StoreContextMut;
use wasmtime_wasi::filesystem::WasiFilesystemCtxView;
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, ErrorCode, HostDescriptor as Host, OpenFlags, PathFlags,
};

use super::*;

/// wasmtime-wasi's own name for it.
const TYPES: &str = "wasi:filesystem/types@0.2.12";

type Answer<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

impl From<Refused> for ErrorCode {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Depth => Self::NameTooLong,
            Refused::Count => Self::InsufficientSpace,
            Refused::Io(error) => Self::from(&error),
        }
    }
}

/// A guest that calls.
struct Caller<'a>(StoreContextMut<'a, GuestState>);

impl Caller<'_> {
    async fn turn(&mut self) -> wasmtime::Result<Turn> {
        let entries = self.0.data_mut().files.entries()?;
        Ok(entries.turn().await)
    }

    fn place(&self, fd: u32, path: &str) -> wasmtime::Result<Option<Place>> {
        let folder = folder(&self.0.data().table, &descriptor(fd))?;
        Ok(folder.map(|dir| Place {
            dir,
            path: path.to_owned(),
        }))
    }

    fn wasi(&mut self) -> WasiFilesystemCtxView<'_> {
        self.0.data_mut().filesystem()
    }
}

/// The guest's own: it is only borrowed for a call.
fn descriptor(rep: u32) -> Resource<Descriptor> {
    Resource::new_borrow(rep)
}

fn answer<T>(result: FsResult<T>) -> Answer<T> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

fn refused<T>(error: Refused) -> Answer<T> {
    Ok((Err(error.into()),))
}

/// One entry is made by `work`, unless there is no room for it.
macro_rules! made {
    ($turn:ident, $work:expr) => {{
        if let Err(error) = $turn.reserve() {
            return refused(error);
        }
        let result = $work;
        if result.is_err() {
            $turn.release();
        }
        answer(result)
    }};
}

async fn create_directory(mut caller: Caller<'_>, fd: u32, path: String) -> Answer<()> {
    let mut turn = caller.turn().await?;
    if let Some(place) = caller.place(fd, &path)?
        && let Err(error) = turn.check_new_folder(place.dir, place.path).await
    {
        return refused(error);
    }
    made!(
        turn,
        Host::create_directory_at(&mut caller.wasi(), descriptor(fd), path).await
    )
}

async fn open(
    mut caller: Caller<'_>,
    fd: u32,
    (path_flags, path, open_flags, flags): (PathFlags, String, OpenFlags, DescriptorFlags),
) -> Answer<Resource<Descriptor>> {
    if open_flags.contains(OpenFlags::CREATE)
        && let Some(place) = caller.place(fd, &path)?
    {
        let mut turn = caller.turn().await?;
        let follow = path_flags.contains(PathFlags::SYMLINK_FOLLOW);
        if !turn.exists(place, follow).await {
            let wasi = &mut caller.wasi();
            return made!(
                turn,
                Host::open_at(wasi, descriptor(fd), path_flags, path, open_flags, flags).await
            );
        }
    }
    let wasi = &mut caller.wasi();
    answer(Host::open_at(wasi, descriptor(fd), path_flags, path, open_flags, flags).await)
}

async fn symlink(mut caller: Caller<'_>, fd: u32, to: String, path: String) -> Answer<()> {
    let mut turn = caller.turn().await?;
    made!(
        turn,
        Host::symlink_at(&mut caller.wasi(), descriptor(fd), to, path).await
    )
}

async fn link(
    mut caller: Caller<'_>,
    fd: u32,
    (flags, old, new_fd, new): (PathFlags, String, u32, String),
) -> Answer<()> {
    let mut turn = caller.turn().await?;
    let (from, to) = (descriptor(fd), descriptor(new_fd));
    made!(
        turn,
        Host::link_at(&mut caller.wasi(), from, flags, old, to, new).await
    )
}

async fn rename(
    mut caller: Caller<'_>,
    fd: u32,
    (old, new_fd, new): (String, u32, String),
) -> Answer<()> {
    let mut turn = caller.turn().await?;
    let mut replaced = None;
    if let (Some(from), Some(to)) = (caller.place(fd, &old)?, caller.place(new_fd, &new)?) {
        match turn.check_move(from.clone(), to).await {
            Ok(true) => replaced = Some(from),
            Ok(false) => {}
            Err(error) => return refused(error),
        }
    }
    let (from, to) = (descriptor(fd), descriptor(new_fd));
    let result = Host::rename_at(&mut caller.wasi(), from, old, to, new).await;
    // Of two names of one file neither gives way.
    if let (Ok(()), Some(from)) = (&result, replaced)
        && !turn.exists(from, false).await
    {
        turn.release();
    }
    answer(result)
}

async fn unlink(mut caller: Caller<'_>, fd: u32, path: String) -> Answer<()> {
    let mut turn = caller.turn().await?;
    let result = Host::unlink_file_at(&mut caller.wasi(), descriptor(fd), path).await;
    if result.is_ok() {
        turn.release();
    }
    answer(result)
}

async fn remove_directory(mut caller: Caller<'_>, fd: u32, path: String) -> Answer<()> {
    let mut turn = caller.turn().await?;
    let result = Host::remove_directory_at(&mut caller.wasi(), descriptor(fd), path).await;
    if result.is_ok() {
        turn.release();
    }
    answer(result)
}

type Fd = Resource<Descriptor>;

/// Lays these functions over wasmtime-wasi's. The linker must allow that.
pub(crate) fn p2(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_async(
        "[method]descriptor.create-directory-at",
        |store: StoreContextMut<'_, GuestState>, (fd, path): (Fd, String)| {
            Box::new(create_directory(Caller(store), fd.rep(), path))
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |store: StoreContextMut<'_, GuestState>,
         (fd, path_flags, path, open_flags, flags): (
            Fd,
            PathFlags,
            String,
            OpenFlags,
            DescriptorFlags,
        )| {
            let what = (path_flags, path, open_flags, flags);
            Box::new(open(Caller(store), fd.rep(), what))
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.symlink-at",
        |store: StoreContextMut<'_, GuestState>, (fd, to, path): (Fd, String, String)| {
            Box::new(symlink(Caller(store), fd.rep(), to, path))
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.link-at",
        |store: StoreContextMut<'_, GuestState>,
         (fd, flags, old, new_fd, new): (Fd, PathFlags, String, Fd, String)| {
            let what = (flags, old, new_fd.rep(), new);
            Box::new(link(Caller(store), fd.rep(), what))
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.rename-at",
        |store: StoreContextMut<'_, GuestState>,
         (fd, old, new_fd, new): (Fd, String, Fd, String)| {
            Box::new(rename(Caller(store), fd.rep(), (old, new_fd.rep(), new)))
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.unlink-file-at",
        |store: StoreContextMut<'_, GuestState>, (fd, path): (Fd, String)| {
            Box::new(unlink(Caller(store), fd.rep(), path))
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.remove-directory-at",
        |store: StoreContextMut<'_, GuestState>, (fd, path): (Fd, String)| {
            Box::new(remove_directory(Caller(store), fd.rep(), path))
        },
    )
}
