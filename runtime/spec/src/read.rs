//! Reads TOML with places: every accessor either gives the value or notes what is wrong with it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::mistakes::{Findings, Span, brief};
use crate::suggest::did_you_mean;
use crate::units::show_count;

/// One `key = value` of a table.
#[derive(Clone)]
pub(crate) struct Entry<'a> {
    /// The key, unescaped.
    pub(crate) key: &'a str,
    /// Where the key is.
    pub(crate) key_span: Span,
    /// Its value.
    pub(crate) value: &'a Spanned<DeValue<'a>>,
}

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

/// The entries of a table, in the order of the file.
pub(crate) fn entries<'a>(table: &'a DeTable<'a>) -> Vec<Entry<'a>> {
    let mut list: Vec<Entry<'a>> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref(),
            key_span: key.span(),
            value,
        })
        .collect();
    list.sort_by_key(|entry| entry.key_span.start);
    list
}

/// The entries of a table by name, after noting each whose name is not in `known`.
/// `place` says which table, as in "[build]"; it stands in the message.
pub(crate) fn known_entries<'a>(
    table: &'a DeTable<'a>,
    known: &[&str],
    place: &str,
    findings: &mut Findings<'_>,
) -> BTreeMap<&'a str, Entry<'a>> {
    let mut found = BTreeMap::new();
    for entry in entries(table) {
        if known.contains(&entry.key) {
            found.insert(entry.key, entry);
        } else {
            unknown_key(&entry, known, place, findings);
        }
    }
    found
}

/// The first `most` of these entries; notes that there are more. `what` is what they are, in the plural.
pub(crate) fn at_most<'a>(
    mut entries: Vec<Entry<'a>>,
    most: usize,
    what: &str,
    findings: &mut Findings<'_>,
) -> Vec<Entry<'a>> {
    if let Some(entry) = entries.get(most) {
        findings.add(
            &entry.key_span,
            format!("there may be at most {most} {what}"),
        );
    }
    entries.truncate(most);
    entries
}

/// Notes a key that a table does not have.
pub(crate) fn unknown_key(
    entry: &Entry<'_>,
    known: &[&str],
    place: &str,
    findings: &mut Findings<'_>,
) {
    let place = if place.is_empty() {
        String::new()
    } else {
        format!(" in {place}")
    };
    let message = format!("unknown key `{}`{place}", brief(entry.key));
    findings.push(&entry.key_span, message, did_you_mean(entry.key, known));
}

impl<'a> Entry<'a> {
    /// Where the value is; the key, where the parser lost it.
    pub(crate) fn span(&self) -> Span {
        let span = self.value.span();
        if span.is_empty() {
            self.key_span.clone()
        } else {
            span
        }
    }

    /// Notes that the value is not what it should be. `wanted` has its article: "a string".
    pub(crate) fn wrong_type(
        &self,
        wanted: &str,
        help: Option<String>,
        findings: &mut Findings<'_>,
    ) {
        let message = format!(
            "`{}` must be {wanted}, not {}",
            self.key,
            type_of(self.value.get_ref())
        );
        findings.push(&self.span(), message, help);
    }

    /// A string.
    pub(crate) fn string(&self, findings: &mut Findings<'_>) -> Option<&'a str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text),
            DeValue::Array(_) | DeValue::Table(_) => {
                self.wrong_type("a string", None, findings);
                None
            }
            _ => {
                let help = format!("write \"{}\"", brief(findings.source().slice(&self.span())));
                self.wrong_type("a string", Some(help), findings);
                None
            }
        }
    }

    /// A string that says something.
    pub(crate) fn text(&self, findings: &mut Findings<'_>) -> Option<&'a str> {
        let text = self.string(findings)?;
        if text.trim().is_empty() {
            findings.add(&self.span(), format!("`{}` is empty", self.key));
            return None;
        }
        Some(text)
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self, findings: &mut Findings<'_>) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            DeValue::String(text) if **text == *"true" || **text == *"false" => {
                self.wrong_type(
                    "true or false",
                    Some(format!("write {text} without quotes")),
                    findings,
                );
                None
            }
            _ => {
                self.wrong_type("true or false", None, findings);
                None
            }
        }
    }

    /// A whole number within a range.
    pub(crate) fn integer(
        &self,
        range: std::ops::RangeInclusive<u64>,
        findings: &mut Findings<'_>,
    ) -> Option<u64> {
        let (low, high) = range.clone().into_inner();
        let number = match self.value.get_ref() {
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok(),
            DeValue::String(text) if text.parse::<u64>().is_ok_and(|n| range.contains(&n)) => {
                self.wrong_type(
                    "a whole number",
                    Some(format!("write {text} without quotes")),
                    findings,
                );
                return None;
            }
            _ => {
                self.wrong_type(
                    "a whole number",
                    Some(format!("use {} to {}", show_count(low), show_count(high))),
                    findings,
                );
                return None;
            }
        };
        let number = number
            .and_then(|n| u64::try_from(n).ok())
            .filter(|n| range.contains(n));
        if number.is_none() {
            let text = brief(findings.source().slice(&self.span()));
            findings.suggest(
                &self.span(),
                format!("`{}` is out of range: {text}", self.key),
                format!("use {} to {}", show_count(low), show_count(high)),
            );
        }
        number
    }

    /// A number, whole or not.
    pub(crate) fn number(&self, findings: &mut Findings<'_>) -> Option<f64> {
        let parsed = match self.value.get_ref() {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .ok()
                .and_then(|n| i32::try_from(n).ok())
                .map(f64::from),
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => {
                self.wrong_type("a number", None, findings);
                return None;
            }
        };
        if parsed.is_none() {
            findings.add(&self.span(), format!("`{}` is out of range", self.key));
        }
        parsed
    }

    /// A table. `place` is how the file writes it, as in "[scale]".
    pub(crate) fn table(
        &self,
        place: &str,
        findings: &mut Findings<'_>,
    ) -> Option<&'a DeTable<'a>> {
        match self.value.get_ref() {
            DeValue::Table(table) => Some(table),
            DeValue::Array(list)
                if list
                    .iter()
                    .all(|item| matches!(item.get_ref(), DeValue::Table(_)))
                    && !list.is_empty() =>
            {
                findings.suggest(
                    &self.key_span,
                    format!("`{}` must be one table, not a list of tables", self.key),
                    format!("write {place} with single brackets"),
                );
                None
            }
            _ => {
                self.wrong_type(
                    "a table",
                    Some(format!("write {place} on a line of its own")),
                    findings,
                );
                None
            }
        }
    }

    /// A list of strings, each with its place.
    pub(crate) fn strings(&self, findings: &mut Findings<'_>) -> Vec<(Span, &'a str)> {
        /// More items are a mistake: everything that reads a list may compare each with each.
        const MAX_ITEMS: usize = 1_000;

        let list = match self.value.get_ref() {
            DeValue::Array(list) => list,
            DeValue::String(_) => {
                let help = format!("write [{}]", brief(findings.source().slice(&self.span())));
                self.wrong_type("a list of strings", Some(help), findings);
                return Vec::new();
            }
            _ => {
                self.wrong_type("a list of strings", None, findings);
                return Vec::new();
            }
        };
        let mut texts = Vec::new();
        if let Some(item) = list.get(MAX_ITEMS) {
            findings.add(
                &item.span(),
                format!("`{}` may have at most {MAX_ITEMS} items", self.key),
            );
        }
        for item in list.iter().take(MAX_ITEMS) {
            match item.get_ref() {
                DeValue::String(text) => texts.push((item.span(), &**text)),
                other => {
                    let message =
                        format!("`{}` must hold strings, not {}", self.key, type_of(other));
                    findings.add(&item.span(), message);
                }
            }
        }
        texts
    }
}

/// A value's type with its article.
pub(crate) fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
