//! Guests that cannot be interrupted in time go on by threads of low priority.

use std::time::{Duration, Instant};

use oarlock_sandbox::{CallError, Sandbox};

use super::fresh::gone;
use super::{LONG, Setup, get, soon, text};

/// What the guest fills, and itself, in MiB.
const MEMORY: u64 = 240;

fn slow_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names
        .filter(|name| name.starts_with("oarlock-slow"))
        .count()
}

/// Waits until the dyno's log says that it was moved.
async fn moved(setup: &Setup) {
    let limit = tokio::time::Instant::now() + LONG;
    while !setup
        .log
        .remarks
        .lock()
        .unwrap()
        .iter()
        .any(|text| text.contains("low priority"))
    {
        assert!(tokio::time::Instant::now() < limit, "it stays on its core");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_guest_that_fills_much_memory_is_moved_and_answers() {
    let setup = Setup::new().memory(MEMORY);
    let sandbox = setup.sandbox("hoard-p2");
    let (first, ()) = tokio::join!(sandbox.call(get("/fill/1500")), moved(&setup));
    assert_eq!(text(first).await, "filled");
    assert!(slow_threads() > 0);
    // What comes now starts there, reused instances as well.
    assert_eq!(text(soon(sandbox.call(get("/"))).await).await, "hello");
    let instance = soon(sandbox.start()).await.unwrap();
    for path in ["/fill/50", "/write/3", "/"] {
        let answer = soon(instance.call(get(path))).await;
        assert!(!text(answer).await.is_empty());
    }
    drop(instance);
    gone(&sandbox).await;
}

#[tokio::test]
async fn a_guest_that_was_moved_is_ended_like_any_other() {
    let setup = Setup::new().memory(MEMORY);
    let sandbox = setup.sandbox("hoard-p2");
    let call = tokio::spawn({
        let sandbox = sandbox.clone();
        async move { sandbox.call(get("/fill/3600000")).await }
    });
    moved(&setup).await;
    call.abort();
    gone(&sandbox).await;
    let call = tokio::spawn({
        let sandbox = sandbox.clone();
        async move { sandbox.call(get("/fill/3600000")).await }
    });
    while sandbox.meter().requests() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    soon(sandbox.end_calls()).await;
    let error = soon(call).await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Ended(_)), "{error}");
}

/// Prints what neighbours of such guests wait: `-- --ignored neighbours --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
async fn neighbours() {
    let neighbour = Setup::new().sandbox("hello-p2");
    let measure = async |with: &str| {
        let mut times = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            let call = Instant::now();
            assert_eq!(text(neighbour.call(get("/")).await).await, "Hello, Oarlock");
            times.push(call.elapsed());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.sort();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
        println!(
            "{with}: {} requests, p50 {:?}, p99 {:?}, most {:?}",
            times.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    };
    measure("alone").await;
    let hoard = Setup::new().memory(MEMORY).sandbox("hoard-p2");
    let calls: Vec<_> = (0..10).map(|_| busy(&hoard)).collect();
    measure("beside 10 instances that fill 200 MiB each").await;
    measure("the same, later").await;
    for call in calls {
        call.abort();
    }
}

fn busy(sandbox: &Sandbox) -> tokio::task::JoinHandle<()> {
    let sandbox = sandbox.clone();
    tokio::spawn(async move {
        drop(sandbox.call(get("/fill/3600000")).await);
    })
}
