//! A child that runs.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal};
use tokio::sync::watch;

use crate::exit::Exit;
use crate::lines::Lines;
use crate::watchdog::{Watchdog, pid, readable};

/// A running child with its process group. Dropped, it ends, with all of its group.
#[derive(Debug)]
pub struct Child {
    /// Taken by whoever sees to the end.
    running: Option<Running>,
    /// Readable when the child has ended.
    ended: OwnedFd,
    /// Closed then, by a thread that is made when somebody first waits in a task.
    told: OnceLock<watch::Receiver<()>>,
    id: u32,
    /// Where the child reads from, if it is [`Piped`](crate::Stream::Piped).
    pub stdin: Option<ChildStdin>,
    /// Where it writes to, likewise.
    pub stdout: Option<ChildStdout>,
    /// Its errors, likewise.
    pub stderr: Option<ChildStderr>,
}

#[derive(Debug)]
struct Running {
    child: std::process::Child,
    watchdog: Watchdog,
}

impl Running {
    fn kill(&mut self) {
        self.watchdog.kill();
        // It may have left the group. Fails only if it has ended.
        let _ = self.child.kill();
    }

    /// Blocks until both have ended. What is left of the group is killed before its id is given back.
    fn reap(&mut self) -> io::Result<Exit> {
        let status = self.child.wait();
        self.watchdog.reap();
        status.map(Exit::from)
    }
}

impl Child {
    pub(crate) fn start(
        command: &mut std::process::Command,
        mut watchdog: Watchdog,
    ) -> io::Result<Self> {
        let spawned = command.spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                watchdog.kill();
                watchdog.reap();
                return Err(error);
            }
        };
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let id = child.id();
        let mut running = Running { child, watchdog };
        let opened = pid(&running.child).and_then(|pid| {
            running.watchdog.guard(pid);
            Ok(rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?)
        });
        match opened {
            Ok(ended) => Ok(Self {
                running: Some(running),
                ended,
                told: OnceLock::new(),
                id,
                stdin,
                stdout,
                stderr,
            }),
            Err(error) => {
                running.kill();
                drop(running.reap());
                Err(error)
            }
        }
    }

    /// The first process's id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What it writes to its piped output and errors, line by line. Needs tokio's runtime.
    ///
    /// # Errors
    ///
    /// If the runtime cannot watch the pipes.
    pub fn lines(&mut self) -> io::Result<Lines> {
        Lines::of(self.stdout.take(), self.stderr.take())
    }

    /// When the first process has ended; [`end`](Self::end) says how. Can be dropped and asked again.
    ///
    /// # Errors
    ///
    /// If the system has no thread or descriptor left to watch it.
    pub async fn ended(&self) -> io::Result<()> {
        let told = match self.told.get() {
            Some(told) => told,
            None => {
                let told = tell_end(self.ended.try_clone()?)?;
                self.told.get_or_init(|| told)
            }
        };
        // The thread says nothing else: it is gone.
        let _ = told.clone().changed().await;
        Ok(())
    }

    /// Whether the first process ends within this time. Blocks.
    ///
    /// # Errors
    ///
    /// If the system cannot say.
    pub fn ended_within(&self, time: Duration) -> io::Result<bool> {
        readable(&self.ended, Some(time))
    }

    /// Ends at once what has not ended yet, with all of the group, and says how the first process ended. Blocks until the
    /// kernel has ended it: no time if it had ended.
    ///
    /// # Errors
    ///
    /// If somebody else took the child's status.
    pub fn end(mut self) -> io::Result<Exit> {
        match self.running.take() {
            Some(mut running) => {
                running.kill();
                running.reap()
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Asks all of the group to end (SIGTERM), and ends it when the first process has ended or after `grace`. A fence has no
    /// grace: bubblewrap hands no signal on.
    ///
    /// # Errors
    ///
    /// As [`end`](Self::end).
    pub async fn stop(mut self, grace: Duration) -> io::Result<Exit> {
        self.stdin = None;
        if let Some(running) = &self.running {
            running.watchdog.signal(Signal::TERM);
        }
        // In time or not: what is left ends now.
        let _ = tokio::time::timeout(grace, self.ended()).await;
        let ending = tokio::task::spawn_blocking(move || self.end()).await;
        ending.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
    }
}

/// A thread, because tokio's way to watch a descriptor of one's own is `unsafe`.
fn tell_end(ended: OwnedFd) -> io::Result<watch::Receiver<()>> {
    let (tell, told) = watch::channel(());
    let name = thread::Builder::new().name("child-wait".to_owned());
    name.spawn(move || {
        // Who asks then how it ended learns what was wrong.
        drop(readable(&ended, None));
        drop(tell);
    })?;
    Ok(told)
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        running.kill();
        // The kernel may take its time (memory to free, a disk that hangs), and who drops may be a task. Without a thread
        // the two stay zombies.
        let _ = thread::Builder::new()
            .name("child-end".to_owned())
            .spawn(move || running.reap());
    }
}
