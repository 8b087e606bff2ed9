//! Formation: the dynos of an app, from a desired state to running guests.
//!
//! | module | responsible for |
//! |---|---|
//! | `load` | components from bytes to programs, a bounded number at once |
//! | `prepare` | a release ready to be started: components, add-ons, grants |
//! | `table`, `rollout` | every decision about formation dynos; pure |
//! | `dispatcher`, `questions` | the task that owns an app's table and carries decisions out |
//! | `job` | one-off, scheduled and release dynos |
//! | `dyno`, `listening` | the task of one dyno |
//! | `cron`, `clock` | when scheduled processes are due |
//! | `app` | what outlives an app's releases |
//!
//! Bounds: a process type has a bounded number of dynos (`MOST_DYNOS`), an app 32 one-off dynos, 32 waiting changes and
//! 64 unheard messages. What happens to a dyno is written to the app's log by the dispatcher's
//! `remark` and the dyno's task, and told to `events` by the dispatcher alone, so that it is told in order.

mod app;
mod clock;
mod cron;
mod dispatcher;
mod dyno;
#[cfg(test)]
mod dyno_tests;
mod job;
mod listening;
mod load;
mod prepare;
mod questions;
mod rollout;
mod room;
#[cfg(test)]
mod scale_tests;
mod table;
#[cfg(test)]
mod table_tests;

pub use clock::{Clock, SystemClock};

pub(crate) use app::{HostShared, HostedApp, app_folder, open_app};
pub(crate) use dispatcher::{Ending, Message};
pub(crate) use dyno::{RunEnd, Signal, reason as exit_reason};
pub(crate) use job::{Job, JobError, MOST_ONE_OFFS, Purpose};
pub(crate) use prepare::{
    Prepared, PreparedProcess, metadata_addresses, one_off_type, release_phase_limit,
};
pub use room::NoRoom;
pub(crate) use table::{Generation, StateChange};
