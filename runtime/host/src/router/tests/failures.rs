use oarlock_sandbox::{Full, StartError};

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn failures_before_the_head_have_their_codes() {
    for (error, code) in [
        (CallError::Trap("secret".to_owned()), "H13"),
        (CallError::Memory { limit: 1 }, "H13"),
        (CallError::NoResponse("secret".to_owned()), "H13"),
        (CallError::Ended("secret".to_owned()), "H13"),
        (
            CallError::Start(StartError::Trap("secret".to_owned())),
            "H13",
        ),
        (
            CallError::Start(StartError::Full(Full::Machine("secret".to_owned()))),
            "H11",
        ),
        (
            CallError::Start(StartError::Platform("secret".to_owned())),
            "H13",
        ),
    ] {
        let bench = Bench::new(move |_| {
            let error = error.clone();
            async move { Err(error) }
        })
        .await;
        let (text, _) = bench.raw(GET).await;
        assert!(
            text.starts_with("HTTP/1.1 503 ")
                && text.contains(&format!("oarlock-error: {code}\r\n")),
            "{text}"
        );
        assert!(!text.contains("secret"), "{text}");
        let line = bench.line().await;
        assert!(
            line.starts_with(&format!("at=error code={code} desc="))
                && line.contains(" status=503 "),
            "{line}"
        );
    }
}

#[tokio::test]
async fn no_head_in_time_is_h12_and_ends_the_call() {
    let limits = RequestLimits {
        timeout: Duration::from_millis(100),
        ..limits()
    };
    let dyno = fake::dyno("web.1", 1, None, |_| std::future::pending());
    let bench = Bench::with(limits, vec![dyno.clone()]).await;
    let (text, _) = bench.raw(GET).await;
    assert!(text.contains("oarlock-error: H12\r\n"), "{text}");
    dyno.drained().await;
    let (text, _) = bench
        .raw("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx")
        .await;
    assert!(text.contains("oarlock-error: H12\r\n"), "{text}");
    let lines = bench.lines(2).await;
    assert!(
        lines
            .iter()
            .all(|line| line.starts_with("at=error code=H12 desc=\"Request timeout\"")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn an_upload_may_take_longer_than_an_answer() {
    let limits = RequestLimits {
        timeout: Duration::from_millis(300),
        ..limits()
    };
    let bench = Bench::with(limits, vec![fake::dyno("web.1", 1, None, echo)]).await;
    let mut stream = bench.connect().await;
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.write_all(b"x").await.unwrap();
    }
    let (text, _) = read_to_end(&mut stream).await;
    assert!(
        text.starts_with("HTTP/1.1 200 ") && text.ends_with("xxxxxxxx"),
        "{text}"
    );
}

#[tokio::test]
async fn the_pool_s_refusals_reach_the_client() {
    let bench = Bench::with(
        RequestLimits {
            queue: 0,
            ..limits()
        },
        vec![],
    )
    .await;
    for (state, code) in [
        (PoolState::Crashed, "H10"),
        (PoolState::NoDynos, "H14"),
        (PoolState::Serving, "H11"),
    ] {
        bench.pool.publish(
            Vec::new(),
            state,
            RequestLimits {
                queue: 0,
                ..limits()
            },
        );
        let (text, _) = bench.raw(GET).await;
        assert!(
            text.contains(&format!("oarlock-error: {code}\r\n")),
            "{text}"
        );
    }
    let limits = RequestLimits {
        boot_timeout: Duration::from_millis(50),
        ..limits()
    };
    bench.pool.publish(Vec::new(), PoolState::Serving, limits);
    assert!(bench.raw(GET).await.0.contains("oarlock-error: H20\r\n"));
    let lines = bench.lines(4).await;
    assert!(
        lines
            .iter()
            .all(|line| line.contains(" dyno= ") && line.contains(" service=0ms ")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_client_that_goes_away_is_h27_and_ends_the_call() {
    let dyno = fake::dyno("web.1", 1, None, |request: Request<Body>| async move {
        match request.uri().path() {
            "/never" => std::future::pending().await,
            "/endless" => {
                let endless = futures::stream::unfold((), |()| async {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    Some((Ok(Frame::data(Bytes::from_static(b"x"))), ()))
                });
                Ok(Response::new(Body::new(StreamBody::new(endless))))
            }
            _ => echo(request).await,
        }
    });
    let bench = Bench::with(limits(), vec![dyno.clone()]).await;
    for (request, until) in [
        ("GET /never HTTP/1.1\r\nHost: a\r\n\r\n", ""),
        ("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n", "x\r\n"),
        (
            "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf",
            "",
        ),
    ] {
        let mut stream = bench.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_until(&mut stream, until).await;
        while dyno.in_flight() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(stream);
        tokio::time::timeout(SOON, dyno.drained())
            .await
            .expect("the call goes on");
    }
    let lines = bench.lines(3).await;
    for line in &lines {
        assert!(
            line.starts_with("at=error code=H27 desc=\"Client request interrupted\""),
            "{line}"
        );
        assert!(line.contains(" status=499 "), "{line}");
    }
}

#[tokio::test]
async fn a_dyno_whose_instance_trapped_gets_no_more_requests() {
    let crashed = fake::dyno("web.1", 10, Some(CoreId(0)), |_| async {
        Err(CallError::Trap(String::new()))
    });
    let bench = Bench::with(
        limits(),
        vec![
            crashed,
            fake::dyno("web.2", 10, None, |_| async { hello() }),
        ],
    )
    .await;
    let mut failed = 0;
    for _ in 0..50 {
        failed += usize::from(bench.raw(GET).await.0.contains("oarlock-error: H13"));
    }
    assert!(failed <= 1, "{failed} failed");
}
