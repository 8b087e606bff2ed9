//! One transaction of a kv add-on's file: the tables, and what each change does to them.
//!
//! Three tables: entries by key, keys by the number they were created with (so that a cursor can be
//! a number and stay right while entries come and go), and two counters.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use oarlock_sandbox::{KvError, KvSwap};
use redb::{ReadableTable, Table, TableDefinition};

use super::database::{Checked, DbError};

/// Entry by key: the number it was created with, its version, its value.
pub(super) const ENTRIES: TableDefinition<'_, &str, (u64, u64, &[u8])> =
    TableDefinition::new("entries");
/// Key by the number its entry was created with.
pub(super) const CREATED: TableDefinition<'_, u64, &str> = TableDefinition::new("created");
/// `last`: the highest number given out (to a creation or a version). `used`: bytes, as [`cost`] counts.
pub(super) const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

/// Bytes that an entry takes besides its key and its value.
const OVERHEAD: u64 = 64;

/// A change.
#[derive(Debug)]
pub(super) enum Op {
    Set(Vec<(String, Vec<u8>)>),
    Delete(Vec<String>),
    Increment {
        key: String,
        delta: i128,
        range: RangeInclusive<i128>,
    },
    Swap {
        key: String,
        version: u64,
        value: Vec<u8>,
    },
}

/// What a change brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Changed,
    Number(i128),
    Swap(KvSwap),
}

/// What an entry counts against the add-on's size.
fn cost(key: &str, value: usize) -> u64 {
    key.len() as u64 + value as u64 + OVERHEAD
}

/// The tables of one transaction, and the counters as they will be.
pub(super) struct Tables<'w> {
    entries: Table<'w, &'static str, (u64, u64, &'static [u8])>,
    created: Table<'w, u64, &'static str>,
    counters: Table<'w, &'static str, u64>,
    last: u64,
    used: u64,
    changed: bool,
}

impl<'w> Tables<'w> {
    pub(super) fn open(write: &'w redb::WriteTransaction) -> Result<Self, DbError> {
        let counters = write.open_table(COUNTERS).db()?;
        let last = counters.get("last").db()?.map_or(0, |value| value.value());
        let used = counters.get("used").db()?.map_or(0, |value| value.value());
        let (entries, created) = (
            write.open_table(ENTRIES).db()?,
            write.open_table(CREATED).db()?,
        );
        Ok(Self {
            entries,
            created,
            counters,
            last,
            used,
            changed: false,
        })
    }

    /// Whether there is anything to commit.
    pub(super) fn save(mut self) -> Result<bool, DbError> {
        if self.changed {
            self.counters.insert("last", self.last).db()?;
            self.counters.insert("used", self.used).db()?;
        }
        Ok(self.changed)
    }

    /// All checks come before the first change, so that what is refused changes nothing.
    pub(super) fn apply(&mut self, op: Op, limit: u64) -> Result<Result<Done, KvError>, DbError> {
        match op {
            Op::Set(pairs) => self
                .set(pairs, limit)
                .map(|done| done.map(|()| Done::Changed)),
            Op::Delete(keys) => self.delete(&keys).map(|()| Ok(Done::Changed)),
            Op::Increment { key, delta, range } => self.increment(key, delta, &range, limit),
            Op::Swap {
                key,
                version,
                value,
            } => {
                let now = self
                    .entries
                    .get(key.as_str())
                    .db()?
                    .map_or(0, |entry| entry.value().1);
                if now != version {
                    return Ok(Ok(Done::Swap(KvSwap::Changed(now))));
                }
                let done = self.set(vec![(key, value)], limit)?;
                Ok(done.map(|()| Done::Swap(KvSwap::Done)))
            }
        }
    }

    fn set(
        &mut self,
        pairs: Vec<(String, Vec<u8>)>,
        limit: u64,
    ) -> Result<Result<(), KvError>, DbError> {
        let pairs: BTreeMap<String, Vec<u8>> = pairs.into_iter().collect();
        let (mut before, mut after) = (0, 0);
        for (key, value) in &pairs {
            before += self
                .entries
                .get(key.as_str())
                .db()?
                .map_or(0, |entry| cost(key, entry.value().2.len()));
            after += cost(key, value.len());
        }
        let used = (self.used + after).saturating_sub(before);
        // What makes a store smaller is welcome in a full one, too.
        if used > limit && after > before {
            return Ok(Err(KvError::Full { used, limit }));
        }
        for (key, value) in pairs {
            self.put(&key, &value)?;
        }
        self.used = used;
        Ok(Ok(()))
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), DbError> {
        self.changed = true;
        self.last += 1;
        let version = self.last;
        let created = self.entries.get(key).db()?.map(|entry| entry.value().0);
        if created.is_none() {
            self.created.insert(version, key).db()?;
        }
        self.entries
            .insert(key, (created.unwrap_or(version), version, value))
            .db()?;
        Ok(())
    }

    fn delete(&mut self, keys: &[String]) -> Result<(), DbError> {
        for key in keys {
            let gone = self.entries.remove(key.as_str()).db()?.map(|entry| {
                let (created, _, value) = entry.value();
                (created, value.len())
            });
            if let Some((created, length)) = gone {
                self.changed = true;
                self.created.remove(created).db()?;
                self.used = self.used.saturating_sub(cost(key, length));
            }
        }
        Ok(())
    }

    fn increment(
        &mut self,
        key: String,
        delta: i128,
        range: &RangeInclusive<i128>,
        limit: u64,
    ) -> Result<Result<Done, KvError>, DbError> {
        let now = self
            .entries
            .get(key.as_str())
            .db()?
            .map(|entry| integer(entry.value().2));
        let Some(now) = now.unwrap_or(Some(0)) else {
            return Ok(Err(KvError::WrongType(format!(
                "the value of `{key}` is no decimal integer"
            ))));
        };
        let Some(sum) = now.checked_add(delta).filter(|sum| range.contains(sum)) else {
            return Ok(Err(KvError::WrongType(format!(
                "`{key}` is {now}; adding {delta} leaves the range of the counter, {} to {}",
                range.start(),
                range.end()
            ))));
        };
        let done = self.set(vec![(key, sum.to_string().into_bytes())], limit)?;
        Ok(done.map(|()| Done::Number(sum)))
    }
}

fn integer(value: &[u8]) -> Option<i128> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
