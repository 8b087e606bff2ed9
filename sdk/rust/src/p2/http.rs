//! Requests and responses between `wasi:http` 0.2 and the `http` crate.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, Method as WasiMethod, OutgoingBody, OutgoingRequest,
    OutgoingResponse, ResponseOutparam, Scheme,
};

use super::body::{self, Incoming};
use super::executor::spawn;
use super::reactor;
use crate::app::body::Kind;
use crate::app::message::{authority, fetch_error_from, request_says_length, response_says_length};
use crate::{Body, Error, FetchError, Request, Response};

fetch_error_from!(ErrorCode);

/// The request as a handler gets it.
///
/// # Errors
/// If its parts are no request.
pub(super) fn incoming_request(request: IncomingRequest) -> Result<Request, Error> {
    let scheme = match request.scheme() {
        Some(Scheme::Https) => "https".to_owned(),
        Some(Scheme::Other(scheme)) => scheme,
        Some(Scheme::Http) | None => "http".to_owned(),
    };
    let path = request.path_with_query();
    let uri = Uri::builder()
        .scheme(scheme.as_str())
        .authority(request.authority().as_deref().unwrap_or("localhost"))
        .path_and_query(path.as_deref().unwrap_or("/"))
        .build()?;
    let incoming = request.consume().ok().and_then(Incoming::new);
    let mut made = Request::new(incoming.map_or_else(Body::empty, Body::incoming));
    *made.method_mut() = method(request.method())?;
    *made.uri_mut() = uri;
    *made.headers_mut() = headers(&request.headers())?;
    Ok(made)
}

/// Sends a response, to the end of its body.
pub(super) async fn respond(response: Response, out: ResponseOutparam) {
    let (response, body) = match outgoing_response(response) {
        Ok(made) => made,
        Err(code) => return ResponseOutparam::set(out, Err(code)),
    };
    ResponseOutparam::set(out, Ok(response));
    if let Some((body, to)) = body {
        // Both errors have been told: the body's own to the receiver, the receiver's end to the body,
        // which is dropped here.
        let _sent = body::send(body, to).await;
    }
}

pub(crate) async fn send(request: Request) -> Result<Response, FetchError> {
    let (request, body) = outgoing_request(request)?;
    let future = outgoing_handler::handle(request, None)?;
    if let Some((body, to)) = body {
        spawn(async move {
            let _sent = body::send(body, to).await;
        });
    }
    let response = loop {
        match future.get() {
            Some(Ok(response)) => break response?,
            Some(Err(())) => return Err(internal("its response has been taken").into()),
            None => reactor::wait(future.subscribe()).await,
        }
    };
    let incoming = response.consume().ok().and_then(Incoming::new);
    let mut made = Response::new(incoming.map_or_else(Body::empty, Body::incoming));
    *made.status_mut() = http::StatusCode::from_u16(response.status()).map_err(internal)?;
    *made.headers_mut() = headers(&response.headers())?;
    Ok(made)
}

/// A body and where it goes; `None`: there is none, for the host too.
type Outgoing = Option<(Body, OutgoingBody)>;

fn outgoing_response(response: Response) -> Result<(OutgoingResponse, Outgoing), ErrorCode> {
    let (mut head, body) = response.into_parts();
    response_says_length(&mut head, &body);
    let made = OutgoingResponse::new(fields(&head.headers)?);
    made.set_status_code(head.status.as_u16())
        .map_err(|()| internal("the status code is not allowed"))?;
    let outgoing = outgoing(body, || made.body())?;
    Ok((made, outgoing))
}

fn outgoing_request(request: Request) -> Result<(OutgoingRequest, Outgoing), ErrorCode> {
    let (mut head, body) = request.into_parts();
    let authority = authority(&mut head).map_err(internal)?;
    request_says_length(&mut head, &body);
    let made = OutgoingRequest::new(fields(&head.headers)?);
    made.set_method(&wasi_method(&head.method))
        .map_err(|()| ErrorCode::HttpRequestMethodInvalid)?;
    let scheme = match head.uri.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") | None => Scheme::Https,
        Some(other) => Scheme::Other(other.to_owned()),
    };
    made.set_scheme(Some(&scheme))
        .map_err(|()| ErrorCode::HttpProtocolError)?;
    made.set_authority(Some(&authority))
        .map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    made.set_path_with_query(Some(path))
        .map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    let outgoing = outgoing(body, || made.body())?;
    Ok((made, outgoing))
}

fn outgoing(
    body: Body,
    to: impl FnOnce() -> Result<OutgoingBody, ()>,
) -> Result<Outgoing, ErrorCode> {
    if matches!(body.kind(), Kind::Empty) {
        return Ok(None);
    }
    let to = to().map_err(|()| internal("its body has been taken"))?;
    Ok(Some((body, to)))
}

fn method(method: WasiMethod) -> Result<Method, http::method::InvalidMethod> {
    Ok(match method {
        WasiMethod::Get => Method::GET,
        WasiMethod::Head => Method::HEAD,
        WasiMethod::Post => Method::POST,
        WasiMethod::Put => Method::PUT,
        WasiMethod::Delete => Method::DELETE,
        WasiMethod::Connect => Method::CONNECT,
        WasiMethod::Options => Method::OPTIONS,
        WasiMethod::Trace => Method::TRACE,
        WasiMethod::Patch => Method::PATCH,
        WasiMethod::Other(name) => Method::from_bytes(name.as_bytes())?,
    })
}

fn wasi_method(method: &Method) -> WasiMethod {
    match *method {
        Method::GET => WasiMethod::Get,
        Method::HEAD => WasiMethod::Head,
        Method::POST => WasiMethod::Post,
        Method::PUT => WasiMethod::Put,
        Method::DELETE => WasiMethod::Delete,
        Method::CONNECT => WasiMethod::Connect,
        Method::OPTIONS => WasiMethod::Options,
        Method::TRACE => WasiMethod::Trace,
        Method::PATCH => WasiMethod::Patch,
        _ => WasiMethod::Other(method.as_str().to_owned()),
    }
}

pub(super) fn headers(fields: &Fields) -> Result<HeaderMap, ErrorCode> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields.entries() {
        let name = HeaderName::try_from(name).map_err(internal)?;
        let value = HeaderValue::try_from(value).map_err(internal)?;
        headers.try_append(name, value).map_err(internal)?;
    }
    Ok(headers)
}

pub(super) fn fields(headers: &HeaderMap) -> Result<Fields, ErrorCode> {
    let entries: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    Fields::from_list(&entries).map_err(internal)
}

pub(super) fn internal(reason: impl std::fmt::Display) -> ErrorCode {
    ErrorCode::InternalError(Some(reason.to_string()))
}
