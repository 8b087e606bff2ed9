//! Typed configuration from the environment: the app's config vars and what its add-ons set.
//!
//! ```
//! #[derive(serde::Deserialize)]
//! struct Config {
//!     /// `GREETING`
//!     greeting: Option<String>,
//!     /// `PAGE_SIZE`
//!     #[serde(default = "ten")]
//!     page_size: usize,
//! }
//! fn ten() -> usize { 10 }
//!
//! # fn main() -> Result<(), oarlock_sdk::config::Error> {
//! let config: Config = oarlock_sdk::config::load()?;
//! let app: String = oarlock_sdk::config::var_or("OARLOCK_APP", "guestbook".to_owned())?;
//! # Ok(()) }
//! ```

mod de;

use std::fmt;
use std::str::FromStr;

/// What is wrong with the configuration. It names the variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A variable is not set.
    Missing(String),
    /// A variable's value is not what the app expects. The value is not repeated: it may be a secret.
    Invalid {
        /// The variable.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The type given to [`load`] is not a struct of plain values.
    Unsupported(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Missing(name) => {
                write!(
                    f,
                    "config var {name} is not set; set it with `oarlock config set {name}=…` or below `[config]` in the manifest"
                )
            }
            Error::Invalid { name, reason } => write!(f, "config var {name}: {reason}"),
            Error::Unsupported(what) => write!(f, "configuration: {what}"),
        }
    }
}

impl std::error::Error for Error {}

/// A config var, read as a `T`: a number, a `bool`, a `String`, an address, whatever is [`FromStr`].
///
/// # Errors
/// If it is not set, or not a `T`.
pub fn var<T: FromStr<Err: fmt::Display>>(name: &str) -> Result<T, Error> {
    optional(name)?.ok_or_else(|| Error::Missing(name.to_owned()))
}

/// A config var, or `default` if it is not set.
///
/// # Errors
/// If it is set, but not a `T`.
pub fn var_or<T: FromStr<Err: fmt::Display>>(name: &str, default: T) -> Result<T, Error> {
    Ok(optional(name)?.unwrap_or(default))
}

/// The whole configuration as a struct: field `page_size` is the variable `PAGE_SIZE`.
///
/// Fields may be numbers, `bool`, `char`, `String`, an enum of plain names, an `Option` of these, or a
/// sequence of them, which is a list separated by commas. serde's attributes (`default`, `rename`)
/// work as usual; a renamed field is looked up under its new name in capitals.
///
/// # Errors
/// The first field whose variable is missing or wrong.
pub fn load<T: serde::de::DeserializeOwned>() -> Result<T, Error> {
    load_from(|name| std::env::var(name).ok())
}

/// As [`load`], from anything that has values for names.
///
/// # Errors
/// As [`load`].
pub fn load_from<T: serde::de::DeserializeOwned>(
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<T, Error> {
    T::deserialize(de::Vars { lookup })
}

fn optional<T: FromStr<Err: fmt::Display>>(name: &str) -> Result<Option<T>, Error> {
    std::env::var(name)
        .ok()
        .map(|value| parse(name, &value))
        .transpose()
}

fn parse<T: FromStr<Err: fmt::Display>>(name: &str, value: &str) -> Result<T, Error> {
    value
        .trim()
        .parse()
        .map_err(|error: T::Err| Error::Invalid {
            name: name.to_owned(),
            reason: error.to_string(),
        })
}

#[cfg(test)]
mod tests;
