//! Why a change of an app's running dynos was not made.

use oarlock_spec::limits::TooManyDynos;
use oarlock_spec::names::{AppName, DynoName, ProcessType, ReleaseId};

use crate::formation::NoRoom;

/// Why a formation was not changed, or dynos were not restarted. What ran goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// No such app here (the caller's mistake).
    #[error("no app `{0}` runs on this host")]
    UnknownApp(AppName),
    /// Nothing of it runs yet.
    #[error("`{0}` has no release that runs yet; change it once one does")]
    NotRunning(AppName),
    /// The manifest has no such process type.
    #[error("the app has no process type `{process}`; it has: {}", list(known))]
    UnknownProcess {
        /// As asked.
        process: ProcessType,
        /// Those with a scale.
        known: Vec<ProcessType>,
    },
    /// A process type that is started by the clock or by a release.
    #[error("`{0}` has no scale: it is started by the clock or by a release")]
    NoScale(ProcessType),
    /// More dynos than a process type may have.
    #[error("`{process}` can be scaled to {most} at most, not to {asked}{}", singleton(*most))]
    TooMany {
        /// Which.
        process: ProcessType,
        /// As asked.
        asked: u32,
        /// What it may have: 1 for a singleton.
        most: u32,
    },
    /// More dynos than the operator's policy allows an app.
    #[error(transparent)]
    Cap(#[from] TooManyDynos),
    /// They do not fit on this host.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// No dyno and no process type of that name.
    #[error(
        "no dyno or process type `{target}` is in the formation; it has: {}",
        list(known)
    )]
    UnknownTarget {
        /// As asked.
        target: String,
        /// The dynos that there are.
        known: Vec<DynoName>,
    },
    /// As many changes of this app wait as may; nothing was changed, and a later try may find a place.
    #[error("{waiting} changes of this app wait already; try again when they are made")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// A new dyno did not become ready (the app's fault).
    #[error("{dyno} of {release} did not start: {reason}")]
    Boot {
        /// Which.
        dyno: DynoName,
        /// Of which release.
        release: ReleaseId,
        /// Why.
        reason: String,
    },
    /// The app is being removed, or the host shuts down: nothing is started any more.
    #[error("the app is being stopped: nothing is started any more")]
    ShuttingDown,
}

/// Names shown in a message: all of a manifest's process types, but not thousands of dynos.
const SHOWN: usize = 20;

fn list(names: &[impl ToString]) -> String {
    let mut shown: Vec<String> = names.iter().take(SHOWN).map(ToString::to_string).collect();
    if names.len() > SHOWN {
        shown.push(format!("and {} more", names.len() - SHOWN));
    }
    shown.join(", ")
}

fn singleton(most: u32) -> &'static str {
    if most == 1 { ": it is a singleton" } else { "" }
}
