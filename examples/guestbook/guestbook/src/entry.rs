//! An entry, and the rules for one.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The longest name, in characters.
pub const NAME_LIMIT: usize = 40;
/// The longest text, in characters.
pub const TEXT_LIMIT: usize = 500;

/// What a visitor wrote, not yet looked at.
#[derive(Debug, Clone, Deserialize)]
pub struct Message {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub text: String,
}

/// An entry of the book. It has passed the rules: [`Entry::new`] is the only way to make one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    pub text: String,
    pub at: Timestamp,
}

/// Why a message cannot become an entry; written for the visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    Empty { field: &'static str },
    TooLong { field: &'static str, limit: usize },
    Control { field: &'static str },
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Invalid::Empty { field } => write!(f, "Please fill in your {field}."),
            Invalid::TooLong { field, limit } => {
                write!(f, "Your {field} may have {limit} characters at most.")
            }
            Invalid::Control { field } => {
                write!(f, "Your {field} contains characters that cannot be shown.")
            }
        }
    }
}

impl std::error::Error for Invalid {}

impl Entry {
    /// Checks a message and makes it an entry of this moment.
    pub fn new(message: &Message, at: Timestamp) -> Result<Entry, Invalid> {
        let name = checked("name", &message.name, NAME_LIMIT)?;
        // Browsers send line ends as CR LF.
        let text = checked("message", &message.text.replace("\r\n", "\n"), TEXT_LIMIT)?;
        Ok(Entry { name, text, at })
    }
}

fn checked(field: &'static str, value: &str, limit: usize) -> Result<String, Invalid> {
    let value = value.trim();
    if value.is_empty() {
        return Err(Invalid::Empty { field });
    }
    if value.chars().count() > limit {
        return Err(Invalid::TooLong { field, limit });
    }
    if value.chars().any(|c| c.is_control() && c != '\n') {
        return Err(Invalid::Control { field });
    }
    Ok(value.to_owned())
}

/// The words of a text that are worth an index: in lower case, each once, of 3 to 40 letters.
pub fn words(text: &str) -> BTreeSet<String> {
    let pieces = text.split(|c: char| !c.is_alphanumeric());
    pieces
        .map(str::to_lowercase)
        .filter(|word| (3..=40).contains(&word.chars().count()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, text: &str) -> Result<Entry, Invalid> {
        Entry::new(
            &Message {
                name: name.into(),
                text: text.into(),
            },
            Timestamp::UNIX_EPOCH,
        )
    }

    #[test]
    fn a_message_becomes_an_entry_without_the_space_around_it() {
        let entry = entry("  Ada ", "Hello,\r\nworld.\n").unwrap();
        assert_eq!(
            (entry.name.as_str(), entry.text.as_str()),
            ("Ada", "Hello,\nworld.")
        );
    }

    #[test]
    fn empty_long_and_unprintable_messages_are_refused() {
        assert_eq!(entry(" ", "hi"), Err(Invalid::Empty { field: "name" }));
        assert_eq!(entry("Ada", "\n"), Err(Invalid::Empty { field: "message" }));
        assert_eq!(
            entry(&"ü".repeat(41), "hi"),
            Err(Invalid::TooLong {
                field: "name",
                limit: 40
            })
        );
        assert!(entry(&"ü".repeat(40), &"x".repeat(500)).is_ok());
        assert_eq!(
            entry("Ada", "a\u{1b}[31m"),
            Err(Invalid::Control { field: "message" })
        );
    }

    #[test]
    fn words_are_lower_case_unique_and_not_tiny() {
        let words: Vec<_> = words("To be, or not to BE: ÜBER-über 100%!")
            .into_iter()
            .collect();
        assert_eq!(words, ["100", "not", "über"]);
    }

    #[test]
    fn an_entry_is_stored_as_readable_json() {
        let json = serde_json::to_string(&entry("Ada", "hi").unwrap()).unwrap();
        assert_eq!(
            json,
            r#"{"name":"Ada","text":"hi","at":"1970-01-01T00:00:00Z"}"#
        );
    }
}
