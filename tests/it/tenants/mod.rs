//! Tenants: apps of one host that do not trust each other, their add-ons, and guests of any make, all
//! over the real binary.

mod apart;
mod builds;
mod caps;
mod endpoints;
mod fetches;
mod folders;
mod foreign;
mod guestbook;
mod kv;
mod servers;
mod starts;
mod work;

use std::time::{Duration, Instant};

use oarlock_tests::app::PATIENCE;

/// Waits until something is so.
async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !so().await {
        assert!(start.elapsed() < PATIENCE, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
