//! A fence around a child: Debian's `bubblewrap`.
//!
//! What runs in it sees the system's programs (read-only), the folders that it is given, and memory of its own at `/tmp` and
//! `/dev/shm`. It has its own processes, a user without capabilities, no network but a loopback of its own, and cannot
//! make user namespaces. Its processes are a PID namespace, so that all of them end with it, whatever they do: bubblewrap
//! ends with the shell that starts it, and that shell with the host (see the module `watchdog`).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::{Command, Stream, find_program};
use crate::lines::last_words;

/// Bytes of `/tmp` and of `/dev/shm` (1 GiB each): they are memory. Beyond it: ENOSPC.
const TMP: u64 = 1 << 30;
/// How long the trial of a fence may take (10 s); then bubblewrap does not work here.
const TRIAL: Duration = Duration::from_secs(10);
/// What is kept of bubblewrap's own words, in bytes.
const WORDS: u64 = 500;

/// Folders and files of the system that programs need; those that are not there are left out.
const SYSTEM: [&str; 10] = [
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/sbin",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ssl/certs",
    "/etc/ca-certificates",
    "/etc/localtime",
];

/// The program, which was found.
#[derive(Debug, Clone)]
pub struct Bubblewrap(PathBuf);

/// Why nothing can be fenced.
#[derive(Debug, thiserror::Error)]
pub enum BubblewrapError {
    /// It is not there.
    #[error("there is no program `bwrap`; install it, on Debian with `apt-get install bubblewrap`")]
    Missing,
    /// It does not work here.
    #[error(
        "{} does not work here: {reason}; let this user make user namespaces (sysctl `kernel.unprivileged_userns_clone`, \
         `user.max_user_namespaces`, or AppArmor's `kernel.apparmor_restrict_unprivileged_userns`)",
        bwrap.display()
    )]
    Refused {
        /// The program.
        bwrap: PathBuf,
        /// What it said.
        reason: String,
    },
}

impl Bubblewrap {
    /// Looks for it in this `PATH`.
    ///
    /// # Errors
    ///
    /// If it is not there.
    pub fn find(path: impl AsRef<OsStr>) -> Result<Self, BubblewrapError> {
        find_program("bwrap", path)
            .map(Self)
            .ok_or(BubblewrapError::Missing)
    }

    /// Whether this fence can be made. Blocks.
    ///
    /// # Errors
    ///
    /// If not: what bubblewrap said.
    pub fn try_out(&self, fence: Fence) -> Result<(), BubblewrapError> {
        let refused = |reason: String| BubblewrapError::Refused {
            bwrap: self.0.clone(),
            reason,
        };
        let child = Command::new("true").stderr(Stream::Piped).fence(fence);
        let mut child = child.start().map_err(|error| refused(error.to_string()))?;
        let in_time = child
            .ended_within(TRIAL)
            .map_err(|error| refused(error.to_string()))?;
        let words = child.stderr.take();
        let exit = child.end().map_err(|error| refused(error.to_string()))?;
        if !in_time {
            return Err(refused(format!(
                "it has not ended after {} seconds",
                TRIAL.as_secs()
            )));
        }
        if exit.success() {
            return Ok(());
        }
        Err(refused(
            words.map_or_else(String::new, |words| last_words(words, WORDS)),
        ))
    }
}

/// What a fenced child sees: the system, and what is added. The order counts: later things lie over earlier ones.
#[derive(Debug, Clone)]
pub struct Fence {
    args: Vec<OsString>,
}

impl Fence {
    /// A fence around the system alone. `name`: its host name.
    pub fn new(bwrap: &Bubblewrap, name: &str) -> Self {
        let mut fence = Self {
            args: vec![bwrap.0.clone().into()],
        };
        fence.add([
            "--unshare-all",
            "--unshare-user",
            "--disable-userns",
            "--uid",
            "1000",
            "--gid",
            "1000",
            "--cap-drop",
            "ALL",
            "--hostname",
            name,
            "--new-session",
            "--die-with-parent",
            "--ro-bind",
            "/usr",
            "/usr",
        ]);
        for path in SYSTEM.map(Path::new) {
            match std::fs::symlink_metadata(path) {
                Ok(found) if found.is_symlink() => {
                    let target = std::fs::read_link(path).unwrap_or_default();
                    fence.add([OsStr::new("--symlink"), target.as_ref(), path.as_ref()]);
                }
                Ok(_) => fence.add([OsStr::new("--ro-bind"), path.as_ref(), path.as_ref()]),
                Err(_absent) => {}
            }
        }
        let size = TMP.to_string();
        fence.add(["--proc", "/proc", "--dev", "/dev"]);
        fence.add(["--size", &size, "--tmpfs", "/dev/shm"]);
        fence.add(["--remount-ro", "/dev"]);
        fence.add(["--size", &size, "--tmpfs", "/tmp"]);
        fence
    }

    /// Shows a folder or file of the host's at `to`.
    #[must_use]
    pub fn read_only(mut self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Self {
        self.add([OsStr::new("--ro-bind"), from.as_ref(), to.as_ref()]);
        self
    }

    /// The same, and it can be written to.
    #[must_use]
    pub fn writable(mut self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Self {
        self.add([OsStr::new("--bind"), from.as_ref(), to.as_ref()]);
        self
    }

    /// Hides what the fence has at this folder.
    #[must_use]
    pub fn hidden(mut self, folder: impl AsRef<OsStr>) -> Self {
        self.add([OsStr::new("--tmpfs"), folder.as_ref()]);
        self
    }

    /// Where the child runs: a folder of the fence's.
    #[must_use]
    pub fn folder(mut self, folder: impl AsRef<OsStr>) -> Self {
        self.add([OsStr::new("--chdir"), folder.as_ref()]);
        self
    }

    /// bubblewrap with all its options; the program follows.
    pub(crate) fn command_line(&self) -> Vec<OsString> {
        let mut args = self.args.clone();
        args.extend(["--remount-ro", "/", "--"].map(OsString::from));
        args
    }

    fn add<const N: usize>(&mut self, args: [impl AsRef<OsStr>; N]) {
        self.args
            .extend(args.iter().map(|arg| arg.as_ref().to_owned()));
    }
}
