//! What a command answers: one value, printed as text or as JSON.

use std::io::Write as _;

use comfy_table::{ContentArrangement, Table, presets};
use oarlock_spec::codes::exit;
use serde::Serialize;

/// Why a command failed, for stderr, and with which code it exits.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What is wrong and what to do next.
    pub(crate) message: String,
    /// One of `oarlock_spec::codes::exit`, or the guest's own.
    pub(crate) code: u8,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code,
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(exit::FAILURE, format!("{error:#}"))
    }
}

/// What a command returns: an exit code, or why it failed.
pub(crate) type Outcome = Result<u8, Failure>;

/// A table without borders, as wide as its contents, wrapped at the terminal's width.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().copied());
    table
}

/// Prints a line on stdout; a closed pipe (`| head`) is no error.
pub(crate) fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints a listing: the JSON of `rows` with `--json`, else what `text` makes of them.
pub(crate) fn listing<T: Serialize + ?Sized>(
    rows: &T,
    json: bool,
    text: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    if json {
        let rendered = serde_json::to_string_pretty(rows)
            .map_err(|error| Failure::new(exit::FAILURE, format!("cannot print JSON: {error}")))?;
        line(rendered);
    } else {
        let rendered = text(rows);
        if !rendered.is_empty() {
            line(
                rendered
                    .lines()
                    .map(str::trim_end)
                    .collect::<Vec<_>>()
                    .join("\n"),
            );
        }
    }
    Ok(())
}
