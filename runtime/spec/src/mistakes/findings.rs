//! Collects mistakes while a file is read, and turns byte spans into lines and columns at the end.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{FileErrors, MAX_FILE_BYTES, MAX_SHOWN, Mistake, Mistakes};

/// A place in the text, in bytes.
pub(crate) type Span = Range<usize>;

/// The offending text is cut to so many characters.
const MAX_TEXT: usize = 60;

/// A text and where its lines begin.
pub(crate) struct Source<'t> {
    file: &'static str,
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Source<'t> {
    /// Refuses a text over [`MAX_FILE_BYTES`].
    pub(crate) fn new(file: &'static str, text: &'t str) -> Result<Self, FileErrors> {
        if text.len() > MAX_FILE_BYTES {
            return Err(FileErrors::TooLarge {
                file: file.to_owned(),
                bytes: text.len(),
            });
        }
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Ok(Self { file, text, starts })
    }

    /// The text as it was given.
    pub(crate) fn text(&self) -> &'t str {
        self.text
    }

    /// The text of a span; empty if it is none.
    pub(crate) fn slice(&self, span: &Span) -> &'t str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    /// The line of a byte offset, from 1 up.
    pub(crate) fn line(&self, at: usize) -> u32 {
        u32::try_from(self.starts.partition_point(|start| *start <= at)).unwrap_or(u32::MAX)
    }

    /// The bytes of a line (from 1 up), without its end.
    pub(crate) fn line_text(&self, line: u32) -> (usize, &'t str) {
        let index = (line as usize).saturating_sub(1);
        let start = self.starts.get(index).copied().unwrap_or(self.text.len());
        let end = self
            .starts
            .get(index + 1)
            .copied()
            .unwrap_or(self.text.len());
        let text = self.text.get(start..end).unwrap_or_default();
        (
            start,
            text.strip_suffix('\n')
                .unwrap_or(text)
                .trim_end_matches('\r'),
        )
    }

    /// The table header that a line (from 1 up) stands below or is; empty above the first.
    fn header_of(&self, line: u32) -> &'t str {
        let lines = (1..=line)
            .rev()
            .map(|line| self.line_text(line).1.trim_start());
        lines
            .take(self.starts.len())
            .find(|text| text.starts_with('['))
            .unwrap_or_default()
    }

    /// The span of a part of a string value, if the source spells the value letter by letter;
    /// otherwise (escapes, several lines) the whole value's.
    pub(crate) fn within(&self, value_span: &Span, value: &str, part: &Span) -> Span {
        let raw = self.slice(value_span);
        let quotes = raw.len().saturating_sub(value.len()) / 2;
        if raw.get(quotes..quotes + value.len()) == Some(value) && value.get(part.clone()).is_some()
        {
            let start = value_span.start + quotes;
            start + part.start..start + part.end
        } else {
            value_span.clone()
        }
    }
}

struct Found {
    span: Span,
    message: String,
    suggestion: Option<String>,
    secret: bool,
}

/// The mistakes found so far.
pub(crate) struct Findings<'t> {
    source: Source<'t>,
    found: Vec<Found>,
    /// Lines whose syntax is broken: what follows from that is not reported again.
    broken: BTreeSet<u32>,
    secret: bool,
}

impl<'t> Findings<'t> {
    pub(crate) fn new(source: Source<'t>) -> Self {
        Self {
            source,
            found: Vec::new(),
            broken: BTreeSet::new(),
            secret: false,
        }
    }

    pub(crate) fn source(&self) -> &Source<'t> {
        &self.source
    }

    /// From now on (or no longer) the offending text is not to be shown.
    pub(crate) fn set_secret(&mut self, secret: bool) {
        self.secret = secret;
    }

    /// Whether the offending text must not be shown now.
    pub(crate) fn secret(&self) -> bool {
        self.secret
    }

    /// Whether the file's syntax is broken somewhere, so that parts of it may not have been seen.
    pub(crate) fn syntax_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    /// Whether a line of broken syntax belongs, or may belong, to this table.
    pub(crate) fn broken_within(&self, table: &str) -> bool {
        self.broken.len() > MAX_SHOWN
            || self.broken.iter().any(|line| {
                let header = self.source.header_of(*line);
                header
                    .trim_start_matches('[')
                    .trim_start()
                    .starts_with(table)
                    || (header.is_empty() && self.source.line_text(*line).1.contains(table))
            })
    }

    /// A mistake with nothing to suggest.
    pub(crate) fn add(&mut self, span: &Span, message: impl Into<String>) {
        self.push(span, message.into(), None);
    }

    /// A mistake and what to write instead.
    pub(crate) fn suggest(
        &mut self,
        span: &Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(span, message.into(), Some(help.into()));
    }

    /// A mistake and, perhaps, what to write instead.
    pub(crate) fn push(&mut self, span: &Span, message: String, suggestion: Option<String>) {
        self.found.push(Found {
            span: span.clone(),
            message,
            suggestion,
            secret: self.secret,
        });
    }

    /// A mistake of syntax: the first of its line is kept.
    pub(crate) fn syntax(&mut self, span: &Span, message: String, suggestion: Option<String>) {
        if self.broken.insert(self.source.line(span.start)) {
            self.push(span, message, suggestion);
        }
    }

    /// Drops what was found on lines of broken syntax after `kept`, the number of syntax mistakes.
    pub(crate) fn drop_consequences(&mut self, kept: usize) {
        let (source, broken) = (&self.source, &self.broken);
        let mut index = 0;
        self.found.retain(|found| {
            index += 1;
            index <= kept || !broken.contains(&source.line(found.span.start))
        });
    }

    /// How many so far.
    pub(crate) fn count(&self) -> usize {
        self.found.len()
    }

    /// `value`, if nothing was found.
    pub(crate) fn finish<T>(mut self, value: Option<T>) -> Result<T, FileErrors> {
        if let (true, Some(value)) = (self.found.is_empty(), value) {
            return Ok(value);
        }
        self.found.sort_by_key(|found| found.span.start);
        let mut list: Vec<Mistake> = self.found.iter().map(|found| self.locate(found)).collect();
        list.dedup();
        let more = list.len().saturating_sub(MAX_SHOWN);
        list.truncate(MAX_SHOWN);
        Err(FileErrors::Mistakes(Mistakes {
            file: self.source.file.to_owned(),
            list,
            more,
        }))
    }

    fn locate(&self, found: &Found) -> Mistake {
        let line = self.source.line(found.span.start);
        let (start, line_text) = self.source.line_text(line);
        let before = self.source.slice(&(start..found.span.start.max(start)));
        let raw = self
            .source
            .slice(&found.span)
            .lines()
            .next()
            .unwrap_or_default();
        Mistake {
            line,
            column: u32::try_from(before.chars().count() + 1).unwrap_or(u32::MAX),
            text: if found.secret {
                String::new()
            } else {
                raw.chars().take(MAX_TEXT).collect()
            },
            message: found.message.clone(),
            suggestion: found.suggestion.clone(),
            source_line: if found.secret {
                String::new()
            } else {
                line_text.to_owned()
            },
        }
    }
}

/// A text from the file for use within a message: cut to a readable length.
pub(crate) fn brief(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_TEXT).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
