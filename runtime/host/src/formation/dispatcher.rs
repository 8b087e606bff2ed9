//! One task per app that owns the table of its dynos; everything else sends it messages.
//!
//! It carries out what [`Table`] decides: starts and stops dyno tasks, publishes web dynos to the
//! router, keeps timers, fires scheduled processes. It runs on the control runtime, never on a
//! core, and never waits for a guest. Changes (releases, scaling, restarts) are made one after the
//! other; those that wait are bounded by [`WAITING_CHANGES`].

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;
use oarlock_sandbox::Meter;
use oarlock_spec::api::{DynoRow, Formation, LogSource};
use oarlock_spec::names::DynoName;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::time::DelayQueue;

use super::app::{HostShared, HostedApp};
use super::clock::Clock;
use super::cron::Schedules;
use super::dyno::{News, Signal, Task};
use super::job::{Job, JobError, Jobs, Purpose, Started};
use super::prepare::{Kind, Prepared};
use super::table::{Closing, DynoId, Effect, Ended, Generation, Now, Table};
use crate::apply::ApplyError;
use crate::change::ChangeError;
use crate::events::Event;
use crate::web::{RequestLimits, WebDyno};
use oarlock_process::RestartPolicy;

/// Changes that wait for the one under way.
const WAITING_CHANGES: usize = 32;
/// News of dynos under way to a dispatcher; above it a dyno's task waits.
const NEWS: usize = 256;
/// What a turn hears at most; messages from outside wait for its end. With many web dynos it is one part in
/// [`TURN_SHARE`] of these: the router's list is made anew after each turn, and so costs each dyno that comes the same,
/// however many are there.
const TURN: usize = 64;
const TURN_SHARE: usize = 8;

/// What a dispatcher is asked.
pub(crate) enum Message {
    /// A release is about to be staged: what is scaled from here on holds for it too. The formation as it is.
    Begin(oneshot::Sender<Formation>),
    /// Boot this release beside the current one; answered when it only needs to be committed.
    Stage(Arc<Prepared>, oneshot::Sender<Staging>),
    /// Make the staged one current.
    Commit(Generation, oneshot::Sender<Result<(), ChangeError>>),
    /// Give the staged one up, or one that is being staged.
    Undo(Generation),
    /// Change the formation of the named types; the whole formation.
    Scale(Formation, oneshot::Sender<Result<Formation, ChangeError>>),
    /// Restart a dyno, a type or all; their names.
    Restart(
        Option<String>,
        oneshot::Sender<Result<Vec<DynoName>, ChangeError>>,
    ),
    /// The formation wanted.
    Formation(oneshot::Sender<Formation>),
    /// The rows of `ps`.
    Rows(oneshot::Sender<Vec<DynoRow>>),
    /// Start a dyno that is not of the formation.
    Job(Box<Job>, oneshot::Sender<Result<Started, JobError>>),
    /// End dynos for good; answered when they have ended. After `OneOffs` the dispatcher is gone.
    End(Ending, oneshot::Sender<()>),
}

/// A release that boots: what it is called, and when it is ready or why it is not.
pub(crate) struct Staging {
    pub(crate) generation: Generation,
    pub(crate) ready: oneshot::Receiver<Result<(), ChangeError>>,
}

/// The stages of a shutdown, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Web dynos. From here on nothing is started any more.
    Web,
    /// Workers, singletons, scheduled dynos and release phases.
    Others,
    /// One-off dynos.
    OneOffs,
}

/// A change that waits for its turn.
enum Change {
    Stage(
        Generation,
        Arc<Prepared>,
        oneshot::Sender<Result<(), ChangeError>>,
    ),
    Scale(Formation, oneshot::Sender<Result<Formation, ChangeError>>),
    Restart(
        Option<String>,
        oneshot::Sender<Result<Vec<DynoName>, ChangeError>>,
    ),
}

impl Change {
    /// Whoever asked may have gone.
    fn refuse(self, error: ChangeError) {
        match self {
            Self::Stage(_, _, reply) => drop(reply.send(Err(error))),
            Self::Scale(_, reply) => drop(reply.send(Err(error))),
            Self::Restart(_, reply) => drop(reply.send(Err(error))),
        }
    }
}

/// Who waits for the change under way.
enum Waiting {
    Stage(oneshot::Sender<Result<(), ChangeError>>),
    Restart(oneshot::Sender<Result<Vec<DynoName>, ChangeError>>),
}

pub(super) struct Live {
    signals: watch::Sender<Signal>,
    pub(super) meter: Arc<Meter>,
    pub(super) web: Option<Arc<WebDyno>>,
}

/// See the module.
pub(crate) struct Dispatcher {
    pub(super) app: Arc<HostedApp>,
    pub(super) shared: Arc<HostShared>,
    pub(super) table: Table,
    generations: BTreeMap<Generation, Arc<Prepared>>,
    last_generation: u64,
    pub(super) live: HashMap<DynoId, Live>,
    tasks: JoinSet<Ended>,
    ids: HashMap<tokio::task::Id, DynoId>,
    pub(super) news: mpsc::Sender<News>,
    told: mpsc::Receiver<News>,
    timers: DelayQueue<(DynoName, u64)>,
    changes: VecDeque<Change>,
    /// Dynos whose instances are worn out: the oldest first, one after the other, when no change is under way.
    worn_out: BTreeSet<DynoId>,
    waiting: Option<Waiting>,
    /// What was scaled since [`Message::Begin`].
    scaled: Formation,
    pub(super) jobs: Jobs,
    pub(super) cron: Schedules,
    pub(super) cron_version: u64,
    endings: Vec<(Ending, oneshot::Sender<()>)>,
    routed: bool,
    /// How many web dynos the router's list had last.
    published: usize,
    over: bool,
}

impl Dispatcher {
    /// For an app that has no release yet; `cron` knows what an earlier host did.
    pub(crate) fn new(app: Arc<HostedApp>, shared: Arc<HostShared>, cron: Schedules) -> Self {
        let (news, told) = mpsc::channel(NEWS);
        Self {
            app,
            shared,
            table: Table::new(RestartPolicy::default(), rand::random::<f64>),
            generations: BTreeMap::new(),
            last_generation: 0,
            live: HashMap::new(),
            tasks: JoinSet::new(),
            ids: HashMap::new(),
            news,
            told,
            timers: DelayQueue::new(),
            changes: VecDeque::new(),
            worn_out: BTreeSet::new(),
            waiting: None,
            scaled: Formation::new(),
            jobs: Jobs::new(),
            cron,
            cron_version: 0,
            endings: Vec::new(),
            routed: false,
            published: 0,
            over: false,
        }
    }

    /// Until [`Ending::OneOffs`] was answered. A turn hears what dynos have told by now before it carries out what follows
    /// from it, so that the router's list is made once for all of it.
    pub(crate) async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let clock = Arc::clone(&self.shared.clock);
        while !self.over {
            let due = self.cron.next();
            // What a dyno told before it ended is heard before its end.
            tokio::select! {
                biased;
                Some(news) = self.told.recv() => self.hear(news),
                Some(joined) = self.tasks.join_next_with_id() => self.has_ended(joined),
                Some(ended) = self.jobs.join() => self.job_ended(ended),
                Some(timer) = self.timers.next() => {
                    let (name, timer) = timer.into_inner();
                    let now = self.now();
                    self.table.wake(&name, timer, now);
                }
                () = until(&*clock, due) => self.fire(),
                message = messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
            }
            self.hear_more().await;
            self.carry_out();
            self.replace_worn_out();
            self.answer_endings();
        }
    }

    /// The tasks of dynos run on the same thread: they are let on to tell what they have to tell, as long as more comes.
    async fn hear_more(&mut self) {
        let mut left = TURN.max(self.published / TURN_SHARE);
        loop {
            tokio::task::yield_now().await;
            let before = left;
            while left > 0 && self.hear_next() {
                left -= 1;
            }
            if left == 0 || left == before {
                return;
            }
        }
    }

    /// What a dyno has told or how it has ended, if there is anything of it by now.
    fn hear_next(&mut self) -> bool {
        if let Ok(news) = self.told.try_recv() {
            self.hear(news);
        } else if let Some(joined) = self.tasks.try_join_next_with_id() {
            self.has_ended(joined);
        } else {
            return false;
        }
        true
    }

    pub(super) fn now(&self) -> Now {
        Now {
            mono: std::time::Instant::now(),
            wall: self.shared.clock.now(),
        }
    }

    fn take(&mut self, message: Message) {
        let change = match message {
            Message::Begin(reply) => {
                self.scaled.clear();
                return drop(reply.send(self.table.formation()));
            }
            Message::Stage(prepared, reply) => {
                self.last_generation += 1;
                let generation = Generation(self.last_generation);
                let (done, ready) = oneshot::channel();
                let staging = Staging { generation, ready };
                if reply.send(staging).is_err() {
                    return; // Given up before it began.
                }
                Change::Stage(generation, prepared, done)
            }
            Message::Commit(generation, reply) => {
                return drop(reply.send(self.commit(generation)));
            }
            Message::Undo(generation) => return self.undo(generation),
            Message::Scale(formation, reply) => Change::Scale(formation, reply),
            Message::Restart(target, reply) => Change::Restart(target, reply),
            // Whoever asked and went away does not need the answer.
            Message::Formation(reply) => return drop(reply.send(self.table.formation())),
            Message::Rows(reply) => return drop(reply.send(self.rows())),
            Message::Job(what, reply) => {
                return drop(reply.send(self.start_job(*what)));
            }
            Message::End(what, reply) => return self.end(what, reply),
        };
        if self.table.is_closing() {
            return change.refuse(ChangeError::ShuttingDown);
        }
        if self.changes.len() >= WAITING_CHANGES {
            return change.refuse(ChangeError::Busy {
                waiting: WAITING_CHANGES,
            });
        }
        self.changes.push_back(change);
        self.next_change();
    }

    fn commit(&mut self, generation: Generation) -> Result<(), ChangeError> {
        let is_first = self.app.current.load().is_none();
        let now = self.now();
        self.table.commit(generation, now)?;
        // Whoever hears it may send a request at once: the router must know before.
        self.carry_out_effects();
        let current = self.app.current.load();
        if let Some(release) = current.as_ref().map(|release| release.release) {
            let app = self.app.name.clone();
            self.shared.events.tell(if is_first {
                Event::AppAdded { app, release }
            } else {
                Event::AppReleased { app, release }
            });
        }
        Ok(())
    }

    fn undo(&mut self, generation: Generation) {
        self.changes.retain(
            |change| !matches!(change, Change::Stage(waiting, ..) if *waiting == generation),
        );
        let now = self.now();
        // One that still boots has somebody who waits for it, and tells that it failed.
        let was_staged = self.waiting.is_none();
        if !self.table.undo(generation, now) {
            return;
        }
        self.waiting = None;
        if let Some(release) = self.generations.get(&generation)
            && was_staged
        {
            self.shared.events.tell(Event::ReleaseFailed {
                app: self.app.name.clone(),
                release: release.release,
                reason: ApplyError::GivenUp.to_string(),
            });
        }
    }

    fn next_change(&mut self) {
        while !self.table.is_changing() {
            let Some(change) = self.changes.pop_front() else {
                return;
            };
            let now = self.now();
            match change {
                Change::Stage(generation, prepared, reply) => {
                    let mut plan = prepared.plan(generation);
                    if !self.scaled.is_empty() {
                        plan.scale(&self.scaled);
                        // That was checked beside the process types of the release before.
                        if let Err(refused) = self.check_plan(&plan, &prepared) {
                            drop(reply.send(Err(refused)));
                            continue;
                        }
                    }
                    self.generations.insert(generation, prepared);
                    self.waiting = Some(Waiting::Stage(reply));
                    self.table.roll_out(plan, now);
                }
                Change::Scale(formation, reply) => {
                    let result = self.check_scale(&formation);
                    if result.is_ok() {
                        self.table.scale(&formation, now);
                        self.scaled.extend(formation);
                    }
                    let answer = result.map(|()| self.table.formation());
                    // Whoever hears it may send a request at once: the router must know before.
                    self.carry_out_effects();
                    drop(reply.send(answer));
                }
                Change::Restart(target, reply) => match self.named(target) {
                    Ok(names) => {
                        self.waiting = Some(Waiting::Restart(reply));
                        self.table.restart(names, now);
                    }
                    Err(refused) => drop(reply.send(Err(refused))),
                },
            }
            self.carry_out();
        }
    }

    /// Does what the table asks for, and then the next change, if there is one and it may begin.
    fn carry_out(&mut self) {
        self.carry_out_effects();
        let before = self.generations.len();
        self.generations
            .retain(|generation, _| self.table.uses(*generation));
        if self.generations.len() < before {
            self.revoke_detached();
        }
        if !self.changes.is_empty() && !self.table.is_changing() {
            self.next_change();
        }
    }

    /// Does what the table asks for, until it asks for nothing more. Web dynos are published once, at the first place
    /// where that is asked for: the list is made of the table as it is by now.
    fn carry_out_effects(&mut self) {
        loop {
            let effects = self.table.take_effects();
            if effects.is_empty() {
                break;
            }
            let mut published = false;
            for effect in effects {
                match effect {
                    Effect::Start {
                        id,
                        name,
                        generation,
                    } => self.start(id, name, generation),
                    Effect::Stop { id } => {
                        if let Some(live) = self.live.get(&id) {
                            live.signals.send_replace(Signal::Stop);
                        }
                    }
                    Effect::Publish if published => {}
                    Effect::Publish => {
                        self.publish();
                        published = true;
                    }
                    Effect::Current { generation } => {
                        self.make_current(generation);
                        // The limits of its web process are to be published too.
                        published = false;
                    }
                    Effect::Wake { name, timer, after } => {
                        self.timers.insert((name, timer), after);
                    }
                    Effect::Log { dyno, message } => self.remark(&dyno.to_string(), &message),
                    Effect::State(change) => {
                        self.remark(&change.dyno.to_string(), &change.to_string());
                        self.shared.events.state(&self.app.name, change);
                    }
                    Effect::Done(result) => self.done(result),
                }
            }
        }
    }

    pub(super) fn remark(&self, dyno: &str, message: &str) {
        self.app.log.write(LogSource::Oarlock, dyno, message);
    }

    fn done(&mut self, result: Result<Vec<DynoName>, ChangeError>) {
        match self.waiting.take() {
            Some(Waiting::Stage(reply)) => drop(reply.send(result.map(|_| ()))),
            Some(Waiting::Restart(reply)) => drop(reply.send(result)),
            None => {}
        }
    }

    fn start(&mut self, id: DynoId, name: DynoName, generation: Generation) {
        let release = self.generations.get(&generation);
        if let Some(release) = release {
            let number = release.release;
            self.shared.events.starting(&self.app.name, &name, number);
        }
        let process = release.and_then(|release| release.processes.get(&name.process));
        let started = process.cloned().map(|process| {
            let sandbox = process.sandbox(&name, &self.app);
            (process, sandbox)
        });
        let (process, sandbox) = match started {
            Some((process, Ok(sandbox))) => (process, sandbox),
            Some((_, Err(error))) => return self.not_started(id, &name, error.to_string()),
            None => return self.not_started(id, &name, "its release is gone".into()),
        };
        let (signals, told) = watch::channel(Signal::Wait);
        let meter = sandbox.meter();
        let task = Task {
            id,
            name,
            log: self.app.log.clone(),
            signals: told,
            news: self.news.clone(),
            boot_timeout: process.limits.boot_timeout,
            stop_grace: process.limits.stop_grace,
            command: process.command,
        };
        let cores = self.shared.cores.clone();
        let handle = match process.kind {
            Kind::WebFresh { capacity } => {
                self.tasks.spawn(task.web_fresh(cores, sandbox, capacity))
            }
            Kind::WebLive { capacity } => self.tasks.spawn(task.web_live(cores, sandbox, capacity)),
            Kind::WebListening { capacity } => self
                .tasks
                .spawn(task.web_listening(cores, sandbox, capacity)),
            Kind::Command(_) | Kind::Job => self.tasks.spawn(task.command(cores, sandbox)),
        };
        self.ids.insert(handle.id(), id);
        signals.send_replace(Signal::Go);
        self.live.insert(
            id,
            Live {
                signals,
                meter,
                web: None,
            },
        );
    }

    fn not_started(&mut self, id: DynoId, name: &DynoName, reason: String) {
        self.remark(
            &name.to_string(),
            &format!("The process could not be started: {reason}"),
        );
        let handle = self.tasks.spawn(async move { Ended::NotStarted(reason) });
        self.ids.insert(handle.id(), id);
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Ready { id, web } => self.is_ready(id, web),
            News::WornOut { id } => drop(self.worn_out.insert(id)),
        }
    }

    fn is_ready(&mut self, id: DynoId, web: Option<Arc<WebDyno>>) {
        if Jobs::has(id) {
            if let Some(change) = self.jobs.is_ready(id, self.shared.clock.now()) {
                self.shared.events.state(&self.app.name, change);
            }
            return;
        }
        if let Some(live) = self.live.get_mut(&id) {
            live.web = web;
        }
        let now = self.now();
        self.table.ready(id, now);
    }

    /// Replaces the next worn_out dyno, if nobody waits for another change.
    fn replace_worn_out(&mut self) {
        while !self.table.is_changing() && self.changes.is_empty() {
            let Some(id) = self.worn_out.pop_first() else {
                return;
            };
            if let Some(name) = self.table.in_slot(id) {
                let now = self.now();
                self.table.restart([name], now);
                self.carry_out();
            }
        }
    }

    fn has_ended(&mut self, joined: Result<(tokio::task::Id, Ended), tokio::task::JoinError>) {
        let (task, how) = match joined {
            Ok((task, how)) => (task, how),
            Err(error) => (
                error.id(),
                Ended::Exited {
                    code: 1,
                    reason: format!("the host's task for it failed: {error}"),
                },
            ),
        };
        let Some(id) = self.ids.remove(&task) else {
            return;
        };
        self.live.remove(&id);
        let now = self.now();
        self.table.ended(id, &how, now);
    }

    fn publish(&mut self) {
        let (ids, state) = self.table.web();
        let dynos: Vec<_> = ids
            .iter()
            .filter_map(|id| self.live.get(id)?.web.clone())
            .collect();
        self.published = dynos.len();
        let release = self.app.current.load();
        // Before the first release serves, requests wait for it: this list would send them away.
        if release.is_none() {
            return;
        }
        let web = release
            .iter()
            .find_map(|release| release.processes.iter().find(|(name, _)| name.is_web()));
        let limits = web
            .map(|(_, process)| process.limits.clone())
            .unwrap_or_default();
        self.app
            .pool
            .publish(dynos, state, RequestLimits::from(&limits));
        if !self.routed && !self.table.is_closing() {
            self.routed = true;
            self.shared
                .router
                .add(&self.app.name, Arc::clone(&self.app.pool));
        }
    }

    fn make_current(&mut self, generation: Generation) {
        let Some(release) = self.generations.get(&generation).cloned() else {
            return;
        };
        let schedules = release
            .manifest
            .processes
            .iter()
            .filter_map(|(name, process)| Some((name, process.schedule.as_ref()?)));
        if let Err(error) = self.cron.set(schedules, self.shared.clock.now()) {
            self.remark("scheduler", &error.to_string());
        }
        self.app.current.store(Some(release));
        self.remember_cron();
    }

    fn end(&mut self, what: Ending, reply: oneshot::Sender<()>) {
        self.cron = Schedules::default();
        let now = self.now();
        match what {
            Ending::Web => {
                self.table.close(Closing::Web, now);
                for change in std::mem::take(&mut self.changes) {
                    change.refuse(ChangeError::ShuttingDown);
                }
            }
            Ending::Others => {
                self.table.close(Closing::All, now);
                self.jobs.stop(|purpose| purpose != Purpose::OneOff);
            }
            Ending::OneOffs => self.jobs.stop(|_| true),
        }
        self.endings.push((what, reply));
    }

    fn answer_endings(&mut self) {
        let (table, jobs) = (&self.table, &self.jobs);
        let ended = |what| match what {
            Ending::Web => !table.has_web(),
            Ending::Others => table.is_empty() && !jobs.any(|purpose| purpose != Purpose::OneOff),
            Ending::OneOffs => table.is_empty() && !jobs.any(|_| true),
        };
        for (what, reply) in std::mem::take(&mut self.endings) {
            if !ended(what) {
                self.endings.push((what, reply));
                continue;
            }
            self.over |= what == Ending::OneOffs;
            // Whoever asked may have gone.
            let _gone = reply.send(()).is_err();
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.table.is_closing()
    }
}

async fn until(clock: &dyn Clock, due: Option<Timestamp>) {
    match due {
        Some(due) => clock.sleep_until(due).await,
        None => std::future::pending().await,
    }
}
