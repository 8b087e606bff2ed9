//! Lines for people's terminals.

use std::borrow::Cow;
use std::fmt::Write;

/// A message that is safe to print to a terminal. Guests may colour their lines (`ESC [ … m`, with a
/// reset added at the end); every other control character, and those that change the direction of
/// text, are shown as `\x1b` or `\u{202e}`: a guest must not move the cursor, retitle the window or
/// make its line look like another's.
pub fn for_terminal(message: &str) -> Cow<'_, str> {
    if !message.contains(is_unsafe) {
        return Cow::Borrowed(message);
    }
    let mut safe = String::with_capacity(message.len() + 16);
    let mut coloured = false;
    let mut rest = message;
    while let Some(character) = rest.chars().next() {
        if let Some(length) = colour(rest) {
            let (sequence, after) = rest.split_at(length);
            safe.push_str(sequence);
            coloured = true;
            rest = after;
            continue;
        }
        if !is_unsafe(character) {
            safe.push(character);
        } else if character.is_ascii() {
            // Writing to a String cannot fail.
            let _ = write!(safe, "\\x{:02x}", u32::from(character));
        } else {
            let _ = write!(safe, "\\u{{{:x}}}", u32::from(character));
        }
        rest = rest.get(character.len_utf8()..).unwrap_or_default();
    }
    if coloured {
        safe.push_str("\x1b[0m");
    }
    Cow::Owned(safe)
}

fn is_unsafe(character: char) -> bool {
    (character.is_control() && character != '\t')
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The length of the colour sequence that `text` starts with, if it does.
fn colour(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let length = parameters.find(|c: char| !c.is_ascii_digit() && c != ';' && c != ':')?;
    parameters
        .get(length..)?
        .starts_with('m')
        .then_some(length + 3)
}

#[cfg(test)]
mod tests {
    use super::for_terminal;

    #[test]
    fn plain_text_and_colours_stay() {
        assert_eq!(for_terminal("a\tb é"), "a\tb é");
        assert_eq!(
            for_terminal("\x1b[1;31mred\x1b[0m"),
            "\x1b[1;31mred\x1b[0m\x1b[0m"
        );
    }

    #[test]
    fn what_moves_the_cursor_is_shown() {
        assert_eq!(for_terminal("a\rb\x1b[2Kc\x07"), "a\\x0db\\x1b[2Kc\\x07");
        assert_eq!(for_terminal("\x1b]0;title\x07"), "\\x1b]0;title\\x07");
        assert_eq!(
            for_terminal("\u{9b}2J\u{202e}x\x1b["),
            "\\u{9b}2J\\u{202e}x\\x1b["
        );
    }
}
