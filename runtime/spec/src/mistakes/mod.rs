//! Mistakes of a file that a person wrote: where, what, and what to write instead. All of a file's
//! mistakes are found in one run; `Display` prints them with the source line and a caret.
//!
//! Bounds: a file of at most [`MAX_FILE_BYTES`], of which at most [`MAX_SHOWN`] mistakes are kept.

mod findings;
mod render;

use serde::Serialize;

pub(crate) use findings::{Findings, Source, Span, brief};

/// The longest manifest, Procfile or policy that is read, in bytes (256 KiB).
pub const MAX_FILE_BYTES: usize = 256 * 1024;

/// So many mistakes of one file are kept; the rest is counted.
pub const MAX_SHOWN: usize = 100;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// From 1 up.
    pub line: u32,
    /// In characters, from 1 up.
    pub column: u32,
    /// The offending text, cut to one line; empty where something is missing, or secret.
    pub text: String,
    /// What is wrong, without a full stop.
    pub message: String,
    /// What to write instead, where that is known.
    pub suggestion: Option<String>,
    /// The whole line it is on, for the caret; empty where nothing is to be shown.
    #[serde(skip)]
    source_line: String,
}

impl Mistake {
    /// The message and the suggestion as one sentence.
    pub fn sentence(&self) -> String {
        match &self.suggestion {
            Some(help) if help.starts_with("did you mean") => format!("{}, {help}", self.message),
            Some(help) => format!("{}; {help}", self.message),
            None => self.message.clone(),
        }
    }
}

/// Why a file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileErrors {
    /// It was not read at all.
    #[error(
        "{file} has {bytes} bytes; at most {MAX_FILE_BYTES} (256 KiB) are read, so move data out of it"
    )]
    TooLarge {
        /// As given to [`FileErrors::in_file`]; the usual name otherwise.
        file: String,
        /// How long it is.
        bytes: usize,
    },
    /// It was read, and these are all its mistakes.
    #[error(transparent)]
    Mistakes(Mistakes),
}

impl FileErrors {
    /// The same errors, naming this file (as the user knows it) when printed.
    #[must_use]
    pub fn in_file(mut self, name: impl Into<String>) -> Self {
        match &mut self {
            Self::TooLarge { file, .. } => *file = name.into(),
            Self::Mistakes(mistakes) => mistakes.file = name.into(),
        }
        self
    }

    /// The mistakes, by place; none when the file was too large to be read.
    pub fn mistakes(&self) -> &[Mistake] {
        match self {
            Self::TooLarge { .. } => &[],
            Self::Mistakes(mistakes) => &mistakes.list,
        }
    }
}

/// All mistakes of one file, by place; at least one. `Display` prints them for a terminal, without colours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistakes {
    /// The file's name.
    pub file: String,
    /// The first [`MAX_SHOWN`] of them.
    pub list: Vec<Mistake>,
    /// How many more there are.
    pub more: usize,
}

impl std::error::Error for Mistakes {}
