//! What the figures were taken on.

use std::collections::BTreeMap;
use std::fmt;
use std::process::Command;

use serde::Serialize;

use crate::server::{Tools, version};

/// The machine and the versions.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_bytes: u64,
    kernel: String,
    rustc: Option<String>,
    oarlock: Option<String>,
    /// What it was built with: `release` or `dist`.
    profile: Option<String>,
    /// With a `+` behind it, if the work tree has changes.
    commit: Option<String>,
    /// The real `wasmtime serve`.
    wasmtime: Option<String>,
    /// The libraries in Oarlock, in the bare `ProxyHandler` and in bare hyper.
    libraries: BTreeMap<String, String>,
    wrk: Option<String>,
    load_before: Option<f64>,
}

impl Machine {
    pub(crate) fn read(tools: &Tools) -> Self {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = file("/proc/cpuinfo");
        let cpu = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown", |(_, name)| name.trim());
        let info = rustix::system::sysinfo();
        let commit = git(&["rev-parse", "--short=12", "HEAD"]).map(|commit| {
            match git(&["status", "--porcelain"]) {
                Some(_) => format!("{commit}+"),
                None => commit,
            }
        });
        Self {
            cpu: cpu.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: u64::from(info.mem_unit).saturating_mul(info.totalram),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            rustc: version("rustc".as_ref()),
            oarlock: version(&tools.oarlock),
            profile: tools
                .oarlock
                .parent()
                .and_then(|folder| folder.file_name()?.to_str().map(str::to_owned)),
            commit,
            wasmtime: tools.wasmtime.as_deref().and_then(version),
            libraries: libraries(),
            wrk: wrk(),
            load_before: file("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok()),
        }
    }
}

/// What git says, if it says something.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(oarlock_tests::repository())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// The versions in the lock file of what the figures depend on most.
fn libraries() -> BTreeMap<String, String> {
    let lock = oarlock_tests::repository().join("Cargo.lock");
    let lock = std::fs::read_to_string(lock).unwrap_or_default();
    let quoted = |line: Option<&str>, key: &str| {
        let value = line?.strip_prefix(key)?.strip_prefix(" = \"")?;
        Some(value.strip_suffix('"')?.to_owned())
    };
    lock.split("[[package]]\n")
        .filter_map(|package| {
            let mut lines = package.lines();
            let name = quoted(lines.next(), "name")?;
            Some((name, quoted(lines.next(), "version")?))
        })
        .filter(|(name, _)| ["hyper", "tokio", "wasmtime"].contains(&name.as_str()))
        .collect()
}

/// Its version, which it prints with its usage, and fails.
fn wrk() -> Option<String> {
    let output = Command::new("wrk").arg("-v").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let first = text.lines().next()?;
    Some(first.split(" [").next()?.trim().to_owned())
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or = |text: &Option<String>, other: &str| text.clone().unwrap_or_else(|| other.into());
        write!(
            f,
            "{} cores of {}, {} GiB, Linux {}; {}, {} ({}, {}), {}",
            self.cores,
            self.cpu,
            self.memory_bytes >> 30,
            self.kernel,
            or(&self.rustc, "no rustc"),
            or(&self.oarlock, "oarlock"),
            or(&self.profile, "of an unknown profile"),
            or(&self.commit, "no commit"),
            or(&self.wasmtime, "no wasmtime on PATH"),
        )?;
        match self.load_before {
            Some(load) if load > 0.5 => write!(f, "; NOT quiet: a load of {load} before the start"),
            _ => Ok(()),
        }
    }
}
