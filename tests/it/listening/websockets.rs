//! Upgrades: byte tunnels that are one request.

use tokio::io::AsyncWriteExt as _;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_carries_big_messages_and_is_one_request() {
    let running = up(app("listen-axum", "", 1, "")).await;
    let mut socket = Socket::open(&running).await;
    for n in 0..100 {
        socket.echo(&format!("message {n}")).await;
    }
    let big: Vec<u8> = (0..5_000_000u32).map(|n| (n % 253) as u8).collect();
    let (mut sink, mut stream) = socket.0.split();
    let (sent, heard) = tokio::join!(sink.send(Message::binary(big.clone())), stream.next());
    sent.unwrap();
    assert_eq!(heard.unwrap().unwrap(), Message::binary(big));
    assert_eq!(ps(&running).await[0]["requests"], 1);
    assert!(log(&running, "router").await.is_empty());

    // The client ends it.
    sink.send(Message::Close(None)).await.unwrap();
    let answer = stream.next().await.unwrap().unwrap();
    assert!(answer.is_close(), "{answer:?}");
    while stream.next().await.is_some() {}
    assert_routed(&running, "/ws", "", "101", "web.1").await;
    let lines = log(&running, "router").await;
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let bytes: u64 = Line::parse(&lines[0]).field("bytes").parse().unwrap();
    assert!(bytes > 5_000_000, "{lines:?}");
    assert_eq!(running.get("/hello").await.status, 200);
    assert_eq!(ps(&running).await[0]["requests"], 2);
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_may_end_it_with_and_without_a_word() {
    let running = up(app("listen-axum", "", 1, "")).await;
    for word in ["close", "vanish"] {
        let mut socket = Socket::open(&running).await;
        socket.echo("hello").await;
        socket.say(Message::text(word)).await;
        let last = socket.hear().await;
        assert_eq!(last.is_some_and(|last| last.is_close()), word == "close");
        while socket.hear().await.is_some() {}
    }
    until("both are logged", || async {
        log(&running, "router").await.len() == 2
    })
    .await;
    for line in log(&running, "router").await {
        let line = Line::parse(&line);
        assert!(line.is("at", "info") && line.is("status", "101"));
    }
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_one_ends_after_idle_timeout_and_holds_its_slot_until_then() {
    let limits = "idle_timeout = \"1s\"\nconcurrency = 1\ntimeout = \"500ms\"";
    let running = up(app("listen-axum", "", 1, limits)).await;
    let mut socket = Socket::open(&running).await;
    socket.echo("hello").await;
    assert_refused(&running.get("/hello").await, "H11");
    assert!(socket.hear().await.is_none(), "it is cut");
    assert_routed(&running, "/ws", "H15", "503", "web.1").await;
    assert_eq!(running.get("/hello").await.status, 200);
    // A client that is gone without a word is noticed too.
    let mut socket = Socket::open(&running).await;
    socket.echo("hello").await;
    drop(socket);
    until("its slot is free", || async {
        running.get("/hello").await.status == 200
    })
    .await;
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_an_upgrade_may_be_an_ordinary_one() {
    let running = up(app("listen-axum", "", 1, "")).await;
    let mut stream = TcpStream::connect(running.address()).await.unwrap();
    let request = "GET /hello HTTP/1.1\r\nHost: test.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut raw = Raw(stream);
    let answer = raw.until("Hello from web.1").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_routed(&running, "/hello", "", "200", "web.1").await;

    // A handler knows none.
    let handler = up(app("hello-p2", "", 1, "")).await;
    let url = format!("ws://{}/ws", handler.address());
    let refused = tokio_tungstenite::connect_async(url).await.unwrap_err();
    assert!(refused.to_string().contains("200 OK"), "{refused}");
    assert_eq!(handler.interrupt().await, Some(0));
    assert_eq!(running.interrupt().await, Some(0));
}
