//! What the machine has and this process may use: address space, memory mappings, descriptors, threads.

use cap_std::ambient_authority;
use cap_std::fs::Dir;

/// User address space of a 64-bit machine with four-level page tables, half of which pools may take.
const ADDRESS_SPACE: u64 = 1 << 46;

/// Bytes of address space that one pool may reserve.
pub(crate) fn address_space() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current;
    limit.map_or(ADDRESS_SPACE, |limit| (limit / 2).min(ADDRESS_SPACE))
}

/// Threads that this process may have, as far as its control group or its user has a limit (`pids.max`,
/// `RLIMIT_NPROC`).
pub fn threads() -> Option<u64> {
    let user = rustix::process::getrlimit(rustix::process::Resource::Nproc).current;
    let limits = [control_group("pids.max"), user];
    limits.into_iter().flatten().min()
}

/// A limit of the process's control group; `None`: it has none.
fn control_group(name: &str) -> Option<u64> {
    let group = Dir::open_ambient_dir("/sys/fs/cgroup", ambient_authority()).ok()?;
    group.read_to_string(name).ok()?.trim().parse().ok()
}

/// What Linux allows unless it was told otherwise.
const MAPPINGS: u64 = 65_530;

/// Memory mappings that a process may have: the kernel's `vm.max_map_count`.
pub(crate) fn mappings() -> u64 {
    let read = || {
        let folder = Dir::open_ambient_dir("/proc/sys/vm", ambient_authority()).ok()?;
        let text = folder.read_to_string("max_map_count").ok()?;
        text.trim().parse().ok()
    };
    read().unwrap_or(MAPPINGS)
}

/// Descriptors that this process may have open now; `None`: as many as it likes.
pub(crate) fn descriptors() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}
