//! The rules of a process type, and how an attempt is judged by them. Default deny.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use oarlock_spec::manifest::HostPattern;

use super::ranges::{Range, classify, embedded, plain};
use super::{ChosenBy, EgressRules, HostListeners, PrivateNetworks, listeners};

/// A host as a guest names it, in one form for all its spellings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// A domain name: lower case, punycode, no dot at its end.
    Name(String),
    /// An address, plain.
    Ip(IpAddr),
}

impl Host {
    /// `None` if it is neither a name nor an address. `0x7f.1`, `127.1` and `2130706433` are addresses, as
    /// resolvers take them for such.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Some(Self::Ip(plain(ip)));
        }
        match url::Host::parse(text).ok()? {
            url::Host::Ipv4(ip) => Some(Self::Ip(IpAddr::V4(ip))),
            url::Host::Ipv6(ip) => Some(Self::Ip(plain(IpAddr::V6(ip)))),
            url::Host::Domain(name) => {
                let name = name.strip_suffix('.').unwrap_or(&name);
                (!name.is_empty() && name.len() <= 253).then(|| Self::Name(name.to_owned()))
            }
        }
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// Who opened it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An add-on, by its name.
    Addon(Arc<str>),
    /// An `allow` entry of the manifest.
    Entry { text: String, line: u32 },
}

/// What HTTP may do with a rule's host and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Http {
    Any,
    OnlyTls,
    OnlyPlain,
}

#[derive(Debug, Clone)]
struct Rule {
    origin: Origin,
    host: HostPattern,
    port: u16,
    http: Http,
    /// Whether it opens any range; otherwise [`PrivateNetworks`] has the last word.
    chosen_by: ChosenBy,
}

impl Rule {
    fn names(&self, name: &str) -> bool {
        match &self.host {
            HostPattern::Name(own) => own == name,
            HostPattern::Below(parent) => name
                .strip_suffix(parent.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            HostPattern::Ip(_) | HostPattern::Net(_) => false,
        }
    }

    fn holds(&self, ip: IpAddr) -> bool {
        match &self.host {
            HostPattern::Ip(own) => plain(*own) == ip,
            HostPattern::Net(net) => net.contains(&ip),
            HostPattern::Name(_) | HostPattern::Below(_) => false,
        }
    }

    /// How messages call it.
    fn describe(&self) -> String {
        match &self.origin {
            Origin::Addon(name) => format!("the add-on `{name}`"),
            Origin::Entry { text, line } => format!("\"{text}\" (line {line} of the manifest)"),
        }
    }
}

/// What an address was allowed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Granted {
    /// The add-on, if one opened it: its connections end when it is detached.
    pub(crate) addon: Option<Arc<str>>,
}

/// Why not: a sentence without its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) String);

/// [`EgressRules`] in the form they are matched in.
pub(crate) struct Rules {
    rules: Vec<Rule>,
    private: PrivateNetworks,
    never: HostListeners,
    never_ips: Vec<IpAddr>,
}

impl Rules {
    pub(crate) fn new(rules: EgressRules) -> Self {
        let addons = rules.endpoints.into_iter().filter_map(|endpoint| {
            let host = match Host::parse(&endpoint.host)? {
                Host::Name(name) => HostPattern::Name(name),
                Host::Ip(ip) => HostPattern::Ip(ip),
            };
            let origin = Origin::Addon(endpoint.addon.into());
            Some(Rule {
                origin,
                host,
                port: endpoint.port,
                http: Http::Any,
                chosen_by: endpoint.chosen_by,
            })
        });
        let entries = rules.allow.into_iter().map(|entry| Rule {
            http: match entry.scheme.as_deref() {
                Some("https") => Http::OnlyTls,
                Some("http") => Http::OnlyPlain,
                _ => Http::Any,
            },
            origin: Origin::Entry {
                text: entry.text,
                line: entry.line,
            },
            host: entry.host,
            port: entry.port,
            chosen_by: ChosenBy::App,
        });
        Self {
            rules: addons.chain(entries).collect(),
            private: rules.private,
            never: rules.never,
            never_ips: rules.never_ips.into_iter().map(plain).collect(),
        }
    }

    /// Rules in force: those of detached add-ons are not.
    fn alive<'a>(&'a self, detached: &'a [String]) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(|rule| match &rule.origin {
            Origin::Addon(name) => !detached.iter().any(|other| **other == **name),
            Origin::Entry { .. } => true,
        })
    }

    /// Whether this name may be looked up.
    pub(crate) fn judge_name(&self, name: &str, detached: &[String]) -> Result<(), Refused> {
        if self.alive(detached).any(|rule| rule.names(name)) {
            return Ok(());
        }
        Err(Refused(format!(
            "no add-on and no `[network]` entry names it; {}",
            advice(&format!("{name}:PORT"))
        )))
    }

    /// Whether an answer to this name may be given to a guest: some port of it must be granted.
    pub(crate) fn judge_answer(
        &self,
        name: &str,
        ip: IpAddr,
        detached: &[String],
    ) -> Result<(), Refused> {
        let mut refused = None;
        for rule in self.alive(detached).filter(|rule| rule.names(name)) {
            match self.judge_address(SocketAddr::new(ip, rule.port), &[name.into()], detached) {
                Ok(_) => return Ok(()),
                Err(why) => refused = Some(why),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Whether this address and port may be connected to, by its own grant or as an answer to one of `names`.
    pub(crate) fn judge_address(
        &self,
        addr: SocketAddr,
        names: &[Arc<str>],
        detached: &[String],
    ) -> Result<Granted, Refused> {
        let ip = plain(addr.ip());
        let range = classify(ip);
        self.never(ip, addr.port(), range)?;
        let mut near = None;
        for rule in self.alive(detached).filter(|rule| rule.port == addr.port()) {
            let by_address = rule.holds(ip);
            let name = names.iter().find(|name| rule.names(name));
            if !by_address && name.is_none() {
                continue;
            }
            if rule.chosen_by == ChosenBy::Operator
                || range == Range::Public
                || self.opens(by_address, range, ip)
            {
                return Ok(Granted {
                    addon: match &rule.origin {
                        Origin::Addon(name) => Some(name.clone()),
                        Origin::Entry { .. } => None,
                    },
                });
            }
            near = Some((rule, name));
        }
        let literal = SocketAddr::new(ip, addr.port());
        Err(Refused(match (near, names.first()) {
            (Some((rule, Some(name))), _) => format!(
                "{name} resolves to {ip}, {}, which a name never opens; {} and list its range in the operator's `private_networks`",
                range.describe(),
                match &rule.origin {
                    Origin::Addon(addon) =>
                        format!("to allow it, let the add-on `{addon}`'s URL name {literal}"),
                    Origin::Entry { .. } => advice(&literal.to_string()),
                },
            ),
            (Some((rule, None)), _) => format!(
                "it is {}, and {} counts only if the operator's policy lists its range in `private_networks`",
                range.describe(),
                rule.describe(),
            ),
            (None, Some(name)) => format!(
                "{name} is granted, but not with this port; {}",
                advice(&format!("{name}:{}", addr.port())),
            ),
            (None, None) => {
                let policy = match range {
                    Range::Public => "",
                    _ if self.is_local(range) => "",
                    _ => " and list its range in the operator's `private_networks`",
                };
                format!(
                    "it is {} that no add-on and no `[network]` entry grants and that no granted name was answered with; {}{policy}",
                    range.describe(),
                    advice(&literal.to_string()),
                )
            }
        }))
    }

    /// Whether an outgoing request may be made. For a name its addresses are judged when it is connected to.
    pub(crate) fn judge_http(
        &self,
        tls: bool,
        host: &Host,
        port: u16,
        detached: &[String],
    ) -> Result<(), Refused> {
        let mut near = None;
        for rule in self.alive(detached).filter(|rule| rule.port == port) {
            let hit = match host {
                Host::Name(name) => rule.names(name),
                Host::Ip(ip) => rule.holds(*ip),
            };
            match rule.http {
                _ if !hit => {}
                Http::OnlyTls if !tls => near = Some((rule, "https")),
                Http::OnlyPlain if tls => near = Some((rule, "http")),
                Http::Any | Http::OnlyTls | Http::OnlyPlain => match host {
                    Host::Name(_) => return Ok(()),
                    Host::Ip(ip) => {
                        return self
                            .judge_address(SocketAddr::new(*ip, port), &[], detached)
                            .map(|_| ());
                    }
                },
            }
        }
        let (scheme, usual) = if tls { ("https", 443) } else { ("http", 80) };
        let place = if port == usual {
            String::new()
        } else {
            format!(":{port}")
        };
        let advice = advice(&format!("{scheme}://{host}{place}"));
        Err(Refused(match near {
            Some((rule, only)) => format!("{} limits HTTP to {only}; {advice}", rule.describe()),
            None => format!("no add-on and no `[network]` entry grants it; {advice}"),
        }))
    }

    /// Whether a range that is not public is open to an entry that reached it.
    fn opens(&self, by_address: bool, range: Range, ip: IpAddr) -> bool {
        (by_address && self.private.allowed.iter().any(|net| net.contains(&ip)))
            || self.is_local(range)
    }

    /// Whether `up` opens this range to whatever is granted.
    fn is_local(&self, range: Range) -> bool {
        self.private.local_development && matches!(range, Range::Loopback | Range::Private)
    }

    /// What nothing can allow.
    fn never(&self, ip: IpAddr, port: u16, range: Range) -> Result<(), Refused> {
        let never = |what: &str| Err(Refused(format!("{what}, which nothing can allow")));
        if matches!(range, Range::Metadata | Range::Unspecified) {
            return never(&format!("it is {}", range.describe()));
        }
        if port == 0 {
            return never("it is port 0");
        }
        let inner = match ip {
            IpAddr::V6(v6) => embedded(v6).map(IpAddr::V4),
            IpAddr::V4(_) => None,
        };
        let forms = || [Some(ip), inner].into_iter().flatten();
        if forms().any(|form| self.never_ips.contains(&form)) {
            return never("it is an address the operator keeps to the host");
        }
        if forms().any(|form| self.never.reached_by(form, port)) {
            return never("the host itself listens there");
        }
        if forms().any(|form| listeners::is_a_dynos(form, port)) {
            return never("a dyno listens there; dynos are reached through the router");
        }
        Ok(())
    }
}

fn advice(entry: &str) -> String {
    format!("to allow it, add \"{entry}\" to `allow` in `[network]`")
}
