//! `.env`: config vars of an app's folder, a `KEY=VALUE` a line.
//!
//! `export` before the key and comments are allowed. A value may be bare (a ` #` starts a comment), in
//! single quotes (as it is) or in double quotes (`\n`, `\t`, `\r`, `\"`, `\\`, `\$`); quoted ones may
//! span lines. Nothing is expanded: `$HOME` stays `$HOME`.

use oarlock_host::folder::AppFolder;
use std::collections::BTreeMap;

use crate::folder::read_text;

/// Its name.
const NAME: &str = ".env";

/// Reads the `.env` of an app's folder; none is an empty one. The error names every bad line.
pub(crate) fn load(folder: &AppFolder) -> Result<BTreeMap<String, String>, String> {
    let path = folder.path().join(NAME);
    match read_text(folder, NAME)? {
        None => Ok(BTreeMap::new()),
        Some(text) => parse(&text).map_err(|mistakes| {
            let lines: Vec<String> = mistakes
                .iter()
                .map(|mistake| format!("{}:{mistake}", path.display()))
                .collect();
            lines.join("\n")
        }),
    }
}

/// A mistake and its line, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.line, self.message)
    }
}

/// Why a config var may not have this name, and what to do.
pub(crate) fn refuse_name(name: &str) -> Option<String> {
    let (message, help) = oarlock_spec::manifest::config_name_mistake(name)?;
    Some(match help {
        Some(help) => format!("{message}; {help}"),
        None => message,
    })
}

/// All mistakes at once. The last of two equal keys wins.
pub(crate) fn parse(text: &str) -> Result<BTreeMap<String, String>, Vec<Mistake>> {
    let mut vars = BTreeMap::new();
    let mut mistakes = Vec::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 1;
    while !rest.is_empty() {
        let (taken, parsed) = parse_entry(rest);
        match parsed {
            Ok(Some((key, value))) => {
                vars.insert(key, value);
            }
            Ok(None) => {}
            Err(message) => mistakes.push(Mistake { line, message }),
        }
        let (entry, after) = rest.split_at_checked(taken).unwrap_or((rest, ""));
        line += entry.matches('\n').count();
        rest = after;
    }
    if mistakes.is_empty() {
        Ok(vars)
    } else {
        Err(mistakes)
    }
}

type Parsed = Result<Option<(String, String)>, String>;

/// One entry: how many bytes it took (its line's end included), and what it says.
fn parse_entry(text: &str) -> (usize, Parsed) {
    let line_end = text.find('\n').map_or(text.len(), |at| at + 1);
    let line = text
        .get(..line_end)
        .unwrap_or(text)
        .trim_end_matches(['\n', '\r']);
    let start = line.trim_start();
    if start.is_empty() || start.starts_with('#') {
        return (line_end, Ok(None));
    }
    let assignment = match start.strip_prefix("export") {
        Some(after) if after.starts_with([' ', '\t']) => after.trim_start(),
        _ => start,
    };
    let Some((key, value)) = assignment.split_once('=') else {
        return (
            line_end,
            Err(format!("`{}` is not `KEY=VALUE`", shorten(start))),
        );
    };
    let key = key.trim_end();
    if let Some(reason) = refuse_name(key) {
        return (line_end, Err(reason));
    }
    let value = value.trim_start_matches([' ', '\t']);
    let offset = line.len() - value.len();
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let body = text.get(offset + 1..).unwrap_or_default();
            match parse_quoted(body, quote) {
                Err(message) => (line_end, Err(format!("`{key}`: {message}"))),
                Ok((value, used)) => {
                    let after_quote = offset + 1 + used;
                    let tail = text.get(after_quote..).unwrap_or_default();
                    let tail_end = tail.find('\n').map_or(tail.len(), |at| at + 1);
                    let trailing = tail.get(..tail_end).unwrap_or_default().trim();
                    let parsed = if trailing.is_empty() || trailing.starts_with('#') {
                        Ok(Some((key.to_owned(), value)))
                    } else {
                        Err(format!(
                            "`{key}`: text after the closing quote: `{}`",
                            shorten(trailing)
                        ))
                    };
                    (after_quote + tail_end, parsed)
                }
            }
        }
        _ => {
            let comment = value.char_indices().find(|(at, c)| {
                let before = value.get(..*at).and_then(|text| text.chars().next_back());
                *c == '#' && before.is_none_or(char::is_whitespace)
            });
            let value = comment
                .and_then(|(at, _)| value.get(..at))
                .unwrap_or(value)
                .trim_end();
            (
                line_end,
                checked(value).map(|value| Some((key.to_owned(), value))),
            )
        }
    }
}

fn checked(value: &str) -> Result<String, String> {
    if value.contains('\0') {
        Err("a value has a NUL byte".to_owned())
    } else {
        Ok(value.to_owned())
    }
}

/// The value, and how many bytes it took with its closing quote.
fn parse_quoted(body: &str, quote: char) -> Result<(String, usize), String> {
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Ok((checked(&value)?, at + 1));
        }
        if c == '\\' && quote == '"' {
            match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 't')) => value.push('\t'),
                Some((_, 'r')) => value.push('\r'),
                Some((_, escaped @ ('"' | '\\' | '$'))) => value.push(escaped),
                // Windows paths and patterns: what is no escape stays as it is.
                Some((_, other)) => value.extend(['\\', other]),
                None => break,
            }
        } else {
            value.push(c);
        }
    }
    Err(format!("the quote {quote} is not closed"))
}

fn shorten(text: &str) -> String {
    // The rest of the line may be a secret.
    let short: String = text.chars().take(16).collect();
    if short.len() < text.len() {
        format!("{short}…")
    } else {
        short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().collect()
    }

    fn one(text: &str) -> String {
        let found = vars(text);
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap().1
    }

    #[test]
    fn values_bare_and_quoted() {
        assert_eq!(one("A=b"), "b");
        assert_eq!(one("A="), "");
        assert_eq!(one("export A = b c  # comment"), "b c");
        assert_eq!(one("A=http://x/#anchor"), "http://x/#anchor");
        assert_eq!(one("A=# nothing"), "");
        assert_eq!(one("A='x # \\n $HOME'  # why"), "x # \\n $HOME");
        assert_eq!(one(r#"A="a\tb\"c\\d\$e\w""#), "a\tb\"c\\d$e\\w");
        assert_eq!(one("A=\"one\ntwo\"\r\n"), "one\ntwo");
        assert_eq!(one("A=b=c\r\n"), "b=c");
        assert_eq!(one("A=1\nA=2"), "2");
        assert_eq!(one("exporter=1"), "1");
        assert_eq!(vars("\u{feff}# only\n\n   \n"), vec![]);
    }

    #[test]
    fn every_mistake_has_its_line() {
        let text = "A=1\nnonsense here\nB='x\ny' z\n1C=2\nPORT=80\nOARLOCK_APP=x\nD=\"open\n";
        let mistakes = parse(text).unwrap_err();
        // Names are the manifest's matter, and so are the words for bad ones.
        assert_eq!(
            mistakes
                .iter()
                .map(|mistake| mistake.line)
                .collect::<Vec<_>>(),
            [2, 3, 5, 6, 7, 8]
        );
        let others = mistakes
            .iter()
            .filter(|mistake| !(5..=7).contains(&mistake.line));
        let mistakes: Vec<String> = others.map(Mistake::to_string).collect();
        assert_eq!(
            mistakes,
            [
                "2: `nonsense here` is not `KEY=VALUE`",
                "3: `B`: text after the closing quote: `z`",
                "8: `D`: the quote \" is not closed",
            ]
        );
    }
}
