//! `web = 3` is three, and `scale` adds or ends exactly one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use oarlock_tests::app::{PATIENCE, Running};

use super::{Who, app, assert_refused, assert_routed, up};

/// Requests after which each of a few dynos has answered, beyond any doubt: each takes one of them at random.
const ENOUGH: usize = 80;

/// A dyno, as `ps` shows it: name, and what changes when it is another.
async fn dynos(running: &Running) -> BTreeMap<String, (String, u64)> {
    let done = running.oarlock(&["ps", "--json"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&done.stdout).unwrap();
    rows.iter()
        .filter(|row| row["state"] != "stopping")
        .map(|row| {
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            let restarts = row["restarts"].as_u64().unwrap();
            (text("dyno"), (text("since"), restarts))
        })
        .collect()
}

/// The same, once they are these and all are up.
async fn settled(running: &Running, names: &[&str]) -> BTreeMap<String, (String, u64)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let done = running.oarlock(&["ps", "--json"]).await;
        let found = dynos(running).await;
        if found.keys().eq(names) && !done.stdout.contains("\"starting\"") {
            return found;
        }
        assert!(Instant::now() < deadline, "not {names:?}: {found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Who answers, and the counts that each said, in their order.
async fn answers(running: &Running) -> BTreeMap<String, Vec<u64>> {
    let mut counts = BTreeMap::<String, Vec<u64>>::new();
    for _ in 0..ENOUGH {
        let who = Who::ask(running).await;
        counts.entry(who.dyno).or_default().push(who.count);
    }
    counts
}

async fn scale(running: &Running, to: &str) {
    let done = running.oarlock(&["scale", to]).await;
    assert_eq!(done.code, 0, "{done:?}");
}

async fn three_are_three(guest: &str, isolation: &str) {
    let app = app(guest, 3, &format!("isolation = \"{isolation}\""));
    let running = up(&app).await;
    let three = settled(&running, &["web.1", "web.2", "web.3"]).await;
    let mut counts = answers(&running).await;
    assert!(counts.keys().eq(three.keys()), "{counts:?}");
    for counts in counts.values() {
        if isolation == "dyno" {
            // Its own, and only its own, since its start.
            assert!(
                counts.iter().copied().eq(1..=counts.len() as u64),
                "{counts:?}"
            );
        } else {
            assert!(counts.iter().all(|count| *count == 1), "{counts:?}");
        }
    }

    scale(&running, "web=4").await;
    let four = settled(&running, &["web.1", "web.2", "web.3", "web.4"]).await;
    assert!(three.iter().all(|(name, seen)| four[name] == *seen));
    scale(&running, "web=2").await;
    let two = settled(&running, &["web.1", "web.2"]).await;
    assert!(two.iter().all(|(name, seen)| three[name] == *seen));
    let after = answers(&running).await;
    assert_eq!(
        after.keys().collect::<BTreeSet<_>>(),
        two.keys().collect::<BTreeSet<_>>()
    );
    if isolation == "dyno" {
        // They are the same instances, and have lost nothing.
        for (dyno, later) in after {
            let counts = counts.get_mut(&dyno).unwrap();
            counts.extend(later);
            assert!(
                counts.iter().copied().eq(1..=counts.len() as u64),
                "{dyno}: {counts:?}"
            );
        }
    }

    scale(&running, "web=0").await;
    assert_refused(&running.get("/none").await, "H14");
    assert_routed(&running, "/none", "H14", "503", "").await;
    scale(&running, "web=1").await;
    assert_eq!(Who::ask(&running).await.dyno, "web.1");
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_are_three_of_wasi_0_2_with_an_instance_per_request() {
    three_are_three("handler-p2", "request").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_are_three_of_wasi_0_2_with_an_instance_each() {
    three_are_three("handler-p2", "dyno").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_are_three_of_wasi_0_3_with_an_instance_per_request() {
    three_are_three("handler-p3", "request").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_are_three_of_wasi_0_3_with_an_instance_each() {
    three_are_three("handler-p3", "dyno").await;
}
