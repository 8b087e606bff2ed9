//! The control API: how the commands talk to the running host, by HTTP on a Unix socket.
//!
//! [`Client`] is the commands' side; the server's side is the platform's own. The endpoints are the
//! table of [`oarlock_spec::api`]. Bounds: [`MAX_BODY`] for a request's body, [`frames::MAX_PAYLOAD`]
//! for a frame of a one-off dyno, 256 connections at once. It authenticates nobody: whoever may open the
//! socket (0600, in a folder of 0700) is the owner of the host.

mod client;
mod error;
pub mod frames;
mod logs;
mod routes;
mod runs;
mod server;
mod socket;

pub use client::{Client, ClientError, LogQuery, LogStream, RunConnection, RunReader, RunWriter};
pub use oarlock_spec::codes::api as words;
pub use socket::SOCKET_NAME;

pub(crate) use error::ApiError;
pub(crate) use server::{ControlState, Server};

/// A request's body, in bytes; more is answered with `body_too_large`.
pub const MAX_BODY: usize = 1024 * 1024;

/// The header of a 101 answer that holds the one-off dyno's name.
pub(crate) const DYNO_HEADER: &str = "oarlock-dyno";

/// The protocol that `POST …/runs` upgrades to.
pub(crate) const RUN_PROTOCOL: &str = "oarlock-run";
