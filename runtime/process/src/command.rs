//! What is to be run.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::io::Errno;

use crate::child::Child;
use crate::control_group::ControlGroup;
use crate::fence::Fence;
use crate::limits::{Limits, Stays};
use crate::watchdog::Watchdog;

/// The system's shell.
const SHELL: &str = "/bin/sh";
/// Where programs are looked for without a `PATH`, as execvp(3) does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// One end of a child's input or output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stream {
    /// Nothing comes and nobody hears.
    #[default]
    Null,
    /// A pipe of ours, in the [`Child`].
    Piped,
    /// The host's own.
    Inherit,
}

/// Another user than the host's; only root may choose one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// Its group's number; it has no other groups.
    pub gid: u32,
}

/// What is to be run, and how; it can be started any number of times. By default it has an empty environment, runs in `/`
/// as the host's user, without limits, and is not heard.
#[derive(Debug, Clone)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    folder: PathBuf,
    user: Option<User>,
    limits: Limits,
    /// The file by which its control group is entered.
    door: Option<PathBuf>,
    fence: Option<Fence>,
    streams: [Stream; 3],
}

/// Why a child was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It, or the interpreter that its first line names, is not there.
    #[error("there is no program `{program}`")]
    Missing {
        /// As it was named.
        program: String,
    },
    /// It is there.
    #[error("the program `{program}` may not be run: {source}")]
    Refused {
        /// As it was named.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// Where it should run.
    #[error("its working folder {} cannot be used: {source}", path.display())]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The machine, the user or the control group has no room for another process.
    #[error(
        "there is no room for another process; raise `ulimit -u`, the control group's `pids.max` or the kernel's \
         `kernel.pid_max`, or end others"
    )]
    NoRoom,
    /// The watchdog, without which nothing is started.
    #[error("its watchdog, a shell, cannot be started: {0}")]
    Watchdog(#[source] io::Error),
    /// All else.
    #[error("the program `{program}` cannot be started: {source}")]
    Other {
        /// As it was named.
        program: String,
        /// Why.
        source: io::Error,
    },
}

impl StartError {
    fn of(program: &OsStr, source: io::Error) -> Self {
        let program = program.to_string_lossy().into_owned();
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::AGAIN) => Self::NoRoom,
            Some(Errno::NOENT) => Self::Missing { program },
            Some(Errno::ACCESS | Errno::PERM | Errno::NOEXEC) => Self::Refused { program, source },
            _ => Self::Other { program, source },
        }
    }
}

impl Command {
    /// A path, or a name that is looked for in the `PATH` of [`env`](Self::env).
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            folder: "/".into(),
            user: None,
            limits: Limits::default(),
            door: None,
            fence: None,
            streams: [Stream::Null; 3],
        }
    }

    /// This command of the system's shell.
    pub fn shell(command: impl Into<OsString>) -> Self {
        Self::new(SHELL).args([OsString::from("-c"), command.into()])
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Its environment: this and nothing else. (In a fence, bubblewrap adds `PWD`.)
    #[must_use]
    pub fn env<N: Into<OsString>, V: Into<OsString>>(
        mut self,
        env: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.env = env
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        self
    }

    /// Where it runs; in a fence, see [`Fence::folder`].
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = folder.into();
        self
    }

    /// As whom it runs.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// What each of its processes may use.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The group that its first process enters before it is anything else; it must live as long. A child that cannot
    /// enter it ends with code 126.
    #[must_use]
    pub fn control_group(mut self, group: &ControlGroup) -> Self {
        self.door = Some(group.door());
        self
    }

    /// What it sees. The program is then looked for in the fence, so that a missing one is an exit code.
    #[must_use]
    pub fn fence(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }

    /// Its input.
    #[must_use]
    pub fn stdin(mut self, stream: Stream) -> Self {
        self.streams[0] = stream;
        self
    }

    /// Its output.
    #[must_use]
    pub fn stdout(mut self, stream: Stream) -> Self {
        self.streams[1] = stream;
        self
    }

    /// Its errors.
    #[must_use]
    pub fn stderr(mut self, stream: Stream) -> Self {
        self.streams[2] = stream;
        self
    }

    /// Starts it, from whichever thread. Blocks for a few milliseconds.
    ///
    /// # Errors
    ///
    /// If it or its watchdog cannot be started.
    pub fn start(&self) -> Result<Child, StartError> {
        let in_folder = |source: io::Error| StartError::Folder {
            path: self.folder.clone(),
            source,
        };
        if !self.folder.metadata().map_err(in_folder)?.is_dir() {
            return Err(in_folder(io::ErrorKind::NotADirectory.into()));
        }
        let mut command = self.prepared()?;
        let watchdog =
            Watchdog::start().map_err(|error| match StartError::of(&self.program, error) {
                StartError::NoRoom => StartError::NoRoom,
                StartError::Missing { .. } => StartError::Watchdog(io::ErrorKind::NotFound.into()),
                StartError::Refused { source, .. } | StartError::Other { source, .. } => {
                    StartError::Watchdog(source)
                }
                other => other,
            })?;
        let [stdin, stdout, stderr] = self.streams.map(Stdio::from);
        command
            .env_clear()
            .envs(&self.env)
            .current_dir(&self.folder)
            .process_group(watchdog.group().as_raw_nonzero().get())
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr);
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        Child::start(&mut command, watchdog).map_err(|error| StartError::of(&self.program, error))
    }

    /// As [`Command::start`], for those who may not block: on one of tokio's threads for that. Not awaited to its end, it
    /// leaves no child behind.
    ///
    /// # Errors
    ///
    /// As those of [`Command::start`].
    pub async fn start_async(&self) -> Result<Child, StartError> {
        let command = self.clone();
        let started = tokio::task::spawn_blocking(move || command.start()).await;
        started.unwrap_or_else(|ended| {
            Err(StartError::Other {
                program: self.program.to_string_lossy().into_owned(),
                source: ended.into(),
            })
        })
    }

    /// Why it is not there any more.
    pub(crate) fn lost(&self, source: io::Error) -> StartError {
        StartError::of(&self.program, source)
    }

    /// The program, or the shell that limits it and stays above a fence.
    fn prepared(&self) -> Result<std::process::Command, StartError> {
        let keep_pwd = self.env.contains_key(OsStr::new("PWD"));
        let door = self.door.as_deref();
        let mut command = std::process::Command::new(SHELL);
        match &self.fence {
            Some(fence) => {
                // bubblewrap ends what it fences when the thread that started bubblewrap ends: the shell has one.
                command.args(self.limits.shell(Stays::Yes, keep_pwd, door));
                command.args(fence.command_line()).arg(&self.program);
            }
            None if self.limits.are_none() && door.is_none() => {
                command = std::process::Command::new(&self.program);
            }
            None => {
                let path = self.env.get(OsStr::new("PATH"));
                let path = path.map_or(OsStr::new(DEFAULT_PATH), |path| path);
                let program = find_program(&self.program, path)
                    .ok_or_else(|| StartError::of(&self.program, Errno::NOENT.into()))?;
                command.args(self.limits.shell(Stays::No, keep_pwd, door));
                command.arg(program);
            }
        }
        command.args(&self.args);
        Ok(command)
    }
}

impl From<Stream> for Stdio {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Null => Self::null(),
            Stream::Piped => Self::piped(),
            Stream::Inherit => Self::inherit(),
        }
    }
}

/// Where a program is: a path is taken as it is, a name is looked for in the absolute folders of this `PATH`.
pub fn find_program(program: impl AsRef<OsStr>, path: impl AsRef<OsStr>) -> Option<PathBuf> {
    let program = Path::new(program.as_ref());
    if program.components().count() > 1 || program.is_absolute() {
        return program.is_file().then(|| program.to_owned());
    }
    std::env::split_paths(path.as_ref())
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(|program| program.is_file())
}
