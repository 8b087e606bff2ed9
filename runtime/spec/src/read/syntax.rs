//! Broken TOML: what the parser says of it in our words, and a text in which it can be read on.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::DeTable;

use crate::mistakes::{Findings, brief};

/// Notes every mistake of syntax and gives a text that the parser can read to its end: the parser
/// recovers from most mistakes, but stops at a line without `=`. Such lines are blanked, so that
/// what comes after them is still looked at; places stay the same. Of a file with `secrets` no
/// broken line is shown.
pub(crate) fn mend<'t>(secrets: bool, findings: &mut Findings<'t>) -> Cow<'t, str> {
    let text = findings.source().text();
    findings.set_secret(secrets);
    let mut blanked: Option<Vec<u8>> = None;
    for error in DeTable::parse_recoverable(text).1 {
        let at = note_syntax(&error, findings);
        if STOPPERS
            .iter()
            .any(|stopper| error.message().starts_with(stopper))
        {
            let (start, line) = findings.source().line_text(findings.source().line(at));
            let bytes = blanked.get_or_insert_with(|| text.as_bytes().to_vec());
            if let Some(bytes) = bytes.get_mut(start..start + line.len()) {
                bytes.fill(b' ');
            }
        }
    }
    // Whole lines of UTF-8 were replaced by blanks, which leaves UTF-8.
    let mended = blanked.and_then(|bytes| String::from_utf8(bytes).ok());
    for error in mended
        .iter()
        .flat_map(|mended| DeTable::parse_recoverable(mended).1)
    {
        note_syntax(&error, findings);
    }
    findings.set_secret(false);
    mended.map_or(Cow::Borrowed(text), Cow::Owned)
}

/// Notes what the parser says, and gives the place.
fn note_syntax(error: &toml::de::Error, findings: &mut Findings<'_>) -> usize {
    let span = error.span().unwrap_or(0..0);
    let (_, line) = findings
        .source()
        .line_text(findings.source().line(span.start));
    let (message, help) = if is_header(line) && !error.message().starts_with("duplicate key") {
        (
            "a list or string above this table is not closed".to_owned(),
            Some("close it".to_owned()),
        )
    } else {
        let text = if findings.secret() {
            ""
        } else {
            findings.source().slice(&span)
        };
        explain(error.message(), text, span.is_empty())
    };
    findings.syntax(&span, message, help);
    span.start
}

/// Whether a line is a whole table header: `[limits.web]`.
fn is_header(line: &str) -> bool {
    let line = line.split('#').next().unwrap_or_default().trim();
    line.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|name| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        })
}

/// What the parser says of lines at which it stops.
const STOPPERS: [&str; 3] = [
    "key with no value",
    "invalid key-value pair",
    "unquoted keys cannot be empty",
];

/// Parses a mended text, with what the parser can save of it.
pub(crate) fn document(mended: &str) -> Spanned<DeTable<'_>> {
    DeTable::parse_recoverable(mended).0
}

/// The parser's message in our words, and what to do. `text` is what it is about, if that may be shown.
fn explain(message: &str, text: &str, nothing_there: bool) -> (String, Option<String>) {
    let message = message.lines().next().unwrap_or_default();
    let reason = message.split(", expected ").next().unwrap_or_default();
    let ours = match reason {
        "duplicate key" => {
            let what = if text.is_empty() {
                "a key".to_owned()
            } else {
                format!("`{}`", brief(text))
            };
            return (
                format!("{what} is given twice"),
                Some("keep one of them".to_owned()),
            );
        }
        "string values must be quoted" if nothing_there => {
            ("the value is missing", "write `key = value`")
        }
        "string values must be quoted" if text.is_empty() || text.contains(['"', '\\']) => {
            ("a string must be in quotes", "put it in double quotes")
        }
        "string values must be quoted" => {
            return (
                "a string must be in quotes".to_owned(),
                Some(format!("write \"{}\"", brief(text))),
            );
        }
        "key with no value" => ("a key without `=` and a value", "write `key = value`"),
        "invalid key-value pair" => (
            "this is not a `key = value`",
            "write one, or # before a comment",
        ),
        "invalid basic string" | "invalid literal string" => {
            ("the string is not closed on its line", "close the quote")
        }
        "unclosed table" => ("the `[` of a table is not closed", "close it with `]`"),
        "unclosed array table" => (
            "the `[[` of a list of tables is not closed",
            "close it with `]]`",
        ),
        "unclosed array" => ("the `[` of a list is not closed", "close it with `]`"),
        "unclosed inline table" => ("the `{` of a table is not closed", "close it with `}`"),
        "missing comma between array elements" => (
            "a comma is missing in a list, or its `]`",
            "put a comma between its values",
        ),
        "missing comma between key-value pairs" => (
            "a comma is missing in a table, or its `}`",
            "put a comma between its keys",
        ),
        "missing value for key" | "missing value" => {
            ("the value is missing", "write `key = value`")
        }
        "missing escaped value" | "too few unicode value digits" => (
            "a backslash in double quotes begins an escape",
            "write \\\\ for a backslash, or use single quotes",
        ),
        _ => return (format!("not valid TOML: {message}"), None),
    };
    (ours.0.to_owned(), Some(ours.1.to_owned()))
}
