//! Support for the integration tests: guests, apps, hosts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test support"
)]

pub mod app;
pub mod apps;
pub mod browser;
mod packages;
pub mod servers;
pub mod statistics;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Sees to it that a program is there: as root its Debian package is installed, else the package is named.
///
/// # Panics
/// If it is not there in the end.
pub fn need_program(program: &str, package: &str) {
    packages::need(package, || packages::is_program(program));
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The component of a test guest (`tests/guests/rust/<name>`); all are built on first use.
pub fn guest(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| build_components(&repository().join("tests/guests")));
    // A binary keeps its name, a cdylib gets underscores.
    let bin = folder.join(format!("{name}.wasm"));
    if bin.exists() {
        bin
    } else {
        folder.join(format!("{}.wasm", name.replace('-', "_")))
    }
}

/// A version of WASI that the guest crate builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wasi {
    /// 0.2
    P2,
    /// 0.3
    P3,
}

/// A guest over the guest crate (`tests/guests/sdk/<name>`) on this version; all are built on first use.
pub fn sdk_guest(wasi: Wasi, name: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<Wasi, PathBuf>> = Mutex::new(BTreeMap::new());
    let feature = match wasi {
        Wasi::P2 => "p2",
        Wasi::P3 => "p3",
    };
    let build = || {
        let workspace = repository().join("tests/guests/sdk");
        // A folder each: the two have different components of one name.
        let target = workspace.join("target").join(feature);
        let arguments = ["--no-default-features", "--features", feature];
        build_components_in(&workspace, &target, &arguments)
    };
    BUILT
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(wasi)
        .or_insert_with(build)
        .join(format!("sdk_{name}.wasm"))
}

/// A component of `examples/<example>`; the example is built on first use.
pub fn example(example: &str, component: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap();
    let build = || build_components(&repository().join("examples").join(example));
    built
        .entry(example.to_owned())
        .or_insert_with(build)
        .join(format!("{component}.wasm"))
}

/// Builds a cargo workspace of guests; where its components are.
///
/// # Panics
/// If it does not build.
pub fn build_components(workspace: &Path) -> PathBuf {
    build_components_in(workspace, &workspace.join("target"), &[])
}

fn build_components_in(workspace: &Path, target: &Path, arguments: &[&str]) -> PathBuf {
    need_target(workspace);
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--target", "wasm32-wasip2"])
        .args(arguments)
        .arg("--target-dir")
        .arg(target)
        .current_dir(workspace)
        // Settings of the outer cargo must not reach the guests' build.
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .status()
        .expect("cargo runs");
    assert!(
        status.success(),
        "the guests in {} do not build",
        workspace.display()
    );
    target.join("wasm32-wasip2/release")
}

/// Sees to it that the guests' target is installed for the toolchain that is used in `workspace`.
fn need_target(workspace: &Path) {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _turn = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let libraries = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", "wasm32-wasip2"])
        .current_dir(workspace)
        .output()
        .expect("rustc runs");
    let folder = String::from_utf8_lossy(&libraries.stdout).trim().to_owned();
    if Path::new(&folder).is_dir() {
        return;
    }
    let added = Command::new("rustup")
        .args(["target", "add", "wasm32-wasip2"])
        .current_dir(workspace)
        .status();
    assert!(
        added.is_ok_and(|status| status.success()),
        "the tests' guests need the Rust target: `rustup target add wasm32-wasip2` failed"
    );
}

/// The component of a C guest (`tests/guests/c/<name>.c`), built on first use in a process.
///
/// # Panics
/// If it cannot be built; the message says what has to be installed (as root it is installed).
pub fn c_guest(name: &str) -> PathBuf {
    packages::need("clang", || packages::is_program("clang"));
    packages::need("wasi-libc", || {
        Path::new("/usr/include/wasm32-wasi").is_dir()
    });
    // One at a time: tests of one binary run beside each other and share the folder.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock().unwrap();
    let folder = repository().join("tests/guests/c");
    // Its C library comes with Rust's target.
    need_target(&folder);
    let out = folder.join(format!("target/{name}.wasm"));
    std::fs::create_dir_all(folder.join("target")).unwrap();
    let output = Command::new("sh")
        .arg(folder.join("build.sh"))
        .args([&folder.join(format!("{name}.c")), &out])
        .output()
        .expect("sh runs");
    assert!(
        output.status.success(),
        "{name}.c: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    out
}
