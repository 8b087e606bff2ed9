//! The fence around a build of `oarlock serve --build`: what [`oarlock_process::Fence`] shows, and what is added here.
//!
//! What runs in it sees the system's programs and the Rust toolchain (read-only), its app's folder at `/build`, the
//! app's own cache at `/home/build`, and a `/tmp` of its own: no other app's files, no data folder, no store, no
//! control socket, nobody's home. Its environment is made here and holds nothing of the host's.
//!
//! What it may use is bounded, see [`BuildLimits`] and `bounds.rs`. It ends with the host, however that ends.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use oarlock_host::folder::STATE_FOLDER;
use oarlock_process::{
    Bubblewrap, BubblewrapError, Command, ControlGroup, ControlGroups, GroupLimits, Limits,
    NoControlGroup, find_program,
};
use oarlock_spec::names::AppName;
use oarlock_spec::policy::BuildLimits;

use super::Fetch;
use super::fetch::{self, App, Fetcher};

/// Where the app's folder is in the fence.
const ROOT: &str = "/build";
/// Where the app's cache is.
const HOME: &str = "/home/build";
/// Where fetched sources are: writable to the fetch alone.
const SOURCES: &str = "/sources";
/// What a fetch begins with, and leaves behind nowhere: an empty folder on the disk, for `/tmp` is memory.
const SCRATCH: &str = "/sources/scratch";
/// Certificates of the operator's own, for a fetch.
const CERTIFICATES: &str = "/certificates.pem";

/// The `oarlock` command, for a fetch.
const RELAY: &str = "/oarlock";
/// The proxy's socket, for a fetch.
const SOCKET: &str = "/egress";
/// Where `oarlock fetch-relay` listens.
pub(super) const PROXY: &str = "http://127.0.0.1:3128";

/// Builds of strangers' folders are fenced with this.
pub struct Fence {
    bwrap: Bubblewrap,
    /// Folders of programs beside the system's, at the same place in the fence.
    programs: Vec<PathBuf>,
    rustup_home: Option<PathBuf>,
    /// What registries are known by, if not by what each tool brings along.
    certificates: Option<PathBuf>,
    caches: PathBuf,
    /// Where each build has a control group of its own, or why none has.
    groups: Result<ControlGroups, NoControlGroup>,
    pub(super) limits: BuildLimits,
    /// `None`: nothing is fetched before a build.
    pub(super) fetch: Option<Fetch>,
}

/// Why nothing can be fenced; `--build` is refused then.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// It is not there, or does not work here.
    #[error("`--build` fences builds with bubblewrap, and {0}, or start without `--build`")]
    Bubblewrap(#[from] BubblewrapError),
    /// The place of the caches.
    #[error("{}: {source}", path.display())]
    Caches {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel gave the host a place for control groups, and refuses one now.
    #[error("the build's control group cannot be made: {0}")]
    ControlGroup(#[from] NoControlGroup),
}

/// The folders of one app that its builds may write to.
pub(super) struct Cache {
    /// Its home.
    pub(super) home: PathBuf,
    /// What is fetched for it.
    pub(super) sources: PathBuf,
}

impl Fence {
    /// Finds bubblewrap by `PATH` of this environment, and tries it. Registries are known by the certificates in its
    /// `SSL_CERT_FILE`, if it has one. `caches`: a folder of the host's own, which has one for each app. Moves this process into a control group of its own, where one is delegated. Blocks.
    pub fn find(
        env: &BTreeMap<String, String>,
        limits: BuildLimits,
        caches: &Path,
    ) -> Result<Self, FenceError> {
        let path = env.get("PATH").map(String::as_str).unwrap_or_default();
        let bwrap = Bubblewrap::find(path)?;
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
            certificates: env
                .get("SSL_CERT_FILE")
                .map(PathBuf::from)
                .filter(|path| path.is_absolute() && path.is_file()),
            caches,
            groups: ControlGroups::find(Path::new("/")),
            limits,
            fetch: None,
        };
        fence.bwrap.try_out(fence.base())?;
        Ok(fence)
    }

    /// Below which group each build has one of its own.
    ///
    /// # Errors
    /// Why none has.
    pub fn control_groups(&self) -> Result<&Path, &NoControlGroup> {
        self.groups.as_ref().map(ControlGroups::folder)
    }

    /// A group for one command of a build of this app; `None`: there are none.
    pub(super) fn group(&self, app: &AppName) -> Result<Option<ControlGroup>, FenceError> {
        let limits = GroupLimits {
            memory: self.limits.memory,
            processes: self.limits.processes,
        };
        let groups = self.groups.as_ref().ok();
        let group = groups.map(|groups| groups.make(app.as_str(), limits));
        Ok(group.transpose()?)
    }

    /// Fetches what an app needs before it is built.
    pub(crate) fn with_fetch(mut self, fetch: Fetch) -> Self {
        self.fetch = Some(fetch);
        self
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

    /// A shell command in the app's folder `root`.
    pub(super) fn command(&self, root: &Path, cache: &Cache, command: &str) -> Command {
        let mut fence = self
            .base()
            .writable(root, ROOT)
            .writable(&cache.home, HOME)
            .read_only(&cache.sources, SOURCES)
            .folder(ROOT);
        // What `up` kept there is the host's.
        let state = root.join(STATE_FOLDER).symlink_metadata();
        if state.is_ok_and(|found| found.is_dir()) {
            fence = fence.hidden(format!("{ROOT}/{STATE_FOLDER}"));
        }
        let mut env = self.environment();
        for fetcher in fetch::ALL {
            env.extend(
                fetcher
                    .build_env
                    .iter()
                    .map(|(name, value)| (*name, value.into())),
            );
        }
        Command::shell(command)
            .env(env)
            .limits(self.each_process())
            .fence(fence)
    }

    /// The same for a fetch: what it fetches it may write, the app's cache it does not see, and its one way out is
    /// the proxy's socket. `way_out`: the relay and that socket.
    pub(super) fn fetch_command(
        &self,
        root: &Path,
        cache: &Cache,
        (relay, socket): (&Path, &Path),
        fetcher: &Fetcher,
    ) -> Command {
        let mut fence = match fetcher.app {
            App::Read => self.base().read_only(root, ROOT),
            App::Write => self.base().writable(root, ROOT),
        };
        fence = fence
            .writable(&cache.sources, SOURCES)
            .read_only(relay, RELAY)
            .writable(socket, SOCKET)
            .folder("/tmp");
        let mut env = self.environment();
        env.extend([
            ("HOME", "/tmp".into()),
            ("HTTPS_PROXY", PROXY.into()),
            ("TMPDIR", SCRATCH.into()),
        ]);
        env.extend(
            fetcher
                .env
                .iter()
                .map(|(name, value)| (*name, value.into())),
        );
        if let Some(certificates) = &self.certificates {
            fence = fence.read_only(certificates, CERTIFICATES);
            let names = fetcher.certificates.iter().chain(&["SSL_CERT_FILE"]);
            env.extend(names.map(|name| (*name, CERTIFICATES.into())));
        }
        let script = format!(
            "rm -rf {SCRATCH} && mkdir {SCRATCH} && cd {SCRATCH} || exit 1\n({})\ncode=$?\ncd /tmp; rm -rf {SCRATCH}\nexit $code",
            fetcher.script
        );
        Command::new(RELAY)
            .args(["fetch-relay", SOCKET, &script])
            .env(env)
            .limits(self.each_process())
            .fence(fence)
    }

    /// Whether the fence has this program: programs are at the same place in it.
    pub(super) fn has_program(&self, name: &str) -> bool {
        find_program(name, self.path()).is_some()
    }

    /// What the kernel holds each process of a build to.
    fn each_process(&self) -> Limits {
        let limits = &self.limits;
        Limits {
            file: Some(limits.disk),
            data: Some(limits.memory),
            cpu: Some(limits.timeout.as_secs().saturating_mul(4)),
            // The kernel counts all of this user's, so that this only slows a fork bomb until it is counted.
            processes: Some(limits.processes.saturating_add(4096)),
            ..Limits::default()
        }
    }

    /// Everything but the app's own folders.
    fn base(&self) -> oarlock_process::Fence {
        let folders = self.programs.iter().chain(&self.rustup_home);
        folders.fold(
            oarlock_process::Fence::new(&self.bwrap, "build"),
            |fence, folder| fence.read_only(folder, folder),
        )
    }

    /// `PATH` in the fence.
    fn path(&self) -> OsString {
        let mut path: Vec<&OsStr> = self.programs.iter().map(|path| path.as_os_str()).collect();
        path.extend(["/usr/local/bin", "/usr/bin", "/bin"].map(OsStr::new));
        path.join(OsStr::new(":"))
    }

    /// All that a build and a fetch have in their environments.
    fn environment(&self) -> BTreeMap<&'static str, OsString> {
        let mut env = BTreeMap::from([
            ("PATH", self.path()),
            ("HOME", HOME.into()),
            ("CARGO_HOME", SOURCES.into()),
            ("LANG", "C.UTF-8".into()),
            ("USER", "build".into()),
        ]);
        if let Some(home) = &self.rustup_home {
            env.insert("RUSTUP_HOME", home.clone().into());
        }
        env
    }
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
