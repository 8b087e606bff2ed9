//! `[addons]`: what each is, who gets it, and under which names. Plans and sizes are the providers' to judge.

mod values;

use std::collections::{BTreeMap, BTreeSet};

use toml::de::{DeTable, DeValue};

use super::Options;
use super::processes::Processes;
use super::types::Addon;
use crate::mistakes::{Findings, Span, brief};
use crate::names::{AddonName, ProcessType};
use crate::read::{self, Entry};
use crate::suggest::did_you_mean;
use values::{nested, read_addon_size, read_mount, read_prefix, read_url_from};

/// The most add-ons that a manifest may have.
pub(crate) const MAX_ADDONS: usize = 100;

const KEYS: [&str; 6] = ["plan", "processes", "as", "mount", "size", "url_from"];

/// An add-on and what of it must not meet another's.
struct Read {
    name: AddonName,
    addon: Addon,
    prefix_span: Span,
    mount_span: Span,
    /// Nothing is wrong with it by itself, so that a clash is not just what follows from that.
    sound: bool,
}

impl Addon {
    /// The prefix of its variables (`DATABASE` of `DATABASE_URL`): `as`, or else the provider's
    /// own; `None` for providers that set none.
    pub fn variable_prefix(&self, name: &AddonName) -> Option<String> {
        if let Some(prefix) = &self.prefix {
            return Some(prefix.clone());
        }
        match self.provider.as_str() {
            "kv" | "volume" => None,
            "postgres" => Some("DATABASE".to_owned()),
            "external" => {
                let from = self
                    .url_from
                    .as_deref()
                    .and_then(|var| var.strip_suffix("_URL"));
                Some(from.map_or_else(|| shout(name.as_str()), str::to_owned))
            }
            other => Some(shout(other)),
        }
    }

    /// Whether a process type may get both this and another add-on.
    fn meets(&self, other: &Self) -> bool {
        match (&self.processes, &other.processes) {
            (Some(mine), Some(theirs)) => mine.iter().any(|process| theirs.contains(process)),
            _ => true,
        }
    }
}

/// `my-cache` as a variable's name has it: `MY_CACHE`.
fn shout(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

/// Reads `[addons]`.
pub(crate) fn read(
    table: &DeTable<'_>,
    processes: &Processes,
    options: &Options<'_>,
    findings: &mut Findings<'_>,
) -> BTreeMap<AddonName, Addon> {
    let mut list: Vec<Read> = Vec::new();
    for entry in read::at_most(read::entries(table), MAX_ADDONS, "add-ons", findings) {
        let mistakes = findings.count();
        let name = entry.key.parse::<AddonName>();
        if let Err(error) = &name {
            let message = format!("{} `{}` is not valid", error.what, brief(entry.key));
            findings.suggest(&entry.key_span, message, error.rule);
        }
        let read = read_addon(&entry, processes, options, findings);
        if let (Ok(name), Some((addon, prefix_span, mount_span))) = (name, read) {
            let sound = findings.count() == mistakes;
            list.push(Read {
                name,
                addon,
                prefix_span,
                mount_span,
                sound,
            });
        }
    }
    note_clashes(&list, findings);
    list.into_iter()
        .map(|read| (read.name, read.addon))
        .collect()
}

fn read_addon(
    entry: &Entry<'_>,
    processes: &Processes,
    options: &Options<'_>,
    findings: &mut Findings<'_>,
) -> Option<(Addon, Span, Span)> {
    let line = findings.source().line(entry.key_span.start);
    let blank = |(provider, plan): (String, Option<String>)| Addon {
        provider,
        plan,
        processes: None,
        prefix: None,
        mount: None,
        size: None,
        url_from: None,
        line,
    };
    let table = match entry.value.get_ref() {
        DeValue::String(_) => {
            let addon = blank(read_plan(entry, options, findings)?);
            require(&addon, entry, findings);
            return Some((addon, entry.key_span.clone(), entry.key_span.clone()));
        }
        DeValue::Table(table) => table,
        _ => {
            let help = format!("write `{} = \"postgres\"`", brief(entry.key));
            entry.wrong_type("a provider or a table", Some(help), findings);
            return None;
        }
    };
    let place = format!("add-on `{}`", brief(entry.key));
    if let Some(provider) = read::entries(table)
        .into_iter()
        .find(|inner| inner.key == "provider")
    {
        findings.suggest(
            &provider.key_span,
            format!("unknown key `provider` in {place}"),
            "did you mean `plan`?",
        );
    }
    let keys = read::known_entries(
        table,
        &[&KEYS[..], &["provider"]].concat(),
        &place,
        findings,
    );
    let mut addon = match keys.get("plan") {
        Some(plan) => blank(read_plan(plan, options, findings)?),
        None if keys.contains_key("provider") => return None,
        None => {
            findings.suggest(
                &entry.key_span,
                format!("{place} has no `plan`"),
                "add `plan = \"provider\"`",
            );
            return None;
        }
    };
    addon.processes = keys
        .get("processes")
        .map(|entry| read_processes(entry, processes, findings));
    addon.prefix = keys
        .get("as")
        .and_then(|entry| read_prefix(entry, findings));
    addon.mount = keys
        .get("mount")
        .and_then(|entry| read_mount(entry, findings));
    addon.size = keys
        .get("size")
        .and_then(|entry| read_addon_size(entry, findings));
    if let (Some(policy), Some(size)) = (options.policy, keys.get("size")) {
        policy.app_caps.check_addon(&addon, size, findings);
    }
    addon.url_from = keys
        .get("url_from")
        .and_then(|entry| read_url_from(entry, findings));
    note_misplaced(&addon, &keys, findings);
    if !keys.contains_key("mount") && !keys.contains_key("url_from") {
        require(&addon, entry, findings);
    }
    let span_of = |key: &str| {
        keys.get(key)
            .map_or_else(|| entry.key_span.clone(), Entry::span)
    };
    Some((addon, span_of("as"), span_of("mount")))
}

/// `provider` or `provider:plan`.
fn read_plan(
    entry: &Entry<'_>,
    options: &Options<'_>,
    findings: &mut Findings<'_>,
) -> Option<(String, Option<String>)> {
    let text = entry.text(findings)?;
    let (provider, plan) = match text.split_once(':') {
        Some((provider, plan)) => (provider, Some(plan)),
        None => (text, None),
    };
    let good = |word: &str| {
        (1..=60).contains(&word.len())
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    if text.contains("://") {
        let help = "put the URL into a config var, and write `{ plan = \"external\", url_from = \"THE_VAR\" }`";
        findings.suggest(&entry.span(), "a provider is wanted here, not a URL", help);
        return None;
    }
    if !good(provider) || plan.is_some_and(|plan| !good(plan)) {
        let message = format!("`{}` is not a provider or provider:plan", brief(text));
        findings.suggest(
            &entry.span(),
            message,
            "use a-z, 0-9, `-` and `_`, as in \"postgres\" or \"postgres:standard\"",
        );
        return None;
    }
    if !options.providers.is_empty() && !options.providers.contains(&provider) {
        let message = format!("unknown add-on provider `{provider}`");
        findings.push(
            &entry.span(),
            message,
            did_you_mean(provider, options.providers),
        );
        return None;
    }
    Some((provider.to_owned(), plan.map(str::to_owned)))
}

fn read_processes(
    entry: &Entry<'_>,
    processes: &Processes,
    findings: &mut Findings<'_>,
) -> Vec<ProcessType> {
    let before = findings.count();
    let names = entry.strings(findings);
    if names.is_empty() && findings.count() == before {
        findings.suggest(
            &entry.span(),
            "no process type gets this add-on",
            "name one, or leave `processes` out for all",
        );
    }
    let mut seen = BTreeSet::new();
    let mut list = Vec::new();
    for (span, name) in names {
        if !seen.insert(name) {
            findings.suggest(
                &span,
                format!("process type `{}` is given twice", brief(name)),
                "keep one of them",
            );
        } else if let Some((process, _)) = processes.find(name, &span, findings) {
            list.push(process.clone());
        }
    }
    list
}

/// Keys that only one provider understands.
const ONLY: [(&str, &str); 2] = [("mount", "volume"), ("url_from", "external")];

fn note_misplaced(addon: &Addon, keys: &BTreeMap<&str, Entry<'_>>, findings: &mut Findings<'_>) {
    for (key, provider) in ONLY {
        match keys.get(key) {
            Some(entry) if addon.provider != provider => {
                let message = format!(
                    "`{key}` is for `{provider}`; `{}` does not have it",
                    addon.provider
                );
                findings.suggest(&entry.key_span, message, "remove it");
            }
            _ => {}
        }
    }
    if let Some(size) = keys.get("size").filter(|_| addon.provider == "external") {
        findings.suggest(
            &size.key_span,
            "`size` is not ours to set for an `external` service",
            "remove it",
        );
    }
}

/// Keys that a provider cannot do without.
fn require(addon: &Addon, entry: &Entry<'_>, findings: &mut Findings<'_>) {
    let help = match addon.provider.as_str() {
        "volume" => "write `{ plan = \"volume\", mount = \"/data\" }`",
        "external" => "write `{ plan = \"external\", url_from = \"CRM_URL\" }`",
        _ => return,
    };
    let key = if addon.provider == "volume" {
        "mount"
    } else {
        "url_from"
    };
    findings.suggest(
        &entry.key_span,
        format!("add-on `{}` needs `{key}`", brief(entry.key)),
        help,
    );
}

/// Two add-ons of one process type must not set the same variables, nor lie in one folder.
fn note_clashes(list: &[Read], findings: &mut Findings<'_>) {
    for (index, later) in list.iter().enumerate() {
        let earlier = list
            .iter()
            .take(index)
            .filter(|earlier| earlier.sound && later.sound && earlier.addon.meets(&later.addon));
        for earlier in earlier {
            let prefix = later.addon.variable_prefix(&later.name);
            if let Some(prefix) = prefix.filter(|prefix| {
                earlier.addon.variable_prefix(&earlier.name).as_ref() == Some(prefix)
            }) {
                let message = format!(
                    "add-ons `{}` and `{}` both set {prefix}_URL",
                    earlier.name, later.name
                );
                let help = format!(
                    "give one of them a prefix, as in `as = \"{}\"`",
                    shout(later.name.as_str())
                );
                findings.suggest(&later.prefix_span, message, help);
                break;
            }
            if let (Some(mine), Some(theirs)) = (&later.addon.mount, &earlier.addon.mount)
                && nested(mine, theirs)
            {
                let message = format!(
                    "add-ons `{}` and `{}` are both mounted at {theirs}",
                    earlier.name, later.name
                );
                findings.suggest(&later.mount_span, message, "give each a folder of its own");
                break;
            }
        }
    }
}
