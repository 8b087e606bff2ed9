//! Guests that go on after their answers: the client has its answer at once, and the slot is taken until they are done.

use std::time::Instant;

use oarlock_tests::app::{PATIENCE, Running};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{app, assert_routed, log, logged, up};

const GUESTS: [&str; 2] = ["handler-p2", "handler-p3"];

/// One connection for all requests.
struct Kept(TcpStream);

impl Kept {
    async fn new(running: &Running) -> Self {
        Self(TcpStream::connect(running.address()).await.unwrap())
    }

    /// A whole answer, head and body.
    async fn get(&mut self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: test.localhost\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        loop {
            let read = tokio::time::timeout(PATIENCE, self.0.read_buf(&mut all));
            assert!(read.await.expect("an answer").unwrap() > 0, "{path}");
            let text = String::from_utf8_lossy(&all);
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                let is_length = name.eq_ignore_ascii_case("content-length");
                is_length.then(|| value.parse::<usize>().unwrap())
            });
            let whole = match length {
                Some(length) => body.len() == length,
                None => body.ends_with("0\r\n\r\n"),
            };
            if whole {
                return text.into_owned();
            }
        }
    }
}

/// The memory of all instances of web.1 together.
async fn memory(running: &Running) -> u64 {
    let done = running.oarlock(&["ps", "--json"]).await;
    let rows: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    let rows = rows.as_array().unwrap();
    let web = rows.iter().find(|row| row["dyno"] == "web.1").unwrap();
    web["memory_bytes"].as_u64().unwrap()
}

/// Waits until no instance of web.1 is left.
async fn none_left(running: &Running) {
    let deadline = Instant::now() + PATIENCE;
    while memory(running).await > 0 {
        assert!(Instant::now() < deadline, "an instance lives on");
    }
}

fn assert_busy(answer: &str) {
    let head = answer.to_lowercase();
    assert!(head.starts_with("http/1.1 503 "), "{answer}");
    assert!(head.contains("oarlock-error: h11\r\n"), "{answer}");
    assert!(head.contains("retry-after: 1\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_goes_on_after_its_answer_keeps_its_slot_and_is_ended() {
    for guest in GUESTS {
        for path in ["/after/3600000", "/after-spin"] {
            let app = app(
                guest,
                1,
                "isolation = \"request\"\nconcurrency = 2\nqueue = 0\nafter_response = \"4s\"",
            );
            let running = up(&app).await;
            let mut kept = Kept::new(&running).await;
            for _ in 0..2 {
                let answer = kept.get(path).await;
                assert!(answer.starts_with("HTTP/1.1 200 "), "{guest}: {answer}");
                assert!(answer.contains("answered"), "{guest}: {answer}");
            }
            // The same connection, at once: it is the dyno that has no slot.
            assert_busy(&kept.get(path).await);
            // Its line is written when the answer is complete, not when its guest is done.
            assert_routed(&running, path, "H11", "503", "").await;
            assert_routed(&running, path, "", "200", "web.1").await;
            logged(
                &running,
                "web.1",
                "it went on for more than 4 seconds after its response",
            )
            .await;
            none_left(&running).await;
            let answer = kept.get("/counter").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{guest}: {answer}");
            // An end that the host chose is no failure of the answer.
            let routed = log(&running, "router").await;
            let failed = routed.iter().filter(|line| line.contains("at=error"));
            assert_eq!(failed.count(), 1, "{guest}: {routed:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_never_more_instances_than_slots() {
    for guest in GUESTS {
        let app = app(
            guest,
            1,
            "isolation = \"request\"\nconcurrency = 3\nqueue = 4\nafter_response = \"30s\"",
        );
        let running = up(&app).await;
        assert!(
            Kept::new(&running)
                .await
                .get("/after/5000")
                .await
                .contains("answered")
        );
        let one = memory(&running).await;
        assert!(one > 0, "{guest}");
        none_left(&running).await;

        let mut clients = Vec::new();
        for _ in 0..24 {
            let mut kept = Kept::new(&running).await;
            clients.push(tokio::spawn(async move {
                let mut codes = Vec::new();
                for _ in 0..3 {
                    let answer = kept.get("/after/200").await;
                    if answer.contains("answered") {
                        codes.push(200);
                    } else {
                        assert_busy(&answer);
                        codes.push(503);
                    }
                }
                codes
            }));
        }
        while !clients.iter().all(tokio::task::JoinHandle::is_finished) {
            let now = memory(&running).await;
            assert!(now <= 3 * one, "{guest}: {now} bytes, {one} of each");
        }
        let mut codes = Vec::new();
        for client in clients {
            codes.extend(client.await.unwrap());
        }
        // Slots and queue were full, and those who were in them were served.
        let served = codes.iter().filter(|code| **code == 200).count();
        assert!(served >= 7 && served < codes.len(), "{guest}: {codes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_of_a_dyno_that_goes_on_for_too_long_is_replaced() {
    for guest in GUESTS {
        for path in ["/after/3600000", "/after-spin"] {
            let app = app(guest, 1, "isolation = \"dyno\"\nafter_response = \"500ms\"");
            let running = up(&app).await;
            let answer = running.get(path).await;
            assert_eq!((answer.status, answer.text()), (200, "answered"), "{guest}");
            logged(
                &running,
                "web.1",
                "it went on for more than 0.5 seconds after its response",
            )
            .await;
            // Another instance, which has counted nothing yet, has taken its place.
            let deadline = Instant::now() + PATIENCE;
            loop {
                let answer = running.get("/counter").await;
                if answer.status == 200 {
                    assert_eq!(answer.text(), "1", "{guest} {path}");
                    break;
                }
                assert!(Instant::now() < deadline, "{guest} {path}: {answer:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_work_after_answers_no_longer_than_stop_grace() {
    for guest in GUESTS {
        for isolation in ["request", "dyno"] {
            let limits = format!(
                "isolation = \"{isolation}\"\nstop_grace = \"1s\"\nafter_response = \"1h\""
            );
            let app = app(guest, 1, &limits);
            let running = up(&app).await;
            let answer = running.get("/after/3600000").await;
            assert_eq!((answer.status, answer.text()), (200, "answered"), "{guest}");
            let restarted = running.oarlock(&["restart", "web.1"]).await;
            assert_eq!(restarted.code, 0, "{restarted:?}");
            logged(&running, "web.1", "Error R12").await;
            assert_eq!(
                running.get("/counter").await.text(),
                "1",
                "{guest} {isolation}"
            );
        }
    }
}
