//! What the dispatcher answers without changing anything, and what it refuses to change.

use oarlock_spec::api::{DynoRow, Formation};
use oarlock_spec::names::{DynoName, ProcessType};

use super::dispatcher::Dispatcher;
use super::prepare::MOST_DYNOS;
use super::table::{Generation, Role, Row};

impl Dispatcher {
    /// Whether a formation can be had; otherwise a message for the user.
    pub(super) fn check_scale(&self, change: &Formation) -> Result<(), String> {
        if self.table.is_closing() {
            return Err("the host is ending: nothing is started any more".into());
        }
        let Some(release) = self.app.current.load_full() else {
            return Err("the app has no release yet; it can be scaled once one runs".into());
        };
        let plan = release.plan(Generation(0));
        for (name, count) in change {
            let role = match (plan.types.get(name), release.processes.contains_key(name)) {
                (Some((role, _)), _) => *role,
                (None, true) => {
                    return Err(format!(
                        "`{name}` has no scale: it is started by the clock or by a release"
                    ));
                }
                (None, false) => {
                    let known: Vec<&str> = plan.types.keys().map(ProcessType::as_str).collect();
                    return Err(format!(
                        "the app has no process type `{name}`; it has: {}",
                        known.join(", ")
                    ));
                }
            };
            if role == Role::Singleton && *count > 1 {
                return Err(format!(
                    "`{name}` is a singleton: it can be scaled to 0 or 1, not to {count}"
                ));
            }
            if *count > MOST_DYNOS {
                return Err(format!(
                    "`{name}` can have up to {MOST_DYNOS} dynos, not {count}"
                ));
            }
        }
        let running = self.table.formation();
        let mut wanted = running.clone();
        wanted.extend(change.clone());
        let caps = &self.shared.config.policy.app_caps;
        caps.check_dynos(wanted.values())
            .map_err(|refused| refused.to_string())?;
        release
            .check_room(&wanted, &running, &self.shared.engine)
            .map_err(|error| error.to_string())
    }

    /// The dynos that a restart's target names.
    pub(super) fn named(&self, target: Option<&str>) -> Result<Vec<DynoName>, String> {
        let mut names: Vec<DynoName> = self.table.slots.keys().cloned().collect();
        let Some(target) = target else {
            return Ok(names);
        };
        names.retain(|name| name.process.as_str() == target || name.to_string() == target);
        if !names.is_empty() || self.table.formation().contains_key(target) {
            return Ok(names);
        }
        let known: Vec<String> = self.table.slots.keys().map(ToString::to_string).collect();
        Err(format!(
            "no dyno or process type `{target}` is in the formation; it has: {}",
            known.join(", ")
        ))
    }

    /// The rows of `ps`.
    pub(super) fn rows(&self) -> Vec<DynoRow> {
        let row = |row: Row| {
            let live = row.id.and_then(|id| self.live.get(&id));
            DynoRow {
                process: row.name.process.clone(),
                dyno: row.name,
                state: row.state,
                release: row.release,
                since: row.since,
                restarts: row.restarts,
                cpu_ms: live.map_or(0, |live| live.meter.cpu_nanos() / 1_000_000),
                memory_bytes: live.map_or(0, |live| live.meter.memory_bytes()),
                requests: live
                    .and_then(|live| live.web.as_ref())
                    .map_or(0, |web| web.requests()),
            }
        };
        let mut rows: Vec<DynoRow> = self.table.rows().into_iter().map(row).collect();
        rows.extend(self.occasionals.rows());
        rows
    }
}
