//! Rust: `cargo fetch`.
//!
//! cargo reads `.cargo/config.toml` of the folder that it is started in and of those above it (it can name programs that
//! cargo runs): that is never the app's. It reads manifests, and unpacks what it fetched. `Cargo.lock` is made if the app
//! has none.

use super::{App, Fetcher};

pub(super) const FETCHER: Fetcher = Fetcher {
    file: "Cargo.toml",
    tool: "cargo",
    tool_from: "https://rustup.rs",
    shown: "cargo fetch --manifest-path /build/Cargo.toml",
    script: "exec cargo fetch --manifest-path /build/Cargo.toml",
    app: App::Write,
    env: &[
        ("CARGO_HTTP_PROXY", super::super::fence::PROXY),
        ("CARGO_NET_OFFLINE", "false"),
    ],
    certificates: &["CARGO_HTTP_CAINFO"],
    build_env: &[("CARGO_NET_OFFLINE", "true")],
};
