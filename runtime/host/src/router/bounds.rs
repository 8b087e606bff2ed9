//! What one client address may have open at once: connections, and heads that have begun and not ended.
//!
//! An address is an IPv4 address or the /64 of an IPv6 address ([`Key`]). A connection touches the table twice, when
//! it comes and when it goes; requests touch it only where a trusted proxy names their clients. The table has an entry per
//! address that has something open, so it is as large as that.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use super::lock;

/// Parts of the table, each with a lock of its own: cores seldom meet.
const SHARDS: usize = 64;

/// Who is counted as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    V4(Ipv4Addr),
    /// The first 64 bits.
    V6(u64),
}

impl Key {
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => Self::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// A connection, or a request of a client that a proxy names.
    Whole,
    /// A connection on which a head has begun and not ended.
    HalfHead,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    whole: u32,
    half_heads: u32,
}

impl Counts {
    fn of(&mut self, what: Counted) -> &mut u32 {
        match what {
            Counted::Whole => &mut self.whole,
            Counted::HalfHead => &mut self.half_heads,
        }
    }
}

/// The counts of all addresses.
pub(super) struct Bounds {
    shards: [Mutex<HashMap<Key, Counts>>; SHARDS],
    hasher: RandomState,
    whole: u32,
    half_heads: u32,
}

impl Bounds {
    pub(super) fn new(whole: u32, half_heads: u32) -> Arc<Self> {
        Arc::new(Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            whole,
            half_heads,
        })
    }

    /// `None`: the address has as many as it may.
    pub(super) fn enter(self: &Arc<Self>, key: Key, what: Counted) -> Option<Place> {
        let most = match what {
            Counted::Whole => self.whole,
            Counted::HalfHead => self.half_heads,
        };
        let mut shard = lock(self.shard(key)?);
        let count = shard.entry(key).or_default().of(what);
        // An entry that was just made is below every bound: those are at least 1.
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(shard);
        Some(Place {
            bounds: self.clone(),
            key,
            what,
        })
    }

    fn leave(&self, key: Key, what: Counted) {
        let Some(shard) = self.shard(key) else { return };
        let mut shard = lock(shard);
        if let Some(counts) = shard.get_mut(&key) {
            let count = counts.of(what);
            *count = count.saturating_sub(1);
            if counts.whole == 0 && counts.half_heads == 0 {
                shard.remove(&key);
            }
        }
    }

    fn shard(&self, key: Key) -> Option<&Mutex<HashMap<Key, Counts>>> {
        let hash = self.hasher.hash_one(key);
        self.shards.get(usize::try_from(hash).unwrap_or(0) % SHARDS)
    }

    #[cfg(test)]
    pub(super) fn half_heads(&self, key: Key) -> u32 {
        let shard = lock(self.shard(key).unwrap());
        shard.get(&key).map_or(0, |counts| counts.half_heads)
    }

    #[cfg(test)]
    pub(super) fn addresses(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}

/// One that is counted; given back on drop.
pub(super) struct Place {
    bounds: Arc<Bounds>,
    key: Key,
    what: Counted,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.bounds.leave(self.key, self.what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ip: &str) -> Key {
        Key::of(ip.parse().unwrap())
    }

    #[test]
    fn an_ipv6_household_and_a_mapped_address_are_one() {
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    #[test]
    fn each_address_has_its_own_bounds_and_leaves_nothing_behind() {
        let bounds = Bounds::new(2, 1);
        let (one, other) = (key("192.0.2.1"), key("192.0.2.2"));
        let first = bounds.enter(one, Counted::Whole).unwrap();
        let second = bounds.enter(one, Counted::Whole).unwrap();
        assert!(bounds.enter(one, Counted::Whole).is_none());
        let half = bounds.enter(one, Counted::HalfHead).unwrap();
        assert!(bounds.enter(one, Counted::HalfHead).is_none());
        let neighbour = bounds.enter(other, Counted::Whole).unwrap();
        drop(first);
        let third = bounds.enter(one, Counted::Whole).unwrap();
        assert_eq!(bounds.addresses(), 2);
        drop((second, third, half, neighbour));
        assert_eq!(bounds.addresses(), 0);
    }
}
