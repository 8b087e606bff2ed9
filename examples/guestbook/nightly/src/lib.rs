//! The nightly job: reports, and removes entries older than `KEEP_DAYS`.

use guestbook::Book;
use jiff::{SignedDuration, Timestamp};
use oarlock_sdk::{Result, config};

oarlock_sdk::job!(report);

async fn report() -> Result<()> {
    let keep: u32 = config::var_or("KEEP_DAYS", 30)?;
    let limit = Timestamp::now() - SignedDuration::from_hours(24 * i64::from(keep));
    let book = Book::open()?;
    let removed = book.prune(|entry| entry.at < limit).await?;
    println!(
        "{} entries written so far, {removed} older than {keep} days removed",
        book.last().await?
    );
    Ok(())
}
