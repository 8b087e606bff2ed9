//! Which running host, and which of its apps, a command is for.

use std::path::{Path, PathBuf};

use oarlock_platform::control::Client;
use oarlock_spec::codes::exit;
use oarlock_spec::names::AppName;

use crate::args::Which;
use crate::output::Failure;

/// A running host's app.
pub(crate) struct Target {
    pub(crate) client: Client,
    pub(crate) app: AppName,
}

impl Which {
    /// Finds the host by its data folder and the app by its name.
    pub(crate) async fn find(&self) -> Result<Target, Failure> {
        let client = Client::new(self.data_folder()?);
        let app = match &self.app {
            Some(name) => parse_app(name)?,
            None => self.only_app(&client).await?,
        };
        Ok(Target { client, app })
    }

    fn data_folder(&self) -> Result<PathBuf, Failure> {
        if let Some(data) = &self.data {
            return Ok(data.clone());
        }
        let here = std::env::current_dir().map_err(|error| {
            Failure::new(
                exit::FAILURE,
                format!("the current folder is gone: {error}"),
            )
        })?;
        nearest_data_folder(&here).ok_or_else(|| {
            Failure::new(
                exit::NO_HOST,
                "no host runs here: neither this folder nor one above it has a `.oarlock` folder; \
                 start one with `oarlock up`, or name its data folder with `--data`",
            )
        })
    }

    /// Without `--app`: the only one of the host, else the app of the nearest manifest, here or above.
    async fn only_app(&self, client: &Client) -> Result<AppName, Failure> {
        let apps: Vec<AppName> = client
            .apps()
            .await
            .map_err(client_failure)?
            .into_iter()
            .map(|row| row.app)
            .collect();
        if let [only] = apps.as_slice() {
            return Ok(only.clone());
        }
        let here = std::env::current_dir().ok().and_then(|dir| {
            dir.ancestors()
                .find_map(|dir| oarlock_platform::load_manifest(dir, None).ok())
        });
        if let Some(manifest) = here
            && apps.contains(&manifest.app)
        {
            return Ok(manifest.app);
        }
        let names: Vec<&str> = apps.iter().map(AppName::as_str).collect();
        Err(Failure::new(
            exit::USAGE,
            if names.is_empty() {
                "the host has no apps yet".to_owned()
            } else {
                format!(
                    "the host runs several apps; choose one with `--app`: {}",
                    names.join(", ")
                )
            },
        ))
    }
}

pub(crate) fn parse_app(name: &str) -> Result<AppName, Failure> {
    name.parse()
        .map_err(|error| Failure::new(exit::USAGE, format!("{error}")))
}

fn nearest_data_folder(from: &Path) -> Option<PathBuf> {
    from.ancestors()
        .map(|dir| dir.join(".oarlock"))
        .find(|dir| dir.is_dir())
}

/// A control API error as the command's.
pub(crate) fn client_failure(error: oarlock_platform::control::ClientError) -> Failure {
    Failure::new(error.exit_code(), error.to_string())
}
