//! The worker: puts new entries into the index, so that they can be searched by word.

use std::time::Duration;

use guestbook::Book;
use oarlock_sdk::{Result, Stopping};

oarlock_sdk::worker!(work);

/// How often it looks for new entries.
const PERIOD: Duration = Duration::from_secs(2);

async fn work(stopping: Stopping) -> Result<()> {
    let book = Book::open()?;
    println!("indexing from entry {} on", book.indexed().await? + 1);
    let mut ticks = stopping.every(PERIOD);
    while ticks.tick().await {
        let (first, last) = (book.indexed().await? + 1, book.last().await?);
        let mut count = 0;
        for number in first..=last {
            if stopping.is_set() {
                break; // The next worker goes on here.
            }
            book.index(number).await?;
            count += 1;
        }
        match count {
            0 => {}
            1 => println!("1 entry indexed"),
            _ => println!("{count} entries indexed"),
        }
    }
    println!("stopped");
    Ok(())
}
