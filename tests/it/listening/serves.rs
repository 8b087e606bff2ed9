//! What they serve, and what they may reach.

use std::collections::BTreeSet;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_std_server_listens_on_its_port_alone() {
    let running = up(app("listen-std", "ports", 2, "")).await;
    let mut ports = BTreeSet::new();
    while ports.len() < 2 {
        let who = running.get("/who").await;
        ports.insert(who.text().split(' ').next().unwrap().to_owned());
    }
    for dyno in ["web.1", "web.2"] {
        let lines = log(&running, dyno).await;
        let said: Vec<&str> = lines
            .iter()
            .filter_map(|line| line.strip_prefix("bind: "))
            .collect();
        let denied = "Err(PermissionDenied)";
        assert_eq!(said, [denied, denied, denied, "Ok(())"], "{lines:#?}");
        assert!(
            lines.iter().any(|line| {
                line.ends_with("for its own sockets alone a dyno may listen on 127.0.0.1 and ::1")
            }),
            "{lines:#?}"
        );
    }
    // Its own port can be connected to, its neighbour's and the router's cannot; and none is in the kernel.
    for port in &ports {
        let addr = format!("127.0.0.1:{port}");
        let mut answers = BTreeSet::new();
        for _ in 0..100 {
            let answer = running.post("/connect", addr.clone()).await;
            answers.insert(answer.text().to_owned());
            if answers.len() == 2 {
                break;
            }
        }
        let expected = ["Err(PermissionDenied)".to_owned(), "Ok(())".to_owned()];
        assert!(answers.into_iter().eq(expected), "{addr}");
        assert!(TcpStream::connect(&addr).await.is_err());
    }
    let router = running.address().to_string();
    let answer = running.post("/connect", router).await;
    assert_eq!(answer.text(), "Err(PermissionDenied)");
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_the_guest_are_kept_and_heads_are_as_promised() {
    let running = up(app("listen-std", "", 1, "")).await;
    for _ in 0..50 {
        assert_eq!(running.get("/head").await.status, 200);
    }
    let who = running.get("/who").await;
    let counts: Vec<u32> = who
        .text()
        .split(' ')
        .map(|word| word.parse().unwrap())
        .collect();
    assert_eq!(counts[1..], [1, 51], "connections and requests");
    let url = format!("http://{}/head", running.address());
    let headers = [("x-mine", "1"), ("te", "trailers"), ("keep-alive", "5")];
    let answer = fetch("GET", &url, &headers, bytes::Bytes::new())
        .await
        .unwrap();
    let head = answer.text().to_lowercase();
    assert!(head.starts_with("get /head http/1.1\r\n"), "{head}");
    for expected in [
        "x-mine: 1",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-request-id: ",
        "via: 1.1 oarlock",
        "connection: te",
    ] {
        assert_eq!(head.matches(expected).count(), 1, "{expected}: {head}");
    }
    assert!(!head.contains("keep-alive"), "{head}");
    // A connection that the guest closes without a word costs nobody an answer.
    for _ in 0..5 {
        assert_eq!(running.get("/once").await.text(), "once");
        let url = format!("http://{}/who", running.address());
        let answer = fetch("POST", &url, &[], bytes::Bytes::from_static(b"")).await;
        assert_eq!(answer.unwrap().status, 200);
    }
    let rows = ps(&running).await;
    assert_eq!(rows[0]["state"], "up");
    assert_eq!(rows[0]["requests"], 62);
    assert!(rows[0]["memory_bytes"].as_u64() > Some(0));
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_axum_server_serves_many_at_once_and_large_bodies_both_ways() {
    let running = up(app("listen-axum", "", 1, "timeout = \"30s\"")).await;
    let hello = running.get("/hello").await;
    assert_eq!(hello.text(), "Hello from web.1");
    let slow = futures::future::join_all((0..10).map(|_| running.get("/slow"))).await;
    assert!(slow.iter().all(|answer| answer.text() == "slow"));
    let body: Vec<u8> = (0..10 << 20).map(|n: u32| (n % 251) as u8).collect();
    let length = running.post("/length", body.clone()).await;
    assert_eq!(length.text(), body.len().to_string());
    assert_eq!(running.post("/echo", body.clone()).await.body, body);
    let many = running.get(&format!("/many/{}", 10 << 20)).await;
    assert_eq!(many.body.len(), 10 << 20);
    let pieces_are_right = many
        .body
        .chunks(10_000)
        .enumerate()
        .all(|(n, piece)| piece.iter().all(|byte| usize::from(*byte) == n % 251));
    assert!(pieces_are_right);
    let connections: u32 = running.get("/connections").await.text().parse().unwrap();
    assert!(connections <= 11, "{connections}");
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_for_100_continue_is_told_by_the_guest() {
    let running = up(app("listen-axum", "", 1, "")).await;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: test.localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\
             Connection: close\r\n\r\n"
        )
    };
    let mut wanted = TcpStream::connect(running.address()).await.unwrap();
    wanted.write_all(head("/length").as_bytes()).await.unwrap();
    let mut raw = Raw(wanted);
    raw.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    raw.0.write_all(b"12345").await.unwrap();
    assert!(raw.rest().await.ends_with("\r\n\r\n5"));
    // A guest that does not want it is not sent it, and its client neither.
    let mut refused = TcpStream::connect(running.address()).await.unwrap();
    refused.write_all(head("/refuse").as_bytes()).await.unwrap();
    let mut raw = Raw(refused);
    let answer = raw.until("no, thank you").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_sent_events_arrive_one_by_one() {
    let running = up(app("listen-axum", "graceful", 1, "")).await;
    let mut stream = TcpStream::connect(running.address()).await.unwrap();
    let request = b"GET /ticks HTTP/1.1\r\nHost: test.localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut all = String::new();
    for n in 0..4 {
        let event = format!("data: {n}\n\n");
        let next = format!("data: {}\n\n", n + 1);
        while !all.contains(&event) {
            let mut buffer = [0; 4096];
            let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await;
            let read = read.expect("an event comes").unwrap();
            assert!(read > 0, "{all}");
            all += std::str::from_utf8(&buffer[..read]).unwrap();
        }
        assert!(!all.contains(&next), "held back: {all}");
    }
    assert!(all.contains("content-type: text/event-stream"), "{all}");
    // The stop signal comes when the host begins to stop, so that the stream, and all else, ends soon.
    let began = Instant::now();
    assert_eq!(running.interrupt().await, Some(0));
    assert!(began.elapsed() < Duration::from_secs(20));
    all.clear();
    stream.read_to_string(&mut all).await.unwrap();
    assert!(all.ends_with("0\r\n\r\n"), "a whole answer: {all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_clients_are_served_over_http1() {
    let running = up(app("listen-axum", "", 1, "")).await;
    let stream = TcpStream::connect(running.address()).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let request = |method: &str, path: &str, body: Vec<u8>| {
        http::Request::builder()
            .method(method)
            .uri(format!("http://test.localhost{path}"))
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(http_body_util::Full::new(bytes::Bytes::from(body)))
            .unwrap()
    };
    let body = vec![7; 1 << 20];
    let answers = futures::future::try_join_all([
        client.send_request(request("GET", "/headers", Vec::new())),
        client.send_request(request("POST", "/echo", body.clone())),
        client.send_request(request("GET", "/slow", Vec::new())),
    ]);
    let mut texts = Vec::new();
    for answer in answers.await.unwrap() {
        assert_eq!(answer.status(), 200);
        let body = http_body_util::BodyExt::collect(answer.into_body()).await;
        texts.push(body.unwrap().to_bytes());
    }
    let headers = String::from_utf8_lossy(&texts[0]);
    for expected in [
        "\"cookie\": \"a=1; b=2\"",
        "\"host\": \"test.localhost\"",
        "\"via\": \"2.0 oarlock\"",
    ] {
        assert!(headers.contains(expected), "{headers}");
    }
    assert!(texts[1] == body && &texts[2][..] == b"slow");
    assert_routed(&running, "/headers", "", "200", "web.1").await;
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_one_off_dyno_of_a_server_has_no_port() {
    let running = up(app("listen-axum", "", 1, "")).await;
    let done = running.oarlock(&["run", "web"]).await;
    assert_eq!(done.code, 134, "{done:?}");
    assert!(done.stderr.contains("NotPresent"), "{done:?}");
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_on_wasi_0_3_serves() {
    let running = up(app("listen-p3", "", 1, "")).await;
    let answers = futures::future::join_all((0..8).map(|_| running.get("/p3"))).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.text() == "GET /p3 HTTP/1.1")
    );
    assert_routed(&running, "/p3", "", "200", "web.1").await;
    assert_eq!(running.interrupt().await, Some(0));
}
