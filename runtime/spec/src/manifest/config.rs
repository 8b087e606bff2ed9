//! `[config]`: defaults of config vars. Names that the host sets itself are refused.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use crate::mistakes::{Findings, Span, brief};
use crate::read;

/// A name may have so many characters.
const MAX_NAME: usize = 256;

/// Reads `[config]`.
pub(crate) fn read(table: &DeTable<'_>, findings: &mut Findings<'_>) -> BTreeMap<String, String> {
    let mut vars = BTreeMap::new();
    for entry in read::entries(table) {
        check_name(entry.key, &entry.key_span, findings);
        if let DeValue::Table(_) = entry.value.get_ref() {
            entry.wrong_type(
                "a string",
                Some("config vars have no tables below them".to_owned()),
                findings,
            );
            continue;
        }
        let Some(value) = entry.string(findings) else {
            continue;
        };
        if value.contains('\0') {
            findings.add(
                &entry.span(),
                format!(
                    "`{}` holds a zero byte, which no variable can",
                    brief(entry.key)
                ),
            );
        }
        vars.insert(entry.key.to_owned(), value.to_owned());
    }
    vars
}

/// What is wrong with a config var's name, and what to do instead; `None` when it is good. For
/// `.env` files and `oarlock config set` too.
pub fn config_name_mistake(name: &str) -> Option<(String, Option<String>)> {
    let shown = brief(name);
    if let Some(why) = reserved(name) {
        return Some((
            format!("`{shown}` is set by Oarlock itself: {why}"),
            Some("use another name".to_owned()),
        ));
    }
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if first && rest && name.len() <= MAX_NAME {
        return None;
    }
    let help = format!("use 1 to {MAX_NAME} of A-Z, a-z, 0-9 and `_`, not starting with a digit");
    Some((
        format!("config var name `{shown}` is not valid"),
        Some(help),
    ))
}

fn check_name(name: &str, span: &Span, findings: &mut Findings<'_>) {
    if let Some((message, help)) = config_name_mistake(name) {
        findings.push(span, message, help);
    }
}

/// Why the host keeps this name for itself.
pub(crate) fn reserved(name: &str) -> Option<&'static str> {
    match name {
        "PORT" => Some("the port that a listening web dyno is given"),
        "DYNO" => Some("the dyno's name"),
        _ if name.starts_with("OARLOCK_") => Some("all of OARLOCK_* is"),
        _ => None,
    }
}
