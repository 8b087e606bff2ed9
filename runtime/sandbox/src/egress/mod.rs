//! The one decision point for outbound traffic: sockets, DNS and outgoing HTTP all ask [`Egress::decide`].

mod answers;
mod client;
mod connections;
mod hooks;
mod listeners;
mod ranges;
mod remarks;
mod resolver;
mod rules;
#[cfg(test)]
mod tests;
mod tunnel;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ipnet::IpNet;
use oarlock_spec::manifest::AllowEntry;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use answers::Answers;
use resolver::Resolver;
use rules::{Host, Refused, Rules};

pub use client::{HttpClient, certificates};
use connections::Connections;
pub(crate) use connections::OutboundConnection;
pub(crate) use hooks::HttpHooks;
pub use hooks::other_coding;
pub(crate) use listeners::DynoPort;
pub use listeners::{HostListeners, PortsTaken};
pub(crate) use remarks::Remarks;
pub(crate) use resolver::LookupError;
pub(crate) use rules::Granted;

/// What a guest tries to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt<'a> {
    /// Look a name up.
    Resolve(&'a str),
    /// Connect a TCP socket (the name it was resolved from is remembered by the egress).
    Connect(SocketAddr),
    /// Send a UDP datagram, or connect a UDP socket.
    Udp(SocketAddr),
    /// Listen on an address.
    Listen(SocketAddr),
    /// An outgoing HTTP request: `https` or `http`, host, port.
    Http {
        /// Whether TLS is used.
        tls: bool,
        /// The URL's host.
        host: &'a str,
        /// The URL's port, or the scheme's.
        port: u16,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead.
    Allow,
    /// Not permitted.
    Deny(Denial),
}

/// Why something was denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// For the app's log: what was tried, why not, and the manifest line that would allow it.
    pub reason: String,
}

/// Who chose an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChosenBy {
    /// The provider or the operator's policy: it is granted in whatever range it is.
    Operator,
    /// The app itself, say by a config var. It is worth as much as an `allow` entry: of ranges that are not
    /// public it opens only what the operator's word on them ([`PrivateNetworks`]) does.
    App,
}

/// An endpoint that an add-on's binding opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The add-on's name, for messages.
    pub addon: String,
    /// A name (lower case) or a literal IP.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Who chose host and port.
    pub chosen_by: ChosenBy,
}

/// What the operator says of loopback, link-local and private ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrivateNetworks {
    /// Ranges that a literal IP or CIDR entry, or an app's own add-on URL with a literal IP, may name (the
    /// policy's `private_networks`).
    pub allowed: Vec<IpNet>,
    /// `up` alone: names that resolve to loopback and private ranges are fine too, and entries for them count.
    pub local_development: bool,
}

/// What an [`Egress`] decides by.
#[derive(Debug, Clone, Default)]
pub struct EgressRules {
    /// What the process's add-ons open.
    pub endpoints: Vec<Endpoint>,
    /// The manifest's `[network] allow`.
    pub allow: Vec<AllowEntry>,
    /// The operator's word on private ranges.
    pub private: PrivateNetworks,
    /// Never granted: the host's own listeners, those of later included.
    pub never: HostListeners,
    /// Metadata and other addresses that are never granted.
    pub never_ips: Vec<IpAddr>,
}

/// Decides; remembers which addresses came from which granted name; knows the connections it allowed.
pub struct Egress {
    rules: Rules,
    answers: Mutex<Answers>,
    resolver: Resolver,
    connections: Arc<Connections>,
    /// Add-ons whose binding is gone, though the rules still name them.
    detached: RwLock<Vec<String>>,
    closed: AtomicBool,
}

impl Egress {
    /// Rules in force from now on, for the dynos of one process type of one app.
    pub fn new(rules: EgressRules) -> Self {
        Self {
            rules: Rules::new(rules),
            answers: Mutex::default(),
            resolver: Resolver::new(),
            connections: Arc::default(),
            detached: RwLock::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// The decision point.
    pub fn decide(&self, what: &Attempt<'_>) -> Decision {
        match self.judge(what) {
            Ok(_) => Decision::Allow,
            Err(denial) => Decision::Deny(denial),
        }
    }

    /// Ends what an add-on opened: its connections are cut, and nothing of it is granted from now on.
    pub fn revoke(&self, addon: &str) {
        self.detached
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(addon.to_owned());
        self.connections.end(|of| of == Some(addon));
    }

    /// Ends everything: all connections are cut, and nothing is granted from now on. Dropping the egress, which
    /// its dynos share, does the same.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.connections.end(|_| true);
    }

    /// [`Egress::decide`], and by what it was allowed.
    pub(crate) fn judge(&self, what: &Attempt<'_>) -> Result<Granted, Denial> {
        let refused = |Refused(why): Refused| Denial {
            reason: format!("{} denied: {why}", describe(what)),
        };
        if self.closed.load(Ordering::Acquire) {
            return Err(refused(Refused("its grant has been withdrawn".to_owned())));
        }
        let detached = self.detached.read().unwrap_or_else(PoisonError::into_inner);
        match what {
            Attempt::Resolve(name) => match Host::parse(name) {
                // An address is its own answer; connecting to it is judged on its own.
                Some(Host::Ip(_)) => Ok(Granted { addon: None }),
                Some(Host::Name(name)) => self
                    .rules
                    .judge_name(&name, &detached)
                    .map(|()| Granted { addon: None })
                    .map_err(refused),
                None => Err(refused(Refused("it is no valid name".to_owned()))),
            },
            Attempt::Connect(addr) | Attempt::Udp(addr) => {
                let names = self
                    .answers
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .names_of(Instant::now(), ranges::plain(addr.ip()));
                self.rules
                    .judge_address(*addr, &names, &detached)
                    .map_err(refused)
            }
            Attempt::Listen(_) => Err(refused(Refused(
                "a listening web process may listen on `$PORT`, all others not at all; for its own sockets alone a dyno \
                 may listen on 127.0.0.1 and ::1"
                    .to_owned(),
            ))),
            Attempt::Http { tls, host, port } => match Host::parse(host) {
                Some(host) => self
                    .rules
                    .judge_http(*tls, &host, *port, &detached)
                    .map(|()| Granted { addon: None })
                    .map_err(refused),
                None => Err(refused(Refused(
                    "its host is neither a name nor an address".to_owned(),
                ))),
            },
        }
    }

    /// The addresses of `name` that may be connected to with `port`, each with its grant.
    pub(crate) fn judge_answers(
        &self,
        name: &str,
        addresses: &[IpAddr],
        port: u16,
    ) -> Result<Vec<(SocketAddr, Granted)>, Denial> {
        let detached = self.detached.read().unwrap_or_else(PoisonError::into_inner);
        // An address is no name of itself: the answer would be about a name that nobody granted.
        let names: &[Arc<str>] = match Host::parse(name) {
            Some(Host::Ip(_)) => &[],
            _ => &[Arc::from(name)],
        };
        let mut allowed = Vec::new();
        let mut refused = None;
        for ip in addresses {
            let addr = SocketAddr::new(*ip, port);
            match self.rules.judge_address(addr, names, &detached) {
                Ok(granted) => allowed.push((addr, granted)),
                Err(Refused(why)) => {
                    refused = Some(format!(
                        "{} denied: {why}",
                        describe(&Attempt::Connect(addr))
                    ))
                }
            }
        }
        match refused {
            Some(reason) if allowed.is_empty() => Err(Denial { reason }),
            _ => Ok(allowed),
        }
    }

    /// What `localhost` is for a guest, if that is the name: its own loopback. A rule that names it still opens the machine's
    /// (see [`ranges`]).
    pub(crate) fn localhost(&self, name: &str) -> Option<[IpAddr; 2]> {
        const ADDRESSES: [IpAddr; 2] = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        let Some(Host::Name(name)) = Host::parse(name) else {
            return None;
        };
        if name != "localhost" {
            return None;
        }
        if self.judge(&Attempt::Resolve(&name)).is_ok() {
            self.answers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remember(Instant::now(), &name, &ADDRESSES);
        }
        Some(ADDRESSES)
    }

    /// Looks a name up. Answers within 5 s of another come from memory and cost no look-up.
    pub(crate) async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        let host = Host::parse(name).ok_or(LookupError::Invalid)?;
        let name = match host {
            Host::Ip(ip) => return Ok(vec![ip]),
            Host::Name(name) => name,
        };
        self.judge(&Attempt::Resolve(&name))
            .map_err(LookupError::Denied)?;
        if let Some(addresses) = self
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fresh(Instant::now(), &name)
        {
            return Ok(addresses);
        }
        let addresses = self.resolver.look_up(&name).await?;
        let mut allowed = Vec::new();
        let mut refused = None;
        {
            let detached = self.detached.read().unwrap_or_else(PoisonError::into_inner);
            for ip in addresses
                .into_iter()
                .map(ranges::plain)
                .take(answers::MAX_ADDRESSES)
            {
                match self.rules.judge_answer(&name, ip, &detached) {
                    Ok(()) if !allowed.contains(&ip) => allowed.push(ip),
                    Ok(()) => {}
                    Err(Refused(why)) => refused = Some(why),
                }
            }
        }
        if let (Some(why), true) = (refused, allowed.is_empty()) {
            let reason = format!("{} denied: {why}", describe(&Attempt::Resolve(&name)));
            return Err(LookupError::Denied(Denial { reason }));
        }
        self.answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remember(Instant::now(), &name, &allowed);
        Ok(allowed)
    }

    /// Takes a connection in that was allowed when it was begun; `None` if that was withdrawn meanwhile.
    pub(crate) fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        granted: Granted,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Option<Arc<OutboundConnection>> {
        let addon = granted.addon.clone();
        let connection = self.connections.admit(stream, peer, granted, slot);
        // In this order, a withdrawal either finds the connection in the list or is seen here.
        let detached = self.detached.read().unwrap_or_else(PoisonError::into_inner);
        let gone = addon.is_some_and(|addon| detached.iter().any(|other| **other == *addon));
        if gone || self.closed.load(Ordering::Acquire) {
            return None;
        }
        Some(connection)
    }
}

impl Drop for Egress {
    /// No dyno is left that it was for: a pooled connection of theirs must not live on.
    fn drop(&mut self) {
        self.close();
    }
}

/// What was tried, as messages call it.
fn describe(what: &Attempt<'_>) -> String {
    match what {
        Attempt::Resolve(name) => format!("look-up of {name}"),
        Attempt::Connect(addr) => format!("TCP connection to {addr}"),
        Attempt::Udp(addr) => format!("UDP to {addr}"),
        Attempt::Listen(addr) => format!("listening on {addr}"),
        Attempt::Http { tls, host, port } => {
            let (scheme, usual) = if *tls { ("https", 443) } else { ("http", 80) };
            let place = if *port == usual {
                String::new()
            } else {
                format!(":{port}")
            };
            format!("outgoing request to {scheme}://{host}{place}")
        }
    }
}
