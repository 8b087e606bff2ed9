//! The functions of `wasi:filesystem` 0.3 that make, move or remove something.

use std::pin::Pin;

use wasmtime_wasi::p3::bindings::filesystem::types::{
    DescriptorFlags, ErrorCode, HostDescriptorWithStore as Host, OpenFlags, PathFlags,
};
use wasmtime_wasi::p3::filesystem::FilesystemResult;

use super::*;

/// wasmtime-wasi's own name for it.
const TYPES: &str = "wasi:filesystem/types@0.3.0";

type Answer<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;
type Fd = Resource<Descriptor>;
type Wasi = Accessor<GuestState, WasiFilesystem>;
type Called<'a, T> = Pin<Box<dyn Future<Output = Answer<T>> + Send + 'a>>;

impl From<Refused> for ErrorCode {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Depth => Self::NameTooLong,
            Refused::Count => Self::InsufficientSpace,
            Refused::Io(error) => Self::from(error),
        }
    }
}

fn answer<T>(result: FilesystemResult<T>) -> Answer<T> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

fn refused<T>(error: Refused) -> Answer<T> {
    Ok((Err(error.into()),))
}

async fn turn(guest: &Accessor<GuestState>) -> wasmtime::Result<Turn> {
    let entries = guest.with(|mut store| store.data_mut().files.entries())?;
    Ok(entries.turn().await)
}

fn place(guest: &Accessor<GuestState>, fd: &Fd, path: &str) -> wasmtime::Result<Option<Place>> {
    let folder =
        guest.with(|mut store: Access<'_, GuestState>| folder(&store.data_mut().table, fd))?;
    Ok(folder.map(|dir| Place {
        dir,
        path: path.to_owned(),
    }))
}

/// The guest's own: it is only borrowed for a call.
fn again(fd: &Fd) -> Fd {
    Resource::new_borrow(fd.rep())
}

/// One entry is made by `work`, unless there is no room for it.
async fn made<T>(turn: &mut Turn, work: impl Future<Output = FilesystemResult<T>>) -> Answer<T> {
    if let Err(error) = turn.reserve() {
        return refused(error);
    }
    let result = work.await;
    if result.is_err() {
        turn.release();
    }
    answer(result)
}

/// One entry is removed by `work`.
async fn removed(turn: &mut Turn, work: impl Future<Output = FilesystemResult<()>>) -> Answer<()> {
    let result = work.await;
    if result.is_ok() {
        turn.release();
    }
    answer(result)
}

async fn create_directory(
    guest: &Accessor<GuestState>,
    wasi: &Wasi,
    (fd, path): (Fd, String),
) -> Answer<()> {
    let mut turn = turn(guest).await?;
    if let Some(place) = place(guest, &fd, &path)?
        && let Err(error) = turn.check_new_folder(place.dir, place.path).await
    {
        return refused(error);
    }
    made(
        &mut turn,
        WasiFilesystem::create_directory_at(wasi, fd, path),
    )
    .await
}

async fn open(
    guest: &Accessor<GuestState>,
    wasi: &Wasi,
    (fd, path_flags, path, open_flags, flags): (Fd, PathFlags, String, OpenFlags, DescriptorFlags),
) -> Answer<Fd> {
    if open_flags.contains(OpenFlags::CREATE)
        && let Some(place) = place(guest, &fd, &path)?
    {
        let mut turn = turn(guest).await?;
        let follow = path_flags.contains(PathFlags::SYMLINK_FOLLOW);
        if !turn.exists(place, follow).await {
            let work = WasiFilesystem::open_at(wasi, fd, path_flags, path, open_flags, flags);
            return made(&mut turn, work).await;
        }
    }
    answer(WasiFilesystem::open_at(wasi, fd, path_flags, path, open_flags, flags).await)
}

async fn rename(
    guest: &Accessor<GuestState>,
    wasi: &Wasi,
    (fd, old, new_fd, new): (Fd, String, Fd, String),
) -> Answer<()> {
    let mut turn = turn(guest).await?;
    let mut replaced = None;
    if let (Some(from), Some(to)) = (place(guest, &fd, &old)?, place(guest, &new_fd, &new)?) {
        match turn.check_move(from.clone(), to).await {
            Ok(true) => replaced = Some(from),
            Ok(false) => {}
            Err(error) => return refused(error),
        }
    }
    let result = WasiFilesystem::rename_at(wasi, again(&fd), old, new_fd, new).await;
    // Of two names of one file neither gives way.
    if let (Ok(()), Some(from)) = (&result, replaced)
        && !turn.exists(from, false).await
    {
        turn.release();
    }
    answer(result)
}

/// Lays these functions over wasmtime-wasi's. The linker must allow that.
pub(crate) fn p3(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_concurrent(
        "[method]descriptor.create-directory-at",
        |guest: &Accessor<GuestState>, what: (Fd, String)| -> Called<'_, ()> {
            Box::pin(async move {
                let wasi = &guest.with_getter::<WasiFilesystem>(GuestState::filesystem);
                create_directory(guest, wasi, what).await
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]descriptor.open-at",
        |guest: &Accessor<GuestState>,
         what: (Fd, PathFlags, String, OpenFlags, DescriptorFlags)|
         -> Called<'_, Fd> {
            Box::pin(async move {
                let wasi = &guest.with_getter::<WasiFilesystem>(GuestState::filesystem);
                open(guest, wasi, what).await
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]descriptor.symlink-at",
        |guest: &Accessor<GuestState>, (fd, to, path): (Fd, String, String)| -> Called<'_, ()> {
            Box::pin(async move {
                let wasi = &guest.with_getter::<WasiFilesystem>(GuestState::filesystem);
                let mut turn = turn(guest).await?;
                made(&mut turn, WasiFilesystem::symlink_at(wasi, fd, to, path)).await
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]descriptor.link-at",
        |guest: &Accessor<GuestState>,
         (fd, flags, old, new_fd, new): (Fd, PathFlags, String, Fd, String)|
         -> Called<'_, ()> {
            Box::pin(async move {
                let wasi = &guest.with_getter::<WasiFilesystem>(GuestState::filesystem);
                let mut turn = turn(guest).await?;
                let work = WasiFilesystem::link_at(wasi, fd, flags, old, new_fd, new);
                made(&mut turn, work).await
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]descriptor.rename-at",
        |guest: &Accessor<GuestState>, what: (Fd, String, Fd, String)| -> Called<'_, ()> {
            Box::pin(async move {
                let wasi = &guest.with_getter::<WasiFilesystem>(GuestState::filesystem);
                rename(guest, wasi, what).await
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]descriptor.unlink-file-at",
        |guest: &Accessor<GuestState>, (fd, path): (Fd, String)| -> Called<'_, ()> {
            Box::pin(async move {
                let wasi = &guest.with_getter::<WasiFilesystem>(GuestState::filesystem);
                let mut turn = turn(guest).await?;
                removed(&mut turn, WasiFilesystem::unlink_file_at(wasi, fd, path)).await
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]descriptor.remove-directory-at",
        |guest: &Accessor<GuestState>, (fd, path): (Fd, String)| -> Called<'_, ()> {
            Box::pin(async move {
                let wasi = &guest.with_getter::<WasiFilesystem>(GuestState::filesystem);
                let mut turn = turn(guest).await?;
                removed(
                    &mut turn,
                    WasiFilesystem::remove_directory_at(wasi, fd, path),
                )
                .await
            })
        },
    )
}
