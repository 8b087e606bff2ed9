//! Dynos that are not of the formation: one-off, scheduled and release dynos. Each runs once.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cap_std::fs::Dir;
use jiff::Timestamp;
use oarlock_sandbox::{Exit, Meter, Output, Sandbox, Stdin};
use oarlock_spec::api::{DynoRow, DynoState, LogSource};
use oarlock_spec::names::{DynoName, ProcessType, ReleaseId};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::cron::{CronMemory, Due};
use super::dispatcher::Dispatcher;
use super::dyno::{RunEnd, Signal, Task, reason as exit_reason, start_command};
use super::prepare::{PreparedProcess, SandboxError, release_phase_limit};
use super::table::{DynoId, StateChange};
use crate::cores::Cores;

/// One-off dynos of one app at once.
pub(crate) const MOST_ONE_OFFS: usize = 32;
/// Their numbers, so that they look like nothing in the formation.
const NUMBERS: std::ops::RangeInclusive<u32> = 1_000..=9_999;
/// Their ids are from here up, the formation's from 1 up.
const FIRST_ID: u64 = 1 << 63;
/// What a later host needs to know of the schedules.
const CRON_FILE: &str = "cron.json";

/// What a dyno outside of the formation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    OneOff,
    Scheduled,
    Release,
}

/// One to start.
pub(crate) struct Job {
    pub(crate) purpose: Purpose,
    /// The first part of its name.
    pub(crate) named: ProcessType,
    pub(crate) process: PreparedProcess,
    pub(crate) release: ReleaseId,
    pub(crate) extra_args: Vec<String>,
    pub(crate) stdin: Stdin,
    pub(crate) output: Output,
}

/// One under way. Dropping `signals` does not end it.
pub(crate) struct Started {
    pub(crate) name: DynoName,
    pub(crate) signals: watch::Sender<Signal>,
    pub(crate) end: oneshot::Receiver<RunEnd>,
}

/// Why one was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    #[error(
        "{MOST_ONE_OFFS} one-off dynos of this app run already; wait for one to end, or stop one"
    )]
    TooMany,
    #[error("the app is being stopped")]
    Closing,
    #[error(transparent)]
    Start(#[from] SandboxError),
}

struct Entry {
    id: DynoId,
    purpose: Purpose,
    release: ReleaseId,
    state: DynoState,
    since: Timestamp,
    signals: watch::Sender<Signal>,
    meter: Arc<Meter>,
    process: PreparedProcess,
}

/// Those under way; the dispatcher's.
pub(crate) struct Jobs {
    entries: BTreeMap<DynoName, Entry>,
    /// Each says at its end what changed, if it was started.
    tasks: JoinSet<Option<StateChange>>,
    names: BTreeMap<tokio::task::Id, DynoName>,
    last_id: u64,
}

impl Jobs {
    pub(crate) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            tasks: JoinSet::new(),
            names: BTreeMap::new(),
            last_id: FIRST_ID,
        }
    }

    /// The next that ended; `None`: there is none.
    pub(crate) async fn join(&mut self) -> Option<(DynoName, Option<StateChange>)> {
        let (task, change) = match self.tasks.join_next_with_id().await? {
            Ok(ended) => ended,
            Err(error) => (error.id(), None),
        };
        Some((self.names.remove(&task)?, change))
    }

    /// Whether this is one of them.
    pub(crate) fn has(id: DynoId) -> bool {
        id.0 >= FIRST_ID
    }

    /// One of them is up.
    pub(crate) fn is_ready(&mut self, id: DynoId, now: Timestamp) -> Option<StateChange> {
        let mut entries = self.entries.iter_mut();
        let (name, entry) = entries.find(|(_, entry)| entry.id == id)?;
        let from = std::mem::replace(&mut entry.state, DynoState::Up);
        entry.since = now;
        Some(StateChange {
            dyno: name.clone(),
            release: entry.release,
            from,
            to: DynoState::Up,
            reason: None,
        })
    }

    pub(crate) fn any(&self, which: impl Fn(Purpose) -> bool) -> bool {
        self.entries.values().any(|entry| which(entry.purpose))
    }

    pub(crate) fn stop(&self, which: impl Fn(Purpose) -> bool) {
        for entry in self.entries.values().filter(|entry| which(entry.purpose)) {
            entry.signals.send_replace(Signal::Stop);
        }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = DynoRow> + '_ {
        self.entries.iter().map(|(name, entry)| DynoRow {
            dyno: name.clone(),
            process: name.process.clone(),
            state: if *entry.signals.borrow() == Signal::Stop {
                DynoState::Stopping
            } else {
                entry.state
            },
            release: entry.release,
            since: entry.since,
            restarts: 0,
            cpu_ms: entry.meter.cpu_nanos() / 1_000_000,
            memory_bytes: entry.meter.memory_bytes(),
            requests: 0,
        })
    }

    /// A name that no other has.
    fn free_name(&self, process: &ProcessType) -> DynoName {
        loop {
            let name = DynoName {
                process: process.clone(),
                index: rand::random_range(NUMBERS),
            };
            // There are far fewer dynos than numbers.
            if !self.entries.contains_key(&name) {
                return name;
            }
        }
    }

    fn of(&self, process: &ProcessType, purpose: Purpose) -> Option<&DynoName> {
        self.entries
            .iter()
            .find(|(name, e)| name.process == *process && e.purpose == purpose)
            .map(|(name, _)| name)
    }
}

impl Dispatcher {
    pub(super) fn start_job(&mut self, what: Job) -> Result<Started, JobError> {
        if self.is_closing() {
            return Err(JobError::Closing);
        }
        let one_offs = self
            .jobs
            .entries
            .values()
            .filter(|entry| entry.purpose == Purpose::OneOff)
            .count();
        if what.purpose == Purpose::OneOff && one_offs >= MOST_ONE_OFFS {
            return Err(JobError::TooMany);
        }
        let name = self.jobs.free_name(&what.named);
        let sandbox = what.process.sandbox(&name, &self.app)?;
        let (signals, told) = watch::channel(Signal::Wait);
        self.jobs.last_id += 1;
        let id = DynoId(self.jobs.last_id);
        let entry = Entry {
            id,
            purpose: what.purpose,
            release: what.release,
            state: DynoState::Starting,
            since: self.shared.clock.now(),
            signals: signals.clone(),
            meter: sandbox.meter(),
            process: what.process.clone(),
        };
        let mut command = what.process.command.clone();
        for arg in &what.extra_args {
            command.push(' ');
            command.push_str(arg);
        }
        let task = Task {
            id,
            name: name.clone(),
            log: self.app.log.clone(),
            signals: told,
            news: self.news.clone(),
            boot_timeout: what.process.limits.boot_timeout,
            stop_grace: what.process.limits.stop_grace,
            command,
        };
        let (end_tx, end) = oneshot::channel();
        let run = Run {
            release: what.release,
            sandbox,
            stdin: what.stdin,
            output: what.output,
            extra_args: what.extra_args,
            limit: (what.purpose == Purpose::Release)
                .then(|| release_phase_limit(&self.shared.config.policy)),
        };
        let handle = self
            .jobs
            .tasks
            .spawn(run_once(task, self.shared.cores.clone(), run, end_tx));
        self.jobs.names.insert(handle.id(), name.clone());
        self.jobs.entries.insert(name.clone(), entry);
        let events = &self.shared.events;
        events.starting(&self.app.name, &name, what.release);
        signals.send_replace(Signal::Go);
        Ok(Started { name, signals, end })
    }

    /// These dynos outlive their release. What a later one's manifest detached they lose once the release's other
    /// dynos have ended, and with them everything else that its grants opened.
    pub(super) fn revoke_detached(&self) {
        let Some(current) = self.app.current.load_full() else {
            return;
        };
        let outlived = |entry: &&Entry| entry.release < current.release;
        for entry in self.jobs.entries.values().filter(outlived) {
            entry.process.revoke_detached(&current);
        }
    }

    pub(super) fn job_ended(&mut self, (name, change): (DynoName, Option<StateChange>)) {
        self.jobs.entries.remove(&name);
        if let Some(change) = change {
            self.shared.events.state(&self.app.name, change);
        }
    }

    /// Starts what is due.
    pub(super) fn fire(&mut self) {
        let due = self.cron.due(self.shared.clock.now());
        if due.is_empty() {
            return;
        }
        for due in due {
            match due {
                Due::Missed { process, count, last } => self.remark(
                    "scheduler",
                    &format!(
                        "{count} runs of `{process}` were missed while the host was down (the last was due at {last}); \
                         they are not made up for"
                    ),
                ),
                Due::Run { process, at } => self.start_scheduled(&process, at),
            }
        }
        self.remember_cron();
    }

    fn start_scheduled(&mut self, process: &ProcessType, at: Timestamp) {
        if let Some(running) = self.jobs.of(process, Purpose::Scheduled) {
            let message = format!(
                "The run of `{process}` that was due at {at} is skipped: {running} is still running"
            );
            return self.remark("scheduler", &message);
        }
        let Some(release) = self.app.current.load_full() else {
            return;
        };
        let Some(prepared) = release.processes.get(process).cloned() else {
            return;
        };
        let job = Job {
            purpose: Purpose::Scheduled,
            named: process.clone(),
            process: prepared,
            release: release.release,
            extra_args: Vec::new(),
            stdin: Stdin::Ended,
            output: Output::Log,
        };
        if let Err(error) = self.start_job(job) {
            self.remark(
                "scheduler",
                &format!("`{process}`, due at {at}, could not be started: {error}"),
            );
        }
    }

    /// Writes down what a later host must know of the schedules, on a blocking thread. Of two
    /// writes that meet, the older one gives way.
    pub(super) fn remember_cron(&mut self) {
        self.cron_version += 1;
        let (app, memory, version) = (
            Arc::clone(&self.app),
            self.cron.memory().clone(),
            self.cron_version,
        );
        tokio::task::spawn_blocking(move || {
            let mut written = app
                .cron_written
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if *written >= version {
                return;
            }
            *written = version;
            let stored = app.open_data().and_then(|data| write_cron(&data, &memory));
            if let Err(error) = stored {
                let message =
                    format!("what was scheduled could not be written to {CRON_FILE}: {error}");
                app.log.write(LogSource::Oarlock, "scheduler", &message);
            }
        });
    }
}

/// Whole or not at all: written beside it and renamed.
fn write_cron(data: &Dir, memory: &CronMemory) -> std::io::Result<()> {
    let beside = format!("{CRON_FILE}.new");
    data.write(&beside, serde_json::to_vec(memory)?)?;
    data.rename(&beside, data, CRON_FILE)
}

/// What an earlier host wrote; nothing if there is nothing to be read.
pub(crate) fn read_cron(data: &Dir) -> CronMemory {
    data.read(CRON_FILE)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

struct Run {
    release: ReleaseId,
    sandbox: Sandbox,
    stdin: Stdin,
    output: Output,
    extra_args: Vec<String>,
    /// How long it may run; `None`: as long as it likes.
    limit: Option<Duration>,
}

async fn run_once(
    mut task: Task,
    cores: Cores,
    run: Run,
    end: oneshot::Sender<RunEnd>,
) -> Option<StateChange> {
    if !task.may_start().await {
        return None;
    }
    task.remark(&format!("Starting process with command `{}`", task.command));
    let io = (run.stdin, run.output);
    let ended = match start_command((&cores, cores.assign()), run.sandbox, io, run.extra_args).await
    {
        Some(running) => task.supervise(running, run.limit).await,
        None => RunEnd {
            exit: Exit::Killed,
            told: true,
            late: false,
            settled: false,
        },
    };
    let from = if ended.settled {
        DynoState::Up
    } else {
        DynoState::Starting
    };
    let to = if ended.exit == Exit::Code(0) {
        DynoState::Finished
    } else {
        DynoState::Crashed
    };
    let change = StateChange {
        dyno: task.name.clone(),
        release: run.release,
        from,
        to,
        reason: (to == DynoState::Crashed).then(|| exit_reason(&ended.exit)),
    };
    task.remark(&change.to_string());
    // A caller that went away does not need to know.
    drop(end.send(ended));
    Some(change)
}
