//! Ends in good order: requests under way are finished, what lives long hears of it, and nobody waits for ever.

use super::*;

/// Rolls the app out anew, and waits until that is done.
async fn release(running: &Running, value: &str) {
    let done = running
        .oarlock(&["config", "set", &format!("VALUE={value}")])
        .await;
    assert_eq!(done.code, 0, "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_finishes_requests_and_cuts_websockets_at_stop_grace() {
    let running = up(app("listen-axum", "", 1, "stop_grace = \"3s\"")).await;
    let mut socket = Socket::open(&running).await;
    socket.echo("hello").await;
    let slow = tokio::spawn({
        let url = format!("http://{}/slow", running.address());
        async move { fetch("GET", &url, &[], bytes::Bytes::new()).await }
    });
    logged(&running, "web.1", "slow begins").await;
    release(&running, "1").await;
    assert_eq!(slow.await.unwrap().unwrap().text(), "slow");
    // The old dyno goes on with it for its grace.
    socket.echo("still there").await;
    assert_eq!(running.get("/hello").await.status, 200);
    while socket.hear().await.is_some() {}
    assert_routed(&running, "/ws", "H18", "503", "web.1").await;
    logged(&running, "web.1", "Error R12 (Exit timeout)").await;
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_without_a_drain_of_its_own_ends_when_its_requests_have() {
    let running = up(app("listen-axum", "", 1, "stop_grace = \"30s\"")).await;
    // Some idle connections, which must not hold it.
    futures::future::join_all((0..5).map(|_| running.get("/slow"))).await;
    let began = Instant::now();
    release(&running, "1").await;
    logged(&running, "web.1", "stopped").await;
    logged(&running, "web.1", "Process exited with status 0").await;
    assert!(began.elapsed() < Duration::from_secs(25));
    let lines = log(&running, "web.1").await;
    assert!(!lines.iter().any(|line| line.contains("R12")), "{lines:#?}");
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_and_restarts_under_load_cost_nobody_an_answer() {
    // A server that has one connection after the other must not be sent two requests at once.
    for (guest, limits) in [("listen-std", "concurrency = 1"), ("listen-axum", "")] {
        let running = up(app(guest, "", 2, limits)).await;
        let url = format!("http://{}/hello", running.address());
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (url, stop) = (url.clone(), stop.clone());
                tokio::spawn(async move {
                    let mut served = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let body = bytes::Bytes::from_static(b"");
                        let answer = fetch("GET", &url, &[], body).await.unwrap();
                        assert_eq!(answer.status, 200, "{answer:?}");
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        for value in ["1", "2", "3"] {
            release(&running, value).await;
        }
        assert_eq!(running.oarlock(&["restart", "web"]).await.code, 0);
        assert_eq!(running.oarlock(&["scale", "web=1"]).await.code, 0);
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for client in clients {
            assert!(client.await.unwrap() > 0);
        }
        assert_eq!(running.interrupt().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn max_requests_replaces_a_listening_dyno() {
    let running = up(app("listen-std", "", 1, "max_requests = 20")).await;
    let first = running.get("/who").await.text().to_owned();
    let port = first.split(' ').next().unwrap().to_owned();
    until("another has taken its place", || async {
        let answer = running.get("/who").await;
        assert_eq!(answer.status, 200);
        !answer.text().starts_with(&port)
    })
    .await;
    logged(&running, "web.1", "Replacing the process after").await;
    assert_eq!(running.interrupt().await, Some(0));
}
