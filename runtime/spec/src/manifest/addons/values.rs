//! The values of an add-on's keys, each judged by itself.

use toml::de::DeValue;

use super::super::{config, paths};
use crate::limits::in_units;
use crate::mistakes::{Findings, brief};
use crate::read::Entry;
use crate::units::parse_size;

pub(crate) fn read_prefix(entry: &Entry<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let prefix = entry.string(findings)?;
    let shape = prefix.starts_with(|c: char| c.is_ascii_uppercase())
        && !prefix.ends_with('_')
        && prefix.len() <= 60
        && prefix
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if !shape {
        let help =
            "use up to 60 of A-Z, 0-9 and `_`, starting with a letter and not ending with `_`";
        findings.suggest(
            &entry.span(),
            format!("prefix `{}` is not valid", brief(prefix)),
            help,
        );
        return None;
    }
    if let Some(short) = prefix.strip_suffix("_URL") {
        let message = format!("`as` is the prefix of the variables: this would set {prefix}_URL");
        findings.suggest(&entry.span(), message, format!("did you mean `{short}`?"));
        return None;
    }
    if config::reserved(&format!("{prefix}_")).is_some() {
        findings.suggest(
            &entry.span(),
            format!("`{prefix}_*` is set by Oarlock itself"),
            "use another prefix",
        );
        return None;
    }
    Some(prefix.to_owned())
}

pub(crate) fn read_mount(entry: &Entry<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let mount = entry.text(findings)?;
    let shown = brief(mount);
    let tidy = format!("/{}", paths::tidy(mount));
    let refusal = if !mount.starts_with('/') {
        Some((
            format!("mount `{shown}` is not absolute"),
            format!("write \"/{shown}\""),
        ))
    } else if mount.contains('\\')
        || mount.chars().any(char::is_control)
        || mount.split('/').any(|part| part == "..")
    {
        Some((
            format!("mount `{shown}` is not a plain path"),
            "use an absolute path without `..` and `\\`".to_owned(),
        ))
    } else if tidy == "/" {
        Some((
            "a volume cannot be mounted at `/`".to_owned(),
            "use a folder, as in \"/data\"".to_owned(),
        ))
    } else if ["/app", "/tmp"].iter().any(|taken| nested(&tidy, taken)) {
        Some((
            format!("mount `{shown}` is taken: /app has the app's files, /tmp its own space"),
            "use a folder of its own, as in \"/data\"".to_owned(),
        ))
    } else {
        None
    };
    if let Some((message, help)) = refusal {
        findings.suggest(&entry.span(), message, help);
        return None;
    }
    Some(tidy)
}

/// Whether one path is the other or lies below it.
pub(crate) fn nested(path: &str, other: &str) -> bool {
    let below = |path: &str, parent: &str| {
        path.strip_prefix(parent)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    path == other || below(path, other) || below(other, path)
}

pub(crate) fn read_addon_size(entry: &Entry<'_>, findings: &mut Findings<'_>) -> Option<u64> {
    if let DeValue::Integer(_) = entry.value.get_ref() {
        entry.wrong_type(
            "a size with its unit",
            Some("use a number and a unit, as in \"1 GiB\"".to_owned()),
            findings,
        );
        return None;
    }
    let text = entry.string(findings)?;
    let size = in_units(entry, text, parse_size(text), findings)?;
    if size == 0 {
        findings.suggest(
            &entry.span(),
            "an add-on of no size can hold nothing",
            "use a size, as in \"1 GiB\"",
        );
    }
    Some(size)
}

pub(crate) fn read_url_from(entry: &Entry<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let name = entry.text(findings)?;
    if name.contains("://") {
        let help = "put the URL into a config var, and name that var here";
        findings.suggest(
            &entry.span(),
            "`url_from` names a config var, it is not the URL itself",
            help,
        );
        return None;
    }
    match config::config_name_mistake(name) {
        Some((message, help)) => {
            findings.push(&entry.span(), message, help);
            None
        }
        None => Some(name.to_owned()),
    }
}
