//! The lives of connections: kept, drained, aborted.

use super::*;

/// `/slow` answers in pieces over 200 ms; `/stuck` never ends.
fn slow_dyno() -> Arc<WebDyno> {
    fake::dyno("web.1", 10, None, |request: Request<Body>| async move {
        let stuck = request.uri().path() == "/stuck";
        let (mut frames, body) = channel();
        tokio::spawn(async move {
            for _ in 0..4 {
                send(&mut frames, "tick").await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if stuck {
                std::future::pending::<()>().await;
            }
        });
        Ok(Response::new(body))
    })
}

#[tokio::test]
async fn draining_finishes_requests_and_closes_idle_connections() {
    let bench = Bench::with(limits(), vec![slow_dyno()]).await;
    let mut idle = bench.connect().await;
    let mut used = bench.connect().await;
    used.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut used, "0\r\n\r\n").await;
    let mut busy = bench.connect().await;
    busy.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut busy, "tick").await;
    tokio::time::timeout(SOON, bench.router.drain(Duration::from_secs(30)))
        .await
        .unwrap();
    let (rest, reset) = read_to_end(&mut busy).await;
    assert!(rest.ends_with("0\r\n\r\n") && !reset, "{rest}");
    for stream in [&mut idle, &mut used] {
        assert_eq!(read_to_end(stream).await.0, "");
    }
    assert!(TcpStream::connect(bench.addr).await.is_err());
    assert!(
        bench
            .lines(2)
            .await
            .iter()
            .all(|line| line.contains("at=info"))
    );
}

#[tokio::test]
async fn draining_aborts_what_takes_longer_than_its_grace() {
    let bench = Bench::with(limits(), vec![slow_dyno()]).await;
    let mut stuck = bench.connect().await;
    stuck
        .write_all(b"GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut stuck, "tick").await;
    tokio::time::timeout(SOON, bench.router.drain(Duration::from_millis(300)))
        .await
        .unwrap();
    let (rest, _) = read_to_end(&mut stuck).await;
    assert!(!rest.ends_with("0\r\n\r\n"), "{rest}");
    let line = bench.line().await;
    assert!(line.starts_with("at=error code=H18"), "{line}");
}

#[tokio::test]
async fn every_core_accepts() {
    let bench = Bench::new(|_| async {
        let name = std::thread::current().name().unwrap().to_owned();
        Ok(Response::new(body(&name)))
    })
    .await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let (text, _) = bench
            .raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await;
        seen.insert(text.split("\r\n\r\n").nth(1).unwrap().to_owned());
    }
    let seen: Vec<String> = seen.into_iter().collect();
    assert_eq!(seen, ["oarlock-core-0", "oarlock-core-1"]);
}

#[tokio::test]
async fn releases_under_load_lose_nothing() {
    let dyno = |n: usize| {
        fake::dyno("web.1", 4, Some(CoreId(n % 2)), |_| async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            hello()
        })
    };
    let bench = Bench::with(limits(), vec![dyno(0)]).await;
    let clients = (0..16).map(|_| async {
        let mut stream = bench.connect().await;
        for _ in 0..100 {
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .await
                .unwrap();
            let text = read_until(&mut stream, "\r\n\r\nhello").await;
            assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
        }
    });
    let releases = async {
        for n in 1..20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            bench
                .pool
                .publish(vec![dyno(n), dyno(n + 1)], PoolState::Serving, limits());
        }
    };
    let all = futures::future::join(futures::future::join_all(clients), releases);
    tokio::time::timeout(SOON, all).await.unwrap();
}

#[tokio::test]
async fn what_comes_in_pieces_is_understood() {
    let bench = Bench::new(|_| async { hello() }).await;
    let mut stream = bench.connect().await;
    for piece in ["P", "R", "OPFIND / HTTP/1.1\r\nHo", "st: a\r\n\r\n"] {
        stream.write_all(piece.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    read_until(&mut stream, "hello").await;
    assert!(bench.line().await.contains("method=PROPFIND"));
    // Pipelined requests are answered in order.
    let two =
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(bench.raw(two).await.0.matches("hello").count(), 2);
}
