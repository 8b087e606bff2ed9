//! A partial set of limits, as one table of a file gives it: read from TOML, laid over
//! [`Limits`], held below caps.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::keys::{Kind, LimitKey, LimitValue};
use super::{Isolation, Limits};
use crate::mistakes::Findings;
use crate::read::{self, Entry};
use crate::suggest::did_you_mean;
use crate::units::{UnitError, parse_duration, parse_size, show_duration, show_size};

/// Some limits, by key; a key that is not here is left as it was.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LimitSet(BTreeMap<LimitKey, LimitValue>);

impl LimitSet {
    /// The value of a key, if the set has it.
    pub fn get(&self, key: LimitKey) -> Option<LimitValue> {
        self.0.get(&key).copied()
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a value, unless the set has one of the key.
    pub fn or_insert(&mut self, key: LimitKey, value: LimitValue) {
        self.0.entry(key).or_insert(value);
    }

    /// Overwrites what the set has.
    pub fn lay_over(&self, limits: &mut Limits) {
        for (key, value) in &self.0 {
            set(limits, *key, *value);
        }
    }

    /// Lowers what is above these caps. An unset `concurrency` (whose default depends on the
    /// component) is lowered when the largest default is above the cap.
    pub fn hold_below(&self, limits: &mut Limits) {
        for (key, cap) in &self.0 {
            if current(limits, *key).exceeds(*cap) {
                set(limits, *key, *cap);
            }
        }
    }

    /// Reads a table. Each value above `caps` is noted as a mistake; `place` is how the file
    /// writes the table, as in `[limits.web]`.
    pub(crate) fn read(
        table: &DeTable<'_>,
        place: &str,
        caps: Option<&Self>,
        findings: &mut Findings<'_>,
    ) -> Self {
        Self::read_beside(&[], table, (place, caps), findings)
    }

    /// The same, where the table has `others` as well, which somebody else reads.
    pub(crate) fn read_beside(
        others: &[&str],
        table: &DeTable<'_>,
        (place, caps): (&str, Option<&Self>),
        findings: &mut Findings<'_>,
    ) -> Self {
        let mut values = BTreeMap::new();
        for entry in read::entries(table) {
            if others.contains(&entry.key) {
                continue;
            }
            let Some(key) = LimitKey::from_name(entry.key) else {
                let known = [LimitKey::NAMES, others].concat();
                read::unknown_key(&entry, &known, place, findings);
                continue;
            };
            let Some(value) = read_value(key, &entry, findings) else {
                continue;
            };
            if let Some(cap) = caps.and_then(|caps| caps.get(key))
                && value.exceeds(cap)
            {
                findings.suggest(
                    &entry.span(),
                    format!("`{}` is above what this host's policy allows", entry.key),
                    format!(
                        "use at most {}, or have the operator raise it in [caps]",
                        cap.show()
                    ),
                );
                continue;
            }
            values.insert(key, value);
        }
        Self(values)
    }
}

impl FromIterator<(LimitKey, LimitValue)> for LimitSet {
    fn from_iter<I: IntoIterator<Item = (LimitKey, LimitValue)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

fn read_value(key: LimitKey, entry: &Entry<'_>, findings: &mut Findings<'_>) -> Option<LimitValue> {
    if let (true, DeValue::String(text)) = (key.may_be_never(), entry.value.get_ref())
        && **text == *"never"
    {
        return Some(LimitValue::Never);
    }
    match key.kind() {
        Kind::Size(range) => read_size(key, entry, &range, findings).map(LimitValue::Size),
        Kind::Time(range) => read_time(entry, &range, findings).map(LimitValue::Time),
        Kind::Count(range) => entry.integer(range, findings).map(LimitValue::Count),
        Kind::Cores => read_cores(entry, findings).map(LimitValue::Cores),
        Kind::Isolation => read_isolation(entry, findings).map(LimitValue::Isolation),
    }
}

fn read_size(
    key: LimitKey,
    entry: &Entry<'_>,
    range: &RangeInclusive<u64>,
    findings: &mut Findings<'_>,
) -> Option<u64> {
    if let DeValue::Integer(number) = entry.value.get_ref() {
        let help = match number.as_str().parse::<u64>() {
            Ok(bytes) if range.contains(&bytes) => format!("write \"{}\"", show_size(bytes)),
            _ => "use a number and a unit, as in \"128 MiB\"".to_owned(),
        };
        entry.wrong_type("a size with its unit", Some(help), findings);
        return None;
    }
    let text = entry.string(findings)?;
    let text = if key == LimitKey::LogRate {
        text.trim_end().strip_suffix("/s").unwrap_or(text)
    } else {
        text
    };
    let bytes = in_units(entry, text, parse_size(text), findings)?;
    in_range(entry, bytes, range, findings)
}

/// These bytes, if they are in the range.
pub(super) fn in_range(
    entry: &Entry<'_>,
    bytes: u64,
    range: &RangeInclusive<u64>,
    findings: &mut Findings<'_>,
) -> Option<u64> {
    if range.contains(&bytes) {
        return Some(bytes);
    }
    let help = format!(
        "use {} to {}",
        show_size(*range.start()),
        show_size(*range.end())
    );
    findings.suggest(
        &entry.span(),
        format!("`{}` is out of range: {}", entry.key, show_size(bytes)),
        help,
    );
    None
}

/// A duration within a range of milliseconds.
pub(crate) fn read_time(
    entry: &Entry<'_>,
    range: &RangeInclusive<u64>,
    findings: &mut Findings<'_>,
) -> Option<Duration> {
    if let DeValue::Integer(number) = entry.value.get_ref() {
        let help = Some(format!(
            "write \"{}s\"",
            crate::mistakes::brief(number.as_str())
        ));
        entry.wrong_type("a duration with its unit", help, findings);
        return None;
    }
    let text = entry.string(findings)?;
    let time = in_units(entry, text, parse_duration(text), findings)?;
    let (low, high) = (
        Duration::from_millis(*range.start()),
        Duration::from_millis(*range.end()),
    );
    if (low..=high).contains(&time) {
        return Some(time);
    }
    let help = format!("use {} to {}", show_duration(low), show_duration(high));
    findings.suggest(
        &entry.span(),
        format!("`{}` is out of range: {}", entry.key, show_duration(time)),
        help,
    );
    None
}

/// Notes why a size or duration was not understood.
pub(crate) fn in_units<T>(
    entry: &Entry<'_>,
    text: &str,
    parsed: Result<T, UnitError>,
    findings: &mut Findings<'_>,
) -> Option<T> {
    match parsed {
        Ok(value) => Some(value),
        Err(UnitError {
            message,
            suggestion,
        }) => {
            findings.push(
                &entry.span(),
                format!("`{}` {message}", crate::mistakes::brief(text)),
                suggestion,
            );
            None
        }
    }
}

fn read_cores(entry: &Entry<'_>, findings: &mut Findings<'_>) -> Option<f64> {
    let cores = entry.number(findings)?;
    if (0.01..=256.0).contains(&cores) {
        return Some(cores);
    }
    let message = format!("`{}` is out of range: {cores}", entry.key);
    findings.suggest(&entry.span(), message, "use 0.01 to 256 cores");
    None
}

fn read_isolation(entry: &Entry<'_>, findings: &mut Findings<'_>) -> Option<Isolation> {
    match entry.string(findings)? {
        "request" => Some(Isolation::Request),
        "dyno" => Some(Isolation::Dyno),
        other => {
            let message = format!("`{}` is no isolation", crate::mistakes::brief(other));
            findings.push(
                &entry.span(),
                message,
                did_you_mean(other, &["request", "dyno"]),
            );
            None
        }
    }
}

/// Counts were read within ranges that fit.
fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Writes one limit. [`read_value`] pairs each key with its own kind of value; other pairs change nothing.
fn set(limits: &mut Limits, key: LimitKey, value: LimitValue) {
    use LimitKey as K;
    use LimitValue as V;
    match (key, value) {
        (K::Memory, V::Size(n)) => limits.memory = n,
        (K::Cpu, V::Cores(n)) => limits.cpu = n,
        (K::Concurrency, V::Count(n)) => limits.concurrency = Some(narrow(n)),
        (K::Queue, V::Count(n)) => limits.queue = narrow(n),
        (K::Timeout, V::Time(t)) => limits.timeout = t,
        (K::IdleTimeout, V::Time(t)) => limits.idle_timeout = t,
        (K::BootTimeout, V::Time(t)) => limits.boot_timeout = t,
        (K::StopGrace, V::Time(t)) => limits.stop_grace = t,
        (K::Idle, V::Time(t)) => limits.idle = Some(t),
        (K::Idle, V::Never) => limits.idle = None,
        (K::Isolation, V::Isolation(isolation)) => limits.isolation = Some(isolation),
        (K::MaxRequests, V::Count(n)) => limits.max_requests = Some(n),
        (K::MaxRequests, V::Never) => limits.max_requests = None,
        (K::RequestBody, V::Size(n)) => limits.request_body = n,
        (K::Header, V::Size(n)) => limits.header = n,
        (K::Sockets, V::Count(n)) => limits.sockets = narrow(n),
        (K::Outgoing, V::Count(n)) => limits.outgoing = narrow(n),
        (K::Handles, V::Count(n)) => limits.handles = narrow(n),
        (K::Resources, V::Count(n)) => limits.resources = narrow(n),
        (K::Random, V::Size(n)) => limits.random = n,
        (K::LogRate, V::Size(n)) => limits.log_rate = n,
        (K::Tmp, V::Size(n)) => limits.tmp = n,
        (K::Files, V::Count(n)) => limits.files = n,
        (K::AfterResponse, V::Time(t)) => limits.after_response = t,
        _ => {}
    }
}

/// The largest default of `concurrency` (isolation `request`).
const DEFAULT_CONCURRENCY: u32 = 50;

fn current(limits: &Limits, key: LimitKey) -> LimitValue {
    use LimitKey as K;
    use LimitValue as V;
    let count = |n: u32| V::Count(u64::from(n));
    match key {
        K::Memory => V::Size(limits.memory),
        K::Cpu => V::Cores(limits.cpu),
        K::Concurrency => count(limits.concurrency.unwrap_or(DEFAULT_CONCURRENCY)),
        K::Queue => count(limits.queue),
        K::Timeout => V::Time(limits.timeout),
        K::IdleTimeout => V::Time(limits.idle_timeout),
        K::BootTimeout => V::Time(limits.boot_timeout),
        K::StopGrace => V::Time(limits.stop_grace),
        K::Idle => limits.idle.map_or(V::Never, V::Time),
        K::Isolation => limits.isolation.map_or(V::Never, V::Isolation),
        K::MaxRequests => limits.max_requests.map_or(V::Never, V::Count),
        K::RequestBody => V::Size(limits.request_body),
        K::Header => V::Size(limits.header),
        K::Sockets => count(limits.sockets),
        K::Outgoing => count(limits.outgoing),
        K::Handles => count(limits.handles),
        K::Resources => count(limits.resources),
        K::Random => V::Size(limits.random),
        K::LogRate => V::Size(limits.log_rate),
        K::Tmp => V::Size(limits.tmp),
        K::Files => V::Count(limits.files),
        K::AfterResponse => V::Time(limits.after_response),
    }
}
