//! The worker: says each minute how many visitors there were, until it is told to stop.

use std::time::Duration;

use oarlock_sdk::{Result, Stopping, kv};

oarlock_sdk::worker!(work);

async fn work(stopping: Stopping) -> Result<()> {
    let bucket = kv::open("default")?;
    let mut minutes = stopping.every(Duration::from_secs(60));
    while minutes.tick().await {
        println!("{} visits", bucket.increment("visits", 0).await?);
    }
    Ok(())
}
