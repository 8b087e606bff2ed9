//! Which apps `serve` runs: a folder below `--apps` with a manifest in it is one, and its name is the app's.
//!
//! Whoever may write an app's folder does not choose which app that is: by its name an app has its host name, its data,
//! its config and its releases, and a manifest that could choose it would take a neighbour's. The entries directly
//! below `--apps` are the operator's: one may be a link to a folder elsewhere, and then the link's name is the app.
//!
//! One folder that is refused is no matter for the others.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oarlock_spec::codes::exit;
use oarlock_spec::names::AppName;

use super::StartError;
use crate::apps::PlatformShared;
use crate::folder::{DataDir, has_manifest, open_app, read_manifest};
use crate::releases::Releases;
use crate::store::Store;

/// Apps below one folder.
const MAX_APPS: usize = 1_000;

/// The folder of an app, by whose name it runs.
#[derive(Clone)]
pub(super) struct TenantFolder {
    pub(super) name: AppName,
    pub(super) dir: PathBuf,
}

impl TenantFolder {
    /// The error says which folder, and why it is no app's.
    pub(super) fn of(dir: PathBuf) -> Result<Self, (PathBuf, String)> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        match name.parse::<AppName>() {
            Ok(name) => Ok(Self { name, dir }),
            Err(error) => {
                let message = format!(
                    "`{}` is not an app name, and an app is named as its folder; rename the folder: {}",
                    name.escape_debug(),
                    error.rule
                );
                Err((dir, message))
            }
        }
    }

    /// All mistakes of its manifest, or that it names another app.
    pub(super) async fn check(&self, shared: &Arc<PlatformShared>) -> Result<(), String> {
        let (tenant, policy) = (self.clone(), shared.clone());
        let read = tokio::task::spawn_blocking(move || {
            let folder = open_app(&tenant.dir)?;
            read_manifest(&folder, &tenant.name, Some(&policy.policy))
        });
        let manifest = read.await.map_err(|error| error.to_string())??;
        if manifest.app == self.name {
            return Ok(());
        }
        Err(self.refuse(&manifest.app, shared).await)
    }

    async fn refuse(&self, other: &AppName, shared: &PlatformShared) -> String {
        let Self { name, dir } = self;
        let message = format!(
            "{}: the manifest says `app = \"{other}\"`, and an app of `oarlock serve` is named as its folder; \
             write `app = \"{name}\"`, or rename the folder to `{other}`",
            dir.display()
        );
        // Earlier versions ran it by the manifest's word.
        let kept = Releases::new(shared.store.clone(), other.clone())
            .all()
            .await
            .is_ok_and(|releases| !releases.is_empty());
        let theirs = dir.with_file_name(other.as_str());
        if !kept {
            message
        } else if has_manifest(&theirs) {
            format!(
                "{message}\nthe releases, config and data of `{other}` are the folder {}'s",
                theirs.display()
            )
        } else {
            format!(
                "{message}\nreleases, config and data of `{other}` are kept from before; to go on with them, rename \
                 the folder: `mv {} {}`",
                dir.display(),
                theirs.display()
            )
        }
    }
}

/// The folders of `serve`.
pub(super) struct Tenants {
    pub(super) found: Vec<TenantFolder>,
    /// Those that are no app's, or one too many, and why.
    pub(super) refused: Vec<(PathBuf, String)>,
}

impl Tenants {
    pub(super) fn new(folders: Vec<PathBuf>) -> Self {
        let mut tenants = Self {
            found: Vec::new(),
            refused: Vec::new(),
        };
        for folder in folders {
            match TenantFolder::of(folder) {
                Ok(tenant) => tenants.found.push(tenant),
                Err(refused) => tenants.refused.push(refused),
            }
        }
        tenants
    }

    /// Refuses those whose part of the data folder cannot be used.
    pub(super) fn checked(mut self, data: &DataDir) -> Self {
        let (found, refused) = (std::mem::take(&mut self.found), &mut self.refused);
        self.found = found
            .into_iter()
            .filter_map(|tenant| match data.check_app(&tenant.name) {
                Ok(()) => Some(tenant),
                Err(error) => {
                    refused.push((tenant.dir, error.to_string()));
                    None
                }
            })
            .collect();
        self
    }

    /// Refuses what is over [`MAX_APPS`]: the last by name, but for apps that the store knows, which ran before.
    pub(super) async fn bounded(mut self, store: &dyn Store) -> Self {
        if self.found.len() <= MAX_APPS {
            return self;
        }
        let known = store.list("names/").await.map(|(entries, _)| entries);
        let known: BTreeSet<String> = known
            .unwrap_or_default()
            .into_iter()
            .map(|entry| entry.key)
            .collect();
        // Stable, so that each part stays in the order of names.
        self.found
            .sort_by_key(|tenant| !known.contains(&format!("names/{}", tenant.name)));
        for tenant in self.found.split_off(MAX_APPS) {
            let message = format!(
                "one host takes {MAX_APPS} apps, and this is one more; move it to the folder of another host, or \
                 remove an app that is not needed"
            );
            self.refused.push((tenant.dir, message));
        }
        self
    }
}

/// The folders below `dir` with an app in them, in order.
pub(super) fn app_folders(dir: &Path) -> Result<Vec<PathBuf>, StartError> {
    if !dir.is_dir() {
        return Err(StartError::new(
            exit::FAILURE,
            format!("{}: there is no such folder", dir.display()),
        ));
    }
    let failed = |error: std::io::Error| {
        StartError::new(exit::FAILURE, format!("{}: {error}", dir.display()))
    };
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let own = path.file_name() == Some(OsStr::new(crate::folder::DATA_NAME));
        if !own && path.is_dir() && has_manifest(&path) {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}
