//! The one integration-test binary: a module per feature.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod bench;
mod calls;
mod clients;
mod edges;
mod embed;
mod examples;
mod external;
mod formation;
mod guests;
mod kv;
mod lifecycle;
mod listener;
mod listening;
mod net;
mod platform;
mod proxies;
mod readmes;
mod router;
mod run;
mod sandbox;
mod sdk;
mod security;
mod serving;
mod tenants;

/// The real `oarlock` binary, as cargo built it for these tests.
fn binary() -> &'static std::path::Path {
    std::path::Path::new(env!("CARGO_BIN_EXE_oarlock"))
}
