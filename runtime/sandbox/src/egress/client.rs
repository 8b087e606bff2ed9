//! The outgoing HTTP client: pooled, TLS by rustls, and unable to connect to what the egress did not check.
//!
//! One TLS configuration and one bound on connections per app, and below it a pool per [`Egress`]: process types
//! of one app may reach different places, so that a connection opened by one's grant must not serve another.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection as HyperConnection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::net::Shutdown;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

use super::connections::OutboundConnection;
use super::rules::Host;
use super::{Attempt, Egress, LookupError};
use crate::frames::Content;

/// Connections of one app, idle ones included; above it a request fails.
const MAX_CONNECTIONS: usize = 256;
/// After which an idle connection is closed.
const IDLE: Duration = Duration::from_secs(30);
/// Idle connections kept per host.
const IDLE_PER_HOST: usize = 16;
/// Per address, while there are others to try.
const PER_ADDRESS: Duration = Duration::from_secs(5);
/// To a connection, if the guest sets no timeout.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) type Pool = Client<HttpsConnector<Connector>, Content>;

tokio::task_local! {
    /// Of the request that a connection is opened for.
    pub(crate) static CONNECTING: Connecting;
}

/// What a request says of its connection, and hears of it.
pub(crate) struct Connecting {
    /// How long it may take.
    pub(crate) within: Duration,
    /// Whether it is under way.
    pub(crate) now: watch::Sender<bool>,
}

/// Pools of outgoing HTTP connections, TLS by rustls; one per app. Cheap to clone. What
/// [`Egress::decide`] allowed is what it connects to.
#[derive(Clone)]
pub struct HttpClient {
    inner: Arc<Inner>,
}

struct Inner {
    extra_roots: Vec<Vec<u8>>,
    /// Made for the first request: the roots and the room for sessions take some 40 KiB, and most apps send none.
    tls: OnceLock<ClientConfig>,
    connections: Arc<Semaphore>,
    /// One entry per live egress, that is per process type and release.
    pools: Mutex<Vec<(Weak<Egress>, Pool)>>,
}

impl HttpClient {
    /// A client that trusts the public roots and these DER certificates besides; one that cannot be parsed is
    /// left out with a warning at the first request.
    pub fn new(extra_roots: &[Vec<u8>]) -> Self {
        Self {
            inner: Arc::new(Inner {
                extra_roots: extra_roots.to_vec(),
                tls: OnceLock::new(),
                connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
                pools: Mutex::default(),
            }),
        }
    }

    fn tls(&self) -> &ClientConfig {
        self.inner
            .tls
            .get_or_init(|| tls_config(&self.inner.extra_roots))
    }

    /// The pool of the connections that `egress` allows.
    pub(crate) fn pool(&self, egress: &Arc<Egress>) -> Pool {
        let mut pools = self
            .inner
            .pools
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        pools.retain(|(of, _)| of.strong_count() > 0);
        let this = Arc::downgrade(egress);
        if let Some((_, pool)) = pools.iter().find(|(of, _)| of.ptr_eq(&this)) {
            return pool.clone();
        }
        let connector = Connector {
            egress: this.clone(),
            connections: self.inner.connections.clone(),
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(self.tls().clone())
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(connector);
        let pool: Pool = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .build(connector);
        pools.push((this, pool.clone()));
        pool
    }
}

/// The certificates of a PEM file, for [`HttpClient::new`]; at least one.
///
/// # Errors
/// What is wrong with it.
pub fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        let added = RootCertStore::empty().add(certificate.clone());
        added.map_err(|error| format!("one of its certificates cannot be used: {error}"))?;
        certificates.push(certificate.to_vec());
    }
    if certificates.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(certificates)
}

/// Trusts the public roots and these.
#[expect(
    clippy::expect_used,
    reason = "a property of the crypto provider, which is compiled in"
)]
fn tls_config(extra_roots: &[Vec<u8>]) -> ClientConfig {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.into(),
    };
    let extra = extra_roots
        .iter()
        .map(|der| CertificateDer::from(der.clone()));
    let (_, ignored) = roots.add_parsable_certificates(extra);
    if ignored > 0 {
        tracing::warn!(
            ignored,
            "extra root certificates cannot be parsed and are not trusted"
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The name, or all its addresses, are denied.
    #[error("{0}")]
    Denied(String),
    #[error(transparent)]
    Lookup(LookupError),
    #[error("the connection was not established in time")]
    Timeout,
    #[error("the app has {MAX_CONNECTIONS} outgoing HTTP connections, its limit")]
    Limit,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Resolves by the egress's rules and connects only to addresses that passed them: no second look-up in between.
#[derive(Clone)]
pub(crate) struct Connector {
    egress: Weak<Egress>,
    connections: Arc<Semaphore>,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<HttpStream>;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<Self::Response, ConnectError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let request = CONNECTING.try_with(|connecting| (connecting.within, connecting.now.clone()));
        let (within, now) =
            request.map_or((CONNECT_TIMEOUT, None), |(within, now)| (within, Some(now)));
        let connecting = connect(self.egress.clone(), self.connections.clone(), uri);
        let tell = move |is_connecting| {
            if let Some(now) = &now {
                now.send_replace(is_connecting);
            }
        };
        tell(true);
        Box::pin(async move {
            let connected = tokio::time::timeout(within, connecting).await;
            tell(false);
            connected.unwrap_or(Err(ConnectError::Timeout))
        })
    }
}

async fn connect(
    egress: Weak<Egress>,
    connections: Arc<Semaphore>,
    uri: Uri,
) -> Result<TokioIo<HttpStream>, ConnectError> {
    let withdrawn = || ConnectError::Denied("its grant has been withdrawn".to_owned());
    let egress = egress.upgrade().ok_or_else(withdrawn)?;
    let tls = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let slot = connections
        .try_acquire_owned()
        .map_err(|_| ConnectError::Limit)?;
    let addresses = match Host::parse(host) {
        Some(Host::Name(name)) => {
            let answered = egress.look_up(&name).await.map_err(|error| match error {
                LookupError::Denied(denial) => ConnectError::Denied(denial.reason),
                other => ConnectError::Lookup(other),
            })?;
            egress
                .judge_answers(&name, &answered, port)
                .map_err(|denial| ConnectError::Denied(denial.reason))?
        }
        Some(Host::Ip(ip)) => {
            let addr = (ip, port).into();
            let granted = egress
                .judge(&Attempt::Connect(addr))
                .map_err(|denial| ConnectError::Denied(denial.reason))?;
            vec![(addr, granted)]
        }
        None => return Err(ConnectError::Lookup(LookupError::Invalid)),
    };
    let mut last = io::Error::from(io::ErrorKind::HostUnreachable);
    let count = addresses.len();
    for (nth, (addr, granted)) in addresses.into_iter().enumerate() {
        let attempt = TcpStream::connect(addr);
        let outcome = if nth + 1 < count {
            tokio::time::timeout(PER_ADDRESS, attempt)
                .await
                .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
        } else {
            attempt.await
        };
        match outcome {
            Ok(stream) => {
                let connection = egress
                    .admit(stream, addr, granted, Some(slot))
                    .ok_or_else(withdrawn)?;
                return Ok(TokioIo::new(HttpStream(connection)));
            }
            Err(error) => last = error,
        }
    }
    Err(ConnectError::Io(last))
}

/// A connection as tokio and hyper want it.
pub(crate) struct HttpStream(Arc<OutboundConnection>);

impl AsyncRead for HttpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = std::task::ready!(self.0.poll_read(cx, buffer.initialize_unfilled()))?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.shutdown(Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}

impl HyperConnection for HttpStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}
