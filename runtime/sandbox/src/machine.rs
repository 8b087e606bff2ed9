//! What the machine has: memory and address space, as far as this process may use them.

use cap_std::ambient_authority;
use cap_std::fs::Dir;

/// User address space of a 64-bit machine with four-level page tables, half of which pools may take.
const ADDRESS_SPACE: u64 = 1 << 46;

/// Bytes of memory this process may use: the machine's, or its control group's limit if that is less.
pub(crate) fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    let total = info.totalram.saturating_mul(info.mem_unit.into());
    control_group_limit().map_or(total, |limit| total.min(limit))
}

/// Bytes of address space that one pool may reserve.
pub(crate) fn address_space() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current;
    limit.map_or(ADDRESS_SPACE, |limit| (limit / 2).min(ADDRESS_SPACE))
}

fn control_group_limit() -> Option<u64> {
    let group = Dir::open_ambient_dir("/sys/fs/cgroup", ambient_authority()).ok()?;
    group.read_to_string("memory.max").ok()?.trim().parse().ok()
}
