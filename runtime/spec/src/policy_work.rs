//! What the operator lets a host do for an app before it runs: compile its components (`[compile]`) and, under
//! `oarlock serve --build`, build its folder (`[build]`). Both are work for somebody whom the operator does not know,
//! so both are bounded.

use std::time::Duration;

use toml::de::DeTable;

use crate::limits::in_units;
use crate::manifest::{AllowEntry, HostPattern, read_allow};
use crate::mistakes::{Findings, brief};
use crate::read::{self, Entry};
use crate::units::{parse_duration, parse_size, show_size};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Bounds of one component's compilation in a child (`[compile]`). A component that needs more is refused, and the
/// error names the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileLimits {
    /// Bytes of address space beyond what the compiler has when it starts (2 GiB; large interpreters take under 1 GiB).
    pub memory: u64,
    /// CPU time of all its threads, in whole seconds (120 s; large interpreters take 20 s).
    pub cpu: Duration,
    /// From its start to its end; `None`: what the host has for it. `oarlock` gives five times `cpu` and a minute.
    pub deadline: Option<Duration>,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            memory: 2 * GIB,
            cpu: Duration::from_secs(120),
            deadline: None,
        }
    }
}

/// Bounds of one app's build under `oarlock serve --build` (`[build]`). A build that needs more is ended, and the error
/// names the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildLimits {
    /// Bytes of memory of all its processes together (4 GiB: what linking a large Rust program takes).
    pub memory: u64,
    /// From its start to its end (15 min).
    pub timeout: Duration,
    /// Processes and threads at once (512).
    pub processes: u64,
    /// Bytes of the app's folder and its cache together (8 GiB); one file may have as many.
    pub disk: u64,
    /// Builds at once, of as many apps (16); the others wait for a place. Each may use all of the above.
    pub at_once: u32,
    /// What the fetch before a build may connect to: the registries. Entries as in a manifest's `[network] allow`.
    pub fetch: Vec<AllowEntry>,
}

impl Default for BuildLimits {
    fn default() -> Self {
        Self {
            memory: 4 * GIB,
            timeout: Duration::from_secs(15 * 60),
            processes: 512,
            disk: 8 * GIB,
            at_once: 16,
            fetch: REGISTRIES.map(registry).to_vec(),
        }
    }
}

/// Of Rust, Python and JavaScript.
const REGISTRIES: [&str; 5] = [
    "index.crates.io",
    "static.crates.io",
    "pypi.org",
    "files.pythonhosted.org",
    "registry.npmjs.org",
];

fn registry(name: &str) -> AllowEntry {
    AllowEntry {
        text: name.to_owned(),
        line: 0,
        scheme: None,
        host: HostPattern::Name(name.to_owned()),
        port: 443,
    }
}

/// Reads `[compile]`.
pub(crate) fn read_compile(table: &DeTable<'_>, findings: &mut Findings<'_>) -> CompileLimits {
    let keys = read::known_entries(table, &["memory", "cpu", "deadline"], "[compile]", findings);
    let mut limits = CompileLimits::default();
    if let Some(size) = keys.get("memory").and_then(|entry| size(entry, findings)) {
        limits.memory = size;
    }
    if let Some(time) = keys.get("cpu").and_then(|entry| seconds(entry, findings)) {
        limits.cpu = time;
    }
    let deadline = keys.get("deadline");
    limits.deadline = deadline.and_then(|entry| seconds(entry, findings));
    limits
}

/// Reads `[build]`.
pub(crate) fn read_build(table: &DeTable<'_>, findings: &mut Findings<'_>) -> BuildLimits {
    let known = ["memory", "timeout", "processes", "disk", "at_once", "fetch"];
    let keys = read::known_entries(table, &known, "[build]", findings);
    let mut limits = BuildLimits::default();
    if let Some(size) = keys.get("memory").and_then(|entry| size(entry, findings)) {
        limits.memory = size;
    }
    if let Some(size) = keys.get("disk").and_then(|entry| size(entry, findings)) {
        limits.disk = size;
    }
    if let Some(time) = keys
        .get("timeout")
        .and_then(|entry| seconds(entry, findings))
    {
        limits.timeout = time;
    }
    let processes = keys.get("processes");
    if let Some(count) = processes.and_then(|entry| entry.integer(8..=100_000, findings)) {
        limits.processes = count;
    }
    let at_once = keys.get("at_once");
    let at_once = at_once.and_then(|entry| entry.integer(1..=1_000, findings));
    if let Some(count) = at_once.and_then(|count| u32::try_from(count).ok()) {
        limits.at_once = count;
    }
    if let Some(entry) = keys.get("fetch") {
        limits.fetch = read_allow(entry, findings);
    }
    limits
}

fn size(entry: &Entry<'_>, findings: &mut Findings<'_>) -> Option<u64> {
    let text = entry.string(findings)?;
    let bytes = in_units(entry, text, parse_size(text), findings)?;
    if bytes < 16 * MIB {
        let message = format!("`{}` is out of range: {}", entry.key, show_size(bytes));
        findings.suggest(&entry.span(), message, "use 16 MiB or more");
    }
    Some(bytes)
}

/// Whole ones: the kernel's limit on CPU time knows no others.
fn seconds(entry: &Entry<'_>, findings: &mut Findings<'_>) -> Option<Duration> {
    let text = entry.string(findings)?;
    let time = in_units(entry, text, parse_duration(text), findings)?;
    let whole = time.subsec_nanos() == 0 && time.as_secs() > 0;
    if !whole || time > Duration::from_secs(86_400) {
        let message = format!("`{}` is out of range: {}", entry.key, brief(text));
        findings.suggest(&entry.span(), message, "use whole seconds, from 1s to 1d");
    }
    Some(time)
}

#[cfg(test)]
mod tests {
    use crate::policy::parse;

    use super::*;

    #[test]
    fn the_defaults_hold_where_the_policy_is_silent() {
        let text =
            "[compile]\ncpu = \"5s\"\ndeadline = \"9s\"\n[build]\ndisk = \"1 GiB\"\nat_once = 3\n";
        let policy = parse(text).unwrap();
        let compile = CompileLimits {
            cpu: Duration::from_secs(5),
            deadline: Some(Duration::from_secs(9)),
            ..CompileLimits::default()
        };
        assert_eq!(policy.compile, compile);
        let build = BuildLimits {
            disk: GIB,
            at_once: 3,
            ..BuildLimits::default()
        };
        assert_eq!(policy.build, build);
    }

    #[test]
    fn mistakes_are_named() {
        let text = "[compile]\nmemory = \"1 KiB\"\ncpu = \"1500ms\"\ndeadline = 5\nmemmory = 1\n\
                    [build]\nprocesses = 1\nat_once = 0\nfetch = [\"https://x.org/a\"]\ntimeout = \"0s\"\n";
        let mistakes = parse(text).unwrap_err().to_string();
        for word in [
            "use 16 MiB or more",
            "whole seconds",
            "did you mean `memory`?",
            "has a path",
            "processes",
            "deadline",
            "at_once",
            "`timeout`",
        ] {
            assert!(mistakes.contains(word), "{word} is not in:\n{mistakes}");
        }
    }
}
