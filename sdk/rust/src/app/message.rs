//! What both versions of WASI ask of a message's head before it goes out, and what came of a request
//! that went out.

use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, StatusCode, request, response};

use crate::Body;

/// Why [`fetch`](crate::fetch) got no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchError {
    kind: FetchErrorKind,
    reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FetchErrorKind {
    Denied,
    Timeout,
    Other,
}

impl FetchError {
    pub(crate) fn new(kind: FetchErrorKind, reason: String) -> FetchError {
        FetchError { kind, reason }
    }

    /// The app may not reach that host: the manifest's `[network] allow` does not name it.
    pub fn is_denied(&self) -> bool {
        self.kind == FetchErrorKind::Denied
    }

    /// The host waited as long as it may: for the name, the connection or the response.
    pub fn is_timeout(&self) -> bool {
        self.kind == FetchErrorKind::Timeout
    }
}

impl std::fmt::Display for FetchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_denied() {
            return f.write_str(
                "not permitted: the manifest's `[network] allow` does not name this host",
            );
        }
        write!(f, "the request failed: {}", self.reason)
    }
}

impl std::error::Error for FetchError {}

/// A [`FetchError`] from an `ErrorCode`: each version has its own type of that name, with the same
/// cases.
macro_rules! fetch_error_from {
    ($code:ident) => {
        impl From<$code> for crate::FetchError {
            fn from(code: $code) -> Self {
                use crate::app::message::FetchErrorKind;
                let kind = match code {
                    $code::HttpRequestDenied | $code::DestinationIpProhibited => {
                        FetchErrorKind::Denied
                    }
                    $code::DnsTimeout
                    | $code::ConnectionTimeout
                    | $code::ConnectionReadTimeout
                    | $code::ConnectionWriteTimeout
                    | $code::HttpResponseTimeout => FetchErrorKind::Timeout,
                    _ => FetchErrorKind::Other,
                };
                let reason = match code {
                    $code::InternalError(Some(reason)) => reason,
                    code => format!("{code:?}"),
                };
                crate::FetchError::new(kind, reason)
            }
        }
    };
}
pub(crate) use fetch_error_from;

/// Announces the length of a response's body if it is known and a length is allowed.
pub(crate) fn response_says_length(head: &mut response::Parts, body: &Body) {
    // These have no body, and RFC 9110 (8.6) allows no length for the first two.
    let bodiless = head.status.is_informational()
        || matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    if !bodiless {
        say_length(&mut head.headers, body);
    }
}

/// Announces the length of a request's body if it is known.
pub(crate) fn request_says_length(head: &mut request::Parts, body: &Body) {
    // A request without a body and without a length is what every client sends for GET; others say 0.
    if body.length() != Some(0) || matches!(head.method.as_str(), "POST" | "PUT" | "PATCH") {
        say_length(&mut head.headers, body);
    }
}

fn say_length(headers: &mut HeaderMap, body: &Body) {
    if let Some(length) = body.length() {
        headers
            .entry(CONTENT_LENGTH)
            .or_insert_with(|| length.into());
    }
}

/// Where a request goes. The authority goes its own way; a `Host` header is not allowed beside it.
///
/// # Errors
/// If neither the URI nor the header says it.
pub(crate) fn authority(head: &mut request::Parts) -> Result<String, &'static str> {
    let host = head.headers.remove(HOST);
    match (head.uri.authority(), host) {
        (Some(authority), _) => Ok(authority.as_str().to_owned()),
        (None, Some(host)) => Ok(host
            .to_str()
            .map_err(|_| "its `Host` header is no host's name")?
            .to_owned()),
        (None, None) => Err("its URI names no host, as in `https://example.com/path`"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn request(method: &str, uri: &str, host: Option<&str>) -> request::Parts {
        let mut request = http::Request::builder().method(method).uri(uri);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_uri_says_where_a_request_goes_and_else_the_header_does() {
        let mut head = request("GET", "http://a.example:81/x", Some("b.example"));
        assert_eq!(authority(&mut head).unwrap(), "a.example:81");
        assert!(head.headers.is_empty());
        let mut head = request("GET", "/x", Some("b.example"));
        assert_eq!(authority(&mut head).unwrap(), "b.example");
        assert!(authority(&mut request("GET", "/x", None)).is_err());
    }

    #[test]
    fn a_length_is_said_where_one_is_expected() {
        let length = |method, body: &Body| {
            let mut head = request(method, "/", None);
            request_says_length(&mut head, body);
            head.headers.get(CONTENT_LENGTH).cloned()
        };
        assert_eq!(length("GET", &Body::empty()), None);
        assert_eq!(length("POST", &Body::empty()).unwrap(), "0");
        assert_eq!(length("GET", &Body::from("abc")).unwrap(), "3");

        let mut head = http::Response::new(()).into_parts().0;
        head.status = StatusCode::NO_CONTENT;
        response_says_length(&mut head, &Body::empty());
        assert!(head.headers.is_empty());
    }
}
