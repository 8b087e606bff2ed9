//! The table's decisions, driven without a guest: a fake world that starts and ends what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use oarlock_spec::api::{DynoState, Formation};
use oarlock_spec::names::{DynoName, ProcessType, ReleaseId};

use super::table::{Closing, DynoId, Effect, Ended, Generation, Now, Plan, Role, Table};
use crate::change::ChangeError;
use crate::web::PoolState;
use oarlock_process::RestartPolicy;

struct World {
    table: Table,
    now: Now,
    singletons: BTreeSet<ProcessType>,
    /// Alive dynos, and whether they were told to stop.
    alive: BTreeMap<DynoId, (DynoName, u64, bool)>,
    timers: Vec<(DynoName, u64, Duration)>,
    log: Vec<String>,
    done: Vec<Result<Vec<String>, String>>,
    published: usize,
}

fn crash() -> Ended {
    Ended::Exited {
        code: 1,
        reason: "it exited with status 1".into(),
    }
}

impl World {
    fn new() -> Self {
        let policy = RestartPolicy {
            jitter: 0.0,
            ..RestartPolicy::default()
        };
        Self {
            table: Table::new(policy, || 0.5),
            now: Now {
                mono: Instant::now(),
                wall: Timestamp::UNIX_EPOCH,
            },
            singletons: BTreeSet::new(),
            alive: BTreeMap::new(),
            timers: Vec::new(),
            log: Vec::new(),
            done: Vec::new(),
            published: 0,
        }
    }

    fn plan(&mut self, release: u64, types: &[(&str, Role, u32)]) -> Plan {
        let types: BTreeMap<ProcessType, _> = types
            .iter()
            .map(|(name, role, count)| (name.parse().unwrap(), (*role, (1..=*count).collect())))
            .collect();
        self.singletons.extend(
            types
                .iter()
                .filter(|(_, t)| t.0 == Role::Singleton)
                .map(|(n, _)| n.clone()),
        );
        Plan {
            generation: Generation(release),
            release: ReleaseId(release),
            types,
        }
    }

    fn roll_out(&mut self, release: u64, types: &[(&str, Role, u32)]) {
        let plan = self.plan(release, types);
        self.table.roll_out(plan, self.now);
        self.settle();
    }

    /// Commits what is staged.
    fn commit(&mut self, release: u64) {
        assert_eq!(self.done, [Ok(vec![])]);
        self.done.clear();
        let committed = self.table.commit(Generation(release), self.now);
        assert_eq!(committed, Ok(()));
        self.settle();
    }

    /// Rolls out, makes everything ready, and commits.
    fn current(release: u64, types: &[(&str, Role, u32)]) -> Self {
        let mut world = Self::new();
        world.roll_out(release, types);
        world.all_ready();
        world.commit(release);
        world
    }

    fn settle(&mut self) {
        for effect in self.table.take_effects() {
            match effect {
                Effect::Start {
                    id,
                    name,
                    generation,
                } => {
                    let overlap = self
                        .alive
                        .values()
                        .any(|(other, ..)| other.process == name.process);
                    assert!(
                        !self.singletons.contains(&name.process) || !overlap,
                        "{name} overlaps itself"
                    );
                    self.alive.insert(id, (name, generation.0, false));
                }
                Effect::Stop { id } => {
                    self.alive
                        .get_mut(&id)
                        .expect("only the living are stopped")
                        .2 = true
                }
                Effect::Publish => self.published += 1,
                Effect::Current { .. } => {}
                Effect::Wake { name, timer, after } => self.timers.push((name, timer, after)),
                Effect::Log { dyno, message } => self.log.push(format!("{dyno}: {message}")),
                Effect::State(change) => self.log.push(format!("{}: {change}", change.dyno)),
                Effect::Done(result) => self.done.push(match result {
                    Ok(names) => Ok(names.iter().map(ToString::to_string).collect()),
                    Err(ChangeError::Boot { dyno, release, .. }) => {
                        Err(format!("{dyno} of {release}"))
                    }
                    Err(other) => Err(other.to_string()),
                }),
            }
        }
    }

    fn find(&self, name: &str, release: u64) -> DynoId {
        let found = self
            .alive
            .iter()
            .find(|(_, (n, r, _))| n.to_string() == name && *r == release);
        *found
            .unwrap_or_else(|| panic!("no {name} of v{release} in {:?}", self.alive))
            .0
    }

    fn ready(&mut self, name: &str, release: u64) {
        let id = self.find(name, release);
        self.table.ready(id, self.now);
        self.settle();
    }

    fn end(&mut self, name: &str, release: u64, how: &Ended) {
        let id = self.find(name, release);
        self.alive.remove(&id);
        self.table.ended(id, how, self.now);
        self.settle();
    }

    /// Ends those that were told to stop.
    fn all_stopped(&mut self) {
        while let Some(id) = self
            .alive
            .iter()
            .find(|(_, (.., told))| *told)
            .map(|(id, _)| *id)
        {
            self.alive.remove(&id);
            self.table.ended(id, &Ended::Stopped, self.now);
            self.settle();
        }
    }

    fn all_ready(&mut self) {
        while let Some(row) = self
            .table
            .rows()
            .iter()
            .find(|row| row.state == DynoState::Starting)
        {
            self.table.ready(row.id.unwrap(), self.now);
            self.settle();
        }
    }

    fn wake(&mut self) {
        for (name, timer, after) in std::mem::take(&mut self.timers) {
            self.now.mono += after;
            self.table.wake(&name, timer, self.now);
        }
        self.settle();
    }

    /// `web.1@v1` for all that lives, `-` before those that were told to stop.
    fn living(&self) -> Vec<String> {
        let mut all: Vec<_> = self
            .alive
            .values()
            .map(|(name, release, told)| {
                format!("{}{name}@v{release}", if *told { "-" } else { "" })
            })
            .collect();
        all.sort();
        all
    }

    /// The web dynos that can be leased.
    fn leased(&self) -> (Vec<String>, PoolState) {
        let (ids, state) = self.table.web();
        (
            ids.iter()
                .map(|id| format!("{}@v{}", self.alive[id].0, self.alive[id].1))
                .collect(),
            state,
        )
    }
}

const APP: &[(&str, Role, u32)] = &[
    ("web", Role::Web, 2),
    ("worker", Role::Worker, 1),
    ("clock", Role::Singleton, 1),
];

#[test]
fn a_first_start_starts_all_at_once_and_serves_when_all_are_ready() {
    let mut w = World::new();
    w.roll_out(1, APP);
    assert_eq!(
        w.living(),
        ["clock.1@v1", "web.1@v1", "web.2@v1", "worker.1@v1"]
    );
    w.ready("web.1", 1);
    w.ready("web.2", 1);
    w.ready("worker.1", 1);
    assert_eq!(w.done, []);
    w.ready("clock.1", 1);
    assert_eq!(w.leased().1, PoolState::NoDynos);
    w.commit(1);
    assert_eq!(
        w.leased(),
        (
            vec!["web.1@v1".into(), "web.2@v1".into()],
            PoolState::Serving
        )
    );
    assert!(
        w.log
            .contains(&"web.1: State changed from starting to up".to_owned())
    );
}

#[test]
fn a_first_start_that_fails_leaves_nothing() {
    let mut w = World::new();
    w.roll_out(1, APP);
    w.ready("web.1", 1);
    w.end("web.2", 1, &crash());
    assert_eq!(w.done, [Err("web.2 of v1".into())]);
    w.all_stopped();
    assert!(w.table.is_empty());
    assert_eq!(w.table.formation(), Formation::new());
}

#[test]
fn new_dynos_are_ready_before_old_ones_stop_and_singletons_come_last() {
    let mut w = World::current(1, APP);
    w.roll_out(2, APP);
    assert_eq!(
        w.living(),
        [
            "clock.1@v1",
            "web.1@v1",
            "web.1@v2",
            "web.2@v1",
            "web.2@v2",
            "worker.1@v1",
            "worker.1@v2"
        ]
    );
    w.ready("web.1", 2);
    w.ready("web.2", 2);
    assert_eq!(w.leased().0, ["web.1@v1", "web.2@v1"]);
    w.ready("worker.1", 2);
    assert!(w.living().contains(&"-clock.1@v1".to_owned()));
    assert!(!w.living().contains(&"-web.1@v1".to_owned()));
    w.end("clock.1", 1, &Ended::Stopped);
    assert_eq!(w.done, []);
    w.ready("clock.1", 2);
    // Staged: nothing but the singleton has changed hands.
    assert_eq!(w.leased().0, ["web.1@v1", "web.2@v1"]);
    assert!(!w.living().iter().any(|dyno| dyno.starts_with('-')));
    w.commit(2);
    assert_eq!(w.leased().0, ["web.1@v2", "web.2@v2"]);
    w.all_stopped();
    assert_eq!(
        w.living(),
        ["clock.1@v2", "web.1@v2", "web.2@v2", "worker.1@v2"]
    );
    assert!(!w.table.uses(Generation(1)));
}

#[test]
fn a_release_that_does_not_boot_leaves_the_old_one_untouched() {
    let mut w = World::current(1, APP);
    w.roll_out(2, APP);
    w.ready("web.1", 2);
    w.end("worker.1", 2, &Ended::NotStarted("no".into()));
    assert_eq!(w.done, [Err("worker.1 of v2".into())]);
    w.all_stopped();
    assert_eq!(
        w.living(),
        ["clock.1@v1", "web.1@v1", "web.2@v1", "worker.1@v1"]
    );
    assert_eq!(w.leased().0, ["web.1@v1", "web.2@v1"]);
    assert!(w.table.rows().iter().all(|row| row.state == DynoState::Up));
}

#[test]
fn a_singleton_that_does_not_boot_brings_the_old_one_back() {
    let mut w = World::current(1, APP);
    w.roll_out(2, APP);
    for name in ["web.1", "web.2", "worker.1"] {
        w.ready(name, 2);
    }
    w.end("clock.1", 1, &Ended::Stopped);
    w.end("clock.1", 2, &crash());
    assert_eq!(w.done, [Err("clock.1 of v2".into())]);
    assert_eq!(w.leased().0, ["web.1@v1", "web.2@v1"]);
    w.all_stopped();
    w.all_ready();
    assert_eq!(
        w.living(),
        ["clock.1@v1", "web.1@v1", "web.2@v1", "worker.1@v1"]
    );
}

#[test]
fn a_failure_while_the_old_singleton_still_stops_starts_it_again_after_its_end() {
    let types: &[(&str, Role, u32)] = &[("a", Role::Singleton, 1), ("b", Role::Singleton, 1)];
    let mut w = World::current(1, types);
    w.roll_out(2, types);
    w.end("a.1", 1, &Ended::Stopped);
    w.end("a.1", 2, &crash());
    assert_eq!(w.done, [Err("a.1 of v2".into())]);
    assert_eq!(w.living(), ["-b.1@v1", "a.1@v1"]);
    w.end("b.1", 1, &Ended::Stopped);
    assert_eq!(w.living(), ["a.1@v1", "b.1@v1"]);
}

#[test]
fn a_singleton_never_overlaps_across_many_releases_failures_and_restarts() {
    let mut w = World::current(1, APP);
    for release in 2..40 {
        w.roll_out(release, APP);
        for _ in 0..4 {
            w.all_ready();
            if release % 3 == 0
                && w.alive
                    .values()
                    .any(|(n, r, told)| n.process.as_str() == "clock" && *r == release && !told)
            {
                break;
            }
            w.all_stopped();
        }
        w.all_ready();
        w.all_stopped();
        w.all_ready();
        if release % 5 == 0 {
            w.table.undo(Generation(release), w.now);
            w.settle();
            w.all_stopped();
            w.all_ready();
            w.done.clear();
            w.roll_out(release, APP);
            w.all_ready();
            w.all_stopped();
            w.all_ready();
        }
        w.commit(release);
        w.all_stopped();
        w.table.restart(["clock.1".parse().unwrap()], w.now);
        w.settle();
        w.all_stopped();
        w.all_ready();
        w.done.clear();
    }
    assert_eq!(
        w.living(),
        ["clock.1@v39", "web.1@v39", "web.2@v39", "worker.1@v39"]
    );
}

#[test]
fn types_that_come_and_go() {
    let mut w = World::current(1, APP);
    w.roll_out(2, &[("web", Role::Web, 1), ("other", Role::Worker, 1)]);
    w.all_ready();
    w.commit(2);
    w.all_stopped();
    assert_eq!(w.living(), ["other.1@v2", "web.1@v2"]);
}

#[test]
fn a_new_dyno_that_ends_before_its_release_is_current_is_started_again_after() {
    let mut w = World::current(1, APP);
    w.roll_out(2, APP);
    w.ready("worker.1", 2);
    w.end("worker.1", 2, &crash());
    w.all_ready();
    w.end("clock.1", 1, &Ended::Stopped);
    w.ready("clock.1", 2);
    assert!(!w.living().contains(&"worker.1@v2".to_owned()));
    w.commit(2);
    assert!(w.living().contains(&"worker.1@v2".to_owned()));
}

#[test]
fn a_staged_release_that_is_undone_leaves_what_served() {
    let mut w = World::current(1, APP);
    w.roll_out(2, APP);
    for name in ["web.1", "web.2", "worker.1"] {
        w.ready(name, 2);
    }
    w.end("clock.1", 1, &Ended::Stopped);
    w.ready("clock.1", 2);
    assert_eq!(w.done, [Ok(vec![])]);
    assert!(!w.table.undo(Generation(1), w.now), "it is not staged");
    assert!(w.table.undo(Generation(2), w.now));
    w.settle();
    assert_eq!(w.leased().0, ["web.1@v1", "web.2@v1"]);
    w.all_stopped();
    w.all_ready();
    assert_eq!(
        w.living(),
        ["clock.1@v1", "web.1@v1", "web.2@v1", "worker.1@v1"]
    );
    assert!(!w.table.uses(Generation(2)));
    assert_eq!(
        w.table.commit(Generation(2), w.now),
        Err(ChangeError::ShuttingDown)
    );
    // While it boots, too: before and while the singleton is exchanged.
    for ready in [&[][..], &["web.1", "web.2", "worker.1"]] {
        w.roll_out(3, APP);
        for name in ready {
            w.ready(name, 3);
        }
        assert!(w.table.undo(Generation(3), w.now));
        w.settle();
        w.all_stopped();
        w.all_ready();
        assert_eq!(
            w.living(),
            ["clock.1@v1", "web.1@v1", "web.2@v1", "worker.1@v1"]
        );
    }
}

#[test]
fn dynos_of_any_numbers_are_kept_and_scaled_by_the_difference() {
    let mut w = World::new();
    let mut plan = w.plan(1, &[("worker", Role::Worker, 0)]);
    plan.types.get_mut("worker").unwrap().1 = [3, 7].into();
    w.table.roll_out(plan, w.now);
    w.settle();
    w.all_ready();
    w.commit(1);
    assert_eq!(w.living(), ["worker.3@v1", "worker.7@v1"]);
    scale(&mut w, &[("worker", 2)]);
    assert_eq!(w.living(), ["worker.3@v1", "worker.7@v1"]);
    scale(&mut w, &[("worker", 4)]);
    w.all_ready();
    scale(&mut w, &[("worker", 3)]);
    w.all_stopped();
    assert_eq!(w.living(), ["worker.1@v1", "worker.2@v1", "worker.3@v1"]);
}

fn scale(w: &mut World, types: &[(&str, u32)]) {
    let change: Formation = types
        .iter()
        .map(|(name, count)| (name.parse().unwrap(), *count))
        .collect();
    w.table.scale(&change, w.now);
    w.settle();
}

#[test]
fn scale_adds_and_ends_exactly_the_difference() {
    let mut w = World::current(1, APP);
    scale(&mut w, &[("web", 4)]);
    assert_eq!(
        w.living(),
        [
            "clock.1@v1",
            "web.1@v1",
            "web.2@v1",
            "web.3@v1",
            "web.4@v1",
            "worker.1@v1"
        ]
    );
    w.all_ready();
    assert_eq!(w.leased().0.len(), 4);
    scale(&mut w, &[("web", 1), ("worker", 2)]);
    // Out of the pool before they are stopped.
    assert_eq!(w.leased().0, ["web.1@v1"]);
    assert_eq!(
        w.living(),
        [
            "-web.2@v1",
            "-web.3@v1",
            "-web.4@v1",
            "clock.1@v1",
            "web.1@v1",
            "worker.1@v1",
            "worker.2@v1"
        ]
    );
    w.all_stopped();
    scale(&mut w, &[("web", 0)]);
    assert_eq!(w.leased(), (vec![], PoolState::NoDynos));
    w.all_stopped();
    scale(&mut w, &[("web", 1)]);
    assert_eq!(w.leased(), (vec![], PoolState::Serving));
    w.all_ready();
    assert_eq!(w.leased(), (vec!["web.1@v1".into()], PoolState::Serving));
    assert_eq!(
        w.table.formation()[&"worker".parse::<ProcessType>().unwrap()],
        2
    );
}

#[test]
fn a_singleton_scaled_to_0_and_1_waits_for_its_end() {
    let mut w = World::current(1, APP);
    scale(&mut w, &[("clock", 0)]);
    scale(&mut w, &[("clock", 1)]);
    assert!(!w.living().contains(&"clock.1@v1".to_owned()));
    w.all_stopped();
    assert!(w.living().contains(&"clock.1@v1".to_owned()));
}

#[test]
fn a_crash_restarts_at_once_then_backs_off_and_h10_only_when_all_wait() {
    let mut w = World::current(1, &[("web", Role::Web, 2)]);
    w.end("web.1", 1, &crash());
    assert_eq!(
        w.living(),
        ["web.1@v1", "web.2@v1"],
        "the first crash restarts at once"
    );
    w.ready("web.1", 1);
    w.end("web.1", 1, &crash());
    assert_eq!(w.living(), ["web.2@v1"]);
    assert_eq!(w.leased(), (vec!["web.2@v1".into()], PoolState::Serving));
    let rows = w.table.rows();
    assert_eq!(
        (
            rows[0].name.to_string().as_str(),
            rows[0].state,
            rows[0].restarts
        ),
        ("web.1", DynoState::Crashed, 2)
    );
    for _ in 0..2 {
        w.end("web.2", 1, &crash());
    }
    assert_eq!(w.leased(), (vec![], PoolState::Crashed));
    let published = w.published;
    w.wake();
    assert_eq!(w.leased(), (vec![], PoolState::Serving));
    assert!(w.published > published, "the router is told");
    w.all_ready();
    assert_eq!(w.leased().0, ["web.1@v1", "web.2@v1"]);
    assert!(
        w.log
            .contains(&"web.1: State changed from crashed to starting".to_owned())
    );
}

#[test]
fn a_retired_instance_is_replaced_without_counting_as_a_crash() {
    let mut w = World::current(1, &[("web", Role::Web, 1)]);
    for _ in 0..20 {
        w.end("web.1", 1, &Ended::Retired);
        assert_eq!(w.living(), ["web.1@v1"]);
        w.all_ready();
    }
    assert_eq!(w.timers, []);
}

#[test]
fn a_crashed_dyno_that_is_scaled_away_does_not_come_back() {
    let mut w = World::current(1, &[("worker", Role::Worker, 1)]);
    w.end("worker.1", 1, &crash());
    w.end("worker.1", 1, &crash());
    assert_eq!(w.timers.len(), 1);
    scale(&mut w, &[("worker", 0)]);
    w.wake();
    assert_eq!(w.living(), Vec::<String>::new());
}

#[test]
fn a_restart_goes_one_by_one_without_a_gap() {
    let mut w = World::current(1, APP);
    w.table.restart(
        ["web.1", "web.2", "clock.1"].map(|n| n.parse().unwrap()),
        w.now,
    );
    w.settle();
    assert_eq!(w.alive.len(), 5);
    assert_eq!(w.leased().0.len(), 2);
    w.all_ready();
    w.all_stopped();
    w.all_ready();
    assert_eq!(
        w.done,
        [Ok(vec!["web.1".into(), "web.2".into(), "clock.1".into()])]
    );
    assert_eq!(
        w.living(),
        ["clock.1@v1", "web.1@v1", "web.2@v1", "worker.1@v1"]
    );
    assert!(
        w.table
            .rows()
            .iter()
            .all(|row| row.restarts == u64::from(row.name.process.as_str() != "worker"))
    );
}

#[test]
fn a_restart_that_does_not_boot_keeps_the_old_dyno() {
    let mut w = World::current(1, &[("web", Role::Web, 1)]);
    w.table.restart(["web.1".parse().unwrap()], w.now);
    w.settle();
    let new = *w.alive.keys().last().unwrap();
    w.alive.remove(&new);
    w.table.ended(new, &Ended::NotStarted("no".into()), w.now);
    w.settle();
    assert_eq!(w.done, [Err("web.1 of v1".into())]);
    assert_eq!(w.leased().0, ["web.1@v1"]);
    assert_eq!(w.timers, []);
}

#[test]
fn a_restart_ends_a_crash_back_off() {
    let mut w = World::current(1, &[("clock", Role::Singleton, 1)]);
    w.end("clock.1", 1, &crash());
    w.end("clock.1", 1, &crash());
    assert_eq!(w.living(), Vec::<String>::new());
    w.table.restart(["clock.1".parse().unwrap()], w.now);
    w.settle();
    w.all_ready();
    assert_eq!(w.done, [Ok(vec!["clock.1".into()])]);
    w.wake();
    assert_eq!(w.living(), ["clock.1@v1"]);
}

#[test]
fn closing_ends_web_first_then_all_and_nothing_comes_back() {
    let mut w = World::current(1, APP);
    w.roll_out(2, APP);
    w.table.close(Closing::Web, w.now);
    w.settle();
    assert_eq!(w.done, [Err(ChangeError::ShuttingDown.to_string())]);
    assert_eq!(w.leased(), (vec![], PoolState::NoDynos));
    w.end("worker.1", 1, &crash());
    w.all_stopped();
    assert!(!w.table.has_web());
    assert_eq!(w.living(), ["clock.1@v1", "worker.1@v2"]);
    w.table.close(Closing::All, w.now);
    w.settle();
    w.all_stopped();
    assert!(w.table.is_empty());
    w.roll_out(3, APP);
    assert_eq!(
        w.done.last(),
        Some(&Err(ChangeError::ShuttingDown.to_string()))
    );
    assert!(w.table.is_empty());
}
