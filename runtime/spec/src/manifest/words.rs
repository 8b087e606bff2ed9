//! Splits a process line into words as a shell would, without being one: blanks part words, single
//! and double quotes keep them together, a backslash keeps the next character. Nothing is expanded.

use crate::mistakes::Span;

/// One word of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    /// Unquoted.
    pub(crate) text: String,
    /// Where it is in the line, quotes included.
    pub(crate) span: Span,
    /// Whether any of it was quoted or escaped.
    pub(crate) quoted: bool,
}

/// Why a line cannot be split.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// A quote is opened and never closed.
    #[error("the quote {quote} at character {at} is never closed; close it, or write \\{quote}")]
    OpenQuote {
        /// Which.
        quote: char,
        /// Where, in bytes from 0.
        at: usize,
    },
    /// The last character is a backslash.
    #[error("the line ends with a backslash, which keeps nothing; write \\\\ for a backslash")]
    EndsWithBackslash {
        /// Where, in bytes from 0.
        at: usize,
    },
}

impl SplitError {
    /// Where in the line, in bytes.
    pub(crate) fn at(&self) -> usize {
        match self {
            Self::OpenQuote { at, .. } | Self::EndsWithBackslash { at } => *at,
        }
    }
}

/// Splits a line into its words, unquoted: how the manifest reads process lines, for those who
/// take such lines elsewhere.
///
/// # Errors
/// An open quote, or a backslash at the end.
pub fn split_line(line: &str) -> Result<Vec<String>, SplitError> {
    Ok(split(line)?.into_iter().map(|word| word.text).collect())
}

/// Splits a line into words with their places.
pub(crate) fn split(line: &str) -> Result<Vec<Word>, SplitError> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut open: Option<(char, usize)> = None;
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        if open.is_none() && c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let current = word.get_or_insert_with(|| Word {
            text: String::new(),
            span: at..at,
            quoted: false,
        });
        let mut end = at + c.len_utf8();
        match (open, c) {
            (Some((quote, _)), c) if c == quote => open = None,
            (None, '\'' | '"') => {
                open = Some((c, at));
                current.quoted = true;
            }
            // Within single quotes a backslash is itself; within double ones it keeps \ and " only.
            (Some(('"', _)) | None, '\\') => {
                let (next_at, next) = chars.next().ok_or(SplitError::EndsWithBackslash { at })?;
                if open.is_some() && !matches!(next, '"' | '\\') {
                    current.text.push('\\');
                }
                current.text.push(next);
                current.quoted = true;
                end = next_at + next.len_utf8();
            }
            (_, c) => current.text.push(c),
        }
        current.span.end = end;
    }
    if let Some((quote, at)) = open {
        return Err(SplitError::OpenQuote { quote, at });
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_as_a_shell_does() {
        let cases: [(&str, &[&str]); 10] = [
            ("", &[]),
            ("  \t ", &[]),
            ("web.wasm", &["web.wasm"]),
            ("w.wasm --queue default", &["w.wasm", "--queue", "default"]),
            ("w.wasm 'a b' \"c d\"", &["w.wasm", "a b", "c d"]),
            ("w.wasm a'b'\"c\"d", &["w.wasm", "abcd"]),
            (r"w.wasm a\ b \' \\", &["w.wasm", "a b", "'", "\\"]),
            (
                r#"w.wasm "a\"b\\c\d" 'a\b'"#,
                &["w.wasm", "a\"b\\c\\d", "a\\b"],
            ),
            ("w.wasm '' \"\"", &["w.wasm", "", ""]),
            ("wé.wasm —x ü", &["wé.wasm", "—x", "ü"]),
        ];
        for (line, words) in cases {
            assert_eq!(split_line(line).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn open_quotes_and_last_backslashes_are_errors() {
        assert_eq!(
            split_line("w 'abc"),
            Err(SplitError::OpenQuote { quote: '\'', at: 2 })
        );
        assert_eq!(
            split_line("w \"ab'c"),
            Err(SplitError::OpenQuote { quote: '"', at: 2 })
        );
        assert_eq!(
            split_line("w \\"),
            Err(SplitError::EndsWithBackslash { at: 2 })
        );
        assert_eq!(
            split_line("w \"\\"),
            Err(SplitError::EndsWithBackslash { at: 3 })
        );
    }

    #[test]
    fn words_know_their_place() {
        let words = split("web.wasm 'a b'  c").unwrap();
        let spans: Vec<Span> = words.iter().map(|word| word.span.clone()).collect();
        assert_eq!(spans, [0..8, 9..14, 16..17]);
        assert_eq!(
            words.iter().map(|word| word.quoted).collect::<Vec<_>>(),
            [false, true, false]
        );
    }
}
