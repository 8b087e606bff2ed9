//! Support for the integration tests: guests, apps, hosts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test support"
)]

pub mod servers;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The component of a test guest (`tests/guests/rust/<name>`); all are built on first use.
pub fn guest(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let guests = repository().join("tests/guests");
        let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--release", "--target", "wasm32-wasip2"])
            .current_dir(&guests)
            // Settings of the outer cargo must not reach the guests' build.
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS")
            .status()
            .expect("cargo runs");
        assert!(
            status.success(),
            "the guests in tests/guests do not build; is the target there (`rustup target add wasm32-wasip2`)?"
        );
        guests.join("target/wasm32-wasip2/release")
    });
    // A binary keeps its name, a cdylib gets underscores.
    let bin = folder.join(format!("{name}.wasm"));
    if bin.exists() { bin } else { folder.join(format!("{}.wasm", name.replace('-', "_"))) }
}
