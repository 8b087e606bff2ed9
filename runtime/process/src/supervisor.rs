//! Keeps one command running: what ends by itself is started again, by the back-off of a formation.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backoff::{Backoff, RestartPolicy};
use crate::child::Child;
use crate::command::{Command, StartError};
use crate::exit::Exit;
use crate::lines::{IN_FLIGHT, Lines};

/// How long lines may come after the child has ended (2 s): something outside of its group keeps its pipes open.
const OUTPUT_GRACE: Duration = Duration::from_secs(2);

/// When a command is started again.
#[derive(Debug, Clone, Copy)]
pub struct Restart {
    /// The waits.
    pub policy: RestartPolicy,
    /// From 0 to 1, for their jitter.
    pub random: fn() -> f64,
}

/// What a [`Supervisor`] tells, in order.
#[derive(Debug)]
pub enum Event {
    /// It runs, as this process.
    Started(u32),
    /// It said a line.
    Line(String),
    /// It ended by itself, and is started again after `wait`.
    Ended {
        /// How.
        exit: Exit,
        /// From now.
        wait: Duration,
    },
    /// It could not be started, or was lost; it is tried again after `wait`.
    Failed {
        /// Why.
        error: StartError,
        /// From now.
        wait: Duration,
    },
}

/// A command that is kept running. Dropped, it ends at once.
#[derive(Debug)]
pub struct Supervisor {
    stop: Option<oneshot::Sender<Duration>>,
    task: JoinHandle<Option<Exit>>,
}

impl Supervisor {
    /// Starts it, in a task of tokio's. Events are bounded: when [`IN_FLIGHT`] wait, so does the child. When nobody receives
    /// them any more, the child ends.
    pub fn start(command: Command, restart: Restart) -> (Self, mpsc::Receiver<Event>) {
        let (tell, told) = mpsc::channel(IN_FLIGHT);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(keep(command, restart, tell, stopped));
        let stop = Some(stop);
        (Self { stop, task }, told)
    }

    /// Ends it as [`Child::stop`] does, and says how it ended; `None`: it did not run.
    pub async fn stop(mut self, grace: Duration) -> Option<Exit> {
        if let Some(stop) = self.stop.take() {
            // Fails only if it has ended.
            let _ = stop.send(grace);
        }
        (&mut self.task).await.ok().flatten()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(
    command: Command,
    restart: Restart,
    tell: mpsc::Sender<Event>,
    mut stop: oneshot::Receiver<Duration>,
) -> Option<Exit> {
    let mut backoff = Backoff::default();
    loop {
        let (up_since, ended) = match command.start_async().await {
            Ok(child) => {
                let up_since = Instant::now();
                let told = run(child, &tell, &mut stop).await;
                match told {
                    Run::Ended(exit) => (Some(up_since), Ok(exit)),
                    Run::Stopped(exit) => return exit,
                    Run::Lost(source) => (Some(up_since), Err(command.lost(source))),
                }
            }
            Err(error) => (None, Err(error)),
        };
        let now = Instant::now();
        let up_since = up_since.map(Instant::into_std);
        let wait = backoff.crashed(
            &restart.policy,
            up_since,
            now.into_std(),
            (restart.random)(),
        );
        let event = match ended {
            Ok(exit) => Event::Ended { exit, wait },
            Err(error) => Event::Failed { error, wait },
        };
        tokio::select! {
            sent = tell.send(event) => sent.ok()?,
            _ = &mut stop => return None,
        }
        tokio::select! {
            () = tokio::time::sleep_until(now + wait) => {}
            () = tell.closed() => return None,
            _ = &mut stop => return None,
        }
    }
}

/// One life of the command.
enum Run {
    Ended(Exit),
    Stopped(Option<Exit>),
    Lost(std::io::Error),
}

async fn run(
    mut child: Child,
    tell: &mpsc::Sender<Event>,
    stop: &mut oneshot::Receiver<Duration>,
) -> Run {
    let mut lines = match child.lines() {
        Ok(lines) => lines,
        Err(error) => return Run::Lost(error),
    };
    let mut first = Some(Event::Started(child.id()));
    let listening = async {
        pass_on(&mut first, &mut lines, tell).await;
        // The child may have closed its output and go on.
        tell.closed().await;
    };
    tokio::select! {
        biased;
        grace = &mut *stop => {
            // Who dropped its end drops the task too.
            let grace = grace.unwrap_or_default();
            return Run::Stopped(stop_heard(child, lines, tell, grace).await);
        }
        () = listening => return Run::Stopped(child.end().ok()),
        ended = child.ended() => {
            if let Err(error) = ended {
                return Run::Lost(error);
            }
        }
    }
    // It has ended: this takes no time, and ends what it left behind.
    let exit = child.end();
    let rest = tokio::time::timeout(OUTPUT_GRACE, pass_on(&mut first, &mut lines, tell));
    tokio::select! {
        _ = rest => {}
        _ = stop => return Run::Stopped(exit.ok()),
    }
    match exit {
        Ok(exit) => Run::Ended(exit),
        Err(error) => Run::Lost(error),
    }
}

/// Until there are no more lines, or nobody hears them. Dropped, it has lost none.
async fn pass_on(first: &mut Option<Event>, lines: &mut Lines, tell: &mpsc::Sender<Event>) {
    while let Ok(place) = tell.reserve().await {
        match first.take() {
            Some(event) => place.send(event),
            None => match lines.next().await {
                Some(line) => place.send(Event::Line(line)),
                None => return,
            },
        }
    }
}

/// Reads what it says meanwhile, or it could not end. Who waits for the stop may not read on: what finds no place is dropped.
async fn stop_heard(
    child: Child,
    mut lines: Lines,
    tell: &mpsc::Sender<Event>,
    grace: Duration,
) -> Option<Exit> {
    let hear = async {
        while let Some(line) = lines.next().await {
            let _ = tell.try_send(Event::Line(line));
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        exit = child.stop(grace) => exit.ok(),
        () = hear => None,
    }
}
