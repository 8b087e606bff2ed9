//! Plain Procfiles: `type: line`, blank lines and comment lines.

use super::processes::{self, MAX_PROCESSES, Processes};
use super::types::Manifest;
use super::{ManifestErrors, Options, PROCFILE, sections};
use crate::limits::LimitSet;
use crate::mistakes::{Findings, Source, Span, brief};
use crate::names::AppName;

pub(crate) fn parse(
    text: &str,
    app: AppName,
    options: &Options<'_>,
) -> Result<Manifest, ManifestErrors> {
    let mut findings = Findings::new(Source::new(PROCFILE, text)?);
    let mut found = Processes::default();
    // Some editors begin a file with a mark of its encoding.
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut start = text.len() - body.len();
    for raw in body.split_inclusive('\n') {
        read_line(
            start,
            raw.trim_end_matches(['\r', '\n']),
            &mut found,
            &mut findings,
        );
        start += raw.len();
    }
    if found.types.is_empty() && findings.count() == 0 {
        findings.suggest(
            &(0..0),
            "the file has no process types",
            "write one, as in `web: web.wasm`",
        );
    }
    if let Some(refused) = sections::too_many_dynos(&found, &Default::default(), options) {
        findings.push(&(0..0), refused.to_string(), None);
    }
    let limits = sections::limits_for(&found, &LimitSet::default(), &|_| None, options.policy);
    let manifest = Manifest {
        app,
        processes: found.types,
        scale: Default::default(),
        addons: Default::default(),
        config: Default::default(),
        allow: Vec::new(),
        limits,
        build: None,
        files: Vec::new(),
    };
    findings.finish(Some(manifest))
}

fn read_line(start: usize, line: &str, found: &mut Processes, findings: &mut Findings<'_>) {
    let trimmed = line.trim();
    if trimmed.is_empty() || trimmed.starts_with('#') {
        return;
    }
    let indent = line.len() - line.trim_start().len();
    let whole = start + indent..start + indent + trimmed.len();
    if trimmed.starts_with('[') {
        findings.suggest(
            &whole,
            "a Procfile has no tables",
            "move everything into oarlock.toml",
        );
        return;
    }
    match found.count() {
        0..MAX_PROCESSES => {}
        MAX_PROCESSES => {
            findings.add(
                &whole,
                format!("there may be at most {MAX_PROCESSES} process types"),
            );
            found.close();
            return;
        }
        _ => return,
    }
    let Some((name, command)) = trimmed.split_once(':') else {
        let help = match trimmed.split_once('=') {
            Some((name, _)) => format!("write `{}: …`", brief(name.trim())),
            None => "write `web: web.wasm`".to_owned(),
        };
        findings.suggest(&whole, "this line has no process type", help);
        return;
    };
    let name_span = whole.start..whole.start + name.trim_end().len();
    let command_start = whole.start + name.len() + 1;
    let mut process = processes::empty(findings.source().line(start));
    if command.trim().is_empty() {
        let message = format!("process type `{}` runs nothing", brief(name.trim_end()));
        findings.suggest(&name_span, message, "give the path of its component");
    } else {
        let locate =
            |part: &Span, _: &Findings<'_>| command_start + part.start..command_start + part.end;
        processes::command(command, name, &mut process, findings, locate);
    }
    // Heroku takes `Web:` as well.
    let name = name.trim_end().to_ascii_lowercase();
    found.insert(&name, &name_span, process, findings);
}
