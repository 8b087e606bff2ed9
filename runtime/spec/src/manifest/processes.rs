//! `[processes]`: a component and its arguments per process type, as a line or a table.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::paths;
use super::schedule;
use super::types::{Process, Schedule};
use super::words::{self, Word};
use crate::mistakes::{Findings, Span, brief};
use crate::names::ProcessType;
use crate::read::{self, Entry};
use crate::suggest::did_you_mean;

/// The most process types that a manifest may have.
pub(crate) const MAX_PROCESSES: usize = 100;

const KEYS: [&str; 4] = ["run", "singleton", "schedule", "timezone"];

/// Names that no process type may have, with the reason.
const RESERVED: [(&str, &str); 2] = [
    ("default", "[limits.default] speaks of all process types"),
    ("run", "`run.1234` is what one-off dynos are called"),
];

/// The process types of a file. Those with mistakes are in it too, so that what refers to them is
/// not reported as well.
#[derive(Default)]
pub(crate) struct Processes {
    pub(crate) types: BTreeMap<ProcessType, Process>,
    /// Every name as written, good or not.
    declared: Vec<String>,
    /// The table, or a part of it, could not be read: no name can be called unknown.
    unreadable: bool,
}

impl Processes {
    /// A set of which nothing is known because its table could not be read.
    pub(crate) fn unreadable() -> Self {
        Self {
            unreadable: true,
            ..Self::default()
        }
    }

    /// The process type of this name; notes a name that the file does not have.
    pub(crate) fn find(
        &self,
        name: &str,
        span: &Span,
        findings: &mut Findings<'_>,
    ) -> Option<(&ProcessType, &Process)> {
        let found = self.types.get_key_value(name);
        if found.is_none()
            && !self.unreadable
            && !self.declared.iter().any(|declared| declared == name)
        {
            let known: Vec<&str> = self.types.keys().map(ProcessType::as_str).collect();
            let message = format!("unknown process type `{}`", brief(name));
            findings.push(span, message, did_you_mean(name, &known));
        }
        found
    }

    /// How many names were declared so far; one more than may be once it is closed.
    pub(crate) fn count(&self) -> usize {
        self.declared.len()
    }

    /// Marks that too many names were declared, and that this was said.
    pub(crate) fn close(&mut self) {
        self.declared.push(String::new());
    }

    /// Adds a process type after checking its name; notes a name that is taken.
    pub(crate) fn insert(
        &mut self,
        name: &str,
        span: &Span,
        process: Process,
        findings: &mut Findings<'_>,
    ) {
        self.declared.push(name.to_owned());
        if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
            findings.suggest(
                span,
                format!("a process type cannot be called `{name}`"),
                *why,
            );
            return;
        }
        match name.parse::<ProcessType>() {
            Ok(kind) if self.types.contains_key(&kind) => {
                findings.suggest(
                    span,
                    format!("process type `{name}` is given twice"),
                    "keep one of them",
                );
            }
            Ok(kind) => {
                self.types.insert(kind, process);
            }
            Err(error) => {
                findings.suggest(
                    span,
                    format!("{} `{}` is not valid", error.what, brief(name)),
                    error.rule,
                );
            }
        }
    }
}

/// Reads `[processes]`.
pub(crate) fn read(table: &DeTable<'_>, findings: &mut Findings<'_>) -> Processes {
    let mut processes = Processes {
        unreadable: findings.broken_within("processes"),
        ..Processes::default()
    };
    let all = read::entries(table);
    processes.unreadable |= all.len() > MAX_PROCESSES;
    for entry in read::at_most(all, MAX_PROCESSES, "process types", findings) {
        let mut process = empty(findings.source().line(entry.key_span.start));
        match entry.value.get_ref() {
            DeValue::String(line) => read_line(line, &entry, &mut process, findings),
            DeValue::Table(table) => read_table(table, &entry, &mut process, findings),
            _ => entry.wrong_type(
                "a line or a table",
                Some(format!("write `{} = \"app.wasm\"`", brief(entry.key))),
                findings,
            ),
        }
        processes.insert(entry.key, &entry.key_span, process, findings);
    }
    processes
}

/// A process of which only the line is known yet.
pub(crate) fn empty(line: u32) -> Process {
    Process {
        component: String::new(),
        args: Vec::new(),
        singleton: false,
        schedule: None,
        line,
    }
}

fn read_line(line: &str, entry: &Entry<'_>, process: &mut Process, findings: &mut Findings<'_>) {
    let span = entry.span();
    command(line, entry.key, process, findings, |part, findings| {
        findings.source().within(&span, line, part)
    });
}

fn read_table(
    table: &DeTable<'_>,
    entry: &Entry<'_>,
    process: &mut Process,
    findings: &mut Findings<'_>,
) {
    let place = format!("process type `{}`", brief(entry.key));
    let keys = read::known_entries(table, &KEYS, &place, findings);
    match keys.get("run") {
        Some(run) => {
            if let Some(line) = run.string(findings) {
                let span = run.span();
                command(line, entry.key, process, findings, |part, findings| {
                    findings.source().within(&span, line, part)
                });
            }
        }
        None => findings.suggest(
            &entry.key_span,
            format!("{place} has no `run`"),
            "add `run = \"app.wasm\"`",
        ),
    }
    if let Some(singleton) = keys.get("singleton") {
        process.singleton = singleton.boolean(findings).unwrap_or(false);
    }
    process.schedule = read_schedule(entry, keys.get("schedule"), keys.get("timezone"), findings);
}

fn read_schedule(
    process: &Entry<'_>,
    schedule: Option<&Entry<'_>>,
    timezone: Option<&Entry<'_>>,
    findings: &mut Findings<'_>,
) -> Option<Schedule> {
    let zone = timezone.and_then(|entry| {
        let name = entry.string(findings)?;
        schedule::zone(name)
            .map_err(|(message, help)| findings.push(&entry.span(), message, help))
            .ok()
    });
    let Some(entry) = schedule else {
        if let Some(timezone) = timezone {
            findings.suggest(
                &timezone.key_span,
                "`timezone` without `schedule` has no effect",
                "add `schedule` or remove it",
            );
        }
        return None;
    };
    if matches!(process.key, "web" | "release") {
        let why = if process.key == "web" {
            "it serves requests"
        } else {
            "it runs once per release"
        };
        let message = format!("`{}` cannot have a schedule: {why}", process.key);
        findings.suggest(
            &entry.key_span,
            message,
            "give the scheduled work a process type of its own",
        );
    }
    let text = entry.string(findings)?;
    if let Err((message, help)) = schedule::cron(text) {
        findings.push(&entry.span(), message, help);
    }
    Some(Schedule {
        cron: text.trim().to_owned(),
        timezone: zone.unwrap_or_else(|| "UTC".to_owned()),
    })
}

/// Reads a process line into `process`; `locate` turns a span within the line into one of the file.
pub(crate) fn command(
    line: &str,
    name: &str,
    process: &mut Process,
    findings: &mut Findings<'_>,
    locate: impl Fn(&Span, &Findings<'_>) -> Span,
) {
    let words = match words::split(line) {
        Ok(words) => words,
        Err(error) => {
            let place = locate(&(error.at()..line.len()), findings);
            let (message, help) = explain(&error);
            findings.suggest(&place, message, help);
            return;
        }
    };
    for word in &words {
        if let Some((message, help)) = shell_habit(word) {
            let place = locate(&word.span, findings);
            findings.suggest(&place, message, help);
        }
    }
    let Some((component, args)) = words.split_first() else {
        let place = locate(&(0..line.len()), findings);
        findings.suggest(
            &place,
            format!("process type `{}` runs nothing", brief(name)),
            "give the path of its component",
        );
        return;
    };
    let place = locate(&component.span, findings);
    if let Some((name, _)) = component
        .text
        .split_once('=')
        .filter(|(name, _)| is_variable(name))
    {
        findings.suggest(
            &place,
            format!(
                "`{}` sets a variable, which a process line cannot",
                brief(&component.text)
            ),
            format!("put `{name}` into [config]"),
        );
    } else if let Some((message, help)) = paths::check(&component.text) {
        findings.push(&place, message, help);
    }
    process.component = paths::tidy(&component.text);
    if process.component.is_empty() {
        findings.suggest(
            &place,
            "the component's path is empty",
            "give the path of its component",
        );
    }
    for word in args.iter().filter(|word| word.text.contains('\0')) {
        let place = locate(&word.span, findings);
        findings.add(
            &place,
            "an argument holds a zero byte, which no program can be given",
        );
    }
    process.args = args.iter().map(Word::argument).collect();
}

fn explain(error: &words::SplitError) -> (String, String) {
    match error {
        words::SplitError::OpenQuote { quote, .. } => (
            format!("the quote {quote} is never closed"),
            format!("close it, or write \\{quote} for the character itself"),
        ),
        words::SplitError::NoVariable { .. } => (
            "the brace begins no variable".to_owned(),
            "write ${NAME}, ${NAME:-a word}, or \\$ for a dollar sign".to_owned(),
        ),
        words::SplitError::EndsWithBackslash { .. } => (
            "a backslash at the end keeps nothing".to_owned(),
            "write \\\\ for a backslash".to_owned(),
        ),
    }
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// What people write for a shell, and no shell is there to understand.
fn shell_habit(word: &Word) -> Option<(String, &'static str)> {
    if word.quoted {
        return None;
    }
    let text = word.text.as_str();
    if matches!(text, "&&" | "||" | "|" | ";" | "&" | ">" | ">>" | "<") {
        let message = format!(
            "`{text}` means nothing here: a process line runs one component, without a shell"
        );
        return Some((
            message,
            "use one process type for each component, or quote it",
        ));
    }
    None
}
