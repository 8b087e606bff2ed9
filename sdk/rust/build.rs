//! Builds the `fcntl` that tokio's sockets need on WASI, apart from the rest of the guest.
//!
//! C's `fcntl` is variadic, and stable Rust cannot define such a function; on this target a variadic
//! argument arrives as a pointer to its place, so that a function of three arguments will do. But only
//! for a linker: an optimizer that sees both sides (`lto = true`) takes the call and the definition for
//! different functions, and the flag itself arrives as the pointer. So this is an object of its own,
//! without anything that LTO could look into.

#![allow(
    clippy::panic,
    reason = "a build script has no other way to say that it failed"
)]

use std::env::var;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/tokio/fcntl.rs");
    if var("CARGO_FEATURE_TOKIO").is_err() || var("CARGO_CFG_TARGET_OS").as_deref() != Ok("wasi") {
        return;
    }
    let given = |name: &str| var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let folder = PathBuf::from(given("OUT_DIR"));
    let built = Command::new(given("RUSTC"))
        .args(["--edition=2024", "--crate-name=oarlock_fcntl"])
        .args(["--crate-type=rlib", "--target", &given("TARGET")])
        .args(["-Copt-level=s", "-Cpanic=abort", "-Cembed-bitcode=no"])
        .arg("-o")
        .arg(folder.join("liboarlock_fcntl.a"))
        .arg("src/tokio/fcntl.rs")
        .status();
    assert!(
        built.is_ok_and(|status| status.success()),
        "src/tokio/fcntl.rs does not build"
    );
    println!("cargo:rustc-link-search=native={}", folder.display());
    // Not bundled into this crate's own library: rustc would want to see into that.
    println!("cargo:rustc-link-lib=static:-bundle=oarlock_fcntl");
}
