//! Prints mistakes: the place and the sentence, the source line, a caret. Within 80 columns where words allow it.

use std::fmt;

use super::{Mistake, Mistakes};

const WIDTH: usize = 80;

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.list {
            write_mistake(f, &self.file, mistake)?;
            f.write_str("\n")?;
        }
        let count = self.list.len() + self.more;
        let noun = if count == 1 { "mistake" } else { "mistakes" };
        write!(f, "{count} {noun} in {}", printable(&self.file))?;
        if self.more > 0 {
            write!(f, ", of which the first {} are shown", self.list.len())?;
        }
        Ok(())
    }
}

fn write_mistake(f: &mut fmt::Formatter<'_>, file: &str, mistake: &Mistake) -> fmt::Result {
    let head = format!(
        "{file}:{}:{}: {}",
        mistake.line,
        mistake.column,
        mistake.sentence()
    );
    for line in wrap(&printable(&head)) {
        writeln!(f, "{line}")?;
    }
    if mistake.source_line.is_empty() {
        return Ok(());
    }
    let number = mistake.line.to_string();
    let gutter = " ".repeat(number.len());
    let column = (mistake.column as usize).saturating_sub(1);
    let length = mistake.text.chars().count().max(1);
    let (line, column, length) = window(
        &mistake.source_line,
        column,
        length,
        WIDTH - number.len() - 3,
    );
    writeln!(f, "{gutter} |")?;
    writeln!(f, "{number} | {line}")?;
    writeln!(f, "{gutter} | {}{}", " ".repeat(column), "^".repeat(length))
}

/// The part of a line that fits `width` and holds the offending text, with where it is then and how much of it is seen.
fn window(line: &str, column: usize, length: usize, width: usize) -> (String, usize, usize) {
    let line = printable(line);
    let total = line.chars().count();
    if total <= width {
        return (line, column, length);
    }
    // A third of the window is context before the text; "…" stands for what is cut off on either side.
    let skip = if column + length <= width - 1 {
        0
    } else {
        column.saturating_sub(width / 3).min(total - width + 1)
    };
    let lead = usize::from(skip > 0);
    let room = width - lead;
    let tail = usize::from(total - skip > room);
    let mut cut: String = line.chars().skip(skip).take(room - tail).collect();
    if lead > 0 {
        cut.insert(0, '…');
    }
    if tail > 0 {
        cut.push('…');
    }
    let column = column - skip + lead;
    (cut, column, length.min(width.saturating_sub(column)).max(1))
}

/// Words in lines of at most [`WIDTH`] columns, the later ones indented; what is quoted stays on
/// one line unless it is long, a long word stays whole.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in unbroken(text) {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > WIDTH {
            lines.push(std::mem::take(&mut line));
            line.push_str("   ");
            used = 3;
        }
        if !line.is_empty() {
            line.push(' ');
            used += 1;
        }
        line.push_str(&word);
        used += length;
    }
    lines.push(line);
    lines
}

/// Words, and quoted runs of words (in backquotes, or double quotes) of up to 60 characters.
fn unbroken(text: &str) -> Vec<String> {
    const LONGEST: usize = 60;
    let mut pieces: Vec<String> = Vec::new();
    let mut open: Option<char> = None;
    for word in text.split(' ') {
        let joined = match (open, pieces.last_mut()) {
            (Some(_), Some(last)) if last.chars().count() + word.chars().count() < LONGEST => {
                last.push(' ');
                last.push_str(word);
                true
            }
            _ => false,
        };
        if !joined {
            pieces.push(word.to_owned());
            open = None;
        }
        for c in word.chars() {
            open = match open {
                Some(quote) if c == quote => None,
                None if matches!(c, '`' | '"') => Some(c),
                other => other,
            };
        }
    }
    pieces
}

/// The text without what could move a terminal's cursor or reorder its letters: a hostile file
/// must not forge what is printed about it. One character stays one character.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}' => '\u{fffd}',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_around_the_text() {
        let line = format!("{}HERE{}", "a".repeat(300), "b".repeat(300));
        let (cut, column, length) = window(&line, 300, 4, 70);
        assert_eq!(cut.chars().count(), 70);
        let seen: String = cut.chars().skip(column).take(length).collect();
        assert_eq!(seen, "HERE");
        assert!(cut.starts_with('…') && cut.ends_with('…'));
        let (cut, column, length) = window(&line, 596, 8, 70);
        assert!(
            cut.chars().count() <= 70 && column + length <= 70,
            "{cut} {column} {length}"
        );
        let (cut, column, length) = window(&"x".repeat(200), 0, 60, 40);
        assert!(
            cut.chars().count() <= 40 && column + length <= 40,
            "{cut} {column} {length}"
        );
    }

    #[test]
    fn control_characters_are_not_printed() {
        assert_eq!(
            printable("a\u{1b}[2Jb\tc\u{202e}"),
            "a\u{fffd}[2Jb c\u{fffd}"
        );
    }

    #[test]
    fn words_wrap_at_eighty_columns() {
        let lines = wrap(&"word ".repeat(40));
        let quoted = wrap(&format!("{} `a b c d e f g` x", "y".repeat(70)));
        assert_eq!(quoted.get(1).unwrap(), "    `a b c d e f g` x");
        assert!(lines.len() > 2 && lines.iter().all(|line| line.chars().count() <= WIDTH));
    }
}
