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
    let row: ReleaseRow = target
        .client
        .change_config(&target.app, &change)
        .await
        .map_err(client_failure)?;
    output::listing(&row, json, |row| {
        format!("{}: {}", row.release, row.description)
    })?;
    Ok(exit::OK)
}
