use super::*;

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let bench =
        Bench::new(|request: Request<Body>| async move { Ok(Response::new(request.into_body())) })
            .await;
    let mut stream = bench.connect().await;
    let head =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for piece in ["one", "two", "six"] {
        stream
            .write_all(format!("3\r\n{piece}\r\n").as_bytes())
            .await
            .unwrap();
        read_until(&mut stream, piece).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let (rest, _) = read_to_end(&mut stream).await;
    assert!(rest.ends_with("0\r\n\r\n"), "{rest:?}");
    let line = bench.line().await;
    assert!(
        line.contains("at=info") && line.contains(" bytes=9 "),
        "{line}"
    );
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    let bench = Bench::new(|request: Request<Body>| async move {
        let all = request.into_body().collect().await.unwrap().to_bytes();
        Ok(Response::new(Body::new(
            Full::new(all).map_err(|never| match never {}),
        )))
    })
    .await;
    let size = 3_000_000;
    let mut stream = bench.connect().await;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
    let (mut read, mut write) = stream.into_split();
    let sent = content.clone();
    let writing = tokio::spawn(async move { write.write_all(&sent).await.map(|()| write) });
    let mut all = Vec::new();
    tokio::time::timeout(SOON, read.read_to_end(&mut all))
        .await
        .unwrap()
        .unwrap();
    writing.await.unwrap().unwrap();
    assert!(all.ends_with(&content));
    assert!(bench.line().await.contains(&format!(" bytes={size} ")));
}

#[tokio::test]
async fn too_large_bodies_are_refused_before_or_while_they_come() {
    let limits = RequestLimits {
        request_body: 10,
        ..limits()
    };
    let bench = Bench::with(limits, vec![fake::dyno("web.1", 10, None, echo)]).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n";
    for (body, status) in [
        ("Content-Length: 10\r\n\r\n0123456789", 200),
        ("Content-Length: 11\r\n\r\n0123456789a", 413),
        (
            "Transfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n4\r\nghij\r\n0\r\n\r\n",
            200,
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n5\r\nghijk\r\n0\r\n\r\n",
            413,
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\nzz\r\n",
            400,
        ),
    ] {
        let (text, _) = bench.raw(&format!("{head}{body}")).await;
        assert!(
            text.starts_with(&format!("HTTP/1.1 {status} ")),
            "{body}: {text}"
        );
    }
    assert!(
        bench
            .lines(5)
            .await
            .iter()
            .all(|line| line.contains("at=info"))
    );
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it_when_the_guest_reads() {
    let bench = Bench::new(echo).await;
    let mut stream = bench.connect().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let interim = read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ok").await.unwrap();
    let (text, _) = read_to_end(&mut stream).await;
    assert!(
        text.starts_with("HTTP/1.1 200 OK") && text.ends_with("ok"),
        "{text}"
    );
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let bench = Bench::new(|request: Request<Body>| async move {
        let trailers = request
            .into_body()
            .collect()
            .await
            .unwrap()
            .trailers()
            .cloned()
            .unwrap();
        let (mut frames, body) = channel();
        tokio::spawn(async move {
            send(&mut frames, "text").await;
            frames.send(Ok(Frame::trailers(trailers))).await.unwrap();
        });
        Ok(Response::builder()
            .header("trailer", "x-sum")
            .body(body)
            .unwrap())
    })
    .await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\
        Connection: close\r\n\r\n1\r\na\r\n0\r\nx-sum: 7\r\n\r\n";
    let (text, _) = bench.raw(request).await;
    assert!(
        text.ends_with("4\r\ntext\r\n0\r\nx-sum: 7\r\n\r\n"),
        "{text:?}"
    );
    assert!(bench.line().await.contains("at=info"));
}

#[tokio::test]
async fn a_cut_body_never_looks_whole() {
    // Fails after some bytes; says too little; says too much.
    for (length, pieces, fails) in [
        (None, 1, true),
        (Some(9), 1, true),
        (Some(9), 1, false),
        (Some(3), 2, false),
    ] {
        for version in ["1.1", "1.0"] {
            let bench = Bench::new(move |_| async move {
                let (mut frames, body) = channel();
                tokio::spawn(async move {
                    for _ in 0..pieces {
                        send(&mut frames, "half").await;
                    }
                    if fails {
                        frames
                            .send(Err(BodyError::ConnectionTerminated))
                            .await
                            .unwrap();
                    }
                });
                let mut response = Response::new(body);
                if let Some(length) = length {
                    response
                        .headers_mut()
                        .insert("content-length", http::HeaderValue::from(length));
                }
                Ok(response)
            })
            .await;
            let (text, reset) = bench
                .raw(&format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"))
                .await;
            assert!(!text.ends_with("0\r\n\r\n"), "{text:?}");
            // Where the end of the connection is the end of the body, only a reset tells.
            assert!(version == "1.1" || reset, "{text:?}");
            let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
            assert!(length.is_none_or(|length| length > body.len()), "{text:?}");
            let line = bench.line().await;
            assert!(
                line.starts_with("at=error code=H18 desc=\"Server request interrupted\""),
                "{line}"
            );
            assert!(line.contains(" status=503 "), "{line}");
            bench.pool.publish(Vec::new(), PoolState::NoDynos, limits());
        }
    }
}

#[tokio::test]
async fn an_idle_answer_is_cut() {
    let limits = RequestLimits {
        idle_timeout: Duration::from_millis(200),
        ..limits()
    };
    let dyno = fake::dyno("web.1", 1, None, |_| async {
        let (mut frames, body) = channel();
        tokio::spawn(async move {
            for _ in 0..5 {
                send(&mut frames, "tick").await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            // Then nothing, for longer than anybody waits.
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(frames);
        });
        Ok(Response::new(body))
    });
    let bench = Bench::with(limits, vec![dyno.clone()]).await;
    let (text, _) = bench.raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(text.matches("tick").count(), 5, "{text}");
    assert!(!text.ends_with("0\r\n\r\n"), "{text}");
    let line = bench.line().await;
    assert!(
        line.starts_with("at=error code=H15 desc=\"Idle connection\"") && line.contains("bytes=20"),
        "{line}"
    );
    dyno.drained().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut() {
    let limits = RequestLimits {
        idle_timeout: Duration::from_millis(200),
        ..limits()
    };
    let dyno = fake::dyno("web.1", 1, None, |_| async {
        let piece = Bytes::from(vec![b'x'; 65_536]);
        let endless = futures::stream::repeat_with(move || Ok(Frame::data(piece.clone())));
        Ok(Response::new(Body::new(StreamBody::new(endless))))
    });
    let bench = Bench::with(limits, vec![dyno.clone()]).await;
    let mut stream = bench.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let line = bench.line().await;
    assert!(line.starts_with("at=error code=H15"), "{line}");
    dyno.drained().await;
}

#[tokio::test]
async fn a_guest_may_finish_after_the_declared_length() {
    let finished = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = finished.clone();
    let bench = Bench::new(move |_| {
        let seen = seen.clone();
        async move {
            let (mut frames, body) = channel();
            tokio::spawn(async move {
                send(&mut frames, "hello").await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                // Still wanted: the end of the body, not a closed channel.
                if !frames.is_closed() {
                    seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
            });
            Ok(Response::builder()
                .header("content-length", 5)
                .body(body)
                .unwrap())
        }
    })
    .await;
    let mut stream = bench.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut stream, "hello").await;
    stream
        .write_all(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    let lines = bench.lines(2).await;
    assert!(
        lines[0].contains("bytes=5") && lines.iter().all(|line| line.contains("at=info")),
        "{lines:?}"
    );
    // The answer is complete, and logged, before its guest is done.
    let limit = tokio::time::Instant::now() + Duration::from_secs(10);
    while finished.load(std::sync::atomic::Ordering::SeqCst) < 2 {
        assert!(tokio::time::Instant::now() < limit, "a guest was cut off");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_its_upload_is_the_one_that_went_away() {
    // The head is sent before the body is read, and the guest breaks off where the body does.
    let bench =
        Bench::new(|request: Request<Body>| async move { Ok(Response::new(request.into_body())) })
            .await;
    let mut stream = bench.connect().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello";
    stream.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut stream, "hello").await;
    drop(stream);
    let line = bench.line().await;
    assert!(line.starts_with("at=error code=H27 "), "{line}");
}

/// A byte, and then empty frames for ever.
async fn empty_frames() -> Result<Response<Body>, CallError> {
    let first = std::iter::once(Frame::data(Bytes::from_static(b"x")));
    let frames = first.chain(std::iter::repeat_with(|| Frame::data(Bytes::new())));
    let frames = futures::stream::iter(frames.map(Ok));
    Ok(Response::new(Body::new(StreamBody::new(frames))))
}

#[tokio::test]
async fn empty_frames_are_no_progress_and_hold_nobody_up() {
    let limits = RequestLimits {
        idle_timeout: Duration::from_millis(300),
        ..limits()
    };
    let dyno = fake::dyno("web.1", 10, None, |request: Request<Body>| async move {
        let is_empty = request.uri().path() == "/empty";
        if is_empty {
            empty_frames().await
        } else {
            hello()
        }
    });
    let bench = Bench::with(limits, vec![dyno]).await;
    // One on each core, probably; in any case they outnumber the cores.
    let mut empty = Vec::new();
    for _ in 0..4 {
        let mut stream = bench.connect().await;
        let head = b"GET /empty HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(head).await.unwrap();
        read_until(&mut stream, "1\r\nx\r\n").await;
        empty.push(stream);
    }
    let (text, _) = bench.raw("GET / HTTP/1.0\r\n\r\n").await;
    assert!(text.ends_with("hello"), "{text}");
    for stream in &mut empty {
        assert_eq!(read_to_end(stream).await.0, "", "nothing more, and no end");
    }
    let lines = bench.lines(5).await;
    let cut = lines
        .iter()
        .filter(|line| line.contains("code=H15") && line.contains(" bytes=1 "));
    assert_eq!(cut.count(), 4, "{lines:?}");
}

#[tokio::test]
async fn empty_frames_of_a_requests_body_are_not_passed_on() {
    let (mut frames, body) = mpsc::channel::<Result<Frame<Bytes>, crate::service::BoxError>>(0);
    let body = StreamBody::new(body).boxed_unsync();
    let (mut body, upload) = upload::request(body, 10, &Arc::default());
    let upload = upload.unwrap();
    let began = upload.last();
    let sending = tokio::spawn(async move {
        for text in ["", "", "", "a", "", "b", ""] {
            tokio::time::sleep(Duration::from_millis(20)).await;
            frames
                .send(Ok(Frame::data(Bytes::from(text))))
                .await
                .unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    });
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let progress = upload.last();
    assert!(first == "a" && progress > began);
    let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let progress = upload.last();
    assert_eq!(second, "b");
    assert!(body.frame().await.is_none());
    assert_eq!(
        upload.last(),
        progress,
        "an empty frame and the end are no bytes"
    );
    sending.await.unwrap();
}

/// A large upload that nobody reads, as a client sends it that first sends all and then reads.
async fn answer_to_an_upload(bench: &Bench, head: &str) -> (String, bool) {
    let mut stream = bench.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b'x'; 100_000];
    for _ in 0..30 {
        tokio::time::timeout(SOON, stream.write_all(&piece))
            .await
            .expect("it is taken")
            .unwrap();
    }
    read_to_end(&mut stream).await
}

#[tokio::test]
async fn an_early_answer_arrives_though_the_upload_goes_on() {
    let limits = RequestLimits {
        request_body: 1_000_000,
        ..limits()
    };
    let dyno = fake::dyno("web.1", 10, None, |_| async { hello() });
    let bench = Bench::with(limits, vec![dyno]).await;
    for (path, framing, status) in [
        ("/", "Transfer-Encoding: chunked", 200),
        ("/", "Content-Length: 999999999", 413),
        ("/ bad", "Content-Length: 3000000", 400),
        ("*", "Content-Length: 900000", 400),
    ] {
        let chunk = if framing.contains("chunked") {
            "3000000\r\n"
        } else {
            ""
        };
        for _ in 0..5 {
            let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{chunk}");
            let (text, reset) = answer_to_an_upload(&bench, &head).await;
            assert!(
                text.starts_with(&format!("HTTP/1.1 {status} ")) && !reset,
                "{path} {framing}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_on_sending_holds_nobody_up() {
    let bench = Bench::new(|_| async { hello() }).await;
    let mut stream = bench.connect().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut stream, "hello").await;
    // It sends a little now and then, and does not end.
    let sending = tokio::spawn(async move {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!sending.is_finished(), "what it sends is taken for now");
    let router = bench.router.clone();
    let drained = router.drain(Duration::from_secs(60));
    tokio::time::timeout(SOON, drained)
        .await
        .expect("it is not waited for");
    sending.await.unwrap();
}
