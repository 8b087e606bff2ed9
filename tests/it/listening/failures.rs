//! Guests and clients that do what they should not.

use tokio::io::AsyncWriteExt as _;

use super::*;

/// `up` of an app whose web dyno does not come; what it prints until then.
async fn fails_to_boot(args: &str, limits: &str, text: &str) {
    let app = app("listen-std", args, 1, limits);
    let mut running = app.up(crate::binary()).spawn();
    running.output.wait_for(text).await;
    assert_ne!(running.wait().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_does_not_listen_in_time_is_r10_and_one_that_exits_has_not_booted() {
    let text = "Error R10 (Boot timeout) -> it did not listen on `$PORT`";
    fails_to_boot("idle", "boot_timeout = \"500ms\"", text).await;
    fails_to_boot("exit", "", "it exited with status 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_answer_is_h13_and_a_late_one_h12() {
    let running = up(app("listen-std", "", 1, "timeout = \"700ms\"")).await;
    for path in ["/silence", "/nonsense", "/switch", "/coded"] {
        assert_refused(&running.get(path).await, "H13");
        // It is not the dyno's end.
        assert_eq!(running.get("/who").await.status, 200);
    }
    logged(&running, "web.1", "answer is not valid HTTP/1.1").await;
    assert_refused(&running.get("/hang").await, "H12");
    assert_eq!(ps(&running).await[0]["restarts"], 0);
    // It is not single-minded for nothing: the next one waits behind that which hangs.
    assert_refused(&running.get("/who").await, "H12");
    drop(running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_cuts_the_answer_however_it_is_framed_and_the_dyno_starts_again() {
    let running = up(app("listen-std", "", 1, "")).await;
    for path in ["/crash", "/crash-unframed", "/old-crash"] {
        let cut = Raw::get(running.address(), path).await.rest().await;
        assert!(
            cut.starts_with("HTTP/1.1 200 ") && cut.contains("part"),
            "{cut}"
        );
        assert!(!cut.ends_with("0\r\n\r\n"), "looks whole: {cut}");
        until("another has started", || async {
            running.get("/who").await.status == 200
        })
        .await;
    }
    logged(&running, "router", "code=H18").await;
    logged(&running, "web.1", "The component trapped").await;
    let lines = log(&running, "router").await;
    assert_eq!(
        lines
            .iter()
            .filter(|line| line.contains("code=H18"))
            .count(),
        3
    );
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_version_frames_what_an_old_server_answers() {
    let running = up(app("listen-std", "", 1, "")).await;
    let stream = TcpStream::connect(running.address()).await;
    let mut kept = Raw(stream.unwrap());
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    kept.0.write_all(get("/old").as_bytes()).await.unwrap();
    let first = kept.until("0\r\n\r\n").await;
    assert!(first.starts_with("HTTP/1.1 200 "), "{first}");
    assert!(first.contains("all of it"), "{first}");
    // The connection is kept for the next one.
    kept.0.write_all(get("/both").as_bytes()).await.unwrap();
    let second = kept.until("0\r\n\r\n").await;
    assert!(
        !second.contains("content-length") && second.contains("2\r\nok\r\n"),
        "{second}"
    );
    let many = Raw::get(running.address(), "/many").await.rest().await;
    assert!(many.contains("x-899: v\r\n"), "{many}");
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_that_is_stopped_while_it_starts_finds_its_port_closed() {
    let app = app("listen-std", "slow", 0, "stop_grace = \"60s\"");
    let running = up(app).await;
    let scaled = running.oarlock(&["scale", "web=1"]).await;
    assert_eq!(scaled.code, 0, "{}", scaled.stderr);
    logged(&running, "web.1", "bound").await;
    let began = Instant::now();
    let scaled = running.oarlock(&["scale", "web=0"]).await;
    assert_eq!(scaled.code, 0, "{}", scaled.stderr);
    logged(&running, "web.1", "accept: ConnectionAborted").await;
    logged(&running, "web.1", "Process exited with status 0").await;
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_stops_listening_is_replaced() {
    let running = up(app("listen-std", "", 1, "")).await;
    assert_eq!(running.get("/stop-listening").await.text(), "bye");
    until("another has started", || async {
        let answer = running.get("/who").await;
        answer.status == 200 && answer.text().ends_with(" 1")
    })
    .await;
    assert_eq!(ps(&running).await[0]["restarts"], 1);
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_ends_its_request_in_the_guest() {
    let running = up(app("listen-axum", "", 1, "")).await;
    for _ in 0..3 {
        let gone = Raw::get(running.address(), "/slow").await;
        logged(&running, "web.1", "slow begins").await;
        until("it is under way", || async {
            running.get("/under-way").await.text() == "1"
        })
        .await;
        drop(gone);
        until("the guest has noticed", || async {
            running.get("/under-way").await.text() == "0"
        })
        .await;
    }
    assert_routed(&running, "/slow", "H27", "499", "web.1").await;
    // One that goes away in the middle of its body, too.
    let mut half = TcpStream::connect(running.address()).await.unwrap();
    let head = "POST /length HTTP/1.1\r\nHost: test.localhost\r\nContent-Length: 100\r\n\r\nhalf";
    half.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(half);
    assert_routed(&running, "/length", "H27", "499", "web.1").await;
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_answer_is_not_lost_with_the_body_that_nobody_reads() {
    let running = up(app("listen-axum", "", 1, "")).await;
    for _ in 0..5 {
        let mut stream = TcpStream::connect(running.address()).await.unwrap();
        let head =
            "POST /refuse HTTP/1.1\r\nHost: test.localhost\r\nContent-Length: 10000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[0; 100_000]).await.unwrap();
        let answer = Raw(stream).until("no, thank you").await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }
    let answer: Answer = running.get("/hello").await;
    assert_eq!(answer.status, 200);
    assert_eq!(running.interrupt().await, Some(0));
}
