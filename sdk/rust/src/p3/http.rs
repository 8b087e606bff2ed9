//! Requests and responses between `wasi:http` 0.3 and the `http` crate.
//!
//! Incoming ones go through wasip3's own conversions. Outgoing ones are made here, because a message
//! without a body must be one for the host too (a GET must not announce a body), and one of known
//! length should say so.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
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

use crate::app::body::Kind;
use crate::app::handler::IntoResponse;
use crate::app::message::{authority, fetch_error_from, request_says_length, response_says_length};
use crate::{Body, FetchError, Request, Response, spawn, status};

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

fetch_error_from!(ErrorCode);

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
    let response = client::send(outgoing_request(request)?).await?;
    let response = http_from_wasi_response(response)?;
    Ok(response.map(|body| Body::incoming(Incoming::Response(body))))
}

fn outgoing_response(response: Response) -> Result<WasiResponse, ErrorCode> {
    let (mut head, body) = response.into_parts();
    response_says_length(&mut head, &body);
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
    let authority = authority(&mut head).map_err(internal)?;
    request_says_length(&mut head, &body);
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
        .set_authority(Some(&authority))
        .map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    request
        .set_path_with_query(Some(path))
        .map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    Ok(request)
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
