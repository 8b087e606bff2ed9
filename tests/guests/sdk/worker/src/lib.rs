//! What the SDK's workers can do, by the first argument.
use std::time::Duration;

use oarlock_sdk::{Result, Stopping, kv, sleep, spawn, timeout};

oarlock_sdk::worker!(work);

async fn work(stopping: Stopping) -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("tick") => tick(stopping).await,
        Some("spin") => spin(&stopping).await,
        Some("race") => {
            let ended = stopping.race(std::future::pending::<()>()).await;
            println!("{}", ended.is_some());
            Ok(())
        }
        Some("spawn") => fan_out().await,
        Some("kv") => store().await,
        Some("fail") => Err("the queue is gone".into()),
        Some("stuck") => {
            std::future::pending::<()>().await;
            Ok(())
        }
        other => Err(format!("unknown argument {other:?}").into()),
    }
}

async fn tick(stopping: Stopping) -> Result<()> {
    let mut ticks = stopping.every(Duration::from_millis(20));
    let mut count = 0;
    while ticks.tick().await {
        count += 1;
        if count == 3 {
            println!("three ticks");
        }
    }
    println!("stopped");
    Ok(())
}

/// A long computation that asks now and then.
async fn spin(stopping: &Stopping) -> Result<()> {
    println!("spinning");
    while !stopping.is_set() {
        std::hint::black_box((0..1000).sum::<u64>());
    }
    println!("heard");
    Ok(())
}

/// Three tasks that wait beside each other, and a root that waits for them.
async fn fan_out() -> Result<()> {
    let (sender, mut results) = oarlock_sdk::Body::channel();
    drop(sender);
    assert!(results.chunk().await?.is_none());
    let done = std::rc::Rc::new(std::cell::Cell::new(0));
    for n in 1..=3_u64 {
        let done = done.clone();
        spawn(async move {
            sleep(Duration::from_millis(5 * n)).await;
            done.set(done.get() + n);
        });
    }
    timeout(Duration::from_secs(60), async {
        while done.get() < 6 {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await?;
    println!("{}", done.get());
    Ok(())
}

async fn store() -> Result<()> {
    let bucket = kv::open("default")?;
    bucket.set("greeting", "hello").await?;
    let greeting = bucket.get("greeting").await?.unwrap_or_default();
    let count = bucket.increment("count", 2).await?;
    let changed = bucket.compare_and_swap("greeting", None, "no").await?;
    println!(
        "{} {count} {:?} {:?}",
        String::from_utf8(greeting)?,
        changed.is_err(),
        bucket.keys("").await?
    );
    Ok(())
}
