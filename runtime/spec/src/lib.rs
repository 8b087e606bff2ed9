//! The words and promises of Oarlock: names, the manifest, limits, release and API types and the
//! promised codes. This crate does no I/O and knows neither tokio nor wasmtime; every other crate
//! of the workspace builds on it.

#![forbid(unsafe_code)]

pub mod api;
pub mod codes;
pub mod limits;
pub mod manifest;
pub mod mistakes;
pub mod names;
pub mod policy;
mod policy_work;

mod read;
mod suggest;
mod units;
