//! One request under way, from its head to the end of its answer: its lease, and its line in the log.

use std::fmt::Write;
use std::sync::Arc;

use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode, Version};
use oarlock_spec::api::LogSource;
use oarlock_spec::codes::RouterCode;
use tokio::time::Instant;

use super::connection::{Busy, Connection};
use super::headers::Identity;
use super::rescue::Failure;
use crate::web::{Lease, WebPool};

/// What the log shows of a path, and of `fwd`; more than that would only make room for mischief: a line
/// that is too long for the log goes on in another, which would begin as the client likes.
const SHOWN_BYTES: usize = 2048;

/// What the log shows of a method, and of a host: more than any that is used.
const SHOWN_NAME_BYTES: usize = 256;

enum Outcome {
    /// Not ended. If it is dropped so, somebody went away.
    Open,
    Done,
    Failed(RouterCode),
}

/// Writes its log line when it is dropped, and then gives its share of the lease back.
pub(super) struct Exchange {
    busy: Busy,
    pool: Arc<WebPool>,
    lease: Option<Arc<Lease>>,
    method: Method,
    path: Option<PathAndQuery>,
    host: Authority,
    identity: Option<Identity>,
    version: Version,
    arrived: Instant,
    leased: Option<Instant>,
    status: StatusCode,
    /// Of the response's body.
    pub(super) bytes: u64,
    outcome: Outcome,
}

impl Exchange {
    pub(super) fn new(busy: Busy, pool: Arc<WebPool>, parts: &Parts, host: Authority) -> Box<Self> {
        Box::new(Self {
            busy,
            pool,
            lease: None,
            method: parts.method.clone(),
            path: parts.uri.path_and_query().cloned(),
            host,
            identity: None,
            version: parts.version,
            arrived: Instant::now(),
            leased: None,
            status: StatusCode::OK,
            bytes: 0,
            outcome: Outcome::Open,
        })
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        self.busy.connection()
    }

    pub(super) fn pool(&self) -> &Arc<WebPool> {
        &self.pool
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn identified(&mut self, identity: Identity) {
        self.identity = Some(identity);
    }

    pub(super) fn leased(&mut self, lease: Arc<Lease>) {
        self.leased = Some(Instant::now());
        self.lease = Some(lease);
    }

    /// A share of its lease.
    pub(super) fn lease(&self) -> Option<Arc<Lease>> {
        self.lease.clone()
    }

    /// The dyno had nothing of the request.
    pub(super) fn unserved(&mut self) {
        self.leased = None;
        self.lease = None;
    }

    /// The app's head is on its way.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = status;
    }

    /// The router answers instead of the app.
    pub(super) fn rescued(&mut self, failure: Failure, bytes: u64) {
        self.status = failure.status();
        self.bytes = bytes;
        self.outcome = match failure {
            Failure::Code(code) => Outcome::Failed(code),
            Failure::UnknownHost
            | Failure::BadRequest(_)
            | Failure::HeadTooLarge
            | Failure::BodyTooLarge
            | Failure::TooManyRequests
            | Failure::Coding
            | Failure::OptionsHere
            | Failure::TraceHere
            | Failure::Connect => Outcome::Done,
        };
    }

    pub(super) fn done(&mut self) {
        self.outcome = Outcome::Done;
    }

    /// The answer ends here, after its head.
    pub(super) fn failed(&mut self, code: RouterCode) {
        self.outcome = Outcome::Failed(code);
        if self.version < Version::HTTP_11 {
            // Its body ends where the connection does: only a reset tells the client that it was cut.
            self.connection().reset_at_end();
        }
    }

    fn line(&self) -> String {
        let code = match self.outcome {
            Outcome::Open => Some(self.connection().why_dropped()),
            Outcome::Done => None,
            Outcome::Failed(code) => Some(code),
        };
        let status = code.map_or(self.status, |code| Failure::Code(code).status());
        let mut line = String::with_capacity(256);
        match code {
            None => line.push_str("at=info"),
            Some(code) => push(
                &mut line,
                format_args!("at=error code={code} desc=\"{}\"", code.description()),
            ),
        }
        line.push_str(" method=");
        quote(&mut line, self.method.as_str(), SHOWN_NAME_BYTES);
        line.push_str(" path=\"");
        let path = self.path.as_ref().map_or("", PathAndQuery::as_str);
        quote(&mut line, path, SHOWN_BYTES);
        line.push_str("\" host=");
        quote(&mut line, self.host.as_str(), SHOWN_NAME_BYTES);
        line.push_str(" request_id=");
        if let Some(identity) = &self.identity {
            quote(&mut line, &identity.request_id, SHOWN_NAME_BYTES);
        }
        line.push_str(" fwd=\"");
        let forwarded = self
            .identity
            .as_ref()
            .map_or(self.connection().client(), |identity| {
                &identity.forwarded_for
            });
        quote(&mut line, forwarded, SHOWN_BYTES);
        let dyno = self.lease.as_ref().map_or("", |lease| &lease.dyno().label);
        let now = Instant::now();
        let connect = (self.leased.unwrap_or(now) - self.arrived).as_millis();
        let service = (now - self.leased.unwrap_or(now)).as_millis();
        let protocol = match self.version {
            Version::HTTP_2 => "http2",
            Version::HTTP_10 => "http1.0",
            _ => "http1.1",
        };
        push(
            &mut line,
            format_args!(
                "\" dyno={dyno} connect={connect}ms service={service}ms status={} bytes={} protocol={protocol}",
                status.as_str(),
                self.bytes
            ),
        );
        line
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.pool
            .log
            .write(LogSource::Oarlock, "router", &self.line());
    }
}

fn push(line: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = line.write_fmt(text);
}

/// The client's text within quotes: it cannot end them, nor the line. At most `longest` bytes of it.
fn quote(line: &mut String, text: impl AsRef<[u8]>, longest: usize) {
    let text = text.as_ref();
    let shown = text.get(..longest).unwrap_or(text);
    for byte in shown {
        match byte {
            b'"' | b'\\' => {
                line.push('\\');
                line.push(char::from(*byte));
            }
            b' '..=b'~' => line.push(char::from(*byte)),
            _ => push(line, format_args!("\\x{byte:02x}")),
        }
    }
    if shown.len() < text.len() {
        line.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_cannot_forge() {
        let mut line = String::new();
        quote(&mut line, b"/a\" at=info \\ \n\x1b[2J\xff", 100);
        assert_eq!(line, "/a\\\" at=info \\\\ \\x0a\\x1b[2J\\xff");
        let mut long = String::new();
        quote(&mut long, [b'a'; 5_000], SHOWN_BYTES);
        assert_eq!(long.len(), SHOWN_BYTES + 3);
    }
}
