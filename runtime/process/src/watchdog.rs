//! The guard against orphans.
//!
//! A watchdog is a shell that leads a process group and reads our end of a pipe. The child joins that group. When the pipe
//! closes, because the host ended, however it ended, the watchdog kills the child and the group.
//!
//! The parent-death signal of Linux would not do: it goes by the thread that started the child, and is cleared when the child
//! changes its user. The pipe knows no threads, and the watchdog keeps the host's user.
//!
//! As long as the watchdog is not reaped, its id, which is the group's, cannot be another's. So a group is never killed by an
//! id that was given back. The system closes our end in a forked child only when that child has joined the group and runs its
//! program, so that the watchdog cannot look too early.

use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal};

/// How long the shell may take until it guards (5 s): on a loaded machine it takes milliseconds. Then the start fails.
const READY: Duration = Duration::from_secs(5);

/// The first line is the child's id: it may have left the group. The second never comes. Signals are for the group's others.
const SCRIPT: &str = r#"trap '' HUP INT QUIT TERM USR1 USR2 ALRM PIPE TSTP TTIN TTOU
echo; exec >&-
read -r child; read -r end
[ -z "$child" ] || kill -KILL "$child"
kill -KILL 0"#;

/// A process group with its guard, and nobody else in it at first. Whoever has it kills and reaps it.
#[derive(Debug)]
pub(crate) struct Watchdog {
    shell: Child,
    line: Option<ChildStdin>,
    group: Pid,
}

impl Watchdog {
    /// Blocks for a few milliseconds.
    pub(crate) fn start() -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT])
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let group = pid(&shell)?;
        let (line, ready) = (shell.stdin.take(), shell.stdout.take());
        let mut watchdog = Self { shell, line, group };
        let ready = ready.ok_or(io::ErrorKind::BrokenPipe)?;
        if !readable(&ready, Some(READY))? || rustix::io::read(&ready, &mut [0_u8])? == 0 {
            watchdog.kill();
            watchdog.reap();
            return Err(io::Error::other("the shell that guards it does not run"));
        }
        Ok(watchdog)
    }

    pub(crate) fn group(&self) -> Pid {
        self.group
    }

    /// Ends this child as well, whatever group it is in by then.
    pub(crate) fn guard(&mut self, child: Pid) {
        if let Some(line) = &mut self.line {
            // Fails only if somebody killed the watchdog.
            let _ = writeln!(line, "{}", child.as_raw_nonzero());
        }
    }

    /// To all of the group but the watchdog, which ignores it.
    pub(crate) fn signal(&self, signal: Signal) {
        // Fails only if nothing of it is left.
        let _ = rustix::process::kill_process_group(self.group, signal);
    }

    /// Ends the group, and the watchdog with it.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Gives the group's id back. Blocks until the watchdog ended: [`kill`](Self::kill) it before.
    pub(crate) fn reap(&mut self) {
        self.line = None;
        drop(self.shell.wait());
    }
}

/// The id of a child that was not reaped.
pub(crate) fn pid(child: &Child) -> io::Result<Pid> {
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    id.ok_or_else(|| io::Error::other("the system gave it no id"))
}

/// Whether this can be read (a pipe: bytes or its end; a process: its end) before the time is over. Blocks.
pub(crate) fn readable(fd: &impl AsFd, within: Option<Duration>) -> io::Result<bool> {
    let until = within.and_then(|within| Instant::now().checked_add(within));
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        match rustix::event::poll(&mut [PollFd::new(fd, PollFlags::IN)], timeout.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
