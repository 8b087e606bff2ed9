//! What the router answers when the app did not: the only place that writes an error's status.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use oarlock_spec::codes::{ERROR_HEADER, RouterCode};

use super::body::ResponseBody;

/// Why there is no answer of the app's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The app, its dynos or its client failed.
    Code(RouterCode),
    /// No app has this host name.
    UnknownHost,
    /// The request is not valid HTTP for us; why.
    BadRequest(&'static str),
    /// The request's head is larger than `header`.
    HeadTooLarge,
    /// The request's body is larger than `request_body`.
    BodyTooLarge,
    /// The client, as a trusted proxy names it, has as many requests under way as one address may.
    TooManyRequests,
    /// The request's body has a transfer coding that is not decoded here.
    Coding,
    /// OPTIONS that is to come no further than here.
    OptionsHere,
    /// The same of TRACE.
    TraceHere,
    /// CONNECT, or what HTTP/2 has instead of an upgrade: not done here.
    Connect,
}

impl From<RouterCode> for Failure {
    fn from(code: RouterCode) -> Self {
        Self::Code(code)
    }
}

struct Rescue {
    status: StatusCode,
    /// The value of `oarlock-error`; empty: it is no error.
    error: &'static str,
    text: &'static str,
}

/// The client went away: nobody reads this status but the log (nginx's convention).
const CLIENT_CLOSED_REQUEST: u16 = 499;

impl Failure {
    pub(super) fn status(self) -> StatusCode {
        self.rescue().status
    }

    fn rescue(self) -> Rescue {
        let (status, error, text) = match self {
            Self::Code(code) => return of_code(code),
            Self::UnknownHost => (
                StatusCode::NOT_FOUND,
                "unknown-host",
                "No app is served under this host name. Check the name; apps are at <app>.<domain>.\n",
            ),
            Self::BadRequest(why) => (StatusCode::BAD_REQUEST, "bad-request", why),
            Self::HeadTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "header-too-large",
                "The request's head is larger than this app accepts (`header` in its limits).\n",
            ),
            Self::BodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                "The request's body is larger than this app accepts (`request_body` in its limits).\n",
            ),
            Self::TooManyRequests => (
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-requests",
                "Your address has too many requests under way. Try again when some are done.\n",
            ),
            Self::Coding => (
                StatusCode::NOT_IMPLEMENTED,
                "coding-unsupported",
                "The request's body has a transfer coding that is not supported here. Send it with `chunked` alone.\n",
            ),
            // All that the router can say of itself is that it is there.
            Self::OptionsHere => (StatusCode::NO_CONTENT, "", ""),
            Self::TraceHere => (
                StatusCode::NOT_IMPLEMENTED,
                "trace-unsupported",
                "The router itself does not answer TRACE. Leave `Max-Forwards` out to reach the app.\n",
            ),
            Self::Connect => (
                StatusCode::NOT_IMPLEMENTED,
                "connect-unsupported",
                "CONNECT is not supported here. Open WebSockets by an upgrade over HTTP/1.1.\n",
            ),
        };
        Rescue {
            status,
            error,
            text,
        }
    }
}

fn of_code(code: RouterCode) -> Rescue {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let (status, text) = match code {
        RouterCode::H10 => (
            unavailable,
            "The app has crashed and is being restarted. Try again later.\n",
        ),
        RouterCode::H11 => (
            unavailable,
            "The app has too many requests waiting. Try again later.\n",
        ),
        RouterCode::H12 => (unavailable, "The app did not answer in time.\n"),
        RouterCode::H13 => (
            unavailable,
            "The app ended this request without an answer.\n",
        ),
        RouterCode::H14 => (unavailable, "The app has no web dynos running.\n"),
        RouterCode::H15 => (unavailable, "Nothing was sent or received for too long.\n"),
        RouterCode::H18 => (unavailable, "The server interrupted this request.\n"),
        RouterCode::H20 => (
            unavailable,
            "The app did not start in time. Try again later.\n",
        ),
        RouterCode::H27 => (
            StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::BAD_REQUEST),
            "The client interrupted this request.\n",
        ),
        RouterCode::H80 => (unavailable, "The app is in maintenance. Try again later.\n"),
        RouterCode::AppStarting => (unavailable, "The app is starting. Try again in a moment.\n"),
    };
    Rescue {
        status,
        error: code.as_str(),
        text,
    }
}

/// `Retry-After` in whole seconds, of what the platform, and not the app, could not do yet. A queue is shorter a moment
/// later; dynos take a while to be scaled up, and to start.
fn retry_after(failure: Failure) -> Option<&'static str> {
    match failure {
        Failure::Code(RouterCode::H11) | Failure::TooManyRequests => Some("1"),
        Failure::Code(RouterCode::H14 | RouterCode::H20 | RouterCode::AppStarting) => Some("5"),
        Failure::Code(
            RouterCode::H10
            | RouterCode::H12
            | RouterCode::H13
            | RouterCode::H15
            | RouterCode::H18
            | RouterCode::H27
            | RouterCode::H80,
        )
        | Failure::UnknownHost
        | Failure::BadRequest(_)
        | Failure::HeadTooLarge
        | Failure::BodyTooLarge
        | Failure::Coding
        | Failure::OptionsHere
        | Failure::TraceHere
        | Failure::Connect => None,
    }
}

/// The response, and how long its body is.
pub(super) fn rescue(failure: Failure) -> (Response<ResponseBody>, u64) {
    let Rescue {
        status,
        error,
        text,
    } = failure.rescue();
    let body = Bytes::from_static(text.as_bytes());
    let length = body.len() as u64;
    let mut response = Response::new(ResponseBody::text(body));
    *response.status_mut() = status;
    if error.is_empty() {
        return (response, length);
    }
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        HeaderName::from_static(ERROR_HEADER),
        HeaderValue::from_static(error),
    );
    if let Some(seconds) = retry_after(failure) {
        headers.insert(RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    (response, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_as_promised() {
        for code in RouterCode::ALL {
            let (response, _) = rescue((*code).into());
            let expected = if *code == RouterCode::H27 { 499 } else { 503 };
            assert_eq!(response.status().as_u16(), expected);
            assert_eq!(response.headers()[ERROR_HEADER], code.as_str());
            let seconds = response.headers().get(RETRY_AFTER);
            let seconds = seconds.map(|it| it.to_str().unwrap().parse::<u64>().unwrap());
            let not_yet = [
                RouterCode::H11,
                RouterCode::H14,
                RouterCode::H20,
                RouterCode::AppStarting,
            ];
            let expected = not_yet.contains(code);
            assert_eq!(seconds.is_some_and(|it| it > 0), expected, "{code}");
        }
        let others = [
            (Failure::UnknownHost, 404),
            (Failure::BadRequest("x"), 400),
            (Failure::HeadTooLarge, 431),
            (Failure::BodyTooLarge, 413),
            (Failure::Connect, 501),
        ];
        for (failure, status) in others {
            let (response, _) = rescue(failure);
            assert_eq!(response.status().as_u16(), status);
            assert!(!response.headers().contains_key(RETRY_AFTER));
        }
        let (busy, _) = rescue(Failure::TooManyRequests);
        assert_eq!(busy.status().as_u16(), 429);
        assert_eq!(busy.headers()[RETRY_AFTER], "1");
    }
}
