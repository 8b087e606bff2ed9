//! `oarlock config [set|get|unset]`

use clap::Subcommand;
use oarlock_spec::api::{ConfigChange, ConfigVars, ReleaseRow};
use oarlock_spec::codes::exit;

use crate::args::Which;
use crate::output::{self, Failure, Outcome};
use crate::print::{self, quote};
use crate::target::{Target, client_failure};

/// Show or change config vars; each change is a release
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = false,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  oarlock config\n  oarlock config set GREETING=Ahoy\n  oarlock config --shell > vars.sh && . ./vars.sh"
)]
pub(crate) struct Config {
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// Print lines that a POSIX shell can source
    #[arg(long, conflicts_with = "json")]
    shell: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Set vars, all in one release
    #[command(after_help = "Example:\n  oarlock config set GREETING=Ahoy 'MOTTO=calm seas'")]
    Set {
        /// As in `GREETING=hello`
        #[arg(value_name = "NAME=VALUE", required = true, value_parser = assignment)]
        vars: Vec<(String, String)>,
    },
    /// Print the value of a var
    #[command(after_help = "Example:\n  oarlock config get GREETING")]
    Get {
        /// The var
        name: String,
    },
    /// Remove vars, all in one release
    #[command(after_help = "Example:\n  oarlock config unset GREETING MOTTO")]
    Unset {
        /// The vars
        #[arg(required = true)]
        names: Vec<String>,
    },
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

impl Config {
    pub(crate) async fn run(self) -> Outcome {
        let target = self.which.find().await?;
        match self.action {
            None if self.shell => shell(&target).await,
            None => show(&target, self.json).await,
            Some(Action::Get { name }) => get(&target, &name).await,
            Some(Action::Set { vars }) => {
                let change = vars
                    .into_iter()
                    .map(|(name, value)| (name, Some(value)))
                    .collect();
                set(&target, change, self.json).await
            }
            Some(Action::Unset { names }) => {
                set(
                    &target,
                    names.into_iter().map(|name| (name, None)).collect(),
                    self.json,
                )
                .await
            }
        }
    }
}

async fn vars(target: &Target) -> Result<ConfigVars, Failure> {
    target
        .client
        .config(&target.app)
        .await
        .map_err(client_failure)
}

async fn show(target: &Target, json: bool) -> Outcome {
    output::listing(&vars(target).await?, json, |vars| {
        vars.iter()
            // A var is a line, and no value writes to the terminal itself.
            .map(|(name, value)| format!("{name}={}", print::visible(value)))
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    Ok(exit::OK)
}

/// Prints the vars for a shell: their names are names there, too.
async fn shell(target: &Target) -> Outcome {
    for (name, value) in vars(target).await? {
        output::line(format!("{name}={}", quote(&value)))?;
    }
    Ok(exit::OK)
}

async fn get(target: &Target, name: &str) -> Outcome {
    match vars(target).await?.get(name) {
        Some(value) => {
            output::line(value)?;
            Ok(exit::OK)
        }
        None => Err(Failure::new(
            exit::FAILURE,
            format!("`{name}` is not set; `oarlock config` lists what is"),
        )),
    }
}

async fn set(target: &Target, change: ConfigChange, json: bool) -> Outcome {
    let client = &target.client;
    let before = client.releases(&target.app).await.map_err(client_failure)?;
    let row: ReleaseRow = client
        .change_config(&target.app, &change)
        .await
        .map_err(client_failure)?;
    // A change is a release, newer than all others.
    let is_new = before.iter().all(|old| old.release < row.release);
    output::listing(&row, json, |row| {
        if is_new {
            format!("{}: {}", row.release, row.description)
        } else {
            unchanged(&change)
        }
    })?;
    Ok(exit::OK)
}

/// What is said of a change that changes nothing.
fn unchanged(change: &ConfigChange) -> String {
    let names: Vec<&str> = change.keys().map(String::as_str).collect();
    let is_unset = change.values().all(Option::is_none);
    let why = match (is_unset, names.len()) {
        (true, 1) => "is not set",
        (true, _) => "are not set",
        (false, 1) => "has that value already",
        (false, _) => "have those values already",
    };
    format!("Nothing changed: {} {why}", names.join(", "))
}
