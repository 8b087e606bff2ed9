//! `[connections]`: what one client address may have open at once, and how long a request's head may take.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeTable;

use crate::limits::read_time;
use crate::mistakes::Findings;
use crate::read;

/// Bounds on the connections of clients. An address is an IPv4 address, or the /64 of an IPv6 address: a household has
/// a whole one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// Connections of one address at once; a further one is closed when it is accepted. Behind a trusted proxy: requests
    /// under way of the address that the proxy names; a further one is answered 429.
    pub per_address: u32,
    /// Connections of one address on which a request's head has begun and not ended; a further one is closed.
    pub half_heads_per_address: u32,
    /// How long a head may take: the first one from when the connection is accepted, a later one from its first byte.
    /// Then the connection is closed.
    pub head_timeout: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            per_address: 1_000,
            half_heads_per_address: 100,
            head_timeout: Duration::from_secs(10),
        }
    }
}

const KEYS: [&str; 3] = ["per_address", "half_heads_per_address", "head_timeout"];

/// More than any machine has descriptors for.
const MOST: u64 = 10_000_000;

/// What `head_timeout` may be, in milliseconds: a slow line needs a while, and ten minutes are no deadline.
const HEAD_TIMEOUT: RangeInclusive<u64> = 100..=600_000;

pub(super) fn read(table: &DeTable<'_>, findings: &mut Findings<'_>) -> Connections {
    let keys = read::known_entries(table, &KEYS, "[connections]", findings);
    let mut connections = Connections::default();
    let count = |key: &str, findings: &mut Findings<'_>| {
        let count = keys.get(key)?.integer(1..=MOST, findings)?;
        u32::try_from(count).ok()
    };
    if let Some(bound) = count("per_address", findings) {
        connections.per_address = bound;
    }
    if let Some(bound) = count("half_heads_per_address", findings) {
        connections.half_heads_per_address = bound;
    }
    if let Some(time) = keys
        .get("head_timeout")
        .and_then(|entry| read_time(entry, &HEAD_TIMEOUT, findings))
    {
        connections.head_timeout = time;
    }
    connections
}
