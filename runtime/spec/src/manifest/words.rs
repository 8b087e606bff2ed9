//! Splits a process line into words as a shell would, without being one: blanks part words, single
//! and double quotes keep them together, a backslash keeps the next character, and a `#` where a word could begin makes
//! the rest a comment. Variables are found here, and expanded when a dyno starts (`arguments.rs`).

use super::arguments::{self, Argument, Piece};
use crate::mistakes::Span;

/// One word of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    /// Unquoted, variables as they are written.
    pub(crate) text: String,
    /// The same in its pieces.
    pub(crate) pieces: Vec<Piece>,
    /// Where it is in the line, quotes included.
    pub(crate) span: Span,
    /// Whether any of it was quoted or escaped.
    pub(crate) quoted: bool,
}

impl Word {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        match self.pieces.last_mut() {
            Some(Piece::Text(last)) => last.push_str(text),
            Some(Piece::Variable { .. }) | None => self.pieces.push(Piece::Text(text.to_owned())),
        }
    }

    /// What a process is given for it.
    pub(crate) fn argument(&self) -> Argument {
        Argument::of(self.pieces.clone())
    }
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
    /// A brace without a variable in it.
    #[error(
        "the `${{` at character {at} begins no variable; write ${{NAME}}, ${{NAME:-a word}}, or \\$ for a dollar sign"
    )]
    NoVariable {
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
            Self::OpenQuote { at, .. }
            | Self::NoVariable { at }
            | Self::EndsWithBackslash { at } => *at,
        }
    }
}

/// Splits a line into its words, unquoted, variables as they are written: how the manifest reads process lines, for those who
/// take such lines elsewhere.
///
/// # Errors
/// An open quote, a brace without a variable, or a backslash at the end.
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
        if open.is_none() && word.is_none() && c == '#' {
            break;
        }
        let current = word.get_or_insert_with(|| Word {
            text: String::new(),
            pieces: Vec::new(),
            span: at..at,
            quoted: false,
        });
        let mut end = at + c.len_utf8();
        match (open, c) {
            (Some((quote, _)), c) if c == quote => open = None,
            (None, '\'' | '"') => {
                open = Some((c, at));
                current.quoted = true;
                // There is a word, though there may be nothing in it.
                current.push("");
            }
            // Within single quotes a backslash is itself; within double ones it keeps \, " and $ only.
            (Some(('"', _)) | None, '\\') => {
                let (next_at, next) = chars.next().ok_or(SplitError::EndsWithBackslash { at })?;
                if open.is_some() && !matches!(next, '"' | '\\' | '$') {
                    current.push("\\");
                }
                current.push(next.encode_utf8(&mut [0; 4]));
                current.quoted = true;
                end = next_at + next.len_utf8();
            }
            (Some(('"', _)) | None, '$') => {
                let rest = line.get(end..).unwrap_or_default();
                let found = arguments::variable(rest, open.is_some())
                    .map_err(|()| SplitError::NoVariable { at })?;
                if let Some((variable, length)) = found {
                    current.pieces.push(variable);
                    end += length;
                    current.text += line.get(at..end).unwrap_or_default();
                    while chars.clone().next().is_some_and(|(next, _)| next < end) {
                        chars.next();
                    }
                } else {
                    current.push("$");
                }
            }
            (_, c) => current.push(c.encode_utf8(&mut [0; 4])),
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

    /// What a line's words become with `PORT=80`, `ARGS="-w  4"` and `EMPTY=`, and how they are shown.
    fn expanded(line: &str) -> (Vec<String>, String) {
        let words = split(line).unwrap();
        let arguments: Vec<Argument> = words.iter().map(Word::argument).collect();
        let value = |name: &str| match name {
            "PORT" => Some("80"),
            "ARGS" => Some("-w  4"),
            "EMPTY" => Some(""),
            "NESTED" => Some("$PORT *"),
            _ => None,
        };
        let made: Vec<String> = arguments.iter().flat_map(|it| it.expand(value)).collect();
        let length: usize = arguments.iter().map(|it| it.length(value)).sum();
        assert!(made.iter().map(String::len).sum::<usize>() <= length);
        let shown: Vec<String> = arguments.iter().map(Argument::to_string).collect();
        (made, shown.join(" "))
    }

    #[test]
    fn variables_are_expanded_as_a_shell_does() {
        let cases: [(&str, &[&str], &str); 16] = [
            (
                "--bind 0.0.0.0:$PORT",
                &["--bind", "0.0.0.0:80"],
                "--bind 0.0.0.0:${PORT}",
            ),
            ("${PORT}1 $PORT1", &["801"], "${PORT}1 ${PORT1}"),
            ("$ARGS", &["-w", "4"], "${ARGS}"),
            ("x$ARGS", &["x-w", "4"], "x${ARGS}"),
            ("\"$ARGS\"", &["-w  4"], "${ARGS}"),
            ("'$PORT'", &["$PORT"], "$PORT"),
            (r"\$PORT", &["$PORT"], "$PORT"),
            ("\"a \\$PORT\"", &["a $PORT"], "a $PORT"),
            ("a $NONE b", &["a", "b"], "a ${NONE} b"),
            ("a \"$NONE\" ''", &["a", "", ""], "a ${NONE} "),
            ("x$NONE", &["x"], "x${NONE}"),
            (
                "${NONE:-2 3} ${EMPTY:-e} ${PORT:-9}",
                &["2", "3", "e", "80"],
                "${NONE:-2 3} ${EMPTY:-e} ${PORT:-9}",
            ),
            ("\"${NONE:-2 3}\"", &["2 3"], "${NONE:-2 3}"),
            ("$NESTED", &["$PORT", "*"], "${NESTED}"),
            ("cost 5$ $1 $", &["cost", "5$", "$1", "$"], "cost 5$ $1 $"),
            ("a#b # $PORT 'is the port", &["a#b"], "a#b"),
        ];
        for (line, made, shown) in cases {
            let expected = made.iter().map(ToString::to_string).collect();
            assert_eq!(expanded(line), (expected, shown.to_owned()), "{line}");
        }
    }

    #[test]
    fn braces_without_a_variable_are_errors() {
        for line in [
            "w ${",
            "w ${}",
            "w ${1}",
            "w ${A%x}",
            "w ${A B}",
            "w \"${:-a}\"",
        ] {
            let at = line.find('$').unwrap();
            assert_eq!(
                split_line(line),
                Err(SplitError::NoVariable { at }),
                "{line}"
            );
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
