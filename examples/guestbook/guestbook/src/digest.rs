//! The digest that the scheduler writes and the page shows.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The book at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    pub at: Timestamp,
    /// Entries ever written.
    pub written: u64,
    /// Of these, since the digest before.
    pub new: u64,
    /// Entries that the worker has indexed.
    pub indexed: u64,
}

impl Digest {
    /// The digest that follows `previous`.
    pub fn next(previous: Option<&Digest>, at: Timestamp, written: u64, indexed: u64) -> Digest {
        let before = previous.map_or(0, |digest| digest.written);
        Digest {
            at,
            written,
            new: written.saturating_sub(before),
            indexed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_counts_what_is_new_since_the_last_one() {
        let first = Digest::next(None, Timestamp::UNIX_EPOCH, 3, 2);
        assert_eq!((first.written, first.new, first.indexed), (3, 3, 2));
        assert_eq!(
            Digest::next(Some(&first), Timestamp::UNIX_EPOCH, 5, 5).new,
            2
        );
    }
}
