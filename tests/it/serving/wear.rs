//! An instance that has served its time is replaced before anything fails, and never the only one that serves.

use std::time::Instant;

use oarlock_tests::app::PATIENCE;

use super::{Raw, Who, app, log, logged, up};

const GUESTS: [&str; 2] = ["handler-p2", "handler-p3"];

/// How many dynos serve after each of these lines.
fn serving(log: &[String]) -> Vec<i32> {
    let changes = log.iter().filter_map(|line| {
        let (from, to) = line
            .strip_prefix("State changed from ")?
            .split_once(" to ")?;
        Some(i32::from(to == "up") - i32::from(from == "up"))
    });
    let mut up = 0;
    let count = changes.map(|change| {
        up += change;
        up
    });
    count.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn max_requests_replaces_instances_one_by_one() {
    for guest in GUESTS {
        let app = app(guest, 2, "isolation = \"dyno\"\nmax_requests = 20");
        let running = up(&app).await;
        let mut replaced = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while replaced.len() < 6 {
            assert!(Instant::now() < deadline, "{guest}: only {replaced:?}");
            for _ in 0..20 {
                // Whole and of status 200, whatever goes on behind it.
                Who::ask(&running).await;
            }
            replaced = log(&running, "web").await;
            replaced.retain(|line| line.contains("as `max_requests` in `[limits]` says"));
        }
        for line in &replaced {
            let served = line.split(' ').find_map(|word| word.parse::<u32>().ok());
            assert!(served.is_some_and(|served| served >= 15), "{guest}: {line}");
        }
        // The other one served all the time.
        let serving = serving(&log(&running, "web").await);
        let least = serving.iter().skip_while(|up| **up < 2).min();
        assert_eq!(least, Some(&2), "{guest}: {serving:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_grew_near_its_memory_limit_is_replaced_before_it_fails() {
    for guest in GUESTS {
        let app = app(guest, 1, "isolation = \"dyno\"\nmemory = \"64 MiB\"");
        let running = up(&app).await;
        let first = Who::ask(&running).await;
        assert_eq!(first.count, 1, "{guest}");
        // What a guest has freed stays its memory.
        assert_eq!(running.get("/alloc/40").await.status, 200, "{guest}");
        assert_eq!(Who::ask(&running).await.count, 2, "{guest}");
        assert_eq!(running.get("/alloc/58").await.status, 200, "{guest}");
        let line = logged(&running, "web", "before it fails").await;
        assert!(line.contains(" of 67108864 bytes"), "{guest}: {line}");
        let deadline = Instant::now() + PATIENCE;
        while Who::ask(&running).await.count > 1 {
            assert!(Instant::now() < deadline, "{guest}: it is still the first");
        }
        let log = log(&running, "web").await;
        assert!(!log.iter().any(|line| line.contains("R14")), "{guest}");
        let least = serving(&log).into_iter().skip_while(|up| *up < 1).min();
        assert_eq!(least, Some(1), "{guest}: {log:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_guest_grows_is_ended_by_the_guest_before_it_fails() {
    let app = app("handler-p3", 1, "isolation = \"dyno\"\nmemory = \"64 MiB\"");
    let running = up(&app).await;
    let stream = Raw::get(running.address(), "/events/58").await;
    let events = stream.rest().await;
    assert!(events.contains("event 3\n"), "{events}");
    assert!(events.ends_with("\r\nbye\n\r\n0\r\n\r\n"), "{events}");
    logged(&running, "web", "before it fails").await;
    let log = log(&running, "web").await;
    assert!(!log.iter().any(|line| line.contains("R14")), "{log:#?}");
}
