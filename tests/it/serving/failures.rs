//! What a request meets when its dyno fails, its client leaves, or a limit is reached.

use std::time::{Duration, Instant};

use futures::future::Either;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use oarlock_tests::app::{PATIENCE, Running};
use tokio::net::TcpStream;

use super::{Raw, app, assert_cut, assert_refused, assert_routed, log, logged, up};

const GUESTS: [(&str, &str); 4] = [
    ("handler-p2", "request"),
    ("handler-p2", "dyno"),
    ("handler-p3", "request"),
    ("handler-p3", "dyno"),
];

type Http2 = hyper::client::conn::http2::SendRequest<Empty<Bytes>>;

/// A connection of HTTP/2 by prior knowledge.
async fn http2(running: &Running) -> Http2 {
    let stream = TcpStream::connect(running.address()).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

/// `GET` as a stream of it: the status and the body, or how it was cut.
async fn get2(connection: &mut Http2, path: &str) -> (u16, Result<Bytes, hyper::Error>) {
    let request = http::Request::get(format!("http://test.localhost{path}"))
        .body(Empty::new())
        .unwrap();
    let response = connection.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await;
    let body = body.expect("the stream ends").map(|all| all.to_bytes());
    (status, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap_is_h13_or_a_cut_and_the_dyno_serves_again_at_once() {
    for (guest, isolation) in GUESTS {
        let context = format!("{guest} {isolation}");
        let app = app(guest, 2, &format!("isolation = \"{isolation}\""));
        let running = up(&app).await;
        assert_refused(&running.get("/trap").await, "H13");
        assert_eq!(running.get("/").await.status, 200, "{context}");
        let cut = Raw::get(running.address(), "/trap-after-head")
            .await
            .rest()
            .await;
        assert_cut(&cut, &context);
        assert_eq!(running.get("/").await.status, 200, "{context}");

        // Of HTTP/2 only the stream is reset, and not by NO_ERROR; its connection goes on.
        let mut connection = http2(&running).await;
        let (status, body) = get2(&mut connection, "/trap-after-head").await;
        let error = format!("{:?}", body.unwrap_err());
        assert_eq!(status, 200, "{context}");
        assert!(
            error.contains("Reset") && !error.contains("NO_ERROR"),
            "{context}: {error}"
        );
        let (status, body) = get2(&mut connection, "/").await;
        assert_eq!((status, &body.unwrap()[..]), (200, &b"hello"[..]));

        let lines = log(&running, "router").await;
        for (path, code) in [("/trap", "H13"), ("/trap-after-head", "H18")] {
            let about = format!(" path=\"{path}\" ");
            let of: Vec<_> = lines.iter().filter(|line| line.contains(&about)).collect();
            assert_eq!(of.len(), if path == "/trap" { 1 } else { 2 }, "{of:?}");
            for line in of {
                let line = super::Line::parse(line);
                assert!(
                    line.is("code", code) && line.is("status", "503"),
                    "{context}"
                );
                assert!(line.field("dyno").starts_with("web."), "{context}");
            }
        }
        assert!(!lines.iter().any(|line| line.contains("code=H10")));
        // The developer is told why.
        logged(&running, "web", "The component trapped").await;
        assert_eq!(running.interrupt().await, Some(0), "{context}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap_fails_the_requests_of_its_instance_and_no_other() {
    // Shared: all that are in this one instance, and nobody in the other dyno.
    let app = app(
        "handler-p3",
        2,
        "isolation = \"dyno\"\nconcurrency = 4\nqueue = 20",
    );
    let running = up(&app).await;
    let mut slow = Vec::new();
    for _ in 0..7 {
        slow.push(Raw::get(running.address(), "/stream/200").await);
    }
    for answer in &mut slow {
        answer.until("\r\n0\n").await;
    }
    // The eighth place is in the dyno with three.
    assert_refused(&running.get("/trap").await, "H13");
    let mut cut = 0;
    for answer in slow {
        let rest = answer.rest().await;
        if !rest.ends_with("0\r\n\r\n") {
            cut += 1;
        }
    }
    assert_eq!(cut, 3);
    running.interrupt().await;

    // Fresh: one.
    let app = super::app("handler-p3", 1, "isolation = \"request\"");
    let running = up(&app).await;
    let mut other = Raw::get(running.address(), "/stream/30").await;
    other.until("\r\n0\n").await;
    assert_refused(&running.get("/trap").await, "H13");
    let rest = other.rest().await;
    assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
    running.interrupt().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h10_only_while_all_web_dynos_are_in_crash_back_off() {
    let app = app("handler-p3", 2, "isolation = \"dyno\"");
    let running = up(&app).await;
    // Every trap but a dyno's first costs it a pause, each twice as long as the one before.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = running.get("/trap").await;
        match answer.header("oarlock-error") {
            "H10" => break,
            "H13" => assert!(Instant::now() < deadline, "never H10"),
            _ => panic!("{answer:?}"),
        }
    }
    assert_routed(&running, "/trap", "H10", "503", "").await;
    let ps = running.oarlock(&["ps", "--json"]).await.stdout;
    // They come back by themselves, and then there is no H10 any more.
    let deadline = Instant::now() + PATIENCE;
    while running.get("/").await.status != 200 {
        assert!(Instant::now() < deadline, "never back; at H10: {ps}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.interrupt().await;
}

const ONE_SLOT: [(&str, &str); 2] = [
    (
        "handler-p2",
        "isolation = \"request\"\nconcurrency = 1\nqueue = 1",
    ),
    (
        "handler-p3",
        "isolation = \"dyno\"\nconcurrency = 1\nqueue = 1",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_too_deep_is_h11() {
    for (guest, limits) in ONE_SLOT {
        let app = app(guest, 1, limits);
        let running = up(&app).await;
        let mut holder = Raw::get(running.address(), "/slow").await;
        holder.until("\r\n0\n").await;
        // One of them waits for the only slot, for which there is nothing to wait within this test; the other finds
        // the queue full.
        let (one, other) = (Box::pin(running.get("/")), Box::pin(running.get("/")));
        let waits = match futures::future::select(one, other).await {
            Either::Left((refused, waits)) | Either::Right((refused, waits)) => {
                assert_refused(&refused, "H11");
                waits
            }
        };
        assert_routed(&running, "/", "H11", "503", "").await;
        // The client that held the slot goes away, and who waits is served.
        drop(holder);
        assert_eq!(waits.await.status, 200);
        assert_routed(&running, "/slow", "H27", "499", "web.1").await;
        running.interrupt().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_longer_than_timeout_is_told_h11() {
    for (guest, limits) in ONE_SLOT {
        let app = app(guest, 1, &format!("{limits}\ntimeout = \"1s\""));
        let running = up(&app).await;
        let mut holder = Raw::get(running.address(), "/slow").await;
        holder.until("\r\n0\n").await;
        let start = Instant::now();
        assert_refused(&running.get("/waits").await, "H11");
        let waited = start.elapsed();
        assert!(
            waited >= Duration::from_secs(1) && waited < Duration::from_secs(10),
            "{waited:?}"
        );
        assert_routed(&running, "/waits", "H11", "503", "").await;
        drop(holder);
        running.interrupt().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_answers_are_h12_and_silent_ones_h15() {
    for (guest, isolation) in GUESTS {
        let limits = format!(
            "isolation = \"{isolation}\"\ntimeout = \"1s\"\nidle_timeout = \"1s\"\nmemory = \"32 MiB\""
        );
        let context = format!("{guest} {isolation}");
        let app = app(guest, 1, &limits);
        let running = up(&app).await;
        for path in ["/sleep/60000", "/spin"] {
            let start = Instant::now();
            assert_refused(&running.get(path).await, "H12");
            let took = start.elapsed();
            assert!(
                took >= Duration::from_secs(1) && took < Duration::from_secs(10),
                "{context} {path}: {took:?}"
            );
            assert_routed(&running, path, "H12", "503", "web.1").await;
        }
        assert_eq!(running.get("/").await.status, 200, "{context}");

        let start = Instant::now();
        let silent = Raw::get(running.address(), "/stall").await.rest().await;
        assert_cut(&silent, &context);
        assert!(start.elapsed() < Duration::from_secs(10), "{context}");
        assert_routed(&running, "/stall", "H15", "503", "web.1").await;
        assert_eq!(running.get("/").await.status, 200, "{context}");

        assert_refused(&running.get("/alloc/64").await, "H13");
        logged(&running, "web.1", "Error R14 (Memory limit reached)").await;
        assert_routed(&running, "/alloc/64", "H13", "503", "web.1").await;
        assert_eq!(running.get("/").await.status, 200, "{context}");
        assert_routed(&running, "/", "", "200", "web.1").await;
        running.interrupt().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_outlast_stop_grace_are_cut() {
    for (guest, isolation) in GUESTS {
        let context = format!("{guest} {isolation}");
        let limits = format!("isolation = \"{isolation}\"\nstop_grace = \"1s\"");
        let app = app(guest, 3, &limits);
        let running = up(&app).await;
        let mut slow = Raw::get(running.address(), "/slow").await;
        slow.until("\r\n0\n").await;
        let mut spinning = Vec::new();
        for path in ["/sleep/60000", "/spin"] {
            spinning.push(Raw::get(running.address(), path).await);
        }
        // They are on their way; one that is not yet leased would be H14.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let start = Instant::now();
        let scaled = running.oarlock(&["scale", "web=0"]).await;
        assert_eq!(scaled.code, 0, "{scaled:?}");
        assert_cut(
            &format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{}",
                slow.rest().await
            ),
            &context,
        );
        for request in spinning {
            let rest = request.rest().await;
            assert!(
                rest.starts_with("HTTP/1.1 503 ") && rest.contains("oarlock-error: H13\r\n"),
                "{context}: {rest}"
            );
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{context}");
        logged(&running, "web", "Error R12 (Exit timeout)").await;
        let lines = log(&running, "router").await;
        for (path, code) in [("/slow", "H18"), ("/sleep/60000", "H13"), ("/spin", "H13")] {
            let about = format!(" path=\"{path}\" ");
            let line = lines.iter().find(|line| line.contains(&about));
            let line = super::Line::parse(line.unwrap());
            assert!(
                line.is("code", code),
                "{context} {path}: {}",
                line.field("code")
            );
        }
        assert_eq!(running.interrupt().await, Some(0), "{context}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_streams_hears_that_the_host_ends() {
    let app = app("handler-p3", 1, "isolation = \"dyno\"");
    let running = up(&app).await;
    let mut stream = Raw::get(running.address(), "/events/0").await;
    stream.until("event 3\n").await;
    let began = Instant::now();
    let (code, rest) = tokio::join!(running.interrupt(), stream.rest());
    assert_eq!(code, Some(0));
    assert!(rest.ends_with("\r\nbye\n\r\n0\r\n\r\n"), "{rest}");
    // It did not take the default `stop_grace` of 30 s.
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_leave_cost_those_who_wait_nothing() {
    for (guest, limits) in [
        ("handler-p2", "isolation = \"dyno\""),
        ("handler-p3", "isolation = \"dyno\"\nconcurrency = 1"),
        ("handler-p3", "isolation = \"dyno\"\nconcurrency = 2"),
    ] {
        let app = app(guest, 1, limits);
        let running = up(&app).await;
        for turn in 0..10 {
            let mut leaves = Vec::new();
            for _ in 0..if limits.ends_with('2') { 2 } else { 1 } {
                // With and without a head.
                let path = if turn % 2 == 0 {
                    "/slow"
                } else {
                    "/sleep/60000"
                };
                let mut client = Raw::get(running.address(), path).await;
                if turn % 2 == 0 {
                    client.until("\r\n0\n").await;
                }
                leaves.push(client);
            }
            let waits = async {
                let (first, second) = tokio::join!(running.post("/echo", "one"), running.get("/"));
                assert_eq!(
                    (first.status, first.text()),
                    (200, "one"),
                    "{guest} {limits}"
                );
                assert_eq!(
                    (second.status, second.text()),
                    (200, "hello"),
                    "{guest} {limits}"
                );
            };
            let go = async {
                // Long enough for those who wait to be in the queue; they are served in any case.
                tokio::time::sleep(Duration::from_millis(30)).await;
                drop(leaves);
            };
            tokio::join!(waits, go);
        }
        // It was replaced each time, and never counted as crashed.
        let lines = log(&running, "web.1").await;
        let crashed = |line: &&String| line.contains("crashed") || line.contains("Restarting in");
        assert_eq!(lines.iter().find(crashed), None);
        running.interrupt().await;
    }
}
