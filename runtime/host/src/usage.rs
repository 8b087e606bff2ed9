//! What apps used: read with [`Host::usage`](crate::Host::usage), or told to an embedder's own [`Meters`].
//!
//! Every sandbox counts for itself; here the counters of one process type are added up, those of dynos that have
//! ended included. Bounds: counters of dynos that have ended are folded into one sum; [`MOST_TYPES`] process types
//! of one app are kept, beyond which those that ran first are forgotten. Without [`Meters`] nothing runs
//! for it. Not here: files of usage by the hour, prices.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oarlock_sandbox::Meter;
use oarlock_spec::names::{AppName, ProcessType};
use tokio::time::Instant;

/// Process types of one app that are counted apart, those of its earlier releases included.
pub const MOST_TYPES: usize = 256;

/// How often [`Meters`] are told.
pub const METER_INTERVAL: Duration = Duration::from_secs(1);

/// What a process type of an app has used since the app was added to this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Which process type; `run` for one-off dynos of no process type.
    pub process: ProcessType,
    /// Requests handed to guests.
    pub requests: u64,
    /// Guest CPU time: wall time of the guests' turns on their cores.
    pub cpu: Duration,
    /// Linear memories and tables of live instances and what the host holds for them, now.
    pub memory_bytes: u64,
}

/// What a process type of an app has used since the last time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// Which app.
    pub app: AppName,
    /// Which process type.
    pub process: ProcessType,
    /// Requests handed to guests.
    pub requests: u64,
    /// Guest CPU time.
    pub cpu: Duration,
    /// Memory over time, in byte-milliseconds, as it was found every [`METER_INTERVAL`].
    pub memory_byte_ms: u128,
}

/// An embedder's own metering ([`HostConfig::meters`](crate::HostConfig::meters)).
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use oarlock_host::usage::{Meters, Used};
/// use oarlock_host::{App, Host, HostConfig};
///
/// struct Requests(Arc<Mutex<u64>>);
///
/// impl Meters for Requests {
///     fn used(&self, used: &[Used]) {
///         *self.0.lock().unwrap() += used.iter().map(|used| used.requests).sum::<u64>();
///     }
/// }
///
/// # let data = tempfile::tempdir()?;
/// # let hello = wat::parse_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/hello.wat")))?;
/// # let app = App::from_manifest("app = \"hello\"\n[processes]\nweb = \"web.wasm\"").component("web.wasm", hello);
/// # futures::executor::block_on(async {
/// let requests = Arc::default();
/// let meters = Arc::new(Requests(Arc::clone(&requests)));
/// let host = Host::start(HostConfig { meters: Some(meters), ..HostConfig::new(data.path()) })?;
/// let added = host.add(app).await?;
/// host.service(&added.app).call(http::Request::new(String::new())).await?;
/// host.shutdown().await;
/// assert_eq!(*requests.lock().unwrap(), 1);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub trait Meters: Send + Sync + 'static {
    /// What each process type used since the last time: every [`METER_INTERVAL`], and once more when an app was
    /// removed or the host has shut down, so that nothing is lost. Called on the host's control thread, for one
    /// app after the other and never two at once: it must not block. Process types that used nothing are left out.
    fn used(&self, used: &[Used]);
}

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    requests: u64,
    cpu_nanos: u64,
}

impl Totals {
    fn add(&mut self, meter: &Meter) {
        self.requests += meter.requests();
        self.cpu_nanos += meter.cpu_nanos();
    }
}

/// Meters of one process type that are kept before it is looked whether their sandboxes have ended.
const FOLD_AT_LEAST: usize = 64;

struct OfType {
    /// When it was first run, of all.
    order: u64,
    /// Of dynos that have ended.
    ended: Totals,
    live: Vec<Arc<Meter>>,
    /// At so many `live` it is looked which of them have ended: each time they have doubled, so that a thousand starts
    /// in a row do not look through a thousand meters each.
    fold_at: usize,
    /// What [`Meters`] know already.
    told: Totals,
}

impl OfType {
    fn new(order: u64) -> Self {
        Self {
            order,
            ended: Totals::default(),
            live: Vec::new(),
            fold_at: FOLD_AT_LEAST,
            told: Totals::default(),
        }
    }

    /// Adds up what nobody but us has any more: its sandbox and all its instances are gone.
    fn fold(&mut self) {
        let ended = &mut self.ended;
        self.live.retain(|meter| {
            let lives = Arc::strong_count(meter) > 1;
            if !lives {
                ended.add(meter);
            }
            lives
        });
    }

    fn totals(&self) -> Totals {
        let mut totals = self.ended;
        self.live.iter().for_each(|meter| totals.add(meter));
        totals
    }

    fn memory_bytes(&self) -> u64 {
        let charged = |meter: &Arc<Meter>| meter.memory_bytes() + meter.held_bytes();
        self.live.iter().map(charged).sum()
    }
}

/// The counters of one app.
pub(crate) struct UsageCounter(Mutex<Counted>);

struct Counted {
    types: BTreeMap<ProcessType, OfType>,
    next: u64,
    told_at: Instant,
}

impl UsageCounter {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Counted {
            types: BTreeMap::new(),
            next: 0,
            told_at: Instant::now(),
        }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counted> {
        // Sums stay sums across a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a new sandbox's meter under its process type.
    pub(crate) fn count(&self, process: &ProcessType, meter: Arc<Meter>) {
        let mut state = self.lock();
        let Counted { types, next, .. } = &mut *state;
        if !types.contains_key(process) {
            forget(types);
            *next += 1;
        }
        let of_type = types
            .entry(process.clone())
            .or_insert_with(|| OfType::new(*next));
        if of_type.live.len() >= of_type.fold_at {
            of_type.fold();
            of_type.fold_at = FOLD_AT_LEAST.max(2 * of_type.live.len());
        }
        of_type.live.push(meter);
    }

    pub(crate) fn read(&self) -> Vec<Usage> {
        let state = self.lock();
        let usage = state.types.iter().map(|(process, of_type)| {
            let totals = of_type.totals();
            Usage {
                process: process.clone(),
                requests: totals.requests,
                cpu: Duration::from_nanos(totals.cpu_nanos),
                memory_bytes: of_type.memory_bytes(),
            }
        });
        usage.collect()
    }

    /// What was used since the last time.
    pub(crate) fn news(&self, app: &AppName) -> Vec<Used> {
        let mut state = self.lock();
        let now = Instant::now();
        let since = now - std::mem::replace(&mut state.told_at, now);
        let mut news = Vec::new();
        for (process, of_type) in &mut state.types {
            let totals = of_type.totals();
            let used = Used {
                app: app.clone(),
                process: process.clone(),
                requests: totals.requests - of_type.told.requests,
                cpu: Duration::from_nanos(totals.cpu_nanos - of_type.told.cpu_nanos),
                memory_byte_ms: u128::from(of_type.memory_bytes()) * since.as_millis(),
            };
            of_type.told = totals;
            of_type.fold();
            if (used.requests, used.cpu, used.memory_byte_ms) != (0, Duration::ZERO, 0) {
                news.push(used);
            }
        }
        news
    }
}

/// Makes room for one more.
fn forget(types: &mut BTreeMap<ProcessType, OfType>) {
    if types.len() < MOST_TYPES {
        return;
    }
    types.values_mut().for_each(OfType::fold);
    let idle = types.iter().filter(|(_, of_type)| of_type.live.is_empty());
    let first = idle.min_by_key(|(_, of_type)| of_type.order);
    if let Some(first) = first.map(|(process, _)| process.clone()) {
        types.remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_types_of_the_past_are_bounded() {
        let counter = UsageCounter::new();
        let live: Arc<Meter> = Arc::default();
        counter.count(&"first".parse().unwrap(), Arc::clone(&live));
        for number in 0..MOST_TYPES + 10 {
            counter.count(&format!("t{number}").parse().unwrap(), Arc::default());
        }
        let usage = counter.read();
        assert_eq!(usage.len(), MOST_TYPES);
        let has = |name: &str| usage.iter().any(|usage| usage.process.as_str() == name);
        assert!(has("first") && !has("t0") && has(&format!("t{}", MOST_TYPES + 9)));
    }
}
