//! Store, slugs, releases, builds and the control API: what `oarlock up` and `oarlock serve` drive.
//!
//! It never names wasmtime; it tells the host what shall be ([`oarlock_host::apply::Desired`]) and keeps what
//! was, in a [`store::Store`].

#![forbid(unsafe_code)]

mod apps;
pub mod build;
pub mod control;
mod env_file;
mod folder;
mod platform;
mod releases;
mod runtime;
pub mod slug;
pub mod store;
#[cfg(test)]
mod testing;

pub use apps::Told;
pub use folder::{DataDir, FolderError, load_manifest};
pub use platform::{Builds, Event, Platform, PlatformConfig, Source, StartError};
