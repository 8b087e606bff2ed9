//! What clients may have open: connections that say little, bounds per address, and what gives way when all is taken.

use super::*;

/// Far beyond any test.
const NEVER: Duration = Duration::from_secs(3_600);

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn clients(connections: u32, per_address: Connections) -> ClientLimits {
    ClientLimits {
        connections,
        per_address,
        trusted_proxies: Vec::new(),
        proxy_protocol: false,
    }
}

fn patient() -> Connections {
    Connections {
        head_timeout: NEVER,
        ..Connections::default()
    }
}

/// `/wait` answers when the test says so, all others at once.
struct Gate(Arc<Semaphore>);

async fn gated(clients: ClientLimits) -> (Bench, Gate) {
    let gate = Arc::new(Semaphore::new(0));
    let at_gate = gate.clone();
    let dyno = fake::dyno("web.1", 100, None, move |request: Request<Body>| {
        let gate = at_gate.clone();
        async move {
            if request.uri().path() == "/wait" {
                gate.acquire().await.unwrap().forget();
            }
            hello()
        }
    });
    (
        Bench::for_clients(clients, limits(), vec![dyno]).await,
        Gate(gate),
    )
}

async fn sent(bench: &Bench, bytes: &[u8]) -> TcpStream {
    let mut stream = bench.connect().await;
    stream.write_all(bytes).await.unwrap();
    stream
}

/// A connection that has had an answer.
async fn kept(bench: &Bench) -> TcpStream {
    let mut stream = sent(bench, GET).await;
    read_until(&mut stream, "hello").await;
    stream
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    read_to_end(stream).await;
    true
}

async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

fn free(bench: &Bench) -> usize {
    bench.router.inner.permits.available_permits()
}

#[tokio::test]
async fn a_client_that_says_a_byte_and_goes_leaves_nothing() {
    let (bench, _gate) = gated(clients(100, patient())).await;
    for text in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HT"] {
        for _ in 0..20 {
            drop(sent(&bench, text.as_bytes()).await);
        }
    }
    eventually("all permits are back", || free(&bench) == 100).await;
    assert_eq!(bench.router.inner.bounds.addresses(), 0);
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, stream]);
    frame.extend(payload);
    frame
}

fn http2(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = transport::PREFACE.to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frames.concat());
    bytes
}

/// `GET /`, by the static table, at `a`.
const BLOCK: &[u8] = b"\x82\x86\x84\x41\x01a";

#[tokio::test]
async fn a_head_that_is_not_finished_in_time_ends_its_connection_and_no_other_does() {
    let per_address = Connections {
        head_timeout: Duration::from_secs(1),
        ..Connections::default()
    };
    let (bench, _gate) = gated(clients(100, per_address)).await;
    let mut idle = kept(&bench).await;
    let mut idle_http2 = sent(&bench, &http2(&[])).await;
    let unfinished = [
        Vec::new(),
        b"P".to_vec(),
        transport::PREFACE[..20].to_vec(),
        b"GET / HTTP/1.1\r\nHo".to_vec(),
        http2(&[frame(1, 1, 1, BLOCK)]),
        http2(&[
            frame(1, 4, 1, BLOCK),
            frame(1, 1, 3, BLOCK),
            frame(9, 0, 3, &[]),
        ]),
    ];
    for bytes in unfinished {
        let mut stream = sent(&bench, &bytes).await;
        assert!(is_closed(&mut stream).await, "{bytes:?}");
    }
    let mut second = kept(&bench).await;
    second.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    assert!(is_closed(&mut second).await);
    // One byte after the other is no progress: the head as a whole has a deadline.
    let mut slow = bench.connect().await;
    let dripping = async {
        loop {
            if slow.write_all(b"G").await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, dripping).await.unwrap();

    idle.write_all(GET).await.unwrap();
    read_until(&mut idle, "hello").await;
    idle_http2.write_all(&frame(1, 5, 1, BLOCK)).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(5).any(|bytes| bytes == b"hello") {
        let read = tokio::time::timeout(SOON, idle_http2.read_buf(&mut answer));
        assert!(read.await.unwrap().unwrap() > 0);
    }
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_a_further_one_is_closed() {
    let per_address = Connections {
        per_address: 2,
        ..patient()
    };
    let (bench, _gate) = gated(clients(100, per_address)).await;
    let first = kept(&bench).await;
    let mut second = kept(&bench).await;
    let (text, _) = bench.raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(text, "");
    second.write_all(GET).await.unwrap();
    read_until(&mut second, "hello").await;
    drop(first);
    eventually("its place is free", || free(&bench) == 99).await;
    kept(&bench).await;
}

#[tokio::test]
async fn an_address_has_so_many_half_heads_and_whole_ones_count_no_more() {
    let per_address = Connections {
        half_heads_per_address: 2,
        ..patient()
    };
    let (bench, _gate) = gated(clients(100, per_address)).await;
    let mut first = sent(&bench, b"P").await;
    let mut second = sent(&bench, b"GET / HTTP/1.1\r\n").await;
    let key = bounds::Key::of("127.0.0.1".parse().unwrap());
    let counted = || bench.router.inner.bounds.half_heads(key);
    eventually("both are counted", || counted() == 2).await;
    for bytes in [b"G".to_vec(), http2(&[frame(1, 1, 1, BLOCK)])] {
        assert!(is_closed(&mut sent(&bench, &bytes).await).await);
    }
    // Those that say nothing, and those that ask, are not among them.
    let _silent = bench.connect().await;
    kept(&bench).await;
    second.write_all(b"Host: a\r\n\r\n").await.unwrap();
    read_until(&mut second, "hello").await;
    let mut third = sent(&bench, b"GET / HTTP/1.1\r\n").await;
    first
        .write_all(b"UT / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut first, "hello").await;
    third.write_all(b"Host: a\r\n\r\n").await.unwrap();
    read_until(&mut third, "hello").await;
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_address_that_it_names_is_bounded() {
    let per_address = Connections {
        per_address: 1,
        half_heads_per_address: 1,
        ..patient()
    };
    let trusted = ClientLimits {
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..clients(100, per_address)
    };
    let (bench, gate) = gated(trusted).await;
    let ask = |path: &str, named: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {named}\r\nConnection: close\r\n\r\n"
        )
    };
    let _half_heads = [sent(&bench, b"G").await, sent(&bench, b"P").await];
    let mut waiting = sent(&bench, ask("/wait", "192.0.2.1").as_bytes()).await;
    eventually("it is under way", || {
        bench.router.inner.bounds.addresses() == 1
    })
    .await;
    let (refused, _) = bench.raw(&ask("/", "9.9.9.9, 192.0.2.1, 127.0.0.9")).await;
    assert!(
        refused.starts_with("HTTP/1.1 429 ")
            && refused.contains("oarlock-error: too-many-requests"),
        "{refused}"
    );
    assert!(bench.line().await.contains(" status=429 "));
    let (other, _) = bench.raw(&ask("/", "192.0.2.2")).await;
    let (nobody, _) = bench.raw("GET / HTTP/1.0\r\n\r\n").await;
    gate.0.add_permits(1);
    read_until(&mut waiting, "hello").await;
    eventually("it has ended", || {
        bench.router.inner.bounds.addresses() == 0
    })
    .await;
    let (again, _) = bench.raw(&ask("/", "192.0.2.1")).await;
    for text in [other, nobody, again] {
        assert!(text.contains(" 200 OK\r\n"), "{text}");
    }
}

#[tokio::test]
async fn idle_connections_give_way_to_new_clients_the_oldest_first() {
    let (bench, gate) = gated(clients(4, patient())).await;
    let mut busy = sent(&bench, b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut half = sent(&bench, b"GET / HT").await;
    eventually("both are there", || free(&bench) == 2).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut idle = kept(&bench).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut newest = kept(&bench).await;
    let _another = kept(&bench).await;
    assert!(is_closed(&mut half).await);
    let _and_another = kept(&bench).await;
    assert!(is_closed(&mut idle).await);
    newest.write_all(GET).await.unwrap();
    read_until(&mut newest, "hello").await;
    gate.0.add_permits(1);
    read_until(&mut busy, "hello").await;
}

#[tokio::test]
async fn where_all_are_busy_a_new_client_waits_for_the_first_that_is_not() {
    let (bench, gate) = gated(clients(2, patient())).await;
    let wait = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut busy = [sent(&bench, wait).await, sent(&bench, wait).await];
    eventually("both are there", || free(&bench) == 0).await;
    let mut new = sent(&bench, GET).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    gate.0.add_permits(2);
    for stream in &mut busy {
        read_until(stream, "hello").await;
    }
    read_until(&mut new, "hello").await;
}

#[tokio::test]
async fn the_host_drains_although_clients_wait_for_a_place() {
    let (bench, _gate) = gated(clients(1, patient())).await;
    let wait = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut busy = sent(&bench, wait).await;
    eventually("it is there", || free(&bench) == 0).await;
    let mut new = sent(&bench, GET).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let drained = bench.router.drain(Duration::from_millis(50));
    tokio::time::timeout(SOON, drained).await.unwrap();
    assert!(is_closed(&mut busy).await && is_closed(&mut new).await);
}

#[tokio::test]
async fn http2_frames_that_carry_nothing_end_their_connection_alone() {
    let (bench, _gate) = gated(clients(100, patient())).await;
    let mut neighbour = kept(&bench).await;
    let post = frame(1, 4, 1, b"\x83\x86\x84\x41\x01a");
    let floods = [
        (Vec::new(), frame(6, 0, 0, &[7; 8])),
        (Vec::new(), frame(4, 0, 0, &[0, 3, 0, 0, 0, 100])),
        (Vec::new(), frame(8, 0, 0, &[0, 0, 0, 1])),
        (Vec::new(), frame(2, 0, 5, &[0, 0, 0, 0, 1])),
        (Vec::new(), frame(0xee, 0, 0, b"what")),
        (post.clone(), frame(0, 0, 1, &[])),
        (post, frame(0, 8, 1, &[1, 0])),
        (frame(1, 1, 1, BLOCK), frame(9, 0, 1, &[])),
    ];
    for (first, flood) in floods {
        let stream = sent(&bench, &http2(&[first])).await;
        let (mut reads, mut writes) = stream.into_split();
        let drain = tokio::spawn(async move {
            let mut answers = vec![0; 64 << 10];
            while reads.read(&mut answers).await.is_ok_and(|bytes| bytes > 0) {}
        });
        let many = flood.repeat(500);
        let flooding = async {
            let mut sent = 0;
            while writes.write_all(&many).await.is_ok() {
                sent += 500;
                assert!(sent < 10_000_000, "{flood:?} has no end");
            }
        };
        tokio::time::timeout(SOON, flooding)
            .await
            .expect("it stalls");
        tokio::time::timeout(SOON, drain).await.unwrap().unwrap();
    }
    neighbour.write_all(GET).await.unwrap();
    read_until(&mut neighbour, "hello").await;
    eventually("the others are gone", || free(&bench) == 99).await;
}

#[tokio::test]
async fn chunk_extensions_without_end_are_refused() {
    let bench = Bench::new(echo).await;
    let mut stream = sent(
        &bench,
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;",
    )
    .await;
    let flooding = async {
        let mut sent = 0;
        while stream.write_all(&[b'x'; 4 << 10]).await.is_ok() {
            sent += 4 << 10;
            assert!(sent < 64 << 20, "it has no end");
        }
    };
    tokio::time::timeout(SOON, flooding)
        .await
        .expect("it stalls");
}

#[tokio::test]
async fn with_the_proxy_protocol_each_connection_says_whose_it_is() {
    let per_address = Connections {
        per_address: 1,
        ..patient()
    };
    let proxied = |trusted: &str| ClientLimits {
        trusted_proxies: vec![trusted.parse().unwrap()],
        proxy_protocol: true,
        ..clients(100, per_address)
    };
    let limited = proxied("127.0.0.0/8");
    let bench =
        Bench::for_clients(limited, limits(), vec![fake::dyno("web.1", 10, None, echo)]).await;
    // What the client itself says of earlier hops is not a proxy's word.
    let request =
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n";
    let header = "PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\r\n";
    let (text, _) = bench.raw(&format!("{header}{request}")).await;
    assert!(text.contains("\nx-forwarded-for: 192.0.2.1\n"), "{text}");
    assert!(text.contains("\nx-forwarded-proto: http\n"), "{text}");
    assert!(bench.line().await.contains("fwd=\"192.0.2.1\""));
    // The bound counts who is named.
    let mut first = sent(
        &bench,
        format!("{header}GET / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(),
    )
    .await;
    read_until(&mut first, "\r\n\r\n").await;
    let (second, _) = bench.raw(&format!("{header}{request}")).await;
    assert_eq!(second, "");
    let (other, _) = bench.raw(&format!("PROXY UNKNOWN\r\n{request}")).await;
    assert!(other.starts_with("HTTP/1.1 200 "), "{other}");
    let (none, _) = bench.raw(request).await;
    assert_eq!(none, "", "a connection without a header is closed");
    let bench = Bench::for_clients(
        proxied("10.0.0.0/8"),
        limits(),
        vec![fake::dyno("web.1", 10, None, echo)],
    );
    let (elsewhere, _) = bench.await.raw(&format!("{header}{request}")).await;
    assert_eq!(elsewhere, "", "a connection from elsewhere is closed");
}
