//! The apps that a host is to run, found before it listens: from then on their names are nobody's else.

use std::path::PathBuf;

use oarlock_spec::api::Formation;
use oarlock_spec::codes::exit;
use oarlock_spec::limits::Limits;
use oarlock_spec::names::AppName;
use oarlock_spec::policy::Policy;

use super::tenants::{TenantFolder, Tenants, app_folders};
use super::{Source, StartError};
use crate::folder::{DataDir, load_manifest};
use crate::runtime::Runtime;
use crate::store::Store;

/// What is to be started.
pub(super) enum Found {
    /// Of `up`.
    One(OwnApp),
    /// Of `serve`.
    Many(Tenants),
}

/// The app of `up`.
pub(super) struct OwnApp {
    pub(super) name: AppName,
    pub(super) dir: PathBuf,
    pub(super) scale: Formation,
    pub(super) watch: bool,
}

impl Found {
    /// Looks at a source. All mistakes of an `up`'s manifest are said here; those of a tenant's are his alone, and come
    /// later.
    pub(super) fn of(source: &Source, policy: &Policy) -> Result<Self, StartError> {
        match source {
            Source::App { dir, scale, watch } => {
                let manifest = load_manifest(dir, Some(policy))
                    .map_err(|mistakes| StartError::new(exit::MANIFEST, mistakes))?;
                Ok(Self::One(OwnApp {
                    name: manifest.app,
                    dir: dir.clone(),
                    scale: scale.clone(),
                    watch: *watch,
                }))
            }
            Source::Apps { dir, .. } => Ok(Self::Many(Tenants::new(app_folders(dir)?))),
        }
    }

    /// Refuses those whose part of the data folder cannot be used.
    pub(super) fn checked(self, data: &DataDir) -> Result<Self, StartError> {
        match self {
            Self::One(app) => {
                data.check_app(&app.name)?;
                Ok(Self::One(app))
            }
            Self::Many(tenants) => Ok(Self::Many(tenants.checked(data))),
        }
    }

    /// Refuses those that are too many for one host.
    pub(super) async fn bounded(self, store: &dyn Store) -> Self {
        match self {
            Self::One(app) => Self::One(app),
            Self::Many(tenants) => Self::Many(tenants.bounded(store).await),
        }
    }

    /// Makes their names known, with the limits of a manifest that says nothing.
    pub(super) fn expect(&self, runtime: &dyn Runtime, policy: &Policy) {
        let mut limits = Limits::default();
        policy.defaults.lay_over(&mut limits);
        policy.caps.hold_below(&mut limits);
        match self {
            Self::One(app) => runtime.expect(&app.name, &limits),
            Self::Many(tenants) => {
                for TenantFolder { name, .. } in &tenants.found {
                    runtime.expect(name, &limits);
                }
            }
        }
    }
}
