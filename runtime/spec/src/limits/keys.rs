//! The keys of `[limits]`, of the policy's `[caps]` and of its `[defaults]`: names, kinds and ranges.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Isolation;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const SECOND: u64 = 1_000;
const DAY: u64 = 86_400 * SECOND;

/// What a limit is measured in, and which values are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Bytes.
    Size(RangeInclusive<u64>),
    /// Milliseconds.
    Time(RangeInclusive<u64>),
    /// A plain number.
    Count(RangeInclusive<u64>),
    /// Cores, which may be a fraction.
    Cores,
    /// `request` or `dyno`.
    Isolation,
}

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident $text:literal $kind:expr;)*) => {
        /// One key of `[limits]`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum LimitKey { $($(#[$doc])* $name,)* }
        impl LimitKey {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// Their names, as the manifest writes them.
            pub const NAMES: &'static [&'static str] = &[$($text,)*];
            /// As the manifest writes it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
            pub(crate) fn kind(self) -> Kind {
                match self { $(Self::$name => $kind,)* }
            }
        }
    };
}

keys! {
    /// See [`super::Limits::memory`].
    Memory "memory" Kind::Size(64 * KIB..=64 * GIB);
    /// See [`super::Limits::cpu`].
    Cpu "cpu" Kind::Cores;
    /// See [`super::Limits::concurrency`].
    Concurrency "concurrency" Kind::Count(1..=100_000);
    /// See [`super::Limits::queue`].
    Queue "queue" Kind::Count(0..=1_000_000);
    /// See [`super::Limits::timeout`].
    Timeout "timeout" Kind::Time(10..=DAY);
    /// See [`super::Limits::idle_timeout`].
    IdleTimeout "idle_timeout" Kind::Time(10..=DAY);
    /// See [`super::Limits::boot_timeout`].
    BootTimeout "boot_timeout" Kind::Time(10..=DAY);
    /// See [`super::Limits::stop_grace`].
    StopGrace "stop_grace" Kind::Time(0..=DAY);
    /// See [`super::Limits::idle`].
    Idle "idle" Kind::Time(SECOND..=365 * DAY);
    /// See [`super::Limits::isolation`].
    Isolation "isolation" Kind::Isolation;
    /// See [`super::Limits::max_requests`].
    MaxRequests "max_requests" Kind::Count(1..=1_000_000_000);
    /// See [`super::Limits::request_body`].
    RequestBody "request_body" Kind::Size(0..=TIB);
    /// See [`super::Limits::header`].
    Header "header" Kind::Size(KIB..=MIB);
    /// See [`super::Limits::sockets`].
    Sockets "sockets" Kind::Count(0..=65_536);
    /// See [`super::Limits::outgoing`].
    Outgoing "outgoing" Kind::Count(0..=65_536);
    /// See [`super::Limits::handles`].
    Handles "handles" Kind::Count(1..=1_000_000);
    /// See [`super::Limits::resources`].
    Resources "resources" Kind::Count(1..=1_000_000);
    /// See [`super::Limits::random`].
    Random "random" Kind::Size(KIB..=64 * MIB);
    /// See [`super::Limits::log_rate`].
    LogRate "log_rate" Kind::Size(KIB..=GIB);
    /// See [`super::Limits::tmp`].
    Tmp "tmp" Kind::Size(0..=TIB);
    /// See [`super::Limits::files`].
    Files "files" Kind::Count(0..=100_000_000);
    /// See [`super::Limits::after_response`].
    AfterResponse "after_response" Kind::Time(10..=DAY);
}

impl LimitKey {
    /// The key of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| key.as_str() == name)
    }

    /// Whether "never" is a value of it.
    pub(crate) fn may_be_never(self) -> bool {
        matches!(self, Self::Idle | Self::MaxRequests)
    }
}

/// The value of a limit as a file gives it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LimitValue {
    /// Bytes.
    Size(u64),
    /// A time.
    Time(Duration),
    /// A plain number.
    Count(u64),
    /// Cores.
    Cores(f64),
    /// How requests are kept apart.
    Isolation(Isolation),
    /// The limit never strikes (`idle` and `max_requests` only).
    Never,
}

impl LimitValue {
    /// Whether this is more than a cap of the same key allows.
    pub(crate) fn exceeds(self, cap: Self) -> bool {
        match (self, cap) {
            (Self::Size(a), Self::Size(b)) | (Self::Count(a), Self::Count(b)) => a > b,
            (Self::Time(a), Self::Time(b)) => a > b,
            (Self::Cores(a), Self::Cores(b)) => a > b,
            (Self::Never, cap) => cap != Self::Never,
            _ => false,
        }
    }

    /// As the manifest writes it.
    pub(crate) fn show(self) -> String {
        match self {
            Self::Size(bytes) => format!("\"{}\"", crate::units::show_size(bytes)),
            Self::Time(time) => format!("\"{}\"", crate::units::show_duration(time)),
            Self::Count(count) => crate::units::show_count(count),
            Self::Cores(cores) => cores.to_string(),
            Self::Isolation(Isolation::Request) => "\"request\"".to_owned(),
            Self::Isolation(Isolation::Dyno) => "\"dyno\"".to_owned(),
            Self::Never => "\"never\"".to_owned(),
        }
    }
}
