//! Requests and responses between `wasi:http` 0.3 and the `http` crate.
//!
//! Incoming ones go through wasip3's own conversions. Outgoing ones are made here, because a message
//! without a body must be one for the host too (a GET must not announce a body), and one of known
//! length should say so.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use wasip3::http::client;
use wasip3::http::types::{
    ErrorCode, Request as WasiRequest, Response as WasiResponse, Scheme, Trailers,
};
use wasip3::http_compat::{
    BodyWriter, IncomingRequestBody, IncomingResponseBody, http_from_wasi_request,
    http_from_wasi_response,
};
use wasip3::wit_bindgen::{FutureReader, StreamReader};

use crate::body::Kind;
use crate::handler::IntoResponse;
use crate::{Body, Request, Response, spawn, status};

/// A body on its way in.
pub(crate) enum Incoming {
    /// Of a request to a handler.
    Request(IncomingRequestBody),
    /// Of a response to `fetch`.
    Response(IncomingResponseBody),
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = ErrorCode;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ErrorCode>>> {
        match self.get_mut() {
            Incoming::Request(body) => Pin::new(body).poll_frame(cx),
            Incoming::Response(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Incoming::Request(body) => body.is_end_stream(),
            Incoming::Response(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Incoming::Request(body) => body.size_hint(),
            Incoming::Response(body) => body.size_hint(),
        }
    }
}

/// Why [`fetch`](crate::fetch) got no response.
#[derive(Debug)]
pub struct FetchError(ErrorCode);

impl FetchError {
    /// The app may not reach that host: the manifest's `[network] allow` does not name it.
    pub fn is_denied(&self) -> bool {
        matches!(
            self.0,
            ErrorCode::HttpRequestDenied | ErrorCode::DestinationIpProhibited
        )
    }

    /// The host waited as long as it may: for the name, the connection or the response.
    pub fn is_timeout(&self) -> bool {
        use ErrorCode::{
            ConnectionReadTimeout, ConnectionTimeout, ConnectionWriteTimeout, DnsTimeout,
            HttpResponseTimeout,
        };
        matches!(
            self.0,
            DnsTimeout
                | ConnectionTimeout
                | ConnectionReadTimeout
                | ConnectionWriteTimeout
                | HttpResponseTimeout
        )
    }
}

impl std::fmt::Display for FetchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            _ if self.is_denied() => f.write_str(
                "not permitted: the manifest's `[network] allow` does not name this host",
            ),
            ErrorCode::InternalError(Some(reason)) => write!(f, "the request failed: {reason}"),
            code => write!(f, "the request failed: {code:?}"),
        }
    }
}

impl std::error::Error for FetchError {}

/// Runs a handler for one request.
///
/// # Errors
/// If the response's headers are not what `wasi:http` allows.
pub async fn handle<F, Fut, R>(request: WasiRequest, serve: F) -> Result<WasiResponse, ErrorCode>
where
    F: FnOnce(Request) -> Fut,
    Fut: Future<Output = R>,
    R: IntoResponse,
{
    let response = match http_from_wasi_request(request) {
        Ok(request) => serve(request.map(|body| Body::incoming(Incoming::Request(body))))
            .await
            .into_response(),
        Err(_) => status(StatusCode::BAD_REQUEST),
    };
    outgoing_response(response)
}

pub(crate) async fn send(request: Request) -> Result<Response, FetchError> {
    let response = client::send(outgoing_request(request).map_err(FetchError)?)
        .await
        .map_err(FetchError)?;
    let response = http_from_wasi_response(response).map_err(FetchError)?;
    Ok(response.map(|body| Body::incoming(Incoming::Response(body))))
}

fn outgoing_response(response: Response) -> Result<WasiResponse, ErrorCode> {
    let (mut head, body) = response.into_parts();
    // These have no body, and RFC 9110 (8.6) allows no length for the first two.
    let bodiless = head.status.is_informational()
        || matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    if !bodiless {
        announce_length(&mut head.headers, &body);
    }
    let headers = head.headers.try_into().map_err(internal)?;
    let (contents, trailers) = outgoing_body(body);
    let (response, _sent) = WasiResponse::new(headers, contents, trailers);
    response
        .set_status_code(head.status.as_u16())
        .map_err(|()| internal("the status code is not allowed"))?;
    Ok(response)
}

fn outgoing_request(request: Request) -> Result<WasiRequest, ErrorCode> {
    let (mut head, body) = request.into_parts();
    // The authority goes its own way; a `Host` header is not allowed beside it.
    let host = head.headers.remove(HOST);
    let authority = match (head.uri.authority(), &host) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(host)) => host.to_str().map_err(internal)?,
        (None, None) => {
            return Err(internal(
                "its URI names no host, as in `https://example.com/path`",
            ));
        }
    };
    // A request without a body and without a length is what every client sends for GET; others say 0.
    if body.length() != Some(0) || matches!(head.method.as_str(), "POST" | "PUT" | "PATCH") {
        announce_length(&mut head.headers, &body);
    }
    let headers = head.headers.try_into().map_err(internal)?;
    let (contents, trailers) = outgoing_body(body);
    let (request, _sent) = WasiRequest::new(headers, contents, trailers, None);
    request
        .set_method(&(&head.method).into())
        .map_err(|()| ErrorCode::HttpRequestMethodInvalid)?;
    let scheme = head.uri.scheme().map_or(Scheme::Https, Scheme::from);
    request
        .set_scheme(Some(&scheme))
        .map_err(|()| ErrorCode::HttpProtocolError)?;
    request
        .set_authority(Some(authority))
        .map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    request
        .set_path_with_query(Some(path))
        .map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    Ok(request)
}

fn announce_length(headers: &mut HeaderMap, body: &Body) {
    if let Some(length) = body.length() {
        headers
            .entry(CONTENT_LENGTH)
            .or_insert_with(|| length.into());
    }
}

type Outgoing = (
    Option<StreamReader<u8>>,
    FutureReader<Result<Option<Trailers>, ErrorCode>>,
);

/// Hands a body to the host; it is sent by a task of its own, after the head.
fn outgoing_body(body: Body) -> Outgoing {
    match body.into_kind() {
        Kind::Empty => {
            // The value that a dropped writer leaves behind: no trailers.
            let (_writer, trailers) = wasip3::wit_future::new(|| Ok(None));
            (None, trailers)
        }
        Kind::Full(bytes) => stream(Body::from(bytes)),
        Kind::Incoming(incoming) => stream(Body::incoming(incoming)),
        Kind::Streamed(body) => stream(Body::new(body)),
    }
}

fn stream(mut body: Body) -> Outgoing {
    let (writer, contents, trailers) = BodyWriter::new();
    spawn(async move {
        // Both errors have been told: the body's own to the receiver, the receiver's end to the body,
        // which is dropped here.
        let _sent = writer.send_http_body(&mut body).await;
    });
    (Some(contents), trailers)
}

fn internal(reason: impl std::fmt::Display) -> ErrorCode {
    ErrorCode::InternalError(Some(reason.to_string()))
}
