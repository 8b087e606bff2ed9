//! The one decision point for outbound traffic: sockets, DNS and outgoing HTTP all ask [`Egress::decide`].

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use oarlock_spec::limits::Limits;
use oarlock_spec::manifest::AllowEntry;
use wasmtime::component::Linker;
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::grant::Grant;
use crate::state::State;

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

/// An endpoint that an add-on's binding opens, whatever range it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The add-on's name, for messages.
    pub addon: String,
    /// A name (lower case) or a literal IP.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// What the operator says of loopback, link-local and private ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrivateNetworks {
    /// Ranges that a literal IP or CIDR entry may name (the policy's `private_networks`).
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
    /// Never granted: the host's own listeners and other apps' ports.
    pub never: Vec<SocketAddr>,
    /// Metadata and other addresses that are never granted.
    pub never_ips: Vec<IpAddr>,
}

/// Decides; remembers which addresses came from which granted name.
pub struct Egress {
    #[expect(dead_code, reason = "skeleton")]
    rules: EgressRules,
}

impl Egress {
    /// Rules in force from now on, for the dynos of one process type of one app.
    pub fn new(rules: EgressRules) -> Self {
        Self { rules }
    }

    /// The decision point.
    pub fn decide(&self, _what: &Attempt<'_>) -> Decision {
        Decision::Deny(Denial {
            reason: "nothing is granted".to_owned(),
        })
    }
}

/// One pool of outgoing HTTP connections, TLS by rustls; one per app. Cheap to clone. What
/// [`Egress::decide`] allowed is what it connects to.
#[derive(Clone)]
pub struct HttpClient {}

impl HttpClient {
    /// A client that trusts the public roots and these DER certificates besides.
    pub fn new(_extra_roots: &[Vec<u8>]) -> Self {
        Self {}
    }
}

/// What an instance may do with sockets and name look-ups.
pub(crate) struct NetCtx {}

impl NetCtx {
    /// For one instance.
    pub(crate) fn new(_grant: &Grant, _limits: &Limits) -> Self {
        Self {}
    }
}

/// Outgoing HTTP of one instance.
pub(crate) struct HttpHooks {}

impl HttpHooks {
    /// For one instance.
    pub(crate) fn new(_grant: &Grant, _limits: &Limits) -> Self {
        Self {}
    }
}

type Transfer = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for HttpHooks {
    fn send_request(
        &mut self,
        _request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _fut: Transfer,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Transfer), Error>> + Send> {
        Box::new(std::future::ready(Err(Error::HttpRequestDenied)))
    }
}

/// Links `wasi:sockets`: TCP and name look-ups of 0.2, everything of 0.3.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    use wasmtime_wasi::p2::bindings::sockets;
    sockets::tcp::add_to_linker::<State, WasiSockets>(linker, State::sockets)?;
    sockets::tcp_create_socket::add_to_linker::<State, WasiSockets>(linker, State::sockets)?;
    sockets::ip_name_lookup::add_to_linker::<State, WasiSockets>(linker, State::sockets)?;
    wasmtime_wasi::p3::sockets::add_to_linker(linker)
}
