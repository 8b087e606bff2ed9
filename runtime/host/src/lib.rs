//! The dyno runtime to embed: formation, router, add-ons and logs.
//!
//! A [`Host`] keeps apps running: [`Host::apply`] makes an app what a [`Desired`] says, with a
//! rolling replacement of its dynos. It has no accounts, no control-plane database, no global
//! state, no signal handler, and never ends the process.

#![forbid(unsafe_code)]

mod addons;
mod apply;
mod cores;
mod formation;
mod host;
pub mod logs;
mod one_off;
mod router;
mod web;

pub use addons::{AppAddons, Binding, check as check_addons};
pub use apply::{Applied, ApplyError, Component, Desired, ReleasePhase, Slug};
pub use formation::{Clock, SystemClock};
pub use host::{Host, HostConfig, HostError, ListenError};
pub use one_off::{OneOff, OneOffError, OneOffExit, OneOffRequest};
