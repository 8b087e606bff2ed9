use super::*;

#[tokio::test]
async fn a_request_is_answered_and_logged_as_promised() {
    let bench = Bench::new(|_| async { hello() }).await;
    let request = "GET /a?b=%22c HTTP/1.1\r\nHost: app.localhost:8080\r\nConnection: close\r\n\
        X-Request-Id: 0123456789-abcdefghij\r\n\r\n";
    let (text, reset) = bench.raw(request).await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(
        text.contains("content-length: 5\r\n") && text.ends_with("\r\n\r\nhello"),
        "{text}"
    );
    assert!(!reset && !text.contains("oarlock-error"));
    assert_eq!(
        bench.line().await.replace("=1ms", "=0ms"),
        "at=info method=GET path=\"/a?b=%22c\" host=app.localhost:8080 request_id=0123456789-abcdefghij \
         fwd=\"127.0.0.1\" dyno=web.1 connect=0ms service=0ms status=200 bytes=5 protocol=http1.1"
    );
}

#[tokio::test]
async fn forwarded_headers_are_ours_and_hop_by_hop_ones_end_here() {
    let bench = Bench::new(echo).await;
    let port = bench.addr.port();
    let request = "POST /x HTTP/1.1\r\nHost: App.LocalHost\r\nConnection: close, X-Mine, content-length, x-forwarded-for\r\n\
        X-Mine: 1\r\nKeep-Alive: 5\r\nTE: trailers, gzip;q=0.5\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\n\
        X-Request-Id: short\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\nX-Request-Start: 1\r\nVia: 9 evil\r\n\
        X-Forwarded-For: 192.0.2.1\r\nX-Other: stays\r\nContent-Length: 2\r\n\r\nhi";
    let (text, _) = bench.raw(request).await;
    assert!(
        text.contains("POST http://App.LocalHost/x HTTP/1.1\n"),
        "{text}"
    );
    for there in [
        "\nte: trailers\n",
        "\nx-forwarded-proto: http\n",
        &format!("\nx-forwarded-port: {port}\n"),
        "\nvia: 9 evil, 1.1 oarlock\n",
        "\nx-other: stays\n",
        "\nhost: App.LocalHost\n",
        "\ncontent-length: 2\n",
        // Named in `Connection`, so the client's goes no further.
        "\nx-forwarded-for: 127.0.0.1\n",
        "\nx-request-start: 1",
    ] {
        assert!(text.contains(there), "{there:?} is missing in {text}");
    }
    for gone in [
        "x-mine",
        "keep-alive:",
        "proxy-",
        "short",
        "https",
        "443\n",
        "192.0.2.1",
        "x-request-start: 1\n",
    ] {
        assert!(!text.contains(gone), "{gone:?} is in {text}");
    }
    let id = text
        .split("x-request-id: ")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap();
    assert_eq!((id.len(), id.matches('-').count()), (36, 4), "{id}");
    assert!(bench.line().await.contains(&format!("request_id={id} ")));
}

#[tokio::test]
async fn the_addresses_of_earlier_hops_stay_in_order() {
    let bench = Bench::new(echo).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Forwarded-For: 192.0.2.1\r\n\
        X-Forwarded-For: 192.0.2.2, \"x\r\n\r\n";
    let (text, _) = bench.raw(request).await;
    assert!(
        text.contains("x-forwarded-for: 192.0.2.1, 192.0.2.2, \"x, 127.0.0.1\n"),
        "{text}"
    );
    assert!(
        bench
            .line()
            .await
            .contains("fwd=\"192.0.2.1, 192.0.2.2, \\\"x, 127.0.0.1\"")
    );
}

#[tokio::test]
async fn answers_lose_their_hop_by_hop_headers() {
    let bench = Bench::new(|_| async {
        let response = Response::builder()
            .header("connection", "x-secret, close")
            .header("x-secret", "1")
            .header("keep-alive", "3")
            .header("upgrade", "x")
            .header("x-open", "1");
        Ok(response.body(body("hello")).unwrap())
    })
    .await;
    let mut stream = bench.connect().await;
    for _ in 0..2 {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let text = read_until(&mut stream, "hello").await;
        assert!(text.contains("x-open: 1\r\n"), "{text}");
        assert!(
            !text.contains("x-secret") && !text.contains("keep-alive") && !text.contains("upgrade"),
            "{text}"
        );
        assert!(!text.contains("close"), "{text}");
    }
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let bench = Bench::new(|_| async { hello() }).await;
    let long_method = format!(
        "{} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "A".repeat(66_000)
    );
    let long = format!(
        "GET /{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "a".repeat(60_000)
    );
    let too_long = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Long: {}\r\n\r\n",
        "a".repeat(66_000)
    );
    for (request, status, error) in [
        (
            "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
            400,
            "bad-request",
        ),
        (
            "GET / HTTP/1.1\r\nConnection: close\r\nHost: a\r\nHost: b\r\n\r\n",
            400,
            "bad-request",
        ),
        (
            "GET / HTTP/1.1\r\nConnection: close\r\nHost: a b\r\n\r\n",
            400,
            "bad-request",
        ),
        (
            "GET / HTTP/1.1\r\nConnection: close\r\nHost: me@b\r\n\r\n",
            400,
            "bad-request",
        ),
        (
            "GET / HTTP/1.1\r\nConnection: close\r\nHost:\r\n\r\n",
            400,
            "bad-request",
        ),
        (
            "GET * HTTP/1.1\r\nConnection: close\r\nHost: a\r\n\r\n",
            400,
            "bad-request",
        ),
        // A target that names the host does not make up for a wrong `Host`.
        (
            "GET http://a/ HTTP/1.1\r\nConnection: close\r\n\r\n",
            400,
            "bad-request",
        ),
        (
            "GET http://a/ HTTP/1.1\r\nConnection: close\r\nHost: a\r\nHost: a\r\n\r\n",
            400,
            "bad-request",
        ),
        (
            "GET http://a/ HTTP/1.1\r\nConnection: close\r\nHost: a b\r\n\r\n",
            400,
            "bad-request",
        ),
        (
            "POST / HTTP/1.1\r\nConnection: close\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            501,
            "coding-unsupported",
        ),
        (
            "POST / HTTP/1.1\r\nConnection: close\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
            200,
            "",
        ),
        (
            "OPTIONS / HTTP/1.1\r\nConnection: close\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
            204,
            "",
        ),
        (
            "TRACE / HTTP/1.1\r\nConnection: close\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
            501,
            "trace-unsupported",
        ),
        // Of other methods it says nothing.
        (
            "GET / HTTP/1.1\r\nConnection: close\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
            200,
            "",
        ),
        (
            "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\n\r\n",
            501,
            "connect-unsupported",
        ),
        // Handlers know no upgrades, and a server may ignore the offer (RFC 9110 7.8).
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n",
            200,
            "",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: h2c\r\n\r\n",
            200,
            "",
        ),
        ("GET / HTTP/1.0\r\n\r\n", 200, ""),
        (
            "GET http://other/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            200,
            "",
        ),
        (&long, 200, ""),
        (&too_long, 431, "header-too-large"),
        (&long_method, 431, "header-too-large"),
        // hyper's own answers, before there is a request.
        ("GE T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
        ("GET / HTTP/1.1\r\nHost: a\r\nA\x01: b\r\n\r\n", 400, ""),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
            "",
        ),
    ] {
        let (text, _) = bench.raw(request).await;
        let shown = &request[..request.len().min(100)];
        assert!(
            text.starts_with("HTTP/1.") && text[8..].starts_with(&format!(" {status} ")),
            "{shown}: {text}"
        );
        let header = format!("oarlock-error: {error}\r\n");
        assert_eq!(
            text.contains("oarlock-error"),
            !error.is_empty(),
            "{shown}: {text}"
        );
        assert!(
            error.is_empty() || text.contains(&header),
            "{shown}: {text}"
        );
    }
}

#[tokio::test]
async fn hosts_choose_apps() {
    let bench = Bench::new(|_| async { hello() }).await;
    let other = WebPool::new(AppLog::in_memory());
    bench.router.add(&"other".parse().unwrap(), other.clone());
    let get = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    assert!(
        bench
            .raw(&get("APP.localhost:99"))
            .await
            .0
            .contains(" 200 OK")
    );
    let (text, _) = bench.raw(&get("other.localhost")).await;
    assert!(
        text.contains(" 503 ") && text.contains("oarlock-error: H14\r\n"),
        "{text}"
    );
    let (text, _) = bench.raw(&get("unknown.localhost")).await;
    assert!(
        text.contains(" 404 ") && text.contains("oarlock-error: unknown-host\r\n"),
        "{text}"
    );
    assert!(
        text.contains("No app is served under this host name"),
        "{text}"
    );
    bench.router.remove(&"other".parse().unwrap(), &other);
    // An only app has every name (as under `up`; see `table` for `serve`).
    let (text, _) = bench.raw(&get("other.localhost")).await;
    assert!(text.contains(" 200 OK"), "{text}");
    assert!(
        bench
            .raw(&get("elsewhere.test"))
            .await
            .0
            .contains(" 200 OK")
    );
    let lines = other.log.tail(10, &LogFilter::default());
    assert!(
        lines[0]
            .message
            .starts_with("at=error code=H14 desc=\"No web dynos running\" method=GET")
    );
}

#[tokio::test]
async fn head_and_bodiless_statuses_say_nothing_false() {
    let bench = Bench::new(|request: Request<Body>| async move {
        let response = Response::builder().status(
            request
                .uri()
                .path()
                .trim_start_matches('/')
                .parse::<u16>()
                .unwrap(),
        );
        Ok(response.body(body("hello")).unwrap())
    })
    .await;
    let mut stream = bench.connect().await;
    for (request, length) in [
        ("HEAD /200", Some("5")),
        ("GET /204", None),
        ("GET /304", None),
        ("HEAD /404", Some("5")),
    ] {
        stream
            .write_all(format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        let said = head
            .split("content-length: ")
            .nth(1)
            .map(|rest| rest.lines().next().unwrap());
        assert!(
            said.is_none() || said == length || request.contains("304"),
            "{request}: {head}"
        );
        assert!(
            !head.contains("transfer-encoding") || request.contains("HEAD"),
            "{request}: {head}"
        );
    }
    stream
        .write_all(b"GET /200 HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut stream, "hello").await;
    let lines = bench.lines(5).await;
    assert!(
        lines[..4]
            .iter()
            .all(|line| line.contains("at=info") && line.contains(" bytes=0 ")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn guests_cannot_send_heads_that_are_none() {
    for status in [100, 103, 600, 999] {
        let bench = Bench::new(move |_| async move {
            Ok(Response::builder().status(status).body(body("x")).unwrap())
        })
        .await;
        let (text, _) = bench
            .raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await;
        assert!(
            text.contains(" 503 ") && text.contains("oarlock-error: H13\r\n"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_long_method_or_host_stays_in_its_line() {
    let bench = Bench::new(|_| async { hello() }).await;
    let (method, host) = ("M".repeat(20_000), "h".repeat(250));
    let request = format!("{method} / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    assert!(bench.raw(&request).await.0.contains(" 200 OK"));
    let line = bench.line().await;
    assert!(
        line.len() < 1_000 && line.ends_with("protocol=http1.1"),
        "{line}"
    );
    assert_eq!(bench.pool.log.tail(10, &LogFilter::default()).len(), 1);
}

#[tokio::test]
async fn targets_of_every_form_reach_the_app() {
    let bench = Bench::new(echo).await;
    for (head, seen) in [
        (
            "GET http://b.test?x=1 HTTP/1.1\r\nHost: a",
            "GET http://b.test/?x=1 HTTP/1.1\n",
        ),
        (
            "GET http://b.test HTTP/1.1\r\nHost: a",
            "GET http://b.test/ HTTP/1.1\n",
        ),
        (
            "OPTIONS /x HTTP/1.1\r\nHost: a\r\nMax-Forwards: 7",
            "\nmax-forwards: 6\n",
        ),
        (
            "GET / HTTP/1.0\r\nVia: 1.1 a\r\nVia: 1.0 b",
            "\nvia: 1.1 a, 1.0 b, 1.0 oarlock\n",
        ),
    ] {
        let (text, _) = bench
            .raw(&format!("{head}\r\nConnection: close\r\n\r\n"))
            .await;
        assert!(text.contains(seen), "{head}: {text}");
    }
    let bench = Bench::new(|request: Request<Body>| async move {
        let target = request.uri().path_and_query().unwrap().as_str().to_owned();
        Ok(Response::new(body(&target)))
    })
    .await;
    let (text, _) = bench
        .raw("OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    assert!(text.ends_with("\r\n\r\n*"), "{text}");
}

#[tokio::test]
async fn many_small_headers_pass() {
    let bench = Bench::new(echo).await;
    let many: String = (0..900).map(|n| format!("X-{n}: v\r\n")).collect();
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{many}\r\n");
    let (text, _) = bench.raw(&request).await;
    assert!(text.contains("\nx-899: v\n"), "{text}");
}

#[tokio::test]
async fn what_a_trusted_proxy_says_is_kept() {
    let clients = ClientLimits {
        connections: 100,
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..ClientLimits::default()
    };
    let bench = Bench::for_clients(clients, limits(), vec![fake::dyno("web.1", 10, None, echo)]);
    let bench = bench.await;
    let said = "x-forwarded-proto: https\nx-forwarded-port: 443\nx-request-start: 1700000000000\n";
    let said = said.replace('\n', "\r\n");
    let (text, _) = bench
        .raw(&format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n{said}Connection: close\r\n\r\n"
        ))
        .await;
    for line in said
        .lines()
        .chain(["x-forwarded-for: 192.0.2.1, 127.0.0.1"])
    {
        assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
    }
}

#[tokio::test]
async fn the_clients_version_decides_how_an_answer_is_framed() {
    let bench = Bench::new(|_| async {
        let (mut frames, body) = channel();
        tokio::spawn(async move { send(&mut frames, "hello").await });
        let response = Response::builder().version(http::Version::HTTP_10);
        Ok(response.body(body).unwrap())
    })
    .await;
    let mut stream = bench.connect().await;
    for _ in 0..2 {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let text = read_until(&mut stream, "0\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        assert!(text.contains("transfer-encoding: chunked"), "{text}");
    }
    let (text, reset) = bench.raw("GET / HTTP/1.0\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.0 200 ") && !reset, "{text}");
    assert!(text.ends_with("\r\n\r\nhello"), "{text}");
}

#[tokio::test]
async fn a_205_has_no_body_whatever_its_length_says() {
    let bench = Bench::new(|_| async {
        let response = Response::builder()
            .status(205)
            .header("content-length", "5");
        Ok(response.body(body("hello")).unwrap())
    })
    .await;
    let mut stream = bench.connect().await;
    for _ in 0..2 {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let text = read_until(&mut stream, "\r\n\r\n").await;
        assert!(text.contains("content-length: 0\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n"), "{text}");
    }
}
