//! The release phase: brings the stored data to the schema that this release's code expects, before
//! any of its dynos starts. It may be interrupted at any step and run again.

use guestbook::{Book, SCHEMA};
use oarlock_sdk::Result;

oarlock_sdk::job!(migrate);

async fn migrate() -> Result<()> {
    let book = Book::open()?;
    let mut version = match book.schema().await? {
        Some(version) => version,
        None => {
            book.set_schema(SCHEMA).await?;
            println!("a new book, schema {SCHEMA}");
            return Ok(());
        }
    };
    if version > SCHEMA {
        return Err(format!(
            "the data has schema {version} and this release knows {SCHEMA} at most; deploy a newer one, or restore a backup"
        )
        .into());
    }
    while version < SCHEMA {
        step(&book, version).await?;
        version += 1;
        book.set_schema(version).await?;
        println!("schema {version}");
    }
    println!("schema {SCHEMA} is current");
    Ok(())
}

/// One step up from `version`. The old release is still serving: a step must leave it working.
async fn step(book: &Book, version: u64) -> Result<()> {
    match version {
        // Schema 2 indexes words with accents too: let the worker read all entries again.
        1 => book.restart_index().await,
        other => Err(format!("there is no step up from schema {other}").into()),
    }
}
