//! What one engine takes of the things that the machine has few of: address space, memory mappings, descriptors.
//!
//! The kernel allows a process 65,530 mappings unless `vm.max_map_count` says otherwise, and refuses the next one. An
//! allocator that is refused ends the process. So everything that a guest can make the host map is counted here
//! beforehand, at its worst: stacks, linear memories and loaded code. An eighth is left to everybody else (threads,
//! libraries, allocator, databases, an embedder's own); of the rest one half is for instances, one half for code.

use std::fmt;

use crate::machine;

/// Parts of all mappings, of which one is left to everybody else.
const RESERVE: u64 = 8;
/// Mappings of a stack: itself and the guard page below it. All stacks of a pool are mapped from the start.
const PER_STACK: u64 = 2;
/// Mappings of a linear memory at the most: before its image, the image, behind it, and what it has not grown to.
const PER_MEMORY: u64 = 4;
/// Mappings of a component's code at the most: its read-only parts and the executable one, and those that they cut
/// out of the allocator's.
const PER_PROGRAM: u64 = 6;
/// Stacks for each place of the serial engine: a call or a start, one at a time, has one.
const SERIAL_STACKS: u32 = 1;
/// Stacks for each place of the concurrent engine: each call that blocks in a synchronous function has one.
const CONCURRENT_STACKS: u32 = 2;
/// Descriptors: one part in this many may be the images of loaded code's memories.
const IMAGES: u64 = 4;
/// What no machine is too small for.
const LEAST: u32 = 8;

/// What keeps a number from being larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The engine's configuration.
    Configured,
    /// The kernel's `vm.max_map_count`.
    Mappings,
    /// The address space of the machine, or of the process (`RLIMIT_AS`).
    AddressSpace,
    /// The open files of the process (`RLIMIT_NOFILE`).
    Descriptors,
}

impl fmt::Display for Bound {
    /// The setting that raises it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configured => "the host's `instances`",
            Self::Mappings => "the kernel's `vm.max_map_count`",
            Self::AddressSpace => "the process's address space (`ulimit -v`)",
            Self::Descriptors => "the process's open files (`ulimit -n`)",
        })
    }
}

/// A number, and what keeps it from being larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    /// The number.
    pub count: u32,
    /// What raises it.
    pub bound: Bound,
}

impl Most {
    fn new(count: u64, bound: Bound) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX).max(LEAST);
        Self { count, bound }
    }

    fn and(self, other: Self) -> Self {
        if other.count < self.count {
            other
        } else {
            self
        }
    }
}

/// How many instances and programs an engine has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Instances alive at once, over all apps.
    pub instances: Most,
    /// Instances that the requests of one app may have at once, so that others have room too.
    pub per_app: u32,
    /// Components whose code is in memory at once, over all apps. What nothing runs gives way.
    pub programs: Most,
}

/// One app's requests may have one part of all instances in this many.
const SHARE: u32 = 2;
/// An engine with fewer instances is one app's alone.
const SMALL: u32 = 64;

impl Capacity {
    /// For an engine that was asked for so many instances, each of which takes this much address space in each of
    /// two pools, and so many programs.
    pub(crate) fn of_machine((instances, programs): (u32, u32), address_space: u64) -> Self {
        let asked = |count: u32| Most {
            count: count.max(1),
            bound: Bound::Configured,
        };
        let space = machine::address_space() / address_space.max(1) / 2;
        let capacity = Self::new(
            asked(instances).and(Most::new(space, Bound::AddressSpace)),
            machine::mappings(),
            machine::descriptors(),
        );
        Self::of(capacity.instances, asked(programs).and(capacity.programs))
    }

    fn new(instances: Most, mappings: u64, descriptors: Option<u64>) -> Self {
        let half = (mappings - mappings / RESERVE) / 2;
        let stacks = PER_STACK * u64::from(SERIAL_STACKS + CONCURRENT_STACKS);
        // Any place may be taken in one pool first and in the other later, and both keep what they mapped.
        let place = stacks + 2 * PER_MEMORY;
        let images = descriptors.map_or(u64::MAX, |count| count / IMAGES);
        let programs = Most::new(half / PER_PROGRAM, Bound::Mappings)
            .and(Most::new(images, Bound::Descriptors));
        Self::of(
            instances.and(Most::new(half / place, Bound::Mappings)),
            programs,
        )
    }

    fn of(instances: Most, programs: Most) -> Self {
        Self {
            instances,
            per_app: (instances.count / SHARE).max(instances.count.min(SMALL)),
            programs,
        }
    }

    /// The same with fewer instances, because the kernel refused.
    pub(crate) fn halved(self) -> Option<Self> {
        let count = self.instances.count / 2;
        let bound = Bound::AddressSpace;
        (count >= LEAST).then(|| Self::of(Most { count, bound }, self.programs))
    }

    /// Stacks of the pool of the serial engine, and of the concurrent one's.
    pub(crate) fn stacks(&self) -> [u32; 2] {
        [SERIAL_STACKS, CONCURRENT_STACKS].map(|each| self.instances.count.saturating_mul(each))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: u64 = 65_530;

    fn asked(count: u32) -> Most {
        Most {
            count,
            bound: Bound::Configured,
        }
    }

    #[test]
    fn all_that_is_counted_fits_into_what_the_kernel_allows() {
        for mappings in [20_000, DEFAULT, 262_144, 1_048_576] {
            let capacity = Capacity::new(asked(100_000), mappings, None);
            let instances = u64::from(capacity.instances.count);
            let stacks: u64 = capacity.stacks().map(u64::from).iter().sum();
            let taken = stacks * PER_STACK
                + 2 * instances * PER_MEMORY
                + u64::from(capacity.programs.count) * PER_PROGRAM;
            assert!(
                taken <= mappings - mappings / RESERVE,
                "{mappings}: {taken}"
            );
            // What an idle host has mapped already.
            assert!(stacks * PER_STACK <= mappings / 4, "{mappings}");
        }
    }

    #[test]
    fn the_usual_kernel_has_room_for_a_thousand_requests_of_one_app() {
        let capacity = Capacity::new(asked(4_000), DEFAULT, Some(20_000));
        assert!(capacity.per_app >= 1_000, "{capacity:?}");
        assert_eq!(capacity.instances.bound, Bound::Mappings);
        assert!(capacity.programs.count >= 1_000, "{capacity:?}");
    }

    #[test]
    fn what_is_least_is_named() {
        assert_eq!(Capacity::new(asked(64), DEFAULT, None).instances, asked(64));
        let few_files = Capacity::new(asked(64), DEFAULT, Some(256)).programs;
        assert_eq!((few_files.count, few_files.bound), (64, Bound::Descriptors));
        let none = Capacity::new(asked(64), 0, Some(0));
        assert_eq!((none.instances.count, none.programs.count), (LEAST, LEAST));
    }
}
