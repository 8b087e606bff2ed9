//! The scheduler: writes a digest of the book each minute. It is a singleton, so that no minute has
//! two.

use std::time::Duration;

use guestbook::{Book, Digest};
use jiff::Timestamp;
use oarlock_sdk::{Result, Stopping};

oarlock_sdk::worker!(run);

async fn run(stopping: Stopping) -> Result<()> {
    let book = Book::open()?;
    let mut minutes = stopping.every(Duration::from_secs(60));
    while minutes.tick().await {
        let previous = book.digest().await?;
        let digest = Digest::next(
            previous.as_ref(),
            Timestamp::now(),
            book.last().await?,
            book.indexed().await?,
        );
        book.set_digest(&digest).await?;
        println!(
            "digest: {} entries, {} new, {} indexed",
            digest.written, digest.new, digest.indexed
        );
    }
    Ok(())
}
