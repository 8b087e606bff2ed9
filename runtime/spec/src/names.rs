//! Names and ids, each a type of its own, each checked where it is made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name was refused; the text says what a good one looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{text}` is not valid: {rule}")]
pub struct NameError {
    /// What kind of name was expected, as in "app name".
    pub what: &'static str,
    /// The text as it was given.
    pub text: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let ok: fn(&str) -> bool = $check;
                if ok(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError { what: $what, text: text.to_owned(), rule: $rule })
                }
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name_type!(
    /// An app's name: also a DNS label, since an app is served at `<app>.<domain>`.
    AppName,
    "app name",
    "use 1 to 30 of a-z, 0-9 and `-`, starting with a letter and not ending with `-`",
    |s| {
        (1..=30).contains(&s.len())
            && s.starts_with(|c: char| c.is_ascii_lowercase())
            && !s.ends_with('-')
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    }
);

name_type!(
    /// A process type: `web`, `worker`, `release`, …
    ProcessType,
    "process type",
    "use 1 to 30 of a-z, A-Z, 0-9, `-` and `_`, starting with a letter",
    |s| {
        (1..=30).contains(&s.len())
            && s.starts_with(|c: char| c.is_ascii_alphabetic())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    }
);

name_type!(
    /// An add-on's name within its app.
    AddonName,
    "add-on name",
    "use 1 to 30 of a-z, 0-9, `-` and `_`, starting with a letter",
    |s| {
        (1..=30).contains(&s.len())
            && s.starts_with(|c: char| c.is_ascii_lowercase())
            && s.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    }
);

name_type!(
    /// A slug's id: the SHA-256 of its contents, 64 lower-case hexadecimal digits.
    SlugId,
    "slug id",
    "use 64 lower-case hexadecimal digits",
    |s| s.len() == 64 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
);

impl ProcessType {
    /// Whether this is `web`, the type that the router sends requests to.
    pub fn is_web(&self) -> bool {
        self.as_str() == "web"
    }

    /// Whether this is `release`, the type that runs in the release phase.
    pub fn is_release(&self) -> bool {
        self.as_str() == "release"
    }
}

/// A dyno's name: its process type and its number, as in `web.1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DynoName {
    /// The process type; `run` for a one-off dyno of a component that is no process type.
    pub process: ProcessType,
    /// From 1 up within the formation; random from 1000 up for one-off, scheduled and release dynos.
    pub index: u32,
}

impl fmt::Display for DynoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.process, self.index))
    }
}

impl FromStr for DynoName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError {
            what: "dyno name",
            text: text.to_owned(),
            rule: "use a process type, a dot and a number, as in `web.1`",
        };
        let (process, index) = text.rsplit_once('.').ok_or_else(wrong)?;
        Ok(Self {
            process: process.parse().map_err(|_| wrong())?,
            index: index.parse().map_err(|_| wrong())?,
        })
    }
}

impl TryFrom<String> for DynoName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<DynoName> for String {
    fn from(name: DynoName) -> String {
        name.to_string()
    }
}

/// A release's number within its app; shown as `v12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseId(pub u64);

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("v{}", self.0))
    }
}

impl FromStr for ReleaseId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        text.strip_prefix('v')
            .unwrap_or(text)
            .parse()
            .map(Self)
            .map_err(|_| NameError {
                what: "release",
                text: text.to_owned(),
                rule: "use `v` and a number, as in `v12`",
            })
    }
}

impl TryFrom<String> for ReleaseId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ReleaseId> for String {
    fn from(id: ReleaseId) -> String {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: FromStr>(good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(text.parse::<T>().is_ok(), "{text:?} should be good");
        }
        for text in bad {
            assert!(text.parse::<T>().is_err(), "{text:?} should be bad");
        }
    }

    #[test]
    fn each_name_has_its_rule() {
        let (longest, too_long) = ("a".repeat(30), "a".repeat(31));
        check::<AppName>(
            &["a", "guestbook", "my-app-2", &longest],
            &[
                "", "-a", "a-", "A", "2a", "a_b", "a.b", "ä", "a b", &too_long,
            ],
        );
        check::<ProcessType>(
            &["web", "Worker_2", "a-b", &longest],
            &["", "1web", "-web", "we b", "web.1", "wéb", &too_long],
        );
        check::<AddonName>(
            &["db", "my_db-2", &longest],
            &["", "DB", "2db", "d b", "d.b", &too_long],
        );
        let hash = "0123456789abcdef".repeat(4);
        check::<SlugId>(
            &[&hash],
            &["", &hash[1..], &hash.to_uppercase(), &"g".repeat(64)],
        );
    }

    #[test]
    fn dynos_and_releases_are_read_as_they_are_printed() {
        let dyno: DynoName = "my-worker.12".parse().unwrap();
        assert_eq!((dyno.process.as_str(), dyno.index), ("my-worker", 12));
        assert_eq!(dyno.to_string(), "my-worker.12");
        assert_eq!(format!("[{dyno:>14}]"), "[  my-worker.12]");
        check::<DynoName>(
            &["web.1", "run.4294967295"],
            &[
                "",
                "web",
                "web.",
                ".1",
                "web.-1",
                "web.x",
                "web.4294967296",
                "a.b.1",
            ],
        );
        assert_eq!("v12".parse::<ReleaseId>().unwrap(), ReleaseId(12));
        assert_eq!("12".parse::<ReleaseId>().unwrap().to_string(), "v12");
        check::<ReleaseId>(&["v0"], &["", "v", "w12", "v-1", "v1.2", "vv1"]);
    }

    #[test]
    fn a_refused_name_says_what_a_good_one_looks_like() {
        let error = "My App".parse::<AppName>().unwrap_err();
        let rule =
            "use 1 to 30 of a-z, 0-9 and `-`, starting with a letter and not ending with `-`";
        assert_eq!(
            error.to_string(),
            format!("app name `My App` is not valid: {rule}")
        );
        assert!(serde_json::from_str::<AppName>("\"My App\"").is_err());
    }
}
