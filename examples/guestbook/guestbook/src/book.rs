//! Where the entries are: the app's kv add-on.
//!
//! | key | value |
//! |---|---|
//! | `schema` | the version of this layout |
//! | `entry/00000001` … | an [`Entry`] as JSON; numbers have no gaps but those that `prune` left |
//! | `last` | the number of the newest entry |
//! | `indexed` | the number of the newest entry in the index |
//! | `word/hello` | the numbers of the entries with that word, as JSON |
//! | `digest` | the last [`Digest`] as JSON |

use oarlock_sdk::{Result, kv};

use crate::{Digest, Entry, words};

/// The version of the layout above. The release phase brings the data to it.
pub const SCHEMA: u64 = 2;

/// The guestbook.
pub struct Book {
    kv: kv::Bucket,
}

impl Book {
    pub fn open() -> Result<Book> {
        Ok(Book {
            kv: kv::open("default")?,
        })
    }

    /// Adds an entry; its number.
    ///
    /// Several web dynos may do this at once. The number after the last is free for one of them: who
    /// loses tries the next. So numbers have no gaps, whoever is interrupted where.
    pub async fn add(&self, entry: &Entry) -> Result<u64> {
        let value = serde_json::to_vec(entry)?;
        let mut number = self.last().await? + 1;
        while self
            .kv
            .compare_and_swap(&entry_key(number), None, &value)
            .await?
            .is_err()
        {
            number += 1;
        }
        self.kv
            .update("last", |last| parse(last).max(number).to_string().into())
            .await?;
        Ok(number)
    }

    /// The newest entries, newest first, with their numbers.
    pub async fn newest(&self, limit: u64) -> Result<Vec<(u64, Entry)>> {
        let last = self.last().await?;
        let first = last.saturating_sub(limit) + 1;
        self.entries((first..=last).rev().collect()).await
    }

    /// The newest entries that contain a word, newest first.
    pub async fn search(&self, word: &str, limit: usize) -> Result<Vec<(u64, Entry)>> {
        let Some(word) = words(word).into_iter().next() else {
            return Ok(Vec::new());
        };
        let mut numbers: Vec<u64> = self
            .kv
            .get_json(&word_key(&word))
            .await?
            .unwrap_or_default();
        numbers.reverse();
        numbers.truncate(limit);
        self.entries(numbers).await
    }

    /// One entry, if it is (still) there.
    pub async fn entry(&self, number: u64) -> Result<Option<Entry>> {
        self.kv.get_json(&entry_key(number)).await
    }

    /// The number of the newest entry: how many were ever written.
    pub async fn last(&self) -> Result<u64> {
        self.number("last").await
    }

    /// The number of the newest entry in the index.
    pub async fn indexed(&self) -> Result<u64> {
        self.number("indexed").await
    }

    /// Puts an entry into the index. Doing it twice changes nothing, so it may be interrupted.
    pub async fn index(&self, number: u64) -> Result<()> {
        if let Some(entry) = self.entry(number).await? {
            for word in words(&entry.text) {
                self.kv
                    .update(&word_key(&word), |old| with_number(old, number))
                    .await?;
            }
        }
        Ok(self.kv.set("indexed", number.to_string()).await?)
    }

    /// Removes the entries for which `is_old` holds, starting with the oldest; how many.
    pub async fn prune(&self, is_old: impl Fn(&Entry) -> bool) -> Result<usize> {
        let mut removed = Vec::new();
        for key in self.kv.keys("entry/").await? {
            match self.kv.get_json::<Entry>(&key).await? {
                Some(entry) if is_old(&entry) => removed.push(key),
                _ => break,
            }
        }
        self.kv.delete_many(&removed).await?;
        Ok(removed.len())
    }

    /// The last digest.
    pub async fn digest(&self) -> Result<Option<Digest>> {
        self.kv.get_json("digest").await
    }

    pub async fn set_digest(&self, digest: &Digest) -> Result<()> {
        self.kv.set_json("digest", digest).await
    }

    /// The version of the layout that the data has; `None`: there is no data yet.
    pub async fn schema(&self) -> Result<Option<u64>> {
        Ok(self
            .kv
            .get("schema")
            .await?
            .map(|value| parse(Some(&value))))
    }

    pub async fn set_schema(&self, version: u64) -> Result<()> {
        Ok(self.kv.set("schema", version.to_string()).await?)
    }

    /// Makes the worker index everything again.
    pub async fn restart_index(&self) -> Result<()> {
        self.kv.delete_many(&self.kv.keys("word/").await?).await?;
        Ok(self.kv.delete("indexed").await?)
    }

    async fn entries(&self, numbers: Vec<u64>) -> Result<Vec<(u64, Entry)>> {
        let keys: Vec<_> = numbers.iter().copied().map(entry_key).collect();
        let mut entries = Vec::new();
        for (number, value) in numbers.into_iter().zip(self.kv.get_many(&keys).await?) {
            // The index may still name an entry that was pruned.
            if let Some(value) = value {
                entries.push((number, serde_json::from_slice(&value)?));
            }
        }
        Ok(entries)
    }

    async fn number(&self, key: &str) -> Result<u64> {
        Ok(parse(self.kv.get(key).await?.as_deref()))
    }
}

/// Numbers have eight digits, so that keys sort as they do.
fn entry_key(number: u64) -> String {
    format!("entry/{number:08}")
}

fn word_key(word: &str) -> String {
    format!("word/{word}")
}

/// A number as it is stored; an absent one is 0.
fn parse(value: Option<&[u8]>) -> u64 {
    value
        .and_then(|value| std::str::from_utf8(value).ok())
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// The JSON list `old` with `number` in it, once and in order.
fn with_number(old: Option<&[u8]>, number: u64) -> Vec<u8> {
    let mut numbers: Vec<u64> = old
        .and_then(|old| serde_json::from_slice(old).ok())
        .unwrap_or_default();
    if let Err(place) = numbers.binary_search(&number) {
        numbers.insert(place, number);
    }
    let numbers: Vec<_> = numbers.iter().map(u64::to_string).collect();
    format!("[{}]", numbers.join(",")).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_numbers_do() {
        assert!(entry_key(9) < entry_key(10));
        assert_eq!(entry_key(42), "entry/00000042");
    }

    #[test]
    fn indexing_twice_changes_nothing() {
        let once = with_number(Some(b"[1,7]"), 3);
        assert_eq!(once, b"[1,3,7]");
        assert_eq!(with_number(Some(&once), 3), once);
        assert_eq!(with_number(None, 3), b"[3]");
    }

    #[test]
    fn an_absent_number_is_zero() {
        assert_eq!((parse(None), parse(Some(b"12"))), (0, 12));
    }
}
