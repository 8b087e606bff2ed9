//! Debian packages that some tests need: installed on first use when the tests run as root, else named.

use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// Sees to it that a package is there; `there` tells whether it is.
///
/// # Panics
/// If it is not and cannot be installed; the message names it.
pub(crate) fn need(package: &str, there: impl Fn() -> bool) {
    // One at a time: apt takes a lock and fails for the second. A test that failed says why itself.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _turn = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if there() {
        return;
    }
    let hint = format!("this test needs Debian's package `{package}`: apt-get install {package}");
    assert!(rustix::process::geteuid().is_root(), "{hint}");
    let install = || apt(&["install", "-y", "--no-install-recommends", package]);
    let mut done = install();
    if !done.status.success() {
        // The lists of a fresh machine are empty or old.
        apt(&["update"]);
        done = install();
    }
    assert!(
        there(),
        "{hint} failed:\n{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

fn apt(args: &[&str]) -> Output {
    Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .unwrap_or_else(|error| panic!("apt-get cannot be started: {error}"))
}

/// Whether there is a program of this name.
pub(crate) fn is_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found() {
        assert!(is_program("sh"));
        assert!(!is_program("no-such-program"));
        need("sh", || true);
    }
}
