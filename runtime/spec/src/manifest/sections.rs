//! The tables of `oarlock.toml`, in the order in which they depend on each other.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::processes::{self, Processes};
use super::types::{AllowEntry, Build, Manifest, Process};
use super::{Options, addons, allow, config, paths};
use crate::limits::{LimitKey, LimitSet, Limits, TooManyDynos};
use crate::mistakes::{Findings, brief};
use crate::names::{AppName, ProcessType};
use crate::policy::Policy;
use crate::read::{self, Entry};

const KEYS: [&str; 9] = [
    "app",
    "processes",
    "scale",
    "addons",
    "config",
    "network",
    "limits",
    "build",
    "files",
];

/// The most dynos that a process type may have.
pub const MAX_SCALE: u32 = 10_000;

type Keys<'a> = BTreeMap<&'a str, Entry<'a>>;

/// Reads the whole document. What it gives is a valid manifest only if nothing was found.
pub(crate) fn read<'a>(
    document: &'a DeTable<'a>,
    options: &Options<'_>,
    findings: &mut Findings<'_>,
) -> Option<Manifest> {
    let keys = read::known_entries(document, &KEYS, "", findings);
    let app = read_app(&keys, findings);
    let processes = read_processes(&keys, findings);
    let scale = read_scale(&keys, &processes, findings);
    check_dynos(&keys, (&processes, &scale), options, findings);
    let addons = match section(&keys, "addons", findings) {
        Some(table) => addons::read(table, &processes, options, findings),
        None => BTreeMap::new(),
    };
    let config = section(&keys, "config", findings)
        .map(|table| config::read(table, findings))
        .unwrap_or_default();
    let allow = read_network(&keys, findings);
    let limits = read_limits(&keys, &processes, options, findings);
    let build = read_build(&keys, findings);
    let files = read_files(&keys, findings);
    Some(Manifest {
        app: app?,
        processes: processes.types,
        scale,
        addons,
        config,
        allow,
        limits,
        build,
        files,
    })
}

fn section<'a>(
    keys: &Keys<'a>,
    name: &str,
    findings: &mut Findings<'_>,
) -> Option<&'a DeTable<'a>> {
    keys.get(name)?.table(&format!("[{name}]"), findings)
}

fn read_app(keys: &Keys<'_>, findings: &mut Findings<'_>) -> Option<AppName> {
    let Some(entry) = keys.get("app") else {
        if !findings.syntax_broken() {
            findings.suggest(
                &(0..0),
                "the manifest has no `app`",
                "begin it with the app's name, as in `app = \"guestbook\"`",
            );
        }
        return None;
    };
    let text = entry.string(findings)?;
    match text.parse::<AppName>() {
        Ok(name) => Some(name),
        Err(error) => {
            let near =
                near_app_name(text).map_or_else(String::new, |near| format!(", as in \"{near}\""));
            let message = format!("{} `{}` is not valid", error.what, brief(text));
            findings.suggest(&entry.span(), message, format!("{}{near}", error.rule));
            None
        }
    }
}

/// `My App` → `my-app`, if that makes a name.
fn near_app_name(text: &str) -> Option<AppName> {
    let swapped: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(30)
        .collect();
    swapped.trim_matches('-').parse().ok()
}

fn read_processes(keys: &Keys<'_>, findings: &mut Findings<'_>) -> Processes {
    let Some(entry) = keys.get("processes") else {
        if !findings.syntax_broken() {
            let help = "add [processes] with a line like `web = \"web.wasm\"`";
            findings.suggest(&(0..0), "the manifest has no process types", help);
        }
        return Processes::unreadable();
    };
    let Some(table) = entry.table("[processes]", findings) else {
        return Processes::unreadable();
    };
    if table.is_empty() && !findings.syntax_broken() {
        findings.suggest(
            &entry.key_span,
            "[processes] is empty",
            "add a line like `web = \"web.wasm\"`",
        );
        return Processes::unreadable();
    }
    processes::read(table, findings)
}

fn read_scale(
    keys: &Keys<'_>,
    processes: &Processes,
    findings: &mut Findings<'_>,
) -> BTreeMap<ProcessType, u32> {
    let mut scale = BTreeMap::new();
    for entry in section(keys, "scale", findings)
        .map(read::entries)
        .unwrap_or_default()
    {
        let count = entry.integer(0..=u64::from(MAX_SCALE), findings);
        let Some((kind, process)) = processes.find(entry.key, &entry.key_span, findings) else {
            continue;
        };
        if kind.is_release() {
            findings.suggest(
                &entry.key_span,
                "`release` has no scale: it runs once per release",
                "remove this line",
            );
        } else if process.schedule.is_some() {
            let message = format!("`{kind}` has no scale: its schedule starts it");
            findings.suggest(&entry.key_span, message, "remove this line");
        } else if let Some(count) = count {
            if process.singleton && count > 1 {
                let message = format!("`{kind}` is a singleton and cannot be {count}");
                findings.suggest(&entry.span(), message, "use 0 or 1, or remove `singleton`");
            }
            scale.insert(kind.clone(), u32::try_from(count).unwrap_or(MAX_SCALE));
        }
    }
    scale
}

/// `[scale]`, and one of each type that is not in it, is not above the policy's cap.
fn check_dynos(
    keys: &Keys<'_>,
    (processes, scale): (&Processes, &BTreeMap<ProcessType, u32>),
    options: &Options<'_>,
    findings: &mut Findings<'_>,
) {
    let Some(refused) = too_many_dynos(processes, scale, options) else {
        return;
    };
    // At the largest number, or else where the types are.
    let largest = section(keys, "scale", findings).and_then(|table| {
        let count = |entry: &Entry<'_>| scale.get(entry.key).copied();
        read::entries(table).into_iter().max_by_key(count)
    });
    let span = match (largest, keys.get("processes")) {
        (Some(largest), _) => largest.span(),
        (None, Some(processes)) => processes.key_span.clone(),
        (None, None) => 0..0,
    };
    findings.push(&span, refused.to_string(), None);
}

/// What the policy says against so many dynos.
pub(super) fn too_many_dynos(
    processes: &Processes,
    scale: &BTreeMap<ProcessType, u32>,
    options: &Options<'_>,
) -> Option<TooManyDynos> {
    let scaled = processes
        .types
        .iter()
        .filter(|(kind, process)| is_scaled(kind, process));
    let counts: Vec<u32> = scaled
        .map(|(kind, _)| scale.get(kind).copied().unwrap_or(1))
        .collect();
    options.policy?.app_caps.check_dynos(&counts).err()
}

/// Whether it has a number of dynos.
fn is_scaled(kind: &ProcessType, process: &Process) -> bool {
    !kind.is_release() && process.schedule.is_none()
}

fn read_network(keys: &Keys<'_>, findings: &mut Findings<'_>) -> Vec<AllowEntry> {
    let Some(table) = section(keys, "network", findings) else {
        return Vec::new();
    };
    let keys = read::known_entries(table, &["allow"], "[network]", findings);
    keys.get("allow")
        .map(|entry| allow::read(entry, findings))
        .unwrap_or_default()
}

fn read_limits(
    keys: &Keys<'_>,
    processes: &Processes,
    options: &Options<'_>,
    findings: &mut Findings<'_>,
) -> BTreeMap<ProcessType, Limits> {
    let caps = options.policy.map(|policy| &policy.caps);
    let mut default = LimitSet::default();
    let mut own: BTreeMap<ProcessType, LimitSet> = BTreeMap::new();
    for entry in section(keys, "limits", findings)
        .map(read::entries)
        .unwrap_or_default()
    {
        if LimitKey::from_name(entry.key).is_some()
            && !matches!(entry.value.get_ref(), DeValue::Table(_))
        {
            let message = format!(
                "`{}` stands in [limits] itself, which has a table per process type",
                entry.key
            );
            findings.suggest(
                &entry.key_span,
                message,
                "put it under [limits.default], or [limits.web]",
            );
            continue;
        }
        let place = format!("[limits.{}]", brief(entry.key));
        let Some(table) = entry.table(&place, findings) else {
            continue;
        };
        let set = LimitSet::read(table, &place, caps, findings);
        if entry.key == "default" {
            default = set;
        } else if let Some((kind, _)) = processes.find(entry.key, &entry.key_span, findings) {
            own.insert(kind.clone(), set);
        }
    }
    limits_for(processes, &default, &|kind| own.get(kind), options.policy)
}

/// Resolves the limits of every process type: built-in, the policy's defaults, `[limits.default]`,
/// `[limits.TYPE]`, and nothing above the policy's caps.
pub(crate) fn limits_for<'s>(
    processes: &Processes,
    default: &LimitSet,
    own: &dyn Fn(&ProcessType) -> Option<&'s LimitSet>,
    policy: Option<&Policy>,
) -> BTreeMap<ProcessType, Limits> {
    let resolve = |kind: &ProcessType| {
        let mut limits = Limits::default();
        if let Some(policy) = policy {
            policy.defaults.lay_over(&mut limits);
        }
        default.lay_over(&mut limits);
        if let Some(own) = own(kind) {
            own.lay_over(&mut limits);
        }
        if let Some(policy) = policy {
            policy.caps.hold_below(&mut limits);
        }
        limits
    };
    processes
        .types
        .keys()
        .map(|kind| (kind.clone(), resolve(kind)))
        .collect()
}

fn read_build(keys: &Keys<'_>, findings: &mut Findings<'_>) -> Option<Build> {
    let entry = keys.get("build")?;
    let table = entry.table("[build]", findings)?;
    let keys = read::known_entries(table, &["command"], "[build]", findings);
    let Some(command) = keys.get("command") else {
        if table.is_empty() {
            let help = "add `command = \"…\"`, or remove [build] to have it detected";
            findings.suggest(&entry.key_span, "[build] has no `command`", help);
        }
        return None;
    };
    Some(Build {
        command: command.text(findings)?.to_owned(),
    })
}

fn read_files(keys: &Keys<'_>, findings: &mut Findings<'_>) -> Vec<String> {
    let Some(table) = section(keys, "files", findings) else {
        return Vec::new();
    };
    let keys = read::known_entries(table, &["include"], "[files]", findings);
    let Some(entry) = keys.get("include") else {
        return Vec::new();
    };
    let mut globs = Vec::new();
    for (span, text) in entry.strings(findings) {
        if let Some((message, help)) = paths::check_glob(text) {
            findings.push(&span, message, help);
        } else {
            globs.push(paths::tidy(text));
        }
    }
    globs
}
