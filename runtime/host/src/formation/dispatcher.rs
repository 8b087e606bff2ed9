//! One task per app that owns the table of its dynos; everything else sends it messages.
//!
//! It carries out what [`Table`] decides: starts and stops dyno tasks, publishes web dynos to the
//! router, keeps timers, fires scheduled processes. It runs on the control runtime, never on a
//! core, and never waits for a guest. Changes (releases, scaling, restarts) are made one after the
//! other; those that wait are bounded by [`WAITING_CHANGES`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;
use oarlock_sandbox::Meter;
use oarlock_spec::api::{DynoRow, Formation, LogSource};
use oarlock_spec::names::DynoName;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::time::DelayQueue;

use super::app::{App, Shared};
use super::clock::Clock;
use super::cron::Schedules;
use super::dyno::{News, Task, Word};
use super::occasional::{Occasional, OccasionalError, Occasionals, Purpose, Started};
use super::prepare::{Kind, Prepared};
use super::table::{ChangeError, Closing, DynoId, Effect, Ended, Generation, Now, Table};
use crate::web::{RequestLimits, WebDyno};
use oarlock_process::RestartPolicy;

/// Changes that wait for the one under way.
const WAITING_CHANGES: usize = 32;
/// News of dynos under way to a dispatcher; above it a dyno's task waits.
const NEWS: usize = 256;

/// What a dispatcher is asked.
pub(crate) enum Message {
    /// Make this release the current one.
    RollOut(Arc<Prepared>, oneshot::Sender<Result<(), ChangeError>>),
    /// Change the formation of the named types; the whole formation, or a message for the user.
    Scale(Formation, oneshot::Sender<Result<Formation, String>>),
    /// Restart a dyno, a type or all; their names, or a message for the user.
    Restart(
        Option<String>,
        oneshot::Sender<Result<Vec<DynoName>, String>>,
    ),
    /// The formation wanted.
    Formation(oneshot::Sender<Formation>),
    /// The rows of `ps`.
    Rows(oneshot::Sender<Vec<DynoRow>>),
    /// Start a dyno that is not of the formation.
    Occasional(
        Box<Occasional>,
        oneshot::Sender<Result<Started, OccasionalError>>,
    ),
    /// End dynos for good; answered when they have ended. After `OneOffs` the dispatcher is gone.
    End(Ending, oneshot::Sender<()>),
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
    RollOut(Arc<Prepared>, oneshot::Sender<Result<(), ChangeError>>),
    Scale(Formation, oneshot::Sender<Result<Formation, String>>),
    Restart(
        Option<String>,
        oneshot::Sender<Result<Vec<DynoName>, String>>,
    ),
}

/// Who waits for the change under way.
enum Waiting {
    RollOut(oneshot::Sender<Result<(), ChangeError>>),
    Restart(oneshot::Sender<Result<Vec<DynoName>, String>>),
}

pub(super) struct Live {
    words: watch::Sender<Word>,
    pub(super) meter: Arc<Meter>,
    pub(super) web: Option<Arc<WebDyno>>,
}

/// See the module.
pub(crate) struct Dispatcher {
    pub(super) app: Arc<App>,
    pub(super) shared: Arc<Shared>,
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
    /// Worn dynos to be replaced, one after the other, when no change is under way; each is here once.
    worn: VecDeque<DynoId>,
    waiting: Option<Waiting>,
    pub(super) occasionals: Occasionals,
    pub(super) cron: Schedules,
    pub(super) cron_version: u64,
    endings: Vec<(Ending, oneshot::Sender<()>)>,
    routed: bool,
    over: bool,
}

impl Dispatcher {
    /// For an app that has no release yet; `cron` knows what an earlier host did.
    pub(crate) fn new(app: Arc<App>, shared: Arc<Shared>, cron: Schedules) -> Self {
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
            worn: VecDeque::new(),
            waiting: None,
            occasionals: Occasionals::new(),
            cron,
            cron_version: 0,
            endings: Vec::new(),
            routed: false,
            over: false,
        }
    }

    /// Until [`Ending::OneOffs`] was answered.
    pub(crate) async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let clock = Arc::clone(&self.shared.clock);
        while !self.over {
            let due = self.cron.next();
            // What a dyno told before it ended is heard before its end.
            tokio::select! {
                biased;
                Some(news) = self.told.recv() => self.hear(news),
                Some(joined) = self.tasks.join_next_with_id() => self.has_ended(joined),
                Some(ended) = self.occasionals.join() => self.occasional_ended(ended),
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
            self.carry_out();
            self.replace_worn();
            self.answer_endings();
        }
    }

    pub(super) fn now(&self) -> Now {
        Now {
            mono: std::time::Instant::now(),
            wall: self.shared.clock.now(),
        }
    }

    fn take(&mut self, message: Message) {
        let change = match message {
            Message::RollOut(prepared, reply) => Change::RollOut(prepared, reply),
            Message::Scale(formation, reply) => Change::Scale(formation, reply),
            Message::Restart(target, reply) => Change::Restart(target, reply),
            // Whoever asked and went away does not need the answer.
            Message::Formation(reply) => return drop(reply.send(self.table.formation())),
            Message::Rows(reply) => return drop(reply.send(self.rows())),
            Message::Occasional(what, reply) => {
                return drop(reply.send(self.start_occasional(*what)));
            }
            Message::End(what, reply) => return self.end(what, reply),
        };
        if self.changes.len() < WAITING_CHANGES {
            self.changes.push_back(change);
            return self.next_change();
        }
        let full = format!(
            "{WAITING_CHANGES} changes of this app wait already; try again when they are made"
        );
        match change {
            Change::RollOut(_, reply) => drop(reply.send(Err(ChangeError::Closing))),
            Change::Scale(_, reply) => drop(reply.send(Err(full))),
            Change::Restart(_, reply) => drop(reply.send(Err(full))),
        }
    }

    fn next_change(&mut self) {
        while !self.table.is_changing() {
            let Some(change) = self.changes.pop_front() else {
                return;
            };
            let now = self.now();
            match change {
                Change::RollOut(prepared, reply) => {
                    self.last_generation += 1;
                    let generation = Generation(self.last_generation);
                    let plan = prepared.plan(generation);
                    self.generations.insert(generation, prepared);
                    self.waiting = Some(Waiting::RollOut(reply));
                    self.table.roll_out(plan, now);
                }
                Change::Scale(formation, reply) => {
                    let result = self.check_scale(&formation);
                    if result.is_ok() {
                        self.table.scale(&formation, now);
                    }
                    let answer = result.map(|()| self.table.formation());
                    // Whoever hears it may send a request at once: the router must know before.
                    self.carry_out_effects();
                    drop(reply.send(answer));
                }
                Change::Restart(target, reply) => match self.named(target.as_deref()) {
                    Ok(names) => {
                        self.waiting = Some(Waiting::Restart(reply));
                        self.table.restart(names, now);
                    }
                    Err(message) => drop(reply.send(Err(message))),
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

    /// Does what the table asks for, until it asks for nothing more.
    fn carry_out_effects(&mut self) {
        loop {
            let effects = self.table.take_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                match effect {
                    Effect::Start {
                        id,
                        name,
                        generation,
                    } => self.start(id, name, generation),
                    Effect::Stop { id } => {
                        if let Some(live) = self.live.get(&id) {
                            live.words.send_replace(Word::Stop);
                        }
                    }
                    Effect::Publish => self.publish(),
                    Effect::Current { generation } => self.make_current(generation),
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
            Some(Waiting::RollOut(reply)) => drop(reply.send(result.map(|_| ()))),
            Some(Waiting::Restart(reply)) => {
                drop(reply.send(result.map_err(|error| error.to_string())))
            }
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
        let (words, told) = watch::channel(Word::Wait);
        let meter = sandbox.meter();
        let task = Task {
            id,
            name,
            log: self.app.log.clone(),
            words: told,
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
            Kind::Command(_) | Kind::Occasional => self.tasks.spawn(task.command(cores, sandbox)),
        };
        self.ids.insert(handle.id(), id);
        words.send_replace(Word::Go);
        self.live.insert(
            id,
            Live {
                words,
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
            News::Worn { id } if !self.worn.contains(&id) => self.worn.push_back(id),
            News::Worn { .. } => {}
        }
    }

    fn is_ready(&mut self, id: DynoId, web: Option<Arc<WebDyno>>) {
        if Occasionals::has(id) {
            if let Some(change) = self.occasionals.is_ready(id, self.shared.clock.now()) {
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

    /// Replaces the next worn dyno, if nobody waits for another change.
    fn replace_worn(&mut self) {
        while !self.table.is_changing() && self.changes.is_empty() {
            let Some(id) = self.worn.pop_front() else {
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
        let dynos = ids
            .iter()
            .filter_map(|id| self.live.get(id)?.web.clone())
            .collect();
        let release = self.app.current.load();
        let web = release
            .iter()
            .find_map(|release| release.processes.iter().find(|(name, _)| name.is_web()));
        let limits = web
            .map(|(_, process)| process.limits.clone())
            .unwrap_or_default();
        let limits = RequestLimits {
            queue: limits.queue,
            timeout: limits.timeout,
            idle_timeout: limits.idle_timeout,
            boot_timeout: limits.boot_timeout,
            request_body: limits.request_body,
            header: limits.header,
            after_response: limits.after_response,
        };
        self.app.pool.publish(dynos, state, limits);
        if release.is_some() && !self.routed && !self.table.is_closing() {
            self.routed = true;
            self.shared
                .router
                .add(self.app.name.clone(), Arc::clone(&self.app.pool));
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
                    let message = || ChangeError::Closing.to_string();
                    match change {
                        Change::RollOut(_, reply) => drop(reply.send(Err(ChangeError::Closing))),
                        Change::Scale(_, reply) => drop(reply.send(Err(message()))),
                        Change::Restart(_, reply) => drop(reply.send(Err(message()))),
                    }
                }
            }
            Ending::Others => {
                self.table.close(Closing::All, now);
                self.occasionals.stop(|purpose| purpose != Purpose::OneOff);
            }
            Ending::OneOffs => self.occasionals.stop(|_| true),
        }
        self.endings.push((what, reply));
    }

    fn answer_endings(&mut self) {
        let (table, occasionals) = (&self.table, &self.occasionals);
        let ended = |what| match what {
            Ending::Web => !table.has_web(),
            Ending::Others => {
                table.is_empty() && !occasionals.any(|purpose| purpose != Purpose::OneOff)
            }
            Ending::OneOffs => table.is_empty() && !occasionals.any(|_| true),
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
