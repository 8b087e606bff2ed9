//! Builds an app: the manifest's `[build] command`, or the buildpack that its folder calls for.
//!
//! [`build`] runs it as the user who started the host, in the app's folder, with his environment: `up` and `oarlock build`
//! do so, for who names a folder there means its build. [`build_fenced`] is for the folders of strangers: see [`Fence`].
//! A build ends with the future that runs it.

mod bounds;
mod command;
mod fence;
mod fenced;
mod fetch;
mod proxy;
mod rust;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oarlock_host::folder::AppFolder;
use oarlock_spec::manifest::Manifest;

use crate::slug;

pub use command::CommandError;
pub use fence::{Fence, FenceError};
pub(crate) use fenced::Fetch;
pub use fenced::build_fenced;

/// What a build tells while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A command starts.
    Starting(String),
    /// A line of its output.
    Output(String),
}

/// Why an app was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A command failed; what it said was told as [`Progress::Output`].
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A tool is missing.
    #[error("{tool} is needed to build this app and was not found; {help}")]
    ToolMissing {
        /// Which.
        tool: &'static str,
        /// What to do.
        help: &'static str,
    },
    /// The fence of a build of `serve`.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// No buildpack for this kind of app.
    #[error(
        "{} has a {file}, but there is no {language} buildpack yet; build the components yourself and start with `--no-build`, or give a `[build] command` in oarlock.toml",
        root.display()
    )]
    NoBuildpack {
        /// The app's folder.
        root: PathBuf,
        /// What was found.
        file: &'static str,
        /// Of which language.
        language: &'static str,
    },
    /// Components that the manifest names are not there after the build.
    #[error("{}", missing_text(.missing, .built.as_deref()))]
    Missing {
        /// Process type, path and what is wrong, of each.
        missing: Vec<(String, String, String)>,
        /// The command that should have made them.
        built: Option<String>,
    },
    /// The app's folder.
    #[error("{}: {reason}", path.display())]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

fn missing_text(missing: &[(String, String, String)], built: Option<&str>) -> String {
    let list: Vec<String> = missing
        .iter()
        .map(|(process, path, reason)| format!("{path} of process `{process}`: {reason}"))
        .collect();
    let after = match built {
        Some(command) => format!("after `{command}` "),
        None => String::new(),
    };
    format!(
        "{after}components of the manifest are missing:\n  {}",
        list.join("\n  ")
    )
}

/// What is to be run.
enum Plan {
    Nothing,
    Run { command: String, rust: bool },
}

/// Builds the app in `root`, and checks that its components are there then. Dropping the future kills the
/// build's whole process group.
///
/// `env`: the environment of the build command; what the caller's own cargo set in it is taken out.
pub async fn build(
    root: &Path,
    manifest: &Manifest,
    env: &BTreeMap<String, String>,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<(), BuildError> {
    let env = command::clean_env(env);
    let built = match plan(root, manifest)? {
        Plan::Nothing => None,
        Plan::Run { command, rust } => {
            if rust {
                rust::ensure_target(root, &env, &mut progress).await?;
            }
            command::run(root, &command, &env, &mut progress).await?;
            Some(command)
        }
    };
    all_there(root, manifest, built)
}

/// Whether the components are there after a build.
fn all_there(root: &Path, manifest: &Manifest, built: Option<String>) -> Result<(), BuildError> {
    let missing = missing(root, manifest)?;
    if missing.is_empty() {
        Ok(())
    } else {
        Err(BuildError::Missing { missing, built })
    }
}

/// The command that `build` would run; `None`: there is nothing to build.
pub fn planned_command(root: &Path, manifest: &Manifest) -> Result<Option<String>, BuildError> {
    Ok(match plan(root, manifest)? {
        Plan::Nothing => None,
        Plan::Run { command, .. } => Some(command),
    })
}

fn plan(root: &Path, manifest: &Manifest) -> Result<Plan, BuildError> {
    if let Some(build) = &manifest.build {
        let rust = build.command.contains(rust::TARGET);
        return Ok(Plan::Run {
            command: build.command.clone(),
            rust,
        });
    }
    if has(root, "Cargo.toml") {
        return Ok(Plan::Run {
            command: rust::COMMAND.to_owned(),
            rust: true,
        });
    }
    if missing(root, manifest)?.is_empty() {
        return Ok(Plan::Nothing);
    }
    let others = [
        ("package.json", "JavaScript"),
        ("requirements.txt", "Python"),
        ("pyproject.toml", "Python"),
    ];
    match others.into_iter().find(|(file, _)| has(root, file)) {
        Some((file, language)) => Err(BuildError::NoBuildpack {
            root: root.to_owned(),
            file,
            language,
        }),
        None => Ok(Plan::Nothing),
    }
}

/// Whether a file of the app lies here.
fn has(root: &Path, file: &str) -> bool {
    AppFolder::open(root).is_ok_and(|app| app.check(file).is_ok())
}

/// The components that are not there: process type, path, reason.
fn missing(root: &Path, manifest: &Manifest) -> Result<Vec<(String, String, String)>, BuildError> {
    let app = AppFolder::open(root).map_err(|error| BuildError::Folder {
        path: root.to_owned(),
        reason: crate::folder::explain_io(&error),
    })?;
    let check = |(name, process): (
        &oarlock_spec::names::ProcessType,
        &oarlock_spec::manifest::Process,
    )| {
        let reason = slug::check_component(&app, &process.component).err()?;
        Some((name.to_string(), process.component.clone(), reason))
    };
    Ok(manifest.processes.iter().filter_map(check).collect())
}

#[cfg(test)]
mod tests;
