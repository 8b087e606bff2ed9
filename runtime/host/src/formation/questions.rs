//! What the dispatcher answers without changing anything, and what it refuses to change.

use oarlock_spec::api::{DynoRow, Formation};
use oarlock_spec::names::DynoName;

use super::dispatcher::Dispatcher;
use super::prepare::MOST_DYNOS;
use super::prepare::Prepared;
use super::table::{Generation, Plan, Role, Row};
use crate::change::ChangeError;

impl Dispatcher {
    /// Whether a formation can be had.
    pub(super) fn check_scale(&self, change: &Formation) -> Result<(), ChangeError> {
        if self.table.is_closing() {
            return Err(ChangeError::ShuttingDown);
        }
        let Some(release) = self.app.current.load_full() else {
            return Err(ChangeError::NotRunning(self.app.name.clone()));
        };
        let plan = release.plan(Generation(0));
        for (process, asked) in change {
            let (process, asked) = (process.clone(), *asked);
            let role = match plan.types.get(&process) {
                Some((role, _)) => *role,
                None if release.processes.contains_key(&process) => {
                    return Err(ChangeError::NoScale(process));
                }
                None => {
                    let known = plan.types.into_keys().collect();
                    return Err(ChangeError::UnknownProcess { process, known });
                }
            };
            let most = if role == Role::Singleton {
                1
            } else {
                MOST_DYNOS
            };
            if asked > most {
                return Err(ChangeError::TooMany {
                    process,
                    asked,
                    most,
                });
            }
        }
        let running = self.table.formation();
        let mut wanted = running.clone();
        wanted.extend(change.clone());
        self.shared
            .config
            .policy
            .app_caps
            .check_dynos(wanted.values())?;
        Ok(release.check_room(&wanted, &running, &self.shared.engine)?)
    }

    /// Whether a release's dynos are allowed, and fit beside what runs.
    pub(super) fn check_plan(&self, plan: &Plan, release: &Prepared) -> Result<(), ChangeError> {
        let formation = plan.formation();
        self.shared
            .config
            .policy
            .app_caps
            .check_dynos(formation.values())?;
        Ok(release.check_room(&formation, &Formation::new(), &self.shared.engine)?)
    }

    /// The dynos that a restart's target names.
    pub(super) fn named(&self, target: Option<String>) -> Result<Vec<DynoName>, ChangeError> {
        let mut names: Vec<DynoName> = self.table.slots.keys().cloned().collect();
        let Some(target) = target else {
            return Ok(names);
        };
        names.retain(|name| name.process.as_str() == target || name.to_string() == target);
        if !names.is_empty() || self.table.formation().contains_key(target.as_str()) {
            return Ok(names);
        }
        let known = self.table.slots.keys().cloned().collect();
        Err(ChangeError::UnknownTarget { target, known })
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
        rows.extend(self.jobs.rows());
        rows
    }
}
