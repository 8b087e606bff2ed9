//! What a valid manifest says.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::arguments::Argument;
use crate::limits::Limits;
use crate::names::{AddonName, AppName, ProcessType};

/// A valid manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The app's name; for a plain Procfile the caller names it (the folder's name).
    pub app: AppName,
    /// One entry per process type.
    pub processes: BTreeMap<ProcessType, Process>,
    /// As written; a type that is not named starts with 1 (see [`Manifest::initial_scale`]).
    pub scale: BTreeMap<ProcessType, u32>,
    /// Add-ons by name.
    pub addons: BTreeMap<AddonName, Addon>,
    /// Defaults of config vars.
    pub config: BTreeMap<String, String>,
    /// What outbound traffic is allowed beyond the add-ons.
    pub allow: Vec<AllowEntry>,
    /// Resolved limits of every process type (`[limits.default]` under `[limits.TYPE]`).
    pub limits: BTreeMap<ProcessType, Limits>,
    /// How to build; `None`: a buildpack is detected.
    pub build: Option<Build>,
    /// Globs of the files readable at `/app`.
    pub files: Vec<String>,
}

/// One process type's command: a component and its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Path of the component, relative to the app's root, `/`-separated, never leaving it.
    pub component: String,
    /// Its arguments.
    pub args: Vec<Argument>,
    /// Never two at once, releases included.
    pub singleton: bool,
    /// Started by the clock instead of being kept running.
    pub schedule: Option<Schedule>,
    /// The manifest's line.
    pub line: u32,
}

/// When a scheduled process starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Five cron fields, valid.
    pub cron: String,
    /// IANA name, known to this build.
    pub timezone: String,
}

/// One add-on of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addon {
    /// As in `postgres`; whether it is known is the host's to say.
    pub provider: String,
    /// As in `postgres:standard`.
    pub plan: Option<String>,
    /// Only these process types get it; `None`: all.
    pub processes: Option<Vec<ProcessType>>,
    /// Prefix of its variables instead of the provider's default.
    pub prefix: Option<String>,
    /// Where a volume is seen by the guest.
    pub mount: Option<String>,
    /// Size in bytes, for providers that have one.
    pub size: Option<u64>,
    /// For `external`: the config var that holds the URL.
    pub url_from: Option<String>,
    /// The manifest's line.
    pub line: u32,
}

/// One entry of `[network] allow`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowEntry {
    /// As written.
    pub text: String,
    /// The manifest's line.
    pub line: u32,
    /// `http` or `https` limits outgoing HTTP to it; other schemes and none do not.
    pub scheme: Option<String>,
    /// Which hosts.
    pub host: HostPattern,
    /// Which port.
    pub port: u16,
}

/// The host part of an allow entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostPattern {
    /// This name, lower case.
    Name(String),
    /// Any name at any depth below this one (`*.example.net` holds `example.net`).
    Below(String),
    /// This address.
    Ip(IpAddr),
    /// This range.
    Net(IpNet),
}

/// The `[build]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Run by the shell in the app's root.
    pub command: String,
}

impl Manifest {
    /// The formation that a first start has: `[scale]`, else 1; release and scheduled types have none.
    pub fn initial_scale(&self) -> BTreeMap<ProcessType, u32> {
        self.processes
            .iter()
            .filter(|(name, process)| !name.is_release() && process.schedule.is_none())
            .map(|(name, _)| (name.clone(), self.scale.get(name).copied().unwrap_or(1)))
            .collect()
    }

    /// The limits of `process`; the defaults for a type the manifest does not have.
    pub fn limits_of(&self, process: &ProcessType) -> Limits {
        self.limits.get(process).cloned().unwrap_or_default()
    }
}
