//! The `[limits]` table, resolved: what one dyno of a process type may use. Defaults are contract 1's.

mod caps;
mod keys;
mod set;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use caps::{AppCaps, DEFAULT_KV_SIZE, TooManyDynos};
pub use keys::{LimitKey, LimitValue};
pub use set::LimitSet;
pub(crate) use set::{in_units, read_time};

/// How requests of a web process are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// A fresh instance for each request; the default for WASI 0.2 handlers.
    Request,
    /// One instance per dyno; the default for WASI 0.3 handlers.
    Dyno,
}

/// The limits of one process type, defaults filled in. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Linear memories and tables of one instance, and what the host holds for it beyond 1 MiB, together.
    pub memory: u64,
    /// Guest CPU time per second of wall time, in cores.
    pub cpu: f64,
    /// Requests at once per web dyno; `None`: 50 with isolation `request`, 16 with `dyno` on WASI 0.3.
    pub concurrency: Option<u32>,
    /// Requests that wait for a web dyno, per app; above it H11.
    pub queue: u32,
    /// To the first byte of the response; then H12.
    pub timeout: Duration,
    /// Between two bytes of a request or response; then H15.
    pub idle_timeout: Duration,
    /// From start to ready; then R10.
    pub boot_timeout: Duration,
    /// From the stop signal to the end; then R12.
    pub stop_grace: Duration,
    /// After which an unused handler dyno is put to sleep; `None`: never.
    pub idle: Option<Duration>,
    /// `None`: by the component's WASI version.
    pub isolation: Option<Isolation>,
    /// Requests after which a reused instance is replaced, less a random part of at most a quarter, so that
    /// instances which started together are not replaced together; `None`: never.
    pub max_requests: Option<u64>,
    /// A request's body.
    pub request_body: u64,
    /// A request's or response's head.
    pub header: u64,
    /// Sockets open at once.
    pub sockets: u32,
    /// Outgoing HTTP requests at once.
    pub outgoing: u32,
    /// Component-model handles per instance.
    pub handles: u32,
    /// Entries of an instance's resource table.
    pub resources: u32,
    /// Random bytes per call.
    pub random: u64,
    /// Log bytes per second.
    pub log_rate: u64,
    /// `/tmp`.
    pub tmp: u64,
    /// Files below `/tmp` and volumes.
    pub files: u64,
    /// How long a guest may go on after its answer is complete, or its client gone. Its slot is held meanwhile; then
    /// its instance is ended, or replaced where it has other requests. `serve` has a shorter default.
    #[serde(default = "after_response")]
    pub after_response: Duration,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The default, and what releases have that were made before the limit existed.
fn after_response() -> Duration {
    Duration::from_secs(30)
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 128 * MIB,
            cpu: 1.0,
            concurrency: None,
            queue: 100,
            timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(55),
            boot_timeout: Duration::from_secs(60),
            stop_grace: Duration::from_secs(30),
            idle: None,
            isolation: None,
            max_requests: None,
            request_body: 100 * MIB,
            header: 64 * KIB,
            sockets: 64,
            outgoing: 32,
            handles: 1_000,
            resources: 10_000,
            random: MIB,
            log_rate: 100 * KIB,
            tmp: 64 * MIB,
            files: 10_000,
            after_response: after_response(),
        }
    }
}

impl Limits {
    /// The keys that differ from their defaults but have no effect in this version: they are read and
    /// checked, and nothing enforces them yet. `oarlock check` says so, so that nobody relies on them.
    pub fn without_effect(&self) -> Vec<LimitKey> {
        let usual = Self::default();
        let set = [
            (LimitKey::Cpu, self.cpu != usual.cpu),
            (LimitKey::Idle, self.idle != usual.idle),
            (LimitKey::LogRate, self.log_rate != usual.log_rate),
            (LimitKey::Tmp, self.tmp != usual.tmp),
        ];
        let set = set.into_iter().filter(|(_, differs)| *differs);
        set.map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_without_effect_are_named_where_they_are_set() {
        assert_eq!(Limits::default().without_effect(), []);
        let set = Limits {
            memory: MIB,
            cpu: 0.5,
            idle: Some(Duration::from_secs(60)),
            ..Limits::default()
        };
        assert_eq!(set.without_effect(), [LimitKey::Cpu, LimitKey::Idle]);
    }
}
