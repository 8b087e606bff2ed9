//! Outgoing HTTP of WASI 0.2 and 0.3 handlers.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use oarlock_sandbox::Body;

use super::*;

const GUESTS: [&str; 2] = ["http-out-p2", "http-out-p3"];

/// Answers `/slow` never, and all else with the request's body and a few headers; counts connections.
async fn http_server() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(serving);
        }
    });
    (addr, count)
}

pub(super) async fn answer(request: Request<Incoming>) -> Result<Response<Incoming>, Infallible> {
    if request.uri().path() == "/slow" {
        std::future::pending::<()>().await;
    }
    let host = request.headers()["host"].clone();
    let method = request.method().to_string();
    let response = Response::builder()
        .header("x-host", host)
        .header("x-method", method);
    Ok(response.body(request.into_body()).unwrap())
}

pub(super) fn request(url: &str, body: &'static [u8]) -> Request<Body> {
    let body = Full::new(Bytes::from_static(body))
        .map_err(|never| match never {})
        .boxed_unsync();
    Request::post("http://app.localhost/")
        .header("x-url", url)
        .body(body)
        .unwrap()
}

pub(super) async fn call(
    sandbox: &Sandbox,
    request: Request<Body>,
) -> (::http::StatusCode, ::http::HeaderMap, Bytes) {
    let exchange = async {
        let response = sandbox.call(request).await.unwrap();
        let (head, body) = response.into_parts();
        (
            head.status,
            head.headers,
            body.collect().await.unwrap().to_bytes(),
        )
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .expect("an answer")
}

#[tokio::test]
async fn granted_requests_reach_and_share_a_connection() {
    let (addr, count) = http_server().await;
    for guest in GUESTS {
        count.store(0, Ordering::Relaxed);
        let (sandbox, log, _egress) = Net::up()
            .allow(Some("http"), "localhost", addr.port())
            .sandbox(guest, &[]);
        let url = format!("http://localhost:{}/path", addr.port());
        for _ in 0..5 {
            let (status, headers, body) = call(&sandbox, request(&url, b"the body")).await;
            assert_eq!(
                (status.as_u16(), &body[..]),
                (200, &b"the body"[..]),
                "{guest} {:?}",
                log.remarks.lock().unwrap()
            );
            assert_eq!(headers["x-host"], format!("localhost:{}", addr.port()));
            assert_eq!(headers["x-method"], "POST");
        }
        assert_eq!(
            count.load(Ordering::Relaxed),
            1,
            "{guest}: five requests, each in an instance of its own"
        );
        assert!(log.remarks.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    static BODY: [u8; 3_000_000] = [7; 3_000_000];
    let (addr, _) = http_server().await;
    for guest in GUESTS {
        let (sandbox, _, _egress) = Net::none().addon("api", addr).sandbox(guest, &[]);
        let (status, _, body) = call(&sandbox, request(&format!("http://{addr}/"), &BODY)).await;
        assert_eq!((status.as_u16(), body.len()), (200, BODY.len()), "{guest}");
    }
}

#[tokio::test]
async fn everything_else_is_denied_with_its_reason() {
    let (addr, count) = http_server().await;
    let port = addr.port();
    for guest in GUESTS {
        let (sandbox, log, _egress) = Net::up()
            .allow(Some("https"), "localhost", port)
            .sandbox(guest, &[]);
        for (url, reason) in [
            (
                format!("http://{addr}/"),
                format!("outgoing request to http://{addr} denied: no add-on"),
            ),
            (
                "http://169.254.169.254/latest/meta-data".to_owned(),
                "http://169.254.169.254 denied".to_owned(),
            ),
            (
                format!("http://localhost:{port}/"),
                format!(
                    "\"https://localhost:{port}\" (line 3 of the manifest) limits HTTP to https"
                ),
            ),
        ] {
            let (status, _, body) = call(&sandbox, request(&url, b"")).await;
            assert_eq!(status.as_u16(), 502);
            let body = String::from_utf8_lossy(&body).into_owned();
            assert!(body.contains("HttpRequestDenied"), "{guest}: {body}");
            remarked(&log.remarks.lock().unwrap(), &reason);
        }
        // Without `up`, the granted name resolves to a denied range, and nothing is connected to.
        let (sandbox, log, _egress) = Net::none()
            .allow(None, "localhost", port)
            .sandbox(guest, &[]);
        let (status, _, body) =
            call(&sandbox, request(&format!("http://localhost:{port}/"), b"")).await;
        assert_eq!(status.as_u16(), 502);
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(body.contains("DestinationIpProhibited"), "{guest}: {body}");
        remarked(
            &log.remarks.lock().unwrap(),
            "a loopback address, which a name never opens",
        );
    }
    assert_eq!(count.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn requests_at_once_are_capped_with_a_named_error() {
    for guest in GUESTS {
        let (addr, count) = http_server().await;
        let mut net = Net::none().addon("api", addr);
        net.limits.outgoing = 1;
        let (sandbox, log, _egress) = net.sandbox(guest, &[]);
        let first = sandbox.clone();
        let slow = tokio::spawn(async move {
            first
                .call(request(&format!("http://{addr}/slow"), b""))
                .await
                .map(|_| ())
        });
        let under_way = async {
            while count.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, under_way)
            .await
            .expect("the slow request is sent");
        let (_, _, body) = call(&sandbox, request(&format!("http://{addr}/"), b"")).await;
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(body.contains("ConnectionLimitReached"), "{guest}: {body}");
        remarked(
            &log.remarks.lock().unwrap(),
            "1 are under way, the limit; raise `outgoing` in `[limits]`",
        );
        slow.abort();
        // The place comes back with the end of the request.
        let free = async {
            while call(&sandbox, request(&format!("http://{addr}/"), b""))
                .await
                .0
                != 200
            {}
        };
        tokio::time::timeout(PATIENCE, free)
            .await
            .expect("the place is given back");
    }
}

#[tokio::test]
async fn timeouts_and_refusals_have_their_codes() {
    let (addr, _) = http_server().await;
    let closed = free_port();
    let (sandbox, _, _egress) = Net::none()
        .addon("api", addr)
        .addon("gone", closed)
        .sandbox("http-out-p2", &[]);
    let mut late = request(&format!("http://{addr}/slow"), b"");
    late.headers_mut()
        .insert("x-timeout-ms", "100".parse().unwrap());
    let (_, _, body) = call(&sandbox, late).await;
    assert!(
        String::from_utf8_lossy(&body).contains("ConnectionReadTimeout"),
        "{body:?}"
    );
    let (_, _, body) = call(&sandbox, request(&format!("http://{closed}/"), b"")).await;
    assert!(
        String::from_utf8_lossy(&body).contains("ConnectionRefused"),
        "{body:?}"
    );
}

#[tokio::test]
async fn a_first_byte_timeout_is_kept_by_itself_with_and_without_a_pooled_connection() {
    let (addr, count) = http_server().await;
    for guest in GUESTS {
        count.store(0, Ordering::Relaxed);
        let (sandbox, _, _egress) = Net::none().addon("api", addr).sandbox(guest, &[]);
        for connections in [1, 2] {
            let began = std::time::Instant::now();
            let mut late = request(&format!("http://{addr}/slow"), b"");
            late.headers_mut()
                .insert("x-first-byte-ms", "300".parse().unwrap());
            let (_, _, body) = call(&sandbox, late).await;
            let body = String::from_utf8_lossy(&body).into_owned();
            assert!(body.contains("ConnectionReadTimeout"), "{guest}: {body}");
            assert!(began.elapsed() < Duration::from_secs(3), "{guest}");
            assert_eq!(count.load(Ordering::Relaxed), connections, "{guest}");
            // The next one finds a connection that is open.
            let (status, ..) = call(&sandbox, request(&format!("http://{addr}/"), b"")).await;
            assert_eq!(status.as_u16(), 200);
        }
    }
}

/// Answers each connection's first request with these bytes, and ends.
async fn raw_server(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    addr
}

#[tokio::test]
async fn answers_are_framed_by_their_coding_and_others_than_chunked_are_refused() {
    let both = "HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let coded = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let (both, coded) = (raw_server(both).await, raw_server(coded).await);
    for guest in GUESTS {
        let net = Net::none().addon("both", both).addon("coded", coded);
        let (sandbox, _, _egress) = net.sandbox(guest, &[]);
        let get = |addr: SocketAddr| {
            let mut get = request(&format!("http://{addr}/"), b"");
            *get.method_mut() = ::http::Method::GET;
            get
        };
        let (status, headers, body) = call(&sandbox, get(both)).await;
        assert_eq!((status.as_u16(), &body[..]), (200, &b"ok"[..]), "{guest}");
        assert!(!headers.contains_key("content-length"), "{guest}");
        let (_, _, body) = call(&sandbox, get(coded)).await;
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(
            body.contains("HttpResponseTransferCoding") && body.contains("gzip"),
            "{guest}: {body}"
        );
    }
}

#[tokio::test]
async fn a_revoked_addons_pooled_connections_are_of_no_use() {
    let (addr, count) = http_server().await;
    let (sandbox, log, egress) = Net::none().addon("api", addr).sandbox("http-out-p2", &[]);
    let url = format!("http://{addr}/");
    assert_eq!(call(&sandbox, request(&url, b"")).await.0, 200);
    egress.revoke("api");
    let (_, _, body) = call(&sandbox, request(&url, b"")).await;
    assert!(
        String::from_utf8_lossy(&body).contains("HttpRequestDenied"),
        "{body:?}"
    );
    remarked(&log.remarks.lock().unwrap(), "denied");
    assert_eq!(count.load(Ordering::Relaxed), 1);
}
