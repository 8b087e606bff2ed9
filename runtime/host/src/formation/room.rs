//! Whether a formation fits. A dyno that is an instance for as long as it runs holds a place of the engine's; a web
//! dyno with an instance per request holds none, and its requests wait for theirs.

use oarlock_sandbox::{Bound, Engine};
use oarlock_spec::api::Formation;
use oarlock_spec::names::ProcessType;

use super::prepare::{Kind, Prepared, PreparedProcess};

/// A formation has more dynos than there is room for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{process}={asked}` does not fit: there is room for {fits} here, because each of these dynos is an instance that \
     stays in memory; scale it to {fits} or less, or raise {bound}"
)]
pub struct NoRoom {
    /// The process type that takes most.
    pub process: ProcessType,
    /// What was asked for.
    pub asked: u32,
    /// What fits, the other process types as they are.
    pub fits: u32,
    /// What raises it.
    pub bound: Bound,
}

impl PreparedProcess {
    /// Places that each of its dynos holds.
    fn held(&self) -> u64 {
        match self.kind {
            Kind::WebLive { .. } | Kind::WebListening { .. } | Kind::Command(_) => {
                u64::from(self.program.places())
            }
            Kind::WebFresh { .. } | Kind::Job => 0,
        }
    }
}

impl Prepared {
    /// Whether the dynos of a formation fit, of which those of `running` are there already.
    pub(super) fn check_room(
        &self,
        formation: &Formation,
        running: &Formation,
        engine: &Engine,
    ) -> Result<(), NoRoom> {
        let capacity = engine.capacity();
        let room = Room {
            per_app: capacity.per_app.into(),
            free: engine.free_instances().into(),
            bound: capacity.instances.bound,
        };
        let held = |name: &ProcessType| self.processes.get(name).map_or(0, PreparedProcess::held);
        room.check(formation, running, held)
    }

    /// The same for a release that starts beside whatever runs, with its own formation.
    pub(crate) fn fits(&self, engine: &Engine) -> Result<(), NoRoom> {
        let formation = self.plan(super::table::Generation(0)).formation();
        self.check_room(&formation, &Formation::new(), engine)
    }
}

struct Room {
    per_app: u64,
    free: u64,
    bound: Bound,
}

impl Room {
    fn check(
        &self,
        formation: &Formation,
        running: &Formation,
        held: impl Fn(&ProcessType) -> u64,
    ) -> Result<(), NoRoom> {
        let of = |(name, count): (&ProcessType, &u32)| held(name) * u64::from(*count);
        let wanted: u64 = formation.iter().map(of).sum();
        let has: u64 = running.iter().map(of).sum();
        let room = self.per_app.min(self.free + has);
        // Less than before always fits.
        if wanted <= room || wanted <= has {
            return Ok(());
        }
        let Some((process, asked)) = formation.iter().max_by_key(|entry| of(*entry)) else {
            return Ok(());
        };
        let others = wanted - of((process, asked));
        let fits = room.saturating_sub(others) / held(process).max(1);
        Err(NoRoom {
            process: process.clone(),
            asked: *asked,
            fits: u32::try_from(fits).unwrap_or(u32::MAX),
            bound: self.bound,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formation(counts: &[(&str, u32)]) -> Formation {
        let entry = |(name, count): &(&str, u32)| (name.parse().unwrap(), *count);
        counts.iter().map(entry).collect()
    }

    /// `web` takes nothing, `big` two places, all others one.
    fn held(name: &ProcessType) -> u64 {
        match name.as_str() {
            "web" => 0,
            "big" => 2,
            _ => 1,
        }
    }

    #[test]
    fn what_does_not_fit_is_named_with_what_does() {
        let room = Room {
            per_app: 100,
            free: 60,
            bound: Bound::Mappings,
        };
        let check = |wanted: &[(&str, u32)], running: &[(&str, u32)]| {
            room.check(&formation(wanted), &formation(running), held)
                .map_err(|error| (error.process.to_string(), error.asked, error.fits))
        };
        assert_eq!(check(&[("web", 10_000), ("worker", 60)], &[]), Ok(()));
        let refused = check(&[("worker", 61)], &[]);
        assert_eq!(refused, Err(("worker".to_owned(), 61, 60)));
        // Those that run already have their places.
        assert_eq!(check(&[("worker", 90)], &[("worker", 30)]), Ok(()));
        // One app never gets more than its share.
        let refused = check(&[("worker", 101)], &[("worker", 80)]);
        assert_eq!(refused, Err(("worker".to_owned(), 101, 100)));
        let refused = check(&[("big", 30), ("worker", 10)], &[]);
        assert_eq!(refused, Err(("big".to_owned(), 30, 25)));
        // Less than before always fits.
        assert_eq!(check(&[("worker", 150)], &[("worker", 160)]), Ok(()));
    }

    #[test]
    fn the_message_names_the_setting() {
        let error = NoRoom {
            process: "worker".parse().unwrap(),
            asked: 5_000,
            fits: 1_023,
            bound: Bound::Mappings,
        };
        let text = error.to_string();
        assert!(text.contains("`worker=5000` does not fit"), "{text}");
        assert!(text.contains("scale it to 1023 or less"), "{text}");
        assert!(text.contains("vm.max_map_count"), "{text}");
    }
}
