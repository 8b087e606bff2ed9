//! Replacing dynos: a new release's, or a restart's.
//!
//! **Rollout.** All dynos of the new release but its singletons are started beside the old ones.
//! Once they are ready, each singleton's old dyno is stopped and, when it has ended, the new one
//! started. Once these are ready the rollout is staged: it waits for [`Table::commit`] or
//! [`Table::undo`]. The commit gives the new dynos the places and the router the new web dynos, and
//! stops the old ones. Until that moment anything that fails, and an undo, ends the new dynos and
//! starts the old release's singletons again; no old web dyno or worker was touched. A singleton
//! that has no dyno yet (a first start, a new type) starts with the others.
//!
//! **Restart.** One dyno after the other: the new one is ready before the old one is told to stop,
//! but for singletons, where the old one has ended before.

use std::collections::{BTreeMap, HashMap, VecDeque};

use oarlock_spec::api::DynoState;
use oarlock_spec::names::{DynoName, ReleaseId};

use super::table::{DynoId, Effect, Ended, Generation, Now, Plan, Role, Slot, Table};
use crate::change::ChangeError;

/// The one change under way.
#[derive(Debug)]
pub(crate) enum Change {
    Rollout(Rollout),
    Restart(Restart),
}

impl Change {
    /// The generation it brings, if it brings one.
    pub(crate) fn generation(&self) -> Option<Generation> {
        match self {
            Self::Rollout(rollout) => Some(rollout.plan.generation),
            Self::Restart(_) => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Rollout {
    plan: Plan,
    incoming: BTreeMap<DynoName, Incoming>,
    /// The names of those that were started.
    names: HashMap<DynoId, DynoName>,
    /// How many of these are not ready yet.
    booting: usize,
    /// Singletons that wait for the end of the dynos they replace.
    later: Vec<DynoName>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// All but the singletons that replace one boot.
    Others,
    /// The singletons are exchanged.
    Singletons,
    /// All are ready.
    Staged,
}

#[derive(Debug)]
struct Incoming {
    role: Role,
    /// `None`: it is one of [`Rollout::later`].
    id: Option<DynoId>,
    ready: bool,
    /// It was ready, and then ended before its release became current.
    ended: Option<Ended>,
}

#[derive(Debug)]
pub(crate) struct Restart {
    /// Still to do.
    queue: VecDeque<DynoName>,
    /// Under way: the new dyno, once it was started.
    current: Option<(DynoName, Option<DynoId>)>,
    done: Vec<DynoName>,
}

impl Table {
    /// Starts a rollout. The caller has seen that no change is under way.
    pub(crate) fn roll_out(&mut self, plan: Plan, now: Now) {
        if self.is_closing() {
            self.effects
                .push(Effect::Done(Err(ChangeError::ShuttingDown)));
            return;
        }
        let mut rollout = Rollout {
            incoming: BTreeMap::new(),
            names: HashMap::new(),
            booting: 0,
            later: Vec::new(),
            stage: Stage::Others,
            plan,
        };
        let wanted: Vec<_> = rollout.plan.names().collect();
        for (name, role) in wanted {
            rollout.incoming.insert(
                name.clone(),
                Incoming {
                    role,
                    id: None,
                    ready: false,
                    ended: None,
                },
            );
            if role == Role::Singleton && self.occupied(&name) {
                rollout.later.push(name);
            } else {
                self.start_incoming(&mut rollout, &name, now);
            }
        }
        self.change = Some(Change::Rollout(rollout));
        self.advance(now);
    }

    fn start_incoming(&mut self, rollout: &mut Rollout, name: &DynoName, now: Now) {
        let of = (rollout.plan.generation, rollout.plan.release);
        let Some(incoming) = rollout.incoming.get_mut(name) else {
            return;
        };
        let id = self.start(name, incoming.role, of, now);
        incoming.id = Some(id);
        rollout.names.insert(id, name.clone());
        rollout.booting += 1;
    }

    /// Gives the dynos of this staged rollout the places of those before them. It may be gone: the app is being stopped.
    pub(crate) fn commit(&mut self, generation: Generation, now: Now) -> Result<(), ChangeError> {
        match self.change.take() {
            Some(Change::Rollout(rollout))
                if rollout.plan.generation == generation && rollout.stage == Stage::Staged =>
            {
                self.take_over(rollout, now);
                Ok(())
            }
            other => {
                self.change = other;
                Err(ChangeError::ShuttingDown)
            }
        }
    }

    /// Brings back what was there before this rollout, staged or not; `false`: it is not under way.
    pub(crate) fn undo(&mut self, generation: Generation, now: Now) -> bool {
        match self.change.take() {
            Some(Change::Rollout(rollout)) if rollout.plan.generation == generation => {
                self.roll_back(rollout, now);
                true
            }
            other => {
                self.change = other;
                false
            }
        }
    }

    /// Starts a restart of these dynos. The caller has seen that no change is under way.
    pub(crate) fn restart(&mut self, names: impl IntoIterator<Item = DynoName>, now: Now) {
        if self.is_closing() {
            self.effects
                .push(Effect::Done(Err(ChangeError::ShuttingDown)));
            return;
        }
        let restart = Restart {
            queue: names.into_iter().collect(),
            current: None,
            done: Vec::new(),
        };
        self.change = Some(Change::Restart(restart));
        self.advance(now);
    }

    /// Whether a singleton's place is taken: a dyno of its type is alive, or its slot wants one.
    fn occupied(&self, name: &DynoName) -> bool {
        self.is_alive(&name.process) || self.slots.keys().any(|slot| slot.process == name.process)
    }

    /// A dyno became ready; whether it is the change's.
    pub(crate) fn change_ready(&mut self, id: DynoId, now: Now) -> bool {
        let ours = match &mut self.change {
            Some(Change::Rollout(rollout)) => match rollout.find(id) {
                Some((_, incoming)) if !incoming.ready => {
                    incoming.ready = true;
                    rollout.booting -= 1;
                    true
                }
                Some(_) => true,
                None => false,
            },
            Some(Change::Restart(restart)) if restart.is_current(id) => {
                self.restarted(id, now);
                true
            }
            Some(Change::Restart(_)) | None => false,
        };
        if ours {
            self.advance(now);
        }
        ours
    }

    /// A dyno ended; whether the change has dealt with it.
    pub(crate) fn change_ended(&mut self, id: DynoId, how: &Ended, now: Now) -> bool {
        match &mut self.change {
            Some(Change::Rollout(rollout)) => {
                let (generation, release) = (rollout.plan.generation, rollout.plan.release);
                let Some((name, incoming)) = rollout.find(id) else {
                    return false;
                };
                if incoming.ready {
                    incoming.ended = Some(how.clone());
                } else {
                    let error = boot_error(name.clone(), release, how);
                    self.undo(generation, now);
                    self.effects.push(Effect::Done(Err(error)));
                }
                true
            }
            Some(Change::Restart(restart)) if restart.is_current(id) => {
                let name = restart.current.take().map(|(name, _)| name);
                self.change = None;
                let release = self.plan.as_ref().map_or(ReleaseId(0), |plan| plan.release);
                if let Some(name) = name {
                    self.effects
                        .push(Effect::Done(Err(boot_error(name, release, how))));
                }
                // In a slot (a singleton's, or one that had crashed) it goes on as after a crash.
                false
            }
            Some(Change::Restart(_)) | None => false,
        }
    }

    /// Takes the change as far as it can go now.
    pub(crate) fn advance(&mut self, now: Now) {
        match self.change.take() {
            Some(Change::Rollout(rollout)) => self.advance_rollout(rollout, now),
            Some(Change::Restart(restart)) => self.advance_restart(restart, now),
            None => {}
        }
    }

    fn advance_rollout(&mut self, mut rollout: Rollout, now: Now) {
        if rollout.stage == Stage::Others && rollout.booting == 0 {
            rollout.stage = Stage::Singletons;
            for name in &rollout.later {
                self.vacate(name, now);
            }
        }
        if rollout.stage == Stage::Singletons {
            for name in std::mem::take(&mut rollout.later) {
                if self.is_alive(&name.process) {
                    rollout.later.push(name);
                } else {
                    self.start_incoming(&mut rollout, &name, now);
                }
            }
            if rollout.booting == 0 && rollout.later.is_empty() {
                rollout.stage = Stage::Staged;
                self.effects.push(Effect::Done(Ok(Vec::new())));
            }
        }
        self.change = Some(Change::Rollout(rollout));
    }

    /// Empties the slots of a singleton's type; they stay, for the case that the new one fails.
    fn vacate(&mut self, name: &DynoName, now: Now) {
        let mut ids = Vec::new();
        for (slot_name, slot) in self
            .slots
            .iter_mut()
            .filter(|(slot, _)| slot.process == name.process)
        {
            slot.waiting = None;
            self.blocked.remove(slot_name);
            ids.extend(slot.dyno.take());
        }
        for id in ids {
            self.stop(id, now);
        }
    }

    /// The new dynos take the places.
    fn take_over(&mut self, rollout: Rollout, now: Now) {
        self.blocked.clear();
        let old: Vec<DynoId> = std::mem::take(&mut self.slots)
            .into_values()
            .filter_map(|slot| slot.dyno)
            .collect();
        let generation = rollout.plan.generation;
        let release = rollout.plan.release;
        self.plan = Some(rollout.plan);
        let mut ended = Vec::new();
        for (name, incoming) in rollout.incoming {
            if let (Some(id), Some(how)) = (incoming.id, incoming.ended) {
                ended.push((id, name.clone(), incoming.role, how));
            }
            self.slots.insert(
                name,
                Slot {
                    dyno: incoming.id,
                    ..Slot::default()
                },
            );
        }
        self.effects.push(Effect::Current { generation });
        self.effects.push(Effect::Publish);
        for id in old {
            self.stop(id, now);
        }
        for (id, name, role, how) in ended {
            let dyno = super::table::Dyno {
                name,
                generation,
                release,
                role,
                state: DynoState::Starting,
                since: now,
            };
            self.slot_ended(id, &dyno, &how, now);
        }
    }

    /// Ends the new dynos; the old release's singletons start again.
    fn roll_back(&mut self, rollout: Rollout, now: Now) {
        for id in rollout.incoming.values().filter_map(|incoming| incoming.id) {
            self.stop(id, now);
        }
        let empty: Vec<DynoName> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.dyno.is_none() && slot.waiting.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        for name in empty {
            self.start_slot(&name, now);
        }
    }

    fn advance_restart(&mut self, mut restart: Restart, now: Now) {
        while restart.current.is_none() {
            let Some(name) = restart.queue.pop_front() else {
                self.effects.push(Effect::Done(Ok(restart.done)));
                return;
            };
            // The formation may have lost it meanwhile.
            if self.slots.contains_key(&name) {
                let id = self.replace(&name, now);
                restart.current = Some((name, id));
            }
        }
        if let Some((name, id @ None)) = &mut restart.current {
            // The singleton's slot starts by itself when the old dyno has ended.
            *id = self.slots.get(name).and_then(|slot| slot.dyno);
        }
        self.change = Some(Change::Restart(restart));
    }

    /// Starts what replaces a slot's dyno, or stops the old one first where it must be so.
    fn replace(&mut self, name: &DynoName, now: Now) -> Option<DynoId> {
        let (role, plan) = (self.role_of(&name.process)?, self.plan.as_ref()?);
        let of = (plan.generation, plan.release);
        let old = {
            let slot = self.slots.get_mut(name)?;
            slot.restarts += 1;
            slot.backoff = Default::default();
            slot.dyno
        };
        match (old, role) {
            (Some(_), Role::Web | Role::Worker) => Some(self.start(name, role, of, now)),
            (Some(id), Role::Singleton) => {
                self.slots.get_mut(name)?.dyno = None;
                self.stop(id, now);
                self.start_slot(name, now);
                None
            }
            (None, _) => {
                // In crash back-off, or blocked: start as soon as may be.
                self.start_slot(name, now);
                self.slots.get(name)?.dyno
            }
        }
    }

    /// The new dyno of a restart is ready: it takes the place.
    fn restarted(&mut self, id: DynoId, now: Now) {
        let Some(Change::Restart(restart)) = &mut self.change else {
            return;
        };
        let Some((name, _)) = restart.current.take() else {
            return;
        };
        restart.done.push(name.clone());
        let old = self
            .slots
            .get_mut(&name)
            .and_then(|slot| slot.dyno.replace(id))
            .filter(|old| *old != id);
        if matches!(self.role_of(&name.process), Some(Role::Web)) {
            self.effects.push(Effect::Publish);
        }
        if let Some(old) = old {
            self.stop(old, now);
        }
    }
}

impl Rollout {
    fn find(&mut self, id: DynoId) -> Option<(&DynoName, &mut Incoming)> {
        let name = self.names.get(&id)?;
        Some((name, self.incoming.get_mut(name)?))
    }
}

impl Restart {
    fn is_current(&self, id: DynoId) -> bool {
        self.current
            .as_ref()
            .is_some_and(|(_, current)| *current == Some(id))
    }
}

fn boot_error(dyno: DynoName, release: ReleaseId, how: &Ended) -> ChangeError {
    let reason = match how {
        Ended::Stopped => "it was stopped before it was ready".to_owned(),
        Ended::Retired => "it retired before it was ready".to_owned(),
        Ended::Exited { reason, .. } | Ended::NotStarted(reason) => reason.clone(),
    };
    ChangeError::Boot {
        dyno,
        release,
        reason,
    }
}
