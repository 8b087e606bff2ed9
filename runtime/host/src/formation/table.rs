//! The table of an app's formation dynos, and every decision about them: pure, without a clock, a
//! guest or a task. The dispatcher tells it what happened and carries out the [`Effect`]s it asks for.
//!
//! Rules it holds:
//! - A slot is a place in the formation (`web.1`); at most one dyno of the current release is in it.
//! - A dyno of a singleton starts only when no other dyno of its process type is alive, of whatever
//!   release: the one place that starts dynos, [`Table::start_slot`] and [`super::rollout`], asks.
//! - At most one change (a rollout or a restart) is under way; the dispatcher queues the others.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use oarlock_spec::api::{DynoState, Formation};
use oarlock_spec::codes::DynoCode;
use oarlock_spec::names::{DynoName, ProcessType, ReleaseId};

use super::rollout::Change;
use crate::change::ChangeError;
use crate::web::PoolState;
use oarlock_process::{Backoff, RestartPolicy};

/// One dyno's whole life; never used again, unlike its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DynoId(pub(crate) u64);

/// One attempt to bring a release up; two attempts at one release differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Generation(pub(crate) u64);

/// How a process type's dynos are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Leased by the router.
    Web,
    /// Kept running.
    Worker,
    /// Kept running, never two at once.
    Singleton,
}

/// What a release wants of the formation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) generation: Generation,
    pub(crate) release: ReleaseId,
    /// The numbers of each type's dynos. Release and scheduled types are not in it.
    pub(crate) types: BTreeMap<ProcessType, (Role, BTreeSet<u32>)>,
}

impl Plan {
    /// The names of its dynos.
    pub(crate) fn names(&self) -> impl Iterator<Item = (DynoName, Role)> + '_ {
        self.types.iter().flat_map(|(process, (role, numbers))| {
            numbers.iter().map(move |index| {
                (
                    DynoName {
                        process: process.clone(),
                        index: *index,
                    },
                    *role,
                )
            })
        })
    }

    fn has(&self, name: &DynoName) -> bool {
        self.types
            .get(&name.process)
            .is_some_and(|(_, numbers)| numbers.contains(&name.index))
    }

    /// How many of each type it wants.
    pub(crate) fn formation(&self) -> Formation {
        let count = |numbers: &BTreeSet<u32>| u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        self.types
            .iter()
            .map(|(process, (_, numbers))| (process.clone(), count(numbers)))
            .collect()
    }

    /// Makes it want so many of each named type. Types that it does not have are ignored, and a singleton stays one.
    pub(crate) fn scale(&mut self, change: &Formation) {
        for (process, count) in change {
            match self.types.get_mut(process) {
                Some((Role::Singleton, numbers)) => resize(numbers, (*count).min(1)),
                Some((Role::Web | Role::Worker, numbers)) => resize(numbers, *count),
                None => {}
            }
        }
    }
}

/// The numbers of `count` dynos: the highest go first, the lowest that are free come first.
pub(crate) fn resize(numbers: &mut BTreeSet<u32>, count: u32) {
    let count = count as usize;
    while numbers.len() > count {
        numbers.pop_last();
    }
    let mut next = 1;
    while numbers.len() < count {
        numbers.insert(next);
        next += 1;
    }
}

/// How a dyno ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was told to.
    Stopped,
    /// It served as many requests as it was allowed to; another takes its place.
    Retired,
    /// By itself: a worker that exits is started again, whatever its code.
    Exited {
        /// 0, or what makes it a crash.
        code: u8,
        /// For an operator: what happened.
        reason: String,
    },
    /// It was not ready within `boot_timeout` (R10), or could not be started.
    NotStarted(String),
}

/// When something happened, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) mono: Instant,
    pub(crate) wall: Timestamp,
}

/// What the dispatcher is to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Start a dyno of this generation.
    Start {
        id: DynoId,
        name: DynoName,
        generation: Generation,
    },
    /// Give it the stop signal, and `stop_grace` to end.
    Stop { id: DynoId },
    /// The web dynos that can be leased have changed.
    Publish,
    /// The formation of this generation is the current one now.
    Current { generation: Generation },
    /// Call [`Table::wake`] with this name after a while.
    Wake {
        name: DynoName,
        timer: u64,
        after: Duration,
    },
    /// A line of `oarlock[web.1]`.
    Log { dyno: DynoName, message: String },
    /// A dyno's state has changed: another such line, and an event.
    State(StateChange),
    /// The restart under way is done; or a rollout is staged, and waits to be committed or undone.
    Done(Result<Vec<DynoName>, ChangeError>),
}

/// Of one dyno's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateChange {
    pub(crate) dyno: DynoName,
    pub(crate) release: ReleaseId,
    pub(crate) from: DynoState,
    pub(crate) to: DynoState,
    /// Why it ended, if it did and somebody said why.
    pub(crate) reason: Option<String>,
}

impl std::fmt::Display for StateChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (from, to) = (self.from.as_str(), self.to.as_str());
        write!(f, "State changed from {from} to {to}")
    }
}

impl Ended {
    /// What an operator is told of it.
    fn reason(&self) -> Option<&str> {
        match self {
            Self::Stopped | Self::Retired => None,
            Self::Exited { reason, .. } | Self::NotStarted(reason) => Some(reason),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Dyno {
    pub(crate) name: DynoName,
    pub(crate) generation: Generation,
    pub(crate) release: ReleaseId,
    pub(crate) role: Role,
    pub(crate) state: DynoState,
    pub(crate) since: Now,
}

#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) dyno: Option<DynoId>,
    pub(crate) restarts: u64,
    pub(crate) backoff: Backoff,
    /// In crash back-off: its timer and since when.
    pub(crate) waiting: Option<(u64, Timestamp)>,
}

/// A row of `ps`, as far as the table knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: Option<DynoId>,
    pub(crate) name: DynoName,
    pub(crate) state: DynoState,
    pub(crate) release: ReleaseId,
    pub(crate) since: Timestamp,
    pub(crate) restarts: u64,
}

/// See the module.
pub(crate) struct Table {
    pub(crate) policy: RestartPolicy,
    pub(crate) plan: Option<Plan>,
    pub(crate) slots: BTreeMap<DynoName, Slot>,
    pub(crate) dynos: BTreeMap<DynoId, Dyno>,
    pub(crate) change: Option<Change>,
    pub(crate) effects: Vec<Effect>,
    /// How many dynos of each generation are alive.
    alive: HashMap<Generation, usize>,
    /// Slots of singletons that start as soon as the dyno before them has ended.
    pub(crate) blocked: BTreeSet<DynoName>,
    closing: bool,
    last_id: u64,
    last_timer: u64,
    random: fn() -> f64,
}

impl Table {
    /// Empty. `random` gives numbers from 0 to 1 for the jitter.
    pub(crate) fn new(policy: RestartPolicy, random: fn() -> f64) -> Self {
        Self {
            policy,
            plan: None,
            slots: BTreeMap::new(),
            dynos: BTreeMap::new(),
            change: None,
            effects: Vec::new(),
            alive: HashMap::new(),
            blocked: BTreeSet::new(),
            closing: false,
            last_id: 0,
            last_timer: 0,
            random,
        }
    }

    /// What is to be done because of the calls since the last time.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Whether a rollout or restart is under way.
    pub(crate) fn is_changing(&self) -> bool {
        self.change.is_some()
    }

    /// Whether no dyno is alive.
    pub(crate) fn is_empty(&self) -> bool {
        self.dynos.is_empty()
    }

    /// Whether a dyno of this generation is alive or may yet be started.
    pub(crate) fn uses(&self, generation: Generation) -> bool {
        self.plan
            .as_ref()
            .is_some_and(|plan| plan.generation == generation)
            || self
                .change
                .as_ref()
                .is_some_and(|change| change.generation() == Some(generation))
            || self.alive.contains_key(&generation)
    }

    /// How many of each type are wanted.
    pub(crate) fn formation(&self) -> Formation {
        self.plan.as_ref().map(Plan::formation).unwrap_or_default()
    }

    /// The web dynos that can be leased, and what a request meets if there is none.
    pub(crate) fn web(&self) -> (Vec<DynoId>, PoolState) {
        let is_web = |name: &DynoName| matches!(self.role_of(&name.process), Some(Role::Web));
        let slots: Vec<_> = self
            .slots
            .iter()
            .filter(|(name, _)| is_web(name))
            .map(|(_, slot)| slot)
            .collect();
        let up = |id: &DynoId| {
            self.dynos
                .get(id)
                .is_some_and(|dyno| dyno.state == DynoState::Up)
        };
        let dynos = slots
            .iter()
            .filter_map(|slot| slot.dyno)
            .filter(up)
            .collect();
        let state = if slots.is_empty() {
            PoolState::NoDynos
        } else if slots.iter().all(|slot| slot.waiting.is_some()) {
            PoolState::Crashed
        } else {
            PoolState::Serving
        };
        (dynos, state)
    }

    /// The rows of `ps`, by name.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .dynos
            .iter()
            .map(|(id, dyno)| Row {
                id: Some(*id),
                name: dyno.name.clone(),
                state: dyno.state,
                release: dyno.release,
                since: dyno.since.wall,
                restarts: self.slots.get(&dyno.name).map_or(0, |slot| slot.restarts),
            })
            .collect();
        let release = self.plan.as_ref().map_or(ReleaseId(0), |plan| plan.release);
        rows.extend(self.slots.iter().filter_map(|(name, slot)| {
            let (_, since) = slot.waiting?;
            let (name, restarts) = (name.clone(), slot.restarts);
            Some(Row {
                id: None,
                name,
                state: DynoState::Crashed,
                release,
                since,
                restarts,
            })
        }));
        rows.sort_by(|a, b| a.name.cmp(&b.name).then(a.release.cmp(&b.release)));
        rows
    }

    /// Adds or ends exactly the difference, from the highest number down. The caller has checked
    /// the types; those the plan does not have are ignored.
    pub(crate) fn scale(&mut self, change: &Formation, now: Now) {
        let Some(plan) = &mut self.plan else { return };
        plan.scale(change);
        let surplus: Vec<DynoName> = self
            .slots
            .keys()
            .filter(|name| !plan.has(name))
            .rev()
            .cloned()
            .collect();
        let missing: Vec<DynoName> = plan
            .names()
            .map(|(name, _)| name)
            .filter(|name| !self.slots.contains_key(name))
            .collect();
        let web_leaves = surplus
            .iter()
            .any(|name| matches!(self.role_of(&name.process), Some(Role::Web)));
        let ended: Vec<DynoId> = surplus
            .iter()
            .filter_map(|name| self.slots.remove(name))
            .filter_map(|slot| slot.dyno)
            .collect();
        let added = !missing.is_empty();
        for name in missing {
            self.slots.insert(name.clone(), Slot::default());
            self.start_slot(&name, now);
        }
        if web_leaves || added {
            // First out of the pool, then stopped.
            self.effects.push(Effect::Publish);
        }
        for id in ended {
            self.stop(id, now);
        }
    }

    /// A dyno is ready.
    pub(crate) fn ready(&mut self, id: DynoId, now: Now) {
        let Some(dyno) = self
            .dynos
            .get_mut(&id)
            .filter(|dyno| dyno.state == DynoState::Starting)
        else {
            return;
        };
        (dyno.state, dyno.since) = (DynoState::Up, now);
        let (name, role, release) = (dyno.name.clone(), dyno.role, dyno.release);
        self.tell_state((&name, release), DynoState::Starting, DynoState::Up, None);
        if !self.change_ready(id, now) && role == Role::Web {
            self.effects.push(Effect::Publish);
        }
    }

    /// A dyno's guest is gone: nothing of it runs any more.
    pub(crate) fn ended(&mut self, id: DynoId, how: &Ended, now: Now) {
        let Some(dyno) = self.dynos.remove(&id) else {
            return;
        };
        if let Entry::Occupied(mut alive) = self.alive.entry(dyno.generation) {
            *alive.get_mut() -= 1;
            if *alive.get() == 0 {
                alive.remove();
            }
        }
        let by_itself = dyno.state != DynoState::Stopping;
        let to = if by_itself && *how != Ended::Retired {
            DynoState::Crashed
        } else {
            DynoState::Finished
        };
        self.tell_state((&dyno.name, dyno.release), dyno.state, to, how.reason());
        if !self.change_ended(id, how, now) && by_itself {
            self.slot_ended(id, &dyno, how, now);
        }
        self.start_unblocked(now);
        self.advance(now);
    }

    /// A timer asked for by [`Effect::Wake`] is over.
    pub(crate) fn wake(&mut self, name: &DynoName, timer: u64, now: Now) {
        if self
            .slots
            .get(name)
            .and_then(|slot| slot.waiting)
            .is_some_and(|(waiting, _)| waiting == timer)
        {
            self.start_slot(name, now);
        }
    }

    /// Ends the web dynos, or with `All` every dyno, for good.
    pub(crate) fn close(&mut self, which: Closing, now: Now) {
        self.closing = true;
        if self.change.take().is_some() {
            self.effects
                .push(Effect::Done(Err(ChangeError::ShuttingDown)));
        }
        self.slots.clear();
        self.blocked.clear();
        self.effects.push(Effect::Publish);
        let ids: Vec<DynoId> = self
            .dynos
            .iter()
            .filter(|(_, dyno)| which == Closing::All || dyno.role == Role::Web)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.stop(id, now);
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether a web dyno is alive.
    pub(crate) fn has_web(&self) -> bool {
        self.dynos.values().any(|dyno| dyno.role == Role::Web)
    }

    // What the rollout and the methods above share.

    pub(crate) fn role_of(&self, process: &ProcessType) -> Option<Role> {
        self.plan
            .as_ref()?
            .types
            .get(process)
            .map(|(role, _)| *role)
    }

    /// The slot that this dyno is in, if it is up.
    pub(crate) fn in_slot(&self, id: DynoId) -> Option<DynoName> {
        let dyno = self
            .dynos
            .get(&id)
            .filter(|dyno| dyno.state == DynoState::Up)?;
        let slot = self.slots.get(&dyno.name)?;
        (slot.dyno == Some(id)).then(|| dyno.name.clone())
    }

    /// Whether a dyno of this type is alive, of whatever release.
    pub(crate) fn is_alive(&self, process: &ProcessType) -> bool {
        self.dynos
            .values()
            .any(|dyno| dyno.name.process == *process)
    }

    /// Starts a dyno that is in no slot yet.
    pub(crate) fn start(
        &mut self,
        name: &DynoName,
        role: Role,
        of: (Generation, ReleaseId),
        now: Now,
    ) -> DynoId {
        debug_assert!(
            role != Role::Singleton || !self.is_alive(&name.process),
            "{name} would overlap itself"
        );
        self.last_id += 1;
        let id = DynoId(self.last_id);
        let (generation, release) = of;
        let dyno = Dyno {
            name: name.clone(),
            generation,
            release,
            role,
            state: DynoState::Starting,
            since: now,
        };
        self.dynos.insert(id, dyno);
        *self.alive.entry(generation).or_default() += 1;
        self.effects.push(Effect::Start {
            id,
            name: name.clone(),
            generation,
        });
        id
    }

    /// Starts a slot's dyno of the current release, now or, for a singleton, as soon as no other is alive.
    pub(crate) fn start_slot(&mut self, name: &DynoName, now: Now) {
        let Some((plan, role)) = self.plan.as_ref().zip(self.role_of(&name.process)) else {
            return;
        };
        let of = (plan.generation, plan.release);
        let blocked = role == Role::Singleton && self.is_alive(&name.process);
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        let had_crashed = slot.waiting.take().is_some();
        if blocked {
            self.blocked.insert(name.clone());
            return;
        }
        if had_crashed {
            let (from, to) = (DynoState::Crashed, DynoState::Starting);
            self.tell_state((name, of.1), from, to, None);
            if role == Role::Web {
                // Requests may wait for it again.
                self.effects.push(Effect::Publish);
            }
        }
        let id = self.start(name, role, of, now);
        if let Some(slot) = self.slots.get_mut(name) {
            slot.dyno = Some(id);
        }
    }

    /// Gives the stop signal, once.
    pub(crate) fn stop(&mut self, id: DynoId, now: Now) {
        let Some(dyno) = self
            .dynos
            .get_mut(&id)
            .filter(|dyno| dyno.state != DynoState::Stopping)
        else {
            return;
        };
        let from = std::mem::replace(&mut dyno.state, DynoState::Stopping);
        dyno.since = now;
        let (name, release) = (dyno.name.clone(), dyno.release);
        self.tell_state((&name, release), from, DynoState::Stopping, None);
        self.effects.push(Effect::Stop { id });
    }

    /// The dyno in a slot ended by itself: it is started again, at once or after a while.
    pub(crate) fn slot_ended(&mut self, id: DynoId, dyno: &Dyno, how: &Ended, now: Now) {
        if self.closing {
            return;
        }
        let Some(slot) = self
            .slots
            .get_mut(&dyno.name)
            .filter(|slot| slot.dyno == Some(id))
        else {
            return;
        };
        slot.dyno = None;
        slot.restarts += 1;
        let up_since = (dyno.state == DynoState::Up).then_some(dyno.since.mono);
        let wait = match how {
            Ended::Retired => Duration::ZERO,
            Ended::Stopped | Ended::Exited { .. } | Ended::NotStarted(_) => {
                slot.backoff
                    .crashed(&self.policy, up_since, now.mono, (self.random)())
            }
        };
        if wait.is_zero() {
            let from = if *how == Ended::Retired {
                DynoState::Finished
            } else {
                DynoState::Crashed
            };
            self.tell_state((&dyno.name, dyno.release), from, DynoState::Starting, None);
            self.start_slot(&dyno.name, now);
        } else {
            self.last_timer += 1;
            slot.waiting = Some((self.last_timer, now.wall));
            let (name, timer) = (dyno.name.clone(), self.last_timer);
            let message = format!("Restarting in {} ms", wait.as_millis());
            self.effects.push(Effect::Log {
                dyno: name.clone(),
                message,
            });
            self.effects.push(Effect::Wake {
                name,
                timer,
                after: wait,
            });
        }
        if dyno.role == Role::Web {
            self.effects.push(Effect::Publish);
        }
    }

    fn start_unblocked(&mut self, now: Now) {
        for name in std::mem::take(&mut self.blocked) {
            self.start_slot(&name, now);
        }
    }

    fn tell_state(
        &mut self,
        (dyno, release): (&DynoName, ReleaseId),
        from: DynoState,
        to: DynoState,
        reason: Option<&str>,
    ) {
        self.effects.push(Effect::State(StateChange {
            dyno: dyno.clone(),
            release,
            from,
            to,
            reason: reason.map(str::to_owned),
        }));
    }
}

/// What [`Table::close`] ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    /// The web dynos; the others are not started again when they end.
    Web,
    /// All.
    All,
}

/// `Error R12 (Exit timeout)`, as the log prints a dyno code.
pub(crate) fn error_line(code: DynoCode) -> String {
    format!("Error {code} ({})", code.description())
}
