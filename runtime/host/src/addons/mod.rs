//! Add-ons: what a provider gives a process. The shape that all providers share, and the providers
//! `kv` and `external`.
//!
//! [`crate::Host`] binds an app's add-ons for each release. An embedder that starts sandboxes itself
//! may do the same with [`AppAddons`].
//!
//! A provider offers; which process types get the offer (`processes`), that no variable is set
//! twice, and that a credential stays with those who have the add-on, is decided here.

mod external;
mod kv;
mod provider;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use oarlock_sandbox::{Endpoint, KvBucket};
use oarlock_spec::manifest::{Addon, Manifest};
use oarlock_spec::names::{AddonName, ProcessType};

use self::provider::{BindError, Provider, ProviderInfo, Request};
use crate::apply::ApplyError;

/// What the add-ons of an app give to one process type.
#[derive(Clone, Default)]
pub struct Binding {
    /// Variables (`DATABASE_URL`, …).
    pub env: BTreeMap<String, String>,
    /// Config vars that this process does not see: they hold the URL of an `external` add-on.
    pub withheld: BTreeSet<String>,
    /// Sockets it opens.
    pub endpoints: Vec<Endpoint>,
    /// kv buckets by add-on name.
    pub kv: BTreeMap<String, Arc<dyn KvBucket>>,
}

impl Binding {
    /// The config vars that this process sees, and its add-ons' variables.
    pub fn environment(&self, config: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let seen = config
            .iter()
            .filter(|(name, _)| !self.withheld.contains(*name));
        seen.chain(&self.env)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}

/// The add-ons of one app; open databases live as long as this (across releases).
pub struct AppAddons {
    data: PathBuf,
    /// Those that were needed so far.
    providers: Mutex<BTreeMap<&'static str, Arc<dyn Provider>>>,
}

impl AppAddons {
    /// `data`: the app's own folder for embedded add-ons. Nothing is opened yet.
    pub fn new(data: &Path) -> Arc<Self> {
        Arc::new(Self {
            data: data.to_owned(),
            providers: Mutex::default(),
        })
    }

    /// What each process type gets. Unknown providers, bad URLs and clashes (with `config`, or with
    /// each other) are errors. Async, since a provider may have a server to provision.
    ///
    /// # Errors
    ///
    /// [`ApplyError::Addon`] with the add-on's name and line, and what to do. No message holds a
    /// credential.
    pub async fn bind(
        &self,
        manifest: &Manifest,
        config: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<ProcessType, Binding>, ApplyError> {
        // What can be known without any provider comes first, so that nothing is provisioned for a
        // manifest that is refused.
        for (name, addon) in &manifest.addons {
            let wrong = match provider::find(&addon.provider) {
                Ok(info) => provider::mistakes(info, name, addon)
                    .into_iter()
                    .next()
                    .map(BindError),
                Err(unknown) => Some(unknown),
            };
            if let Some(wrong) = wrong {
                return Err(error(name, addon, wrong));
            }
        }
        if let Some((name, addon, reason)) = clashes(manifest, config).into_iter().next() {
            return Err(error(name, addon, BindError(reason)));
        }

        let mut bindings: BTreeMap<ProcessType, Binding> = manifest
            .processes
            .keys()
            .map(|process| (process.clone(), Binding::default()))
            .collect();
        for (name, addon) in &manifest.addons {
            let failed = |wrong| error(name, addon, wrong);
            let info = provider::find(&addon.provider).map_err(failed)?;
            let provider = self.provider(info);
            let offer = provider
                .bind(&Request {
                    name,
                    addon,
                    config,
                })
                .await
                .map_err(failed)?;
            let (_, sources) = provider::names(info, name, addon);
            for (process, binding) in &mut bindings {
                binding.withheld.extend(sources.iter().cloned());
                if has(addon, process) {
                    binding.env.extend(offer.env.clone());
                    binding.endpoints.extend(offer.endpoints.iter().cloned());
                    binding
                        .kv
                        .extend(offer.kv.clone().map(|bucket| (name.to_string(), bucket)));
                }
            }
        }
        Ok(bindings)
    }

    /// Flushes and closes.
    pub async fn close(&self) {
        let providers = std::mem::take(
            &mut *self
                .providers
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for provider in providers.into_values() {
            provider.close().await;
        }
    }

    fn provider(&self, info: &'static ProviderInfo) -> Arc<dyn Provider> {
        let mut providers = self
            .providers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            providers
                .entry(info.name)
                .or_insert_with(|| (info.open)(&self.data).into()),
        )
    }
}

fn has(addon: &Addon, process: &ProcessType) -> bool {
    addon
        .processes
        .as_ref()
        .is_none_or(|only| only.contains(process))
}

fn error(name: &AddonName, addon: &Addon, wrong: BindError) -> ApplyError {
    ApplyError::Addon {
        addon: name.to_string(),
        line: addon.line,
        reason: wrong.0,
    }
}

/// Variables that two would set for the same process: two add-ons, or an add-on and the config.
fn clashes<'a>(
    manifest: &'a Manifest,
    config: &BTreeMap<String, String>,
) -> Vec<(&'a AddonName, &'a Addon, String)> {
    let mut clashes = Vec::new();
    let mut withheld = BTreeSet::new();
    let mut setters: Vec<(&AddonName, &Addon, Vec<String>)> = Vec::new();
    for (name, addon) in &manifest.addons {
        let Ok(info) = provider::find(&addon.provider) else {
            continue;
        };
        let (variables, sources) = provider::names(info, name, addon);
        withheld.extend(sources);
        setters.push((name, addon, variables));
    }
    for (i, (name, addon, variables)) in setters.iter().enumerate() {
        for variable in variables {
            // The var that holds the URL may have the same name: it is the same thing.
            if config.contains_key(variable) && !withheld.contains(variable) {
                let reason = format!(
                    "it sets `{variable}`, and so does the config; unset that config var, or give the add-on another \
                     prefix with `as`"
                );
                clashes.push((*name, *addon, reason));
            }
            let meets = |other: &Addon| {
                manifest
                    .processes
                    .keys()
                    .any(|p| has(addon, p) && has(other, p))
            };
            let earlier = setters
                .iter()
                .take(i)
                .find(|(_, other, theirs)| theirs.contains(variable) && meets(other));
            if let Some((other, line, _)) = earlier {
                let reason = format!(
                    "it sets `{variable}`, and so does the add-on `{other}` (line {}); give one of them another prefix \
                     with `as`, or let no process have both with `processes`",
                    line.line
                );
                clashes.push((*name, *addon, reason));
            }
        }
    }
    clashes
}

/// Checks the manifest's providers, plans and keys without provisioning anything (for `check`):
/// messages with lines, in the lines' order.
pub fn check(manifest: &Manifest) -> Vec<(u32, String)> {
    let mut messages = Vec::new();
    for (name, addon) in &manifest.addons {
        let wrong = match provider::find(&addon.provider) {
            Ok(info) => provider::mistakes(info, name, addon),
            Err(BindError(unknown)) => vec![unknown],
        };
        messages.extend(
            wrong
                .into_iter()
                .map(|wrong| (addon.line, format!("add-on `{name}`: {wrong}"))),
        );
    }
    let clashes = clashes(manifest, &manifest.config).into_iter();
    messages.extend(
        clashes.map(|(name, addon, wrong)| (addon.line, format!("add-on `{name}`: {wrong}"))),
    );
    messages.sort();
    messages
}
