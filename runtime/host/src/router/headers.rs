//! The heads of requests and responses on their way through.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Version};
use oarlock_sandbox::other_coding;

use super::rescue::Failure;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REQUEST_START: HeaderName = HeaderName::from_static("x-request-start");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// RFC 9110 7.6.1, and what the router has answered for itself.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    TE,
    PROXY_AUTHORIZATION,
    PROXY_AUTHENTICATE,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    HTTP2_SETTINGS,
];

/// What a header costs beside its text, as HTTP/2 counts it less its padding: `: ` and the line's end.
const PER_HEADER: usize = 4;

/// Contract 2: such ids of the client's are kept.
const REQUEST_ID_LENGTH: std::ops::RangeInclusive<usize> = 20..=200;

/// Where the request is addressed to. `fallback` is for HTTP/1.0, which needs no `Host`.
///
/// `Host` must be there once and be right in HTTP/1.1, also beside a target that names the host itself (RFC 9112 3.2).
pub(super) fn authority(parts: &Parts, fallback: &Authority) -> Result<Authority, Failure> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => {
            return Err(Failure::BadRequest(
                "There is more than one `Host` header.\n",
            ));
        }
        (Some(host), None) => Some(Authority::try_from(host.as_bytes()).map_err(|_| {
            Failure::BadRequest("The `Host` header is not a host name and port.\n")
        })?),
        (None, _) => None,
    };
    if host.is_none() && parts.version == Version::HTTP_11 {
        return Err(Failure::BadRequest("The `Host` header is missing.\n"));
    }
    let authority = match (parts.uri.authority(), host) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => host,
        (None, None) if parts.version <= Version::HTTP_10 => fallback.clone(),
        (None, None) => return Err(Failure::BadRequest("The `Host` header is missing.\n")),
    };
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(Failure::BadRequest(
            "The request's host is not a host name and port.\n",
        ));
    }
    Ok(authority)
}

/// Whether the request is for the router itself, because it has come as far as its sender wants it to (RFC 9110 7.6.2);
/// otherwise it goes on, and may go one hop less far.
pub(super) fn forward(parts: &mut Parts) -> Result<(), Failure> {
    if !matches!(parts.method, Method::TRACE | Method::OPTIONS) {
        return Ok(());
    }
    let Some(hops) = parts.headers.get(MAX_FORWARDS) else {
        return Ok(());
    };
    let hops = hops.to_str().ok().and_then(|hops| hops.parse::<u64>().ok());
    match hops {
        // What is no number says nothing.
        None => Ok(()),
        Some(0) if parts.method == Method::OPTIONS => Err(Failure::OptionsHere),
        Some(0) => Err(Failure::TraceHere),
        Some(hops) => {
            parts
                .headers
                .insert(MAX_FORWARDS, HeaderValue::from(hops - 1));
            Ok(())
        }
    }
}

/// Refuses what no dyno can serve, before anything is done for it.
pub(super) fn check(parts: &Parts, header: u64, request_body: u64) -> Result<(), Failure> {
    let lengths = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + PER_HEADER);
    let path = parts.uri.path_and_query();
    let line = parts.method.as_str().len() + path.map_or(0, |path| path.as_str().len());
    if (line + lengths.sum::<usize>()) as u64 > header {
        return Err(Failure::HeadTooLarge);
    }
    if parts.method == Method::CONNECT {
        return Err(Failure::Connect);
    }
    if other_coding(&parts.headers).is_some() {
        return Err(Failure::Coding);
    }
    let is_target = |path: &PathAndQuery| {
        path.as_str().starts_with(['/', '?'])
            || (path.as_str() == "*" && parts.method == Method::OPTIONS)
    };
    if !path.is_some_and(is_target) {
        return Err(Failure::BadRequest("The request's target is not a path.\n"));
    }
    if declared_length(&parts.headers).is_some_and(|length| length > request_body) {
        return Err(Failure::BodyTooLarge);
    }
    Ok(())
}

/// The protocol that an HTTP/1.1 client would rather speak. It is an offer that may be ignored (RFC 9110 7.8), and
/// that to speak h2c always is.
pub(super) fn upgrade(parts: &Parts) -> Option<HeaderValue> {
    let protocol = parts.headers.get(UPGRADE)?;
    let asks = parts.version == Version::HTTP_11
        && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c")
        && parts
            .headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(tokens)
            .any(|token| token.eq_ignore_ascii_case("upgrade"));
    asks.then(|| protocol.clone())
}

/// Whether the client waits for a word before it sends the body.
pub(super) fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(EXPECT)
        .is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The head that [`to_guest`] made, for a server of HTTP/1.1.
pub(super) fn to_server(parts: &Parts, upgrade: Option<&HeaderValue>) -> Parts {
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.method = parts.method.clone();
    head.uri = parts
        .uri
        .path_and_query()
        .cloned()
        .map_or_else(Uri::default, Uri::from);
    head.headers = parts.headers.clone();
    let headers = &mut head.headers;
    if parts.version < Version::HTTP_11 {
        headers.remove(EXPECT);
    }
    join_cookies(headers);
    if headers.contains_key(TE) {
        headers.append(CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(protocol) = upgrade {
        headers.append(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    head
}

/// HTTP/2 may send each cookie by itself; HTTP/1.1 knows one header of them (RFC 9113 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// The head of a 101 for the client.
pub(super) fn to_switched(headers: &mut HeaderMap) {
    let protocol = headers.get(UPGRADE).cloned();
    remove_hop_by_hop(headers);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
    }
}

/// What `Content-Length` says.
pub(super) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What the router sets, ready for a connection.
pub(super) struct Forwarded {
    /// The client's address.
    pub(super) client: HeaderValue,
    /// How it asked: `http`, but where an embedder says otherwise.
    pub(super) proto: HeaderValue,
    /// The port that it connected to.
    pub(super) port: HeaderValue,
    /// It is a proxy of the policy's `trusted_proxies`.
    pub(super) is_trusted: bool,
    /// Milliseconds since 1970.
    pub(super) start: u64,
}

/// What the log needs to know of the rewritten head.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) request_id: HeaderValue,
    pub(super) forwarded_for: HeaderValue,
}

/// Contract 2, "HTTP in".
pub(super) fn to_guest(
    parts: &mut Parts,
    authority: Authority,
    forwarded: &Forwarded,
) -> Result<Identity, Failure> {
    let headers = &mut parts.headers;
    let trailers = headers
        .get_all(TE)
        .iter()
        .flat_map(tokens)
        .any(|token| token.eq_ignore_ascii_case("trailers"));
    remove_hop_by_hop(headers);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let request_id = match headers.get(X_REQUEST_ID) {
        Some(id) if is_request_id(id.as_bytes()) => id.clone(),
        _ => new_request_id(),
    };
    let forwarded_for = append(headers, &X_FORWARDED_FOR, &forwarded.client);
    headers.insert(X_REQUEST_ID, request_id.clone());
    headers.insert(X_FORWARDED_FOR, forwarded_for.clone());
    // A proxy that is trusted knows how the client asked, and when; of others only the request's id is kept.
    let ours = [
        (X_FORWARDED_PROTO, forwarded.proto.clone()),
        (X_FORWARDED_PORT, forwarded.port.clone()),
        (X_REQUEST_START, HeaderValue::from(forwarded.start)),
    ];
    for (name, value) in ours {
        if !(forwarded.is_trusted && headers.contains_key(&name)) {
            headers.insert(name, value);
        }
    }
    let via = append(
        headers,
        &VIA,
        &HeaderValue::from_static(via_of(parts.version)),
    );
    headers.insert(VIA, via);
    // An absolute target, or HTTP/2's `:authority`, wins over `Host` (RFC 9112 3.2.2).
    if headers
        .get(HOST)
        .is_none_or(|host| host.as_bytes() != authority.as_str().as_bytes())
    {
        let host = HeaderValue::from_str(authority.as_str());
        headers.insert(
            HOST,
            host.map_err(|_| Failure::BadRequest("The request's host is not valid.\n"))?,
        );
    }
    let mut target = std::mem::take(&mut parts.uri).into_parts();
    // `http://host?query` has no path of its own.
    let query = target.path_and_query.as_ref().map(PathAndQuery::as_str);
    if let Some(query) = query.filter(|target| target.starts_with('?')) {
        let path = PathAndQuery::try_from(format!("/{query}"));
        target.path_and_query =
            Some(path.map_err(|_| Failure::BadRequest("The request's target is not valid.\n"))?);
    }
    target.scheme = Some(Scheme::HTTP);
    target.authority = Some(authority);
    parts.uri = Uri::from_parts(target)
        .map_err(|_| Failure::BadRequest("The request's target is not valid.\n"))?;
    Ok(Identity {
        request_id,
        forwarded_for,
    })
}

/// Who received it, and by what version (RFC 9110 7.6.3).
fn via_of(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2.0 oarlock",
        Version::HTTP_10 => "1.0 oarlock",
        _ => "1.1 oarlock",
    }
}

/// Takes out what concerns one connection only, and what `Connection` names.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(tokens)
        .filter_map(|token| token.parse().ok())
        // These are for all on the way, whatever `Connection` says.
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value
        .to_str()
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// What the client said of earlier hops, and then this one.
fn append(headers: &HeaderMap, name: &HeaderName, last: &HeaderValue) -> HeaderValue {
    let mut values = headers
        .get_all(name)
        .iter()
        .filter(|value| !value.is_empty())
        .peekable();
    if values.peek().is_none() {
        return last.clone();
    }
    let mut all = Vec::new();
    for value in values.chain([last]) {
        if !all.is_empty() {
            all.extend_from_slice(b", ");
        }
        all.extend_from_slice(value.as_bytes());
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(all)).unwrap_or_else(|_| last.clone())
}

fn is_request_id(id: &[u8]) -> bool {
    REQUEST_ID_LENGTH.contains(&id.len())
        && id
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// A random UUID's form.
fn new_request_id() -> HeaderValue {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    let mut random: u128 = rand::random();
    let mut text = [b'-'; 36];
    for (at, place) in text.iter_mut().enumerate() {
        if matches!(at, 8 | 13 | 18 | 23) {
            continue;
        }
        *place = HEX.get((random & 15) as usize).copied().unwrap_or(b'0');
        random >>= 4;
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: Version, headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = http::Request::get("http://a.localhost/x?y=1").version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn an_upgrade_is_asked_for_by_http_1_1_alone_and_h2c_is_none() {
        let asks = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ];
        let websocket = Some(HeaderValue::from_static("websocket"));
        assert_eq!(upgrade(&head(Version::HTTP_11, &asks)), websocket);
        assert_eq!(upgrade(&head(Version::HTTP_10, &asks)), None);
        assert_eq!(upgrade(&head(Version::HTTP_11, &asks[1..])), None);
        assert_eq!(upgrade(&head(Version::HTTP_11, &asks[..1])), None);
        let h2c = [asks[0], ("upgrade", "h2c")];
        assert_eq!(upgrade(&head(Version::HTTP_11, &h2c)), None);
    }

    #[test]
    fn a_server_gets_one_cookie_header_a_path_and_what_concerns_its_connection() {
        let headers = [
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("te", "trailers"),
            ("expect", "100-continue"),
        ];
        let websocket = HeaderValue::from_static("websocket");
        let sent = to_server(&head(Version::HTTP_11, &headers), Some(&websocket));
        assert_eq!(sent.uri, "/x?y=1");
        let all = |name: &str| -> Vec<&str> {
            let values = sent.headers.get_all(name).iter();
            values.map(|value| value.to_str().unwrap()).collect()
        };
        assert_eq!(all("cookie"), ["a=1; b=2"]);
        assert_eq!(all("connection"), ["te", "upgrade"]);
        assert_eq!(all("upgrade"), ["websocket"]);
        assert!(expects_continue(&sent.headers));
        let old = to_server(&head(Version::HTTP_10, &headers[3..]), None);
        assert!(old.headers.is_empty());
    }
}
