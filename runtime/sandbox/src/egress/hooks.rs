//! `wasi:http` outgoing requests, 0.2 and 0.3: one choke point, [`HttpHooks::send_request`].

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::uri::Scheme;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{Error, RequestOptions, WasiHttpHooks};

use super::client::{CONNECT_TIMEOUT, CONNECTING, ConnectError, Connecting};
use super::{Attempt, LookupError};
use crate::Body;
use crate::frames::{Content, poll_content};
use crate::sockets::NetGrant;

/// From the connection to the response's head, if the guest sets no timeout.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(300);
/// Between two frames of the response's body, if the guest sets no timeout.
const BETWEEN_BYTES_TIMEOUT: Duration = Duration::from_secs(300);
/// The longest timeout a guest may set.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Of one hop; the client deals with them, the guest never sees them.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Sends what guests ask for, by the grant of their dyno.
pub(crate) struct HttpHooks {
    grant: Arc<NetGrant>,
}

impl HttpHooks {
    pub(crate) fn new(grant: Arc<NetGrant>) -> Self {
        Self { grant }
    }
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;

/// The most bytes of a body that are taken from a guest at once.
const BODY_PIECE: usize = 128 << 10;
/// How many such pieces wait for their reader, beside the one that is under way.
const BODY_PIECES: usize = 4;

impl WasiHttpHooks for HttpHooks {
    /// The client sets it, from the same URI that the egress judged.
    fn set_host_header(&mut self) -> bool {
        false
    }

    /// Of a response or request that streams, as much is held here: wasmtime's own 2 MiB in two pieces are more memory,
    /// and make writer and reader wait for each other more often.
    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        BODY_PIECES
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_PIECE
    }

    /// Of each body two such pieces are held: one in the channel, one under way.
    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_PIECE
    }

    fn send_request(
        &mut self,
        request: Request<Body>,
        options: Option<RequestOptions>,
        _processed: Io,
    ) -> Box<dyn Future<Output = Result<(Response<Body>, Io), Error>> + Send> {
        let admitted = admit(&self.grant, &request);
        let grant = self.grant.clone();
        Box::new(async move {
            let slot = admitted?;
            let response = send(&grant, request, options.unwrap_or_default(), slot).await?;
            Ok((response, Box::new(async { Ok(()) }) as Io))
        })
    }
}

/// Whether the request may be made at all, and a place for it under `limits.outgoing`.
fn admit(grant: &NetGrant, request: &Request<Body>) -> Result<OwnedSemaphorePermit, Error> {
    let uri = request.uri();
    let tls = uri.scheme() == Some(&Scheme::HTTPS);
    let host = uri
        .host()
        .filter(|host| !host.is_empty())
        .ok_or(Error::HttpRequestUriInvalid)?;
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    if request.method() == http::Method::CONNECT {
        return Err(Error::HttpRequestMethodInvalid);
    }
    if let Err(denial) = grant.egress.judge(&Attempt::Http { tls, host, port }) {
        grant.remarks.write(&denial.reason);
        return Err(Error::HttpRequestDenied);
    }
    grant.outgoing.clone().try_acquire_owned().map_err(|_| {
        grant.remarks.write(&format!(
            "outgoing request to {host} refused: {} are under way, the limit; raise `outgoing` in `[limits]`",
            grant.outgoing_limit
        ));
        Error::ConnectionLimitReached
    })
}

async fn send(
    grant: &NetGrant,
    request: Request<Body>,
    options: RequestOptions,
    slot: OwnedSemaphorePermit,
) -> Result<Response<Body>, Error> {
    let connect = options
        .connect_timeout
        .unwrap_or(CONNECT_TIMEOUT)
        .min(LONGEST);
    let first_byte = options
        .first_byte_timeout
        .unwrap_or(FIRST_BYTE_TIMEOUT)
        .min(LONGEST);
    let between_bytes = options
        .between_bytes_timeout
        .unwrap_or(BETWEEN_BYTES_TIMEOUT)
        .min(LONGEST);
    let pool = grant.http.pool(&grant.egress);
    let (now, is_connecting) = watch::channel(false);
    let connecting = Connecting {
        within: connect,
        now,
    };
    let sending = CONNECTING.scope(connecting, pool.request(request.map(Content)));
    let response = match within_first_byte(sending, first_byte, is_connecting).await {
        Some(Ok(response)) => response,
        Some(Err(error)) => return Err(explain(grant, &error)),
        None => return Err(Error::ConnectionReadTimeout),
    };
    let (mut head, body) = response.into_parts();
    if let Some(coding) = other_coding(&head.headers) {
        return Err(Error::HttpResponseTransferCoding(Some(coding)));
    }
    // The chunks say where it ends, whatever the length does (RFC 9112 6.3).
    if head.headers.contains_key(header::TRANSFER_ENCODING) {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    for name in &HOP_BY_HOP {
        head.headers.remove(name);
    }
    let body = ResponseBody {
        body,
        timer: Box::pin(tokio::time::sleep(between_bytes)),
        between_bytes,
        waiting: false,
        _slot: slot,
    };
    Ok(Response::from_parts(head, body.boxed_unsync()))
}

/// Waits for the head, for so long from when there is a connection: one of the pool's is there at once, and how long
/// another takes is bounded by itself. `None`: it does not come.
async fn within_first_byte<T>(
    sending: impl Future<Output = T>,
    first_byte: Duration,
    mut is_connecting: watch::Receiver<bool>,
) -> Option<T> {
    tokio::pin!(sending);
    let timer = tokio::time::sleep(first_byte);
    tokio::pin!(timer);
    // Without its sender it changes no more; the request is about to end.
    let mut is_told = true;
    loop {
        let connecting = *is_connecting.borrow_and_update();
        tokio::select! {
            biased;
            sent = &mut sending => return Some(sent),
            changed = is_connecting.changed(), if is_told => {
                is_told = changed.is_ok();
                timer.as_mut().reset(Instant::now() + first_byte);
            }
            () = &mut timer, if !connecting => return None,
        }
    }
}

/// A transfer coding that is not `chunked`, which is all that is decoded here.
pub fn other_coding(headers: &http::HeaderMap) -> Option<String> {
    let values = headers.get_all(header::TRANSFER_ENCODING).iter();
    let codings = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut codings = codings.map(<[u8]>::trim_ascii);
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    match (codings.next(), codings.next()) {
        (None, _) => None,
        (Some(only), None) if is_chunked(only) => None,
        (Some(coding), _) => Some(String::from_utf8_lossy(coding).into_owned()),
    }
}

/// The guest's own error of the body that it sent, if that is what went wrong.
fn of_body(error: &(dyn StdError + 'static)) -> Option<Error> {
    let own = causes(error).find_map(|cause| cause.downcast_ref::<Error>())?;
    match own {
        Error::HttpRequestBodySize(size) => Some(Error::HttpRequestBodySize(*size)),
        Error::InternalError(why) => Some(Error::InternalError(why.clone())),
        _ => None,
    }
}

/// Says what went wrong in the guest's terms, and in the log what only the manifest can mend.
fn explain(grant: &NetGrant, error: &(dyn StdError + 'static)) -> Error {
    if let Some(own) = of_body(error) {
        return own;
    }
    for cause in causes(error) {
        if let Some(error) = cause.downcast_ref::<ConnectError>() {
            return match error {
                ConnectError::Denied(reason) => {
                    grant.remarks.write(reason);
                    Error::DestinationIpProhibited
                }
                ConnectError::Lookup(LookupError::Timeout) => Error::DnsTimeout,
                ConnectError::Lookup(why) => {
                    if matches!(why, LookupError::TooMany) {
                        grant
                            .remarks
                            .write(&format!("look-up for an outgoing request refused: {why}"));
                    }
                    Error::DnsError {
                        rcode: Some(why.to_string()),
                        info_code: None,
                    }
                }
                ConnectError::Timeout => Error::ConnectionTimeout,
                ConnectError::Limit => {
                    grant
                        .remarks
                        .write(&format!("outgoing request refused: {error}"));
                    Error::ConnectionLimitReached
                }
                ConnectError::Io(error) => of_connect(error),
            };
        }
        if let Some(error) = cause.downcast_ref::<rustls::Error>() {
            return match error {
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                    Error::TlsCertificateError
                }
                rustls::Error::AlertReceived(alert) => Error::TlsAlertReceived {
                    alert_id: Some(u8::from(*alert)),
                    alert_message: Some(format!("{alert:?}")),
                },
                _ => Error::TlsProtocolError,
            };
        }
    }
    causes(error)
        .find_map(|cause| cause.downcast_ref::<hyper::Error>())
        .map_or(Error::HttpProtocolError, of_hyper)
}

/// An error and all below it, through the boxes that `io::Error` hides from `source`.
fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| {
        if let Some(inner) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            return Some(inner as &(dyn StdError + 'static));
        }
        error.source()
    })
}

fn of_connect(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Error::DestinationIpUnroutable
        }
        _ => Error::DestinationUnavailable,
    }
}

fn of_hyper(error: &hyper::Error) -> Error {
    if error.is_timeout() {
        Error::ConnectionReadTimeout
    } else if error.is_incomplete_message() || error.is_body_write_aborted() {
        Error::HttpResponseIncomplete
    } else if error.is_closed() || error.is_canceled() {
        Error::ConnectionTerminated
    } else if error.is_parse_too_large() {
        Error::HttpResponseHeaderSectionSize(None)
    } else if causes(error).any(|cause| cause.is::<io::Error>()) {
        Error::ConnectionTerminated
    } else {
        Error::HttpProtocolError
    }
}

/// Holds the request's place until the body is done, and bounds the time between its frames.
struct ResponseBody {
    body: Incoming,
    timer: Pin<Box<Sleep>>,
    between_bytes: Duration,
    waiting: bool,
    _slot: OwnedSemaphorePermit,
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match poll_content(Pin::new(&mut self.body), cx) {
            Poll::Ready(frame) => {
                self.waiting = false;
                Poll::Ready(frame.map(|frame| frame.map_err(|error| of_hyper(&error))))
            }
            Poll::Pending => {
                // The time counts from when the guest began to wait: a body that nobody asks for is not late.
                if !self.waiting {
                    let deadline = Instant::now() + self.between_bytes;
                    self.timer.as_mut().reset(deadline);
                    self.waiting = true;
                }
                ready!(self.timer.as_mut().poll(cx));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bodys_own_error_is_found_below_those_of_its_way() {
        let own = io::Error::other(Error::HttpRequestBodySize(Some(3)));
        let found = of_body(&io::Error::other(own));
        assert!(matches!(found, Some(Error::HttpRequestBodySize(Some(3)))));
        assert!(of_body(&io::Error::other(Error::HttpProtocolError)).is_none());
    }
}
