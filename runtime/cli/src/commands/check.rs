//! `oarlock check [DIR]`

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use oarlock_spec::codes::exit;
use oarlock_spec::limits::LimitKey;
use oarlock_spec::manifest::{Argument, Manifest, Process};
use oarlock_spec::names::ProcessType;
use oarlock_spec::policy::Policy;
use serde::Serialize;

use super::drive;
use crate::output::{self, Failure, Outcome};

/// Validate the manifest and show what each process is granted
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  oarlock check\n  oarlock check --json examples/guestbook")]
pub(crate) struct Check {
    /// The app's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The operator's policy file
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What one process type is granted, as `--json` prints it.
#[derive(Debug, Serialize)]
struct ProcessRow {
    process: ProcessType,
    component: String,
    args: Vec<String>,
    /// In `args`, and not in the manifest's config vars.
    variables_elsewhere: Vec<String>,
    built: bool,
    dynos: u32,
    schedule: Option<String>,
    singleton: bool,
    /// Where it may listen, if its component is a command.
    listen: Option<&'static str>,
    memory_bytes: u64,
    limits_without_effect: Vec<&'static str>,
    config: Vec<String>,
    addons: Vec<String>,
    network: Vec<String>,
    files: Vec<String>,
    /// What the operator of a `serve` allows it at most.
    in_serve_at_most: BTreeMap<&'static str, String>,
    /// What `serve` would say against the app; `None`: nothing.
    refused_by_serve: Option<String>,
}

/// How the app would fare in `serve`.
struct InServe {
    at_most: BTreeMap<&'static str, String>,
    refused: Option<String>,
}

impl InServe {
    fn of(dir: &Path, policy: Policy) -> Self {
        let policy = policy.for_serve();
        Self {
            at_most: policy.caps.shown().chain(policy.app_caps.shown()).collect(),
            refused: oarlock_platform::load_manifest(dir, Some(&policy)).err(),
        }
    }

    fn lines(&self) -> Vec<String> {
        let caps: Vec<String> = self
            .at_most
            .iter()
            .map(|(key, most)| format!("{key} {most}"))
            .collect();
        let mut lines = vec![
            String::new(),
            format!("in serve at most {}", caps.join(", ")),
            "           the operator raises these by [caps] in the policy".to_owned(),
        ];
        if let Some(refused) = &self.refused {
            lines.push("`oarlock serve` would refuse this app:".to_owned());
            lines.push(refused.clone());
        }
        lines
    }
}

impl Check {
    pub(crate) fn run(self) -> Outcome {
        let policy = drive::policy(self.policy.as_deref())?;
        let manifest = oarlock_platform::load_manifest(&self.dir, Some(&policy))
            .map_err(|message| Failure::new(exit::MANIFEST, message))?;
        let in_serve = InServe::of(&self.dir, policy);
        let rows: Vec<ProcessRow> = manifest
            .processes
            .keys()
            .map(|process| self.row(&manifest, process, &in_serve))
            .collect();
        output::listing(&rows, self.json, |rows| {
            let mut lines = text(&manifest, rows);
            lines.extend(in_serve.lines());
            lines.join("\n")
        })?;
        Ok(exit::OK)
    }

    fn row(&self, manifest: &Manifest, process: &ProcessType, in_serve: &InServe) -> ProcessRow {
        let described = manifest.processes.get(process);
        let component = described
            .map(|found| found.component.clone())
            .unwrap_or_default();
        ProcessRow {
            process: process.clone(),
            built: oarlock_host::folder::AppFolder::open(&self.dir)
                .is_ok_and(|folder| folder.check(&component).is_ok()),
            component,
            args: described
                .map(|found| found.args.iter().map(Argument::to_string).collect())
                .unwrap_or_default(),
            variables_elsewhere: described
                .map(|found| variables_elsewhere(manifest, found))
                .unwrap_or_default(),
            dynos: manifest.initial_scale().get(process).copied().unwrap_or(0),
            schedule: described
                .and_then(|found| found.schedule.as_ref())
                .map(|schedule| format!("{} {}", schedule.cron, schedule.timezone)),
            singleton: described.is_some_and(|found| found.singleton),
            listen: process.is_web().then_some("$PORT"),
            memory_bytes: manifest.limits_of(process).memory,
            limits_without_effect: manifest
                .limits_of(process)
                .without_effect()
                .into_iter()
                .map(LimitKey::as_str)
                .collect(),
            config: manifest.config.keys().cloned().collect(),
            addons: addons_of(manifest, process),
            network: manifest
                .allow
                .iter()
                .map(|entry| entry.text.clone())
                .collect(),
            files: folders_of(manifest),
            in_serve_at_most: in_serve.at_most.clone(),
            refused_by_serve: in_serve.refused.clone(),
        }
    }
}

/// Set by Oarlock itself in every process.
const OWN_VARIABLES: [&str; 4] = ["DYNO", "PORT", "OARLOCK_APP", "OARLOCK_RELEASE"];

/// Variables in the line that the manifest itself does not set.
fn variables_elsewhere(manifest: &Manifest, process: &Process) -> Vec<String> {
    let variables = process.args.iter().flat_map(Argument::variables);
    let elsewhere: BTreeSet<&str> = variables
        .filter(|name| !OWN_VARIABLES.contains(name) && !manifest.config.contains_key(*name))
        .collect();
    elsewhere.into_iter().map(str::to_owned).collect()
}

fn addons_of(manifest: &Manifest, process: &ProcessType) -> Vec<String> {
    manifest
        .addons
        .iter()
        .filter(|(_, addon)| {
            addon
                .processes
                .as_ref()
                .is_none_or(|only| only.contains(process))
        })
        .map(|(name, addon)| format!("{name} ({})", addon.provider))
        .collect()
}

fn folders_of(manifest: &Manifest) -> Vec<String> {
    let app = (!manifest.files.is_empty()).then(|| "/app (read-only)".to_owned());
    app.into_iter()
        .chain(std::iter::once("/tmp".to_owned()))
        .collect()
}

fn text(manifest: &Manifest, rows: &Vec<ProcessRow>) -> Vec<String> {
    let mut lines = vec![format!("{}: the manifest is valid", manifest.app)];
    for row in rows {
        let what = match &row.schedule {
            Some(schedule) => format!("scheduled {schedule}"),
            None if row.process.is_release() => "release phase".to_owned(),
            None => format!(
                "{} dyno{}",
                row.dynos,
                if row.dynos == 1 { "" } else { "s" }
            ),
        };
        let singleton = if row.singleton { ", singleton" } else { "" };
        let command: Vec<&str> = std::iter::once(row.component.as_str())
            .chain(row.args.iter().map(String::as_str))
            .collect();
        lines.push(String::new());
        lines.push(format!("{} ({what}{singleton})", row.process));
        lines.push(format!("  command  {}", command.join(" ")));
        if !row.variables_elsewhere.is_empty() {
            lines.push(
                "  remark   not in [config], and so empty unless `.env`, a config var or an add-on"
                    .to_owned(),
            );
            lines.push(format!(
                "           sets it: {}",
                row.variables_elsewhere.join(", ")
            ));
        }
        if !row.built {
            lines.push("           not built yet: `oarlock build`".to_owned());
        }
        lines.push(format!(
            "  memory   {} MiB",
            row.memory_bytes / (1024 * 1024)
        ));
        if !row.limits_without_effect.is_empty() {
            lines.push(format!(
                "  remark   not enforced by this version: {}",
                row.limits_without_effect.join(", ")
            ));
        }
        if let Some(listen) = row.listen {
            lines.push(format!(
                "  listen   {listen} alone, if it is a command; a handler needs no port"
            ));
        }
        for (label, values) in [
            ("config", &row.config),
            ("add-ons", &row.addons),
            ("network", &row.network),
            ("files", &row.files),
        ] {
            let shown = if values.is_empty() {
                "nothing".to_owned()
            } else {
                values.join(", ")
            };
            lines.push(format!("  {label:<8} {shown}"));
        }
    }
    lines
}
