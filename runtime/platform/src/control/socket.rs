//! The control socket below a data folder, whose path may be longer than a socket address holds.
//!
//! `sun_path` has 108 bytes. A longer path is reached through an open descriptor of its folder
//! (`/proc/self/fd/N/control.sock`), so that no process has to change its working directory.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

/// The socket's name in the data folder.
pub const SOCKET_NAME: &str = "control.sock";

/// `sun_path` without its final zero.
const MAX_SUN_PATH: usize = 107;

/// A path of the socket that fits an address, and the descriptor that it may go through.
struct Reachable {
    path: PathBuf,
    _folder: Option<OwnedFd>,
}

fn reachable(data: &Path) -> io::Result<Reachable> {
    let direct = data.join(SOCKET_NAME);
    if direct.as_os_str().as_bytes().len() <= MAX_SUN_PATH {
        return Ok(Reachable {
            path: direct,
            _folder: None,
        });
    }
    let folder = rustix::fs::open(
        data,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(SOCKET_NAME);
    Ok(Reachable {
        path,
        _folder: Some(folder),
    })
}

/// Binds the socket, 0600. The caller holds the data folder's lock, so a socket that lies there is
/// what a dead host left.
pub(super) fn bind(data: &Path) -> io::Result<UnixListener> {
    let place = data.join(SOCKET_NAME);
    match std::fs::remove_file(&place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&reachable(data)?.path)?;
    // The folder's 0700 already keeps others out between these two calls.
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to the host of a data folder.
pub(super) async fn connect(data: &Path) -> io::Result<UnixStream> {
    let reachable = reachable(data)?;
    UnixStream::connect(&reachable.path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_path_of_300_characters_binds_and_connects() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("a".repeat(150)).join("b".repeat(150));
        std::fs::create_dir_all(&data).unwrap();
        let listener = bind(&data).unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), connect(&data));
        accepted.unwrap();
        connected.unwrap();
        let mode = std::fs::metadata(data.join(SOCKET_NAME))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        // A dead host's socket is in nobody's way.
        bind(&data).unwrap();
    }
}
