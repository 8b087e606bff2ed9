//! What the figures were taken on.

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
    commit: Option<String>,
    wasmtime: Option<String>,
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
        let commit = Command::new("git")
            .args(["rev-parse", "--short=12", "HEAD"])
            .current_dir(oarlock_tests::repository())
            .output()
            .ok()
            .and_then(|output| String::from_utf8(output.stdout).ok())
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty());
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
            commit,
            wasmtime: tools.wasmtime.as_deref().and_then(version),
            load_before: file("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok()),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or = |text: &Option<String>, other: &str| text.clone().unwrap_or_else(|| other.into());
        write!(
            f,
            "{} cores of {}, {} GiB, Linux {}; {}, {} ({}), {}",
            self.cores,
            self.cpu,
            self.memory_bytes >> 30,
            self.kernel,
            or(&self.rustc, "no rustc"),
            or(&self.oarlock, "oarlock"),
            or(&self.commit, "no commit"),
            or(&self.wasmtime, "no wasmtime on PATH"),
        )?;
        match self.load_before {
            Some(load) if load > 0.5 => write!(f, "; NOT quiet: a load of {load} before the start"),
            _ => Ok(()),
        }
    }
}
