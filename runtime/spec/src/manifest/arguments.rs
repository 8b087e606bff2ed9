//! Arguments of a process line, which name variables of the process's environment.
//!
//! `$NAME`, `${NAME}` and `${NAME:-word}` are replaced when a dyno starts, as a shell does it: an unset variable is empty, and
//! the value of an unquoted one is parted at blanks. Nothing else is expanded: no values in their turn, no file names, no
//! commands. The component, which is the line's first word, is never expanded: config must not choose the program.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One word of a process line after the component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Argument {
    /// As it is.
    Plain(String),
    /// Made of pieces when a dyno starts; there is a variable among them.
    Made(Vec<Piece>),
}

/// A part of an argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    /// As it is.
    Text(String),
    /// The value of a variable.
    Variable {
        /// Its name.
        name: String,
        /// What stands for it if it is unset or empty.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        default: Option<String>,
        /// It stands within double quotes, and is not parted at blanks.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        quoted: bool,
    },
}

impl Argument {
    /// Of these pieces.
    pub(crate) fn of(pieces: Vec<Piece>) -> Self {
        if pieces
            .iter()
            .any(|piece| matches!(piece, Piece::Variable { .. }))
        {
            return Self::Made(pieces);
        }
        let texts = pieces.into_iter().map(|piece| match piece {
            Piece::Text(text) => text,
            Piece::Variable { name, .. } => name,
        });
        Self::Plain(texts.collect())
    }

    /// The names of the variables in it.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        let pieces = match self {
            Self::Plain(_) => &[],
            Self::Made(pieces) => pieces.as_slice(),
        };
        pieces.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Variable { name, .. } => Some(name.as_str()),
        })
    }

    /// How many bytes it makes at most; nothing is made for that.
    pub fn length<'v>(&self, value: impl Fn(&str) -> Option<&'v str>) -> usize {
        let pieces = match self {
            Self::Plain(text) => return text.len(),
            Self::Made(pieces) => pieces,
        };
        let lengths = pieces.iter().map(|piece| match piece {
            Piece::Text(text) => text.len(),
            Piece::Variable { name, default, .. } => {
                let default = default.as_deref().map_or(0, str::len);
                value(name).map_or(0, str::len).max(default)
            }
        });
        lengths.fold(0, usize::saturating_add)
    }

    /// The arguments that it makes: mostly one; none, where all there is are unquoted variables without a value.
    pub fn expand<'v>(&self, value: impl Fn(&str) -> Option<&'v str>) -> Vec<String> {
        let pieces = match self {
            Self::Plain(text) => return vec![text.clone()],
            Self::Made(pieces) => pieces,
        };
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        for piece in pieces {
            match piece {
                Piece::Text(text) => word.get_or_insert_default().push_str(text),
                Piece::Variable {
                    name,
                    default,
                    quoted,
                } => {
                    let set = value(name).filter(|value| default.is_none() || !value.is_empty());
                    let value = set.or(default.as_deref()).unwrap_or_default();
                    if *quoted {
                        word.get_or_insert_default().push_str(value);
                    } else {
                        part(value, &mut word, &mut words);
                    }
                }
            }
        }
        words.extend(word);
        words
    }
}

/// Adds a value that is parted at blanks to the word under way.
fn part(value: &str, word: &mut Option<String>, words: &mut Vec<String>) {
    for (nth, part) in value.split([' ', '\t', '\n']).enumerate() {
        if nth > 0 {
            words.extend(word.take());
        }
        if !part.is_empty() {
            word.get_or_insert_default().push_str(part);
        }
    }
}

/// As it stands in the line, though perhaps quoted otherwise.
impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pieces = match self {
            Self::Plain(text) => return f.write_str(text),
            Self::Made(pieces) => pieces,
        };
        for piece in pieces {
            match piece {
                Piece::Text(text) => f.write_str(text)?,
                Piece::Variable {
                    name,
                    default: None,
                    ..
                } => write!(f, "${{{name}}}")?,
                Piece::Variable {
                    name,
                    default: Some(default),
                    ..
                } => write!(f, "${{{name}:-{default}}}")?,
            }
        }
        Ok(())
    }
}

impl From<&str> for Argument {
    fn from(text: &str) -> Self {
        Self::Plain(text.to_owned())
    }
}

/// What a `$` begins, and how many bytes of `rest`, which follows it, belong to it. `None`: the `$` is only itself.
///
/// # Errors
/// If a brace is opened, and there is no variable in it.
pub(crate) fn variable(rest: &str, quoted: bool) -> Result<Option<(Piece, usize)>, ()> {
    let variable = |name: &str, default: Option<&str>| Piece::Variable {
        name: name.to_owned(),
        default: default.map(str::to_owned),
        quoted,
    };
    if let Some(inside) = rest.strip_prefix('{') {
        let end = inside.find('}').ok_or(())?;
        let inside = inside.get(..end).unwrap_or_default();
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if name_length(name) != name.len() || name.is_empty() {
            return Err(());
        }
        return Ok(Some((variable(name, default), end + 2)));
    }
    let length = name_length(rest);
    let name = rest.get(..length).unwrap_or_default();
    Ok((length > 0).then(|| (variable(name, None), length)))
}

/// How many bytes of a text are a variable's name.
fn name_length(text: &str) -> usize {
    let is_name = |(at, c): (usize, char)| {
        c == '_' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit())
    };
    let end = text.char_indices().find(|it| !is_name(*it));
    end.map_or(text.len(), |(at, _)| at)
}
