//! What a fenced build may use, counted from outside: memory and processes of all that it started, the bytes of its
//! folders, and its time. Where a build has a control group, the kernel counts memory and processes, and lets it have no
//! more. Counting here sees a moment, so that a build may be above a bound for [`LOOK`] (memory, processes)
//! or for one walk of its folders (disk); what one process alone may use is the kernel's to hold, see `fence.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oarlock_process::Exceeded;
use oarlock_spec::policy::BuildLimits;

/// Between two looks at a build's processes.
const LOOK: Duration = Duration::from_millis(200);

/// Between two walks over its folders, at least; and as many times as long as the last took.
const WALK: Duration = Duration::from_secs(1);
const WALK_SHARE: u32 = 10;

/// Files and folders that are counted; more count as too much.
const MAX_ENTRIES: usize = 2_000_000;

/// Who counts memory and processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// The build's control group.
    ByTheKernel,
    /// We, a few times a second.
    Here,
}

/// What ends one command of a build.
pub(super) struct Bounds {
    pub(super) limits: BuildLimits,
    /// When the build's time is over.
    pub(super) until: tokio::time::Instant,
    /// What it writes to.
    pub(super) folders: Vec<PathBuf>,
    pub(super) counted: Counted,
}

impl Bounds {
    /// Ends when the command of this first process uses more than it may; says what.
    pub(super) async fn exceeded(self, pid: u32) -> String {
        let used = async {
            match self.counted {
                Counted::ByTheKernel => std::future::pending().await,
                Counted::Here => processes(&self.limits, pid).await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(self.until) => {
                let timeout = self.limits.timeout.as_secs();
                format!("the build took over {timeout} seconds, and the policy's `[build] timeout` is that")
            }
            what = used => what,
            what = disk(self.limits.disk, self.folders.clone()) => what,
        }
    }
}

/// What a control group did not let its build have.
pub(super) fn refused(exceeded: Exceeded, limits: &BuildLimits) -> Option<String> {
    if exceeded.memory {
        let memory = limits.memory >> 20;
        Some(format!(
            "it needed more memory than the policy's `[build] memory`, {memory} MiB"
        ))
    } else if exceeded.processes {
        let processes = limits.processes;
        Some(format!(
            "it needed more processes and threads than the policy's `[build] processes`, {processes}"
        ))
    } else {
        None
    }
}

async fn processes(limits: &BuildLimits, pid: u32) -> String {
    loop {
        tokio::time::sleep(LOOK).await;
        let used = tokio::task::spawn_blocking(move || Used::below(pid)).await;
        let used = used.unwrap_or_default();
        if used.memory > limits.memory {
            return format!(
                "it used {} MiB of memory, and the policy's `[build] memory` is {} MiB",
                used.memory >> 20,
                limits.memory >> 20
            );
        }
        if used.threads > limits.processes {
            return format!(
                "it had {} processes and threads, and the policy's `[build] processes` is {}",
                used.threads, limits.processes
            );
        }
    }
}

async fn disk(limit: u64, folders: Vec<PathBuf>) -> String {
    loop {
        let folders = folders.clone();
        let began = Instant::now();
        let bytes = tokio::task::spawn_blocking(move || {
            folders.iter().map(|folder| size_of(folder)).sum::<u64>()
        })
        .await
        .unwrap_or_default();
        if bytes > limit {
            return format!(
                "its folder and its cache have over {} MiB, and the policy's `[build] disk` is {} MiB",
                (bytes >> 20).min(1 << 40),
                limit >> 20
            );
        }
        let pause = WALK.max(began.elapsed() * WALK_SHARE);
        tokio::time::sleep(pause).await;
    }
}

/// Bytes on the disk below a folder; links are not followed.
fn size_of(folder: &Path) -> u64 {
    let mut bytes = 0_u64;
    for (count, entry) in walkdir::WalkDir::new(folder).into_iter().enumerate() {
        if count > MAX_ENTRIES {
            return u64::MAX / 4;
        }
        // What is gone since takes nothing.
        if let Some(found) = entry.ok().and_then(|entry| entry.metadata().ok()) {
            bytes = bytes.saturating_add(found.blocks().saturating_mul(512));
        }
    }
    bytes
}

/// What a process and all that it started use now.
#[derive(Debug, Default, Clone, Copy)]
struct Used {
    memory: u64,
    threads: u64,
}

/// A line of `/proc/<pid>/stat`.
struct Stat {
    parent: u32,
    threads: u64,
    /// Bytes in memory; what processes share counts for each.
    resident: u64,
}

impl Used {
    fn below(root: u32) -> Self {
        let mut all: BTreeMap<u32, Stat> = BTreeMap::new();
        let entries = std::fs::read_dir("/proc").into_iter().flatten();
        for entry in entries.filter_map(Result::ok) {
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(pid) = pid
                && let Some(stat) = Stat::of(pid)
            {
                all.insert(pid, stat);
            }
        }
        let mut ours = BTreeSet::from([root]);
        // In rounds, for a child may have a lower id than its parent.
        loop {
            let before = ours.len();
            let more = all.iter().filter(|(_, stat)| ours.contains(&stat.parent));
            let more: Vec<u32> = more.map(|(pid, _)| *pid).collect();
            ours.extend(more);
            if ours.len() == before {
                break;
            }
        }
        let mut used = Self::default();
        for stat in ours.iter().filter_map(|pid| all.get(pid)) {
            used.memory += stat.resident;
            used.threads += stat.threads;
        }
        used
    }
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        let text = String::from_utf8_lossy(&text);
        // The name may hold anything; what follows its last `)` are numbers (proc_pid_stat(5)).
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(number(1)?).ok()?,
            threads: number(17)?,
            resident: number(21)?.saturating_mul(rustix::param::page_size() as u64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_use_is_counted() {
        let used = Used::below(std::process::id());
        assert!(used.threads >= 1, "{used:?}");
        assert!(used.memory > 1 << 20, "{used:?}");
    }

    #[test]
    fn what_a_control_group_refused_is_told_by_the_setting() {
        let limits = BuildLimits::default();
        let told = |memory, processes| refused(Exceeded { memory, processes }, &limits);
        assert_eq!(told(false, false), None);
        assert!(
            told(true, true)
                .unwrap()
                .contains("`[build] memory`, 4096 MiB")
        );
        assert!(
            told(false, true)
                .unwrap()
                .contains("`[build] processes`, 512")
        );
    }

    #[test]
    fn a_folder_is_counted_and_its_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/usr", root.path().join("link")).unwrap();
        let size = size_of(root.path());
        assert!((100_000..200_000).contains(&size), "{size}");
    }
}
