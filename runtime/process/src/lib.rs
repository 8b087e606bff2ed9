//! Native children: each is one [`Command`], started as one [`Child`] in a process group of its own, with limits, a user, an
//! exact environment, perhaps a [`Fence`] and a [`ControlGroup`], and its output as bounded [`Lines`] or as pipes. [`Supervisor`] starts one again
//! when it ends.
//!
//! No child outlives its handle, nor the host, however the host ends: see the module `watchdog` for how, and what that holds.
//!
//! | what | ends with its handle | ends with a host that is killed |
//! |---|---|---|
//! | the child, whatever its user, session or group | yes | yes |
//! | what it started, in its group | yes | yes |
//! | what it started, in another group (`setsid`) | only in a fence | only in a fence |
//!
//! A child that can signal its watchdog (same user, no fence) can end it, and with it the right column. A host that is not
//! root cannot signal what a set-user-id program became.
//!
//! [`lock()`] is here because children inherit what is locked.
//!
//! This crate knows neither wasm nor manifests, and needs no runtime for what blocks; `async` functions need tokio's.

mod backoff;
mod child;
mod command;
mod control_group;
mod exit;
mod fence;
mod limits;
mod lines;
mod lock;
mod supervisor;
mod watchdog;

pub use backoff::{Backoff, RestartPolicy};
pub use child::Child;
pub use command::{Command, StartError, Stream, User, find_program};
pub use control_group::{ControlGroup, ControlGroups, Exceeded, GroupLimits, NoControlGroup};
pub use exit::Exit;
pub use fence::{Bubblewrap, BubblewrapError, Fence};
pub use limits::Limits;
pub use lines::{IN_FLIGHT, Lines, MAX_LINE, last_words};
pub use lock::lock;
pub use supervisor::{Event, Restart, Supervisor};

#[cfg(test)]
mod tests;
