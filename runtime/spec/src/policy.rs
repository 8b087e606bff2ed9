//! The operator's file (`--policy FILE`): what this host allows and defaults to. `Policy` in the library.
//!
//! ```toml
//! app_memory       = "2 GiB"              # all instances of one app together; default a quarter of the machine
//! private_networks = ["10.1.2.0/24"]      # private ranges that manifests may name in `allow`
//! wasm             = ["gc"]               # proposals that components may use; none unless named
//! trusted_proxies  = ["10.0.0.0/8"]       # whose X-Forwarded-For names the client, and whose -Proto and -Port are kept
//! proxy_protocol   = true                 # they say by the PROXY protocol whose connections theirs are; others are closed
//!
//! [connections]                           # of one IPv4 address, or one IPv6 /64
//! per_address            = 1_000          # at once; behind a trusted proxy, requests of the address that it names
//! half_heads_per_address = 100            # on which a request's head has begun and not ended
//! head_timeout           = "10s"          # for a head
//!
//! [defaults]                              # under the manifests' own limits; keys as in [limits.TYPE]
//! idle = "15m"
//!
//! [caps]                                  # a manifest that asks for more is refused
//! memory        = "512 MiB"
//! dynos         = 20                      # of one app, over all process types
//! kv_size       = "8 GiB"                 # the `size` of one kv add-on
//! release_phase = "30m"                   # how long it may take
//!
//! [addons]                                # admin URLs of shared servers, by provider
//! postgres = "postgres://admin:secret@10.0.0.5:5432/postgres"
//!
//! [weights]                               # an app's share of a busy machine, 1 unless named
//! guestbook = 2
//!
//! [compile]                               # one component's compilation, in a child
//! memory = "2 GiB"                         # beyond what the compiler itself takes
//! cpu = "120s"
//! deadline = "11m"                         # on a machine that has other things to do; default five times cpu and a minute
//!
//! [build]                                 # one app's build under `serve --build`
//! memory = "4 GiB"
//! timeout = "15m"
//! processes = 512
//! disk = "8 GiB"                           # the app's folder and its cache
//! at_once = 16                             # builds of as many apps
//! fetch = ["https://index.crates.io", "https://static.crates.io", "https://pypi.org"]
//!
//! [tls]                                   # of outgoing HTTPS
//! ca = "our-ca.pem"                        # certificates that are trusted beside the public ones; from this file's folder
//!
//! [prices]                                # per unit of what `usage` counts
//! cpu_hour = 0.02
//! ```

mod connections;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeTable;
use url::Url;

pub use connections::Connections;

use crate::limits::{AppCaps, LimitKey, LimitSet, LimitValue, in_units};
use crate::manifest::Manifest;
use crate::mistakes::{FileErrors, Findings, Source, brief};
use crate::names::AppName;
use crate::policy_work::{read_build, read_compile};
use crate::read::{self, Entry};
use crate::suggest::did_you_mean;
use crate::units::{parse_size, show_size};

pub use crate::policy_work::{BuildLimits, CompileLimits};

/// The file's usual name, shown where the caller gives none.
pub const POLICY_FILE: &str = "policy.toml";

/// What an operator allows beyond the defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// Bytes of all instances of one app together; `None`: a quarter of the machine.
    pub app_memory: Option<u64>,
    /// Private ranges that a literal IP or CIDR entry of a manifest may name.
    pub private_networks: Vec<IpNet>,
    /// Proxies whose `X-Forwarded-For` names the client; their own connections have no bound per address.
    pub trusted_proxies: Vec<IpNet>,
    /// Each connection must be a trusted proxy's, and begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// A PEM file with certificates that outgoing HTTPS trusts beside the public ones.
    pub tls_ca: Option<PathBuf>,
    /// Bounds on the connections of clients.
    pub connections: Connections,
    /// Hard caps on limits: a manifest above one is refused, a default above one is lowered.
    pub caps: LimitSet,
    /// Hard caps on what one app has altogether.
    pub app_caps: AppCaps,
    /// WebAssembly proposals that components may use beyond those that every host takes.
    pub wasm: BTreeSet<Proposal>,
    /// Defaults of limits for manifests that are silent.
    pub defaults: LimitSet,
    /// Bounds of one component's compilation in a child.
    pub compile: CompileLimits,
    /// Bounds of one app's build under `serve --build`.
    pub build: BuildLimits,
    /// Admin URLs of shared add-on servers, by provider.
    pub addons: BTreeMap<String, AdminUrl>,
    /// An app's share of a busy machine; an app not named weighs 1.
    pub weights: BTreeMap<AppName, u32>,
    /// Prices per unit, by the unit's name.
    pub prices: BTreeMap<String, f64>,
}

/// A WebAssembly proposal that is off unless the policy names it: compilers of the usual languages do not need it, and
/// its part of the engine is young.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proposal {
    /// Structures and arrays that the engine collects. It builds on typed function references, and brings them along.
    Gc,
    /// `try_table` and `throw`.
    Exceptions,
    /// Typed function references.
    FunctionReferences,
}

impl Proposal {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Gc, Self::Exceptions, Self::FunctionReferences];

    /// As `wasm` in the policy names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gc => "gc",
            Self::Exceptions => "exceptions",
            Self::FunctionReferences => "function-references",
        }
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The default of `after_response` under `serve`: there a slot that is held for work after an answer is one that its
/// neighbours do without.
const SERVE_AFTER_RESPONSE: Duration = Duration::from_secs(5);

impl Policy {
    /// This policy with the defaults and the caps that `serve` has where the policy has none.
    #[must_use]
    pub fn for_serve(mut self) -> Self {
        let value = LimitValue::Time(SERVE_AFTER_RESPONSE);
        self.defaults.or_insert(LimitKey::AfterResponse, value);
        self.caps = self.caps.with_serve_caps(&self.defaults);
        self.app_caps.fill_with_serve_caps();
        self
    }

    /// Lowers what a manifest has of limits and sizes to the caps: for releases that an earlier policy allowed.
    pub fn hold_below(&self, manifest: &mut Manifest) {
        for limits in manifest.limits.values_mut() {
            self.caps.hold_below(limits);
        }
        self.app_caps.hold_below(manifest);
    }
}

/// The admin URL of a shared server. It holds a password: `Debug` shows neither that nor the user.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminUrl(Url);

impl AdminUrl {
    /// The whole URL, password included.
    pub fn expose(&self) -> &Url {
        &self.0
    }
}

impl fmt::Debug for AdminUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://***@{}",
            self.0.scheme(),
            self.0.host_str().unwrap_or_default()
        )
    }
}

const KEYS: [&str; 14] = [
    "app_memory",
    "private_networks",
    "wasm",
    "trusted_proxies",
    "proxy_protocol",
    "tls",
    "connections",
    "caps",
    "defaults",
    "compile",
    "build",
    "addons",
    "weights",
    "prices",
];

const MIB: u64 = 1 << 20;

/// Reads a policy file.
///
/// # Errors
/// All mistakes of the file, by place; or that it is over [`crate::mistakes::MAX_FILE_BYTES`].
pub fn parse(text: &str) -> Result<Policy, FileErrors> {
    let mut findings = Findings::new(Source::new(POLICY_FILE, text)?).guard_urls();
    let mended = read::mend(true, &mut findings);
    let syntax_mistakes = findings.count();
    let document = read::document(&mended);
    let policy = read_policy(document.get_ref(), &mut findings);
    findings.drop_consequences(syntax_mistakes);
    findings.finish(Some(policy))
}

fn read_policy(document: &DeTable<'_>, findings: &mut Findings<'_>) -> Policy {
    let keys = read::known_entries(document, &KEYS, "", findings);
    let mut policy = Policy::default();
    if let Some(entry) = keys.get("app_memory") {
        policy.app_memory = read_app_memory(entry, findings);
    }
    if let Some(entry) = keys.get("private_networks") {
        policy.private_networks = read_networks(entry, findings);
    }
    if let Some(entry) = keys.get("wasm") {
        policy.wasm = read_proposals(entry, findings);
    }
    if let Some(entry) = keys.get("trusted_proxies") {
        policy.trusted_proxies = read_networks(entry, findings);
    }
    if let Some(entry) = keys.get("proxy_protocol") {
        policy.proxy_protocol = entry.boolean(findings).unwrap_or_default();
        if policy.proxy_protocol && policy.trusted_proxies.is_empty() {
            findings.suggest(
                &entry.key_span,
                "`proxy_protocol` is on, and no proxy is named, so that every connection would be closed",
                "name your proxies in `trusted_proxies`",
            );
        }
    }
    if let Some(table) = keys
        .get("tls")
        .and_then(|entry| entry.table("[tls]", findings))
    {
        let keys = read::known_entries(table, &["ca"], "[tls]", findings);
        let file = keys.get("ca").and_then(|entry| entry.text(findings));
        policy.tls_ca = file.map(PathBuf::from);
    }
    if let Some(table) = keys
        .get("connections")
        .and_then(|entry| entry.table("[connections]", findings))
    {
        policy.connections = connections::read(table, findings);
    }
    if let Some(table) = keys
        .get("caps")
        .and_then(|entry| entry.table("[caps]", findings))
    {
        if let Some(entry) = read::entries(table)
            .into_iter()
            .find(|entry| entry.key == "isolation")
        {
            findings.suggest(
                &entry.key_span,
                "`isolation` is no number and has no cap",
                "put it under [defaults], or remove it",
            );
        }
        let others = AppCaps::NAMES;
        policy.caps = LimitSet::read_beside(&others, table, ("[caps]", None), findings);
        policy.app_caps = AppCaps::read(table, findings);
    }
    if let Some(table) = keys
        .get("defaults")
        .and_then(|entry| entry.table("[defaults]", findings))
    {
        policy.defaults = LimitSet::read(table, "[defaults]", Some(&policy.caps), findings);
    }
    if let Some(table) = keys
        .get("compile")
        .and_then(|entry| entry.table("[compile]", findings))
    {
        policy.compile = read_compile(table, findings);
    }
    if let Some(table) = keys
        .get("build")
        .and_then(|entry| entry.table("[build]", findings))
    {
        policy.build = read_build(table, findings);
    }
    if let Some(table) = keys
        .get("addons")
        .and_then(|entry| entry.table("[addons]", findings))
    {
        findings.set_secret(true);
        policy.addons = read_addons(table, findings);
        findings.set_secret(false);
    }
    if let Some(table) = keys
        .get("weights")
        .and_then(|entry| entry.table("[weights]", findings))
    {
        policy.weights = read_weights(table, findings);
    }
    if let Some(table) = keys
        .get("prices")
        .and_then(|entry| entry.table("[prices]", findings))
    {
        policy.prices = read_prices(table, findings);
    }
    policy
}

fn read_app_memory(entry: &Entry<'_>, findings: &mut Findings<'_>) -> Option<u64> {
    let text = entry.string(findings)?;
    let bytes = in_units(entry, text, parse_size(text), findings)?;
    if bytes < MIB {
        let message = format!("`app_memory` is out of range: {}", show_size(bytes));
        findings.suggest(&entry.span(), message, "use 1 MiB or more");
    }
    Some(bytes)
}

fn read_networks(entry: &Entry<'_>, findings: &mut Findings<'_>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for (span, text) in entry.strings(findings) {
        let network = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        match network {
            Ok(network) if network.addr() != network.network() => {
                let message = format!("`{}` has bits beyond its prefix", brief(text));
                findings.suggest(
                    &span,
                    message,
                    format!("did you mean `{}`?", network.trunc()),
                );
            }
            Ok(network) => networks.push(network),
            Err(_) => {
                let message = format!("`{}` is not an address or range", brief(text));
                findings.suggest(
                    &span,
                    message,
                    "use one like \"10.1.2.0/24\" or \"fd00::/8\"",
                );
            }
        }
    }
    networks
}

fn read_proposals(entry: &Entry<'_>, findings: &mut Findings<'_>) -> BTreeSet<Proposal> {
    let mut proposals = BTreeSet::new();
    for (span, text) in entry.strings(findings) {
        match Proposal::ALL.into_iter().find(|one| one.as_str() == text) {
            Some(proposal) => {
                proposals.insert(proposal);
            }
            None => {
                let known = Proposal::ALL.map(Proposal::as_str);
                let message = format!("unknown proposal `{}`", brief(text));
                let near = did_you_mean(text, &known);
                let help = near.unwrap_or_else(|| format!("use some of {}", known.join(", ")));
                findings.push(&span, message, Some(help));
            }
        }
    }
    proposals
}

fn read_addons(table: &DeTable<'_>, findings: &mut Findings<'_>) -> BTreeMap<String, AdminUrl> {
    let mut addons = BTreeMap::new();
    for entry in read::entries(table) {
        let Some(text) = entry.text(findings) else {
            continue;
        };
        match Url::parse(text) {
            Ok(url) if url.has_host() => {
                addons.insert(entry.key.to_owned(), AdminUrl(url));
            }
            _ => {
                let message = format!("the URL of `{}` is not valid", brief(entry.key));
                findings.suggest(
                    &entry.span(),
                    message,
                    "use scheme://user:password@host:port",
                );
            }
        }
    }
    addons
}

fn read_weights(table: &DeTable<'_>, findings: &mut Findings<'_>) -> BTreeMap<AppName, u32> {
    let mut weights = BTreeMap::new();
    for entry in read::entries(table) {
        let weight = entry
            .integer(1..=10_000, findings)
            .and_then(|weight| u32::try_from(weight).ok());
        match entry.key.parse::<AppName>() {
            Ok(app) => weights.extend(weight.map(|weight| (app, weight))),
            Err(error) => {
                let message = format!("{} `{}` is not valid", error.what, brief(entry.key));
                findings.suggest(&entry.key_span, message, error.rule);
            }
        }
    }
    weights
}

fn read_prices(table: &DeTable<'_>, findings: &mut Findings<'_>) -> BTreeMap<String, f64> {
    let mut prices = BTreeMap::new();
    for entry in read::entries(table) {
        let Some(price) = entry.number(findings) else {
            continue;
        };
        if price.is_finite() && price >= 0.0 {
            prices.insert(entry.key.to_owned(), price);
        } else {
            findings.suggest(
                &entry.span(),
                format!("`{}` is not a price", brief(entry.key)),
                "use a number from 0 up",
            );
        }
    }
    prices
}
