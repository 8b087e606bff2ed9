//! Reads TOML with places: every accessor either gives the value or notes what is wrong with it.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::mistakes::{Findings, Source, Span};
use crate::suggest::did_you_mean;

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

/// Parses a whole file, with what the parser could save of it when its syntax is broken. Of a
/// file with `secrets` no broken line is shown.
pub(crate) fn document<'t>(
    source: Source<'t>,
    secrets: bool,
) -> (Spanned<DeTable<'t>>, Findings<'t>) {
    let (table, errors) = DeTable::parse_recoverable(source.text());
    let mut findings = Findings::new(source);
    findings.set_secret(secrets);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let (message, help) = explain(error.message(), findings.source().slice(&span));
        findings.syntax(&span, message, help);
    }
    findings.set_secret(false);
    (table, findings)
}

/// The parser's message in our words.
fn explain(message: &str, text: &str) -> (String, Option<String>) {
    let first = message.lines().next().unwrap_or_default();
    if first.starts_with("duplicate key") {
        return (
            format!("`{}` is given twice", crate::mistakes::brief(text)),
            Some("keep one of them".to_owned()),
        );
    }
    let mut said = first.to_owned();
    if let Some(rest) = message.lines().nth(1) {
        said = format!("{said}, {rest}");
    }
    (format!("not valid TOML: {said}"), None)
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
    let message = format!("unknown key `{}`{place}", crate::mistakes::brief(entry.key));
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
                let help = format!(
                    "write \"{}\"",
                    crate::mistakes::brief(findings.source().slice(&self.span()))
                );
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
                    Some(format!("use {low} to {high}")),
                    findings,
                );
                return None;
            }
        };
        let number = number
            .and_then(|n| u64::try_from(n).ok())
            .filter(|n| range.contains(n));
        if number.is_none() {
            let text = crate::mistakes::brief(findings.source().slice(&self.span()));
            findings.suggest(
                &self.span(),
                format!("`{}` is out of range: {text}", self.key),
                format!("use {low} to {high}"),
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
        let list = match self.value.get_ref() {
            DeValue::Array(list) => list,
            DeValue::String(_) => {
                let help = format!(
                    "write [{}]",
                    crate::mistakes::brief(findings.source().slice(&self.span()))
                );
                self.wrong_type("a list of strings", Some(help), findings);
                return Vec::new();
            }
            _ => {
                self.wrong_type("a list of strings", None, findings);
                return Vec::new();
            }
        };
        let mut texts = Vec::new();
        for item in list.iter() {
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
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
