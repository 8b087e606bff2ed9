//! The fence around a build of `oarlock serve --build`: Debian's `bubblewrap`.
//!
//! What runs in it sees the system's programs and the Rust toolchain (read-only), its app's folder at `/build`, the
//! app's own cache at `/home/build`, and a `/tmp` of its own: no other app's files, no data folder, no store, no
//! control socket, nobody's home. Its environment is made here and holds nothing of the host's. It has its own
//! processes and no capabilities, cannot make user namespaces, and has no network.
//!
//! What it may use is bounded, see [`BuildLimits`] and `bounds.rs`. It ends with the host, however that ends.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use oarlock_host::folder::STATE_FOLDER;
use oarlock_spec::names::AppName;
use oarlock_spec::policy::BuildLimits;

use super::Fetch;

/// Where the app's folder is in the fence.
const ROOT: &str = "/build";
/// Where the app's cache is.
const HOME: &str = "/home/build";
/// Where fetched sources are: writable to the fetch alone.
const SOURCES: &str = "/sources";

/// The `oarlock` command, for a fetch.
const RELAY: &str = "/oarlock";
/// The proxy's socket, for a fetch.
const SOCKET: &str = "/egress";
/// Where `oarlock fetch-relay` listens.
const PROXY: &str = "http://127.0.0.1:3128";

/// Bytes of `/tmp` and of `/dev/shm` (1 GiB each): they are memory.
const TMP: u64 = 1 << 30;

/// Folders and files of the system that a toolchain needs; those that are not there are left out.
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

/// Builds of strangers' folders are fenced with this.
pub struct Fence {
    bwrap: PathBuf,
    /// Folders of programs beside the system's, at the same place in the fence.
    programs: Vec<PathBuf>,
    rustup_home: Option<PathBuf>,
    caches: PathBuf,
    pub(super) limits: BuildLimits,
    /// `None`: nothing is fetched before a build.
    pub(super) fetch: Option<Fetch>,
}

/// Why nothing can be fenced; `--build` is refused then.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// It is not there.
    #[error(
        "`--build` fences builds with bubblewrap, and there is no program `bwrap`; install it, on Debian with \
         `apt-get install bubblewrap`, or start without `--build`"
    )]
    Missing,
    /// It does not work here.
    #[error(
        "`--build` fences builds with bubblewrap, and {} does not work here: {reason}; let this user make user namespaces \
         (sysctl `kernel.unprivileged_userns_clone`, `user.max_user_namespaces`, or AppArmor's \
         `kernel.apparmor_restrict_unprivileged_userns`), or start without `--build`",
        bwrap.display()
    )]
    Refused {
        /// The program.
        bwrap: PathBuf,
        /// What it said.
        reason: String,
    },
    /// The place of the caches.
    #[error("{}: {source}", path.display())]
    Caches {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The folders of one app that its builds may write to.
pub(super) struct Cache {
    /// Its home.
    pub(super) home: PathBuf,
    /// What is fetched for it.
    pub(super) sources: PathBuf,
}

impl Fence {
    /// Finds bubblewrap by `PATH` of this environment, and tries it. `caches`: a folder of the host's own, which has
    /// one for each app. Blocks.
    pub fn find(
        env: &BTreeMap<String, String>,
        limits: BuildLimits,
        caches: &Path,
    ) -> Result<Self, FenceError> {
        let path = env.get("PATH").map(String::as_str).unwrap_or_default();
        let bwrap = std::env::split_paths(path)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join("bwrap"))
            .find(|program| program.is_file())
            .ok_or(FenceError::Missing)?;
        let home = env.get("HOME").map(PathBuf::from);
        let below_home = |name: &str, default: &str| {
            let named = env.get(name).map(PathBuf::from);
            named
                .or_else(|| Some(home.as_ref()?.join(default)))
                .filter(|path| path.is_absolute() && path.is_dir())
        };
        // Only the programs: beside them lie the user's tokens.
        let cargo = below_home("CARGO_HOME", ".cargo").map(|home| home.join("bin"));
        let rustup_home = below_home("RUSTUP_HOME", ".rustup");
        make_private(caches)?;
        // bubblewrap is not started in this folder.
        let caches = caches.canonicalize().map_err(|source| FenceError::Caches {
            path: caches.to_owned(),
            source,
        })?;
        let fence = Self {
            bwrap,
            programs: cargo.into_iter().filter(|folder| folder.is_dir()).collect(),
            rustup_home,
            caches,
            limits,
            fetch: None,
        };
        fence.try_it()?;
        Ok(fence)
    }

    /// Fetches what an app needs before it is built.
    pub(crate) fn with_fetch(mut self, fetch: Fetch) -> Self {
        self.fetch = Some(fetch);
        self
    }

    fn try_it(&self) -> Result<(), FenceError> {
        let refused = |reason: String| FenceError::Refused {
            bwrap: self.bwrap.clone(),
            reason,
        };
        let mut args = self.base();
        args.extend(["--", "true"].map(OsString::from));
        let tried = std::process::Command::new(&self.bwrap)
            .args(args)
            .env_clear()
            .stdin(std::process::Stdio::null())
            .output()
            .map_err(|error| refused(error.to_string()))?;
        if tried.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&tried.stderr);
        Err(refused(said.trim().chars().take(500).collect()))
    }

    /// The cache of an app, made if needed.
    pub(super) fn cache(&self, app: &AppName) -> Result<Cache, FenceError> {
        let folder = self.caches.join(app.as_str());
        let cache = Cache {
            home: folder.join("home"),
            sources: folder.join("sources"),
        };
        for folder in [&folder, &cache.home, &cache.sources] {
            make_private(folder)?;
        }
        Ok(cache)
    }

    /// bubblewrap's command line for a shell command in the app's folder `root`.
    pub(super) fn command(&self, root: &Path, cache: &Cache, command: &str) -> Vec<OsString> {
        let mut args = self.base();
        args.extend(three("--bind", root, ROOT));
        args.extend(three("--bind", &cache.home, HOME));
        args.extend(three("--ro-bind", &cache.sources, SOURCES));
        // What `up` kept there is the host's.
        if root
            .join(STATE_FOLDER)
            .symlink_metadata()
            .is_ok_and(|found| found.is_dir())
        {
            args.extend(
                ["--tmpfs".to_owned(), format!("{ROOT}/{STATE_FOLDER}")].map(OsString::from),
            );
        }
        args.extend(["--chdir", ROOT].map(OsString::from));
        args.extend(["--remount-ro", "/", "--", "sh", "-c"].map(OsString::from));
        args.push(command.into());
        args.insert(0, self.bwrap.clone().into());
        args
    }

    /// The same for the fetch: what it fetches it may write, the app's cache it does not see, and its one way out is
    /// the proxy's socket.
    pub(super) fn fetch_command(
        &self,
        root: &Path,
        cache: &Cache,
        relay: &Path,
        socket: &Path,
        command: &str,
    ) -> Vec<OsString> {
        let mut args = self.base();
        args.extend(three("--bind", root, ROOT));
        args.extend(three("--bind", &cache.sources, SOURCES));
        args.extend(three("--ro-bind", relay, RELAY));
        args.extend(three("--bind", socket, SOCKET));
        for (name, value) in [
            ("CARGO_NET_OFFLINE", "false"),
            ("CARGO_HTTP_PROXY", PROXY),
            ("HTTPS_PROXY", PROXY),
            ("HOME", "/tmp"),
        ] {
            args.extend(three("--setenv", name, value));
        }
        let run = [
            "--chdir",
            "/tmp",
            "--remount-ro",
            "/",
            "--",
            RELAY,
            "fetch-relay",
            SOCKET,
            command,
        ];
        args.extend(run.map(OsString::from));
        args.insert(0, self.bwrap.clone().into());
        args
    }

    /// What bubblewrap itself is started with: the limits of each process, for the shell that starts it.
    pub(super) fn limits_env(&self) -> BTreeMap<String, String> {
        let limits = &self.limits;
        // The shell counts files in blocks of 512 bytes, memory in KiB.
        [
            ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("OARLOCK_FILE", (limits.disk / 512).to_string()),
            ("OARLOCK_DATA", (limits.memory / 1024).to_string()),
            (
                "OARLOCK_CPU",
                limits.timeout.as_secs().saturating_mul(4).to_string(),
            ),
            // The kernel counts all of this user's, so that this only slows a fork bomb until it is counted.
            (
                "OARLOCK_PROCESSES",
                limits.processes.saturating_add(4096).to_string(),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Everything but the app's own folders.
    fn base(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = [
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
            "build",
            "--new-session",
            "--die-with-parent",
            "--clearenv",
            "--ro-bind",
            "/usr",
            "/usr",
        ]
        .map(OsString::from)
        .into();
        for path in SYSTEM.map(Path::new) {
            match std::fs::symlink_metadata(path) {
                Ok(found) if found.is_symlink() => {
                    let target = std::fs::read_link(path).unwrap_or_default();
                    args.extend(three("--symlink", target, path));
                }
                Ok(_) => args.extend(three("--ro-bind", path, path)),
                Err(_absent) => {}
            }
        }
        for folder in self.programs.iter().chain(&self.rustup_home) {
            args.extend(three("--ro-bind", folder, folder));
        }
        let size = TMP.to_string();
        let places = [
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--size",
            &size,
            "--tmpfs",
            "/dev/shm",
            "--remount-ro",
            "/dev",
            "--size",
            &size,
            "--tmpfs",
            "/tmp",
        ];
        args.extend(places.map(OsString::from));
        for (name, value) in self.environment() {
            args.extend(three("--setenv", name, value));
        }
        args
    }

    /// All that a build sees of an environment.
    fn environment(&self) -> Vec<(&'static str, OsString)> {
        let mut path: Vec<&OsStr> = self.programs.iter().map(|path| path.as_os_str()).collect();
        path.extend(["/usr/local/bin", "/usr/bin", "/bin"].map(OsStr::new));
        let mut env: Vec<(&str, OsString)> = vec![
            ("PATH", path.join(OsStr::new(":"))),
            ("HOME", HOME.into()),
            ("CARGO_HOME", SOURCES.into()),
            ("CARGO_NET_OFFLINE", "true".into()),
            ("LANG", "C.UTF-8".into()),
            ("USER", "build".into()),
        ];
        if let Some(home) = &self.rustup_home {
            env.push(("RUSTUP_HOME", home.clone().into()));
        }
        env
    }
}

fn three(option: &str, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> [OsString; 3] {
    [option.into(), from.as_ref().into(), to.as_ref().into()]
}

fn make_private(path: &Path) -> Result<(), FenceError> {
    use std::os::unix::fs::DirBuilderExt as _;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(FenceError::Caches {
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}
