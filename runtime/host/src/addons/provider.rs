//! The shape that all providers share: what is known of one without any app ([`ProviderInfo`]), and
//! one that serves an app's add-ons ([`Provider`]).
//!
//! A provider of its own server (a database, a cache) provisions in `bind`, which is async and may
//! take its time: the old release serves meanwhile. What it gives is an [`Offer`]; which process gets
//! it, and whether its variables clash with others, is decided in one place for all (`addons::mod`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use oarlock_sandbox::{Endpoint, KvBucket};
use oarlock_spec::manifest::Addon;
use oarlock_spec::names::AddonName;

use super::{external, kv};

/// All providers, in the order that listings have.
pub(super) const PROVIDERS: &[&ProviderInfo] = &[&external::INFO, &kv::INFO];

/// What is known of a provider without an app.
pub(super) struct ProviderInfo {
    /// As the manifest names it.
    pub(super) name: &'static str,
    /// One line for people.
    pub(super) about: &'static str,
    /// Its plans; none: there is no choice, and naming one is a mistake.
    pub(super) plans: &'static [&'static str],
    /// The add-on table's keys that it takes, besides `plan` and `processes`.
    pub(super) keys: &'static [Key],
    /// The variables it will set.
    pub(super) variables: fn(&AddonName, &Addon) -> Vec<String>,
    /// Config vars that it reads and keeps from the processes that do not have the add-on.
    pub(super) sources: fn(&AddonName, &Addon) -> Vec<String>,
    /// For one app, whose embedded data is in this folder. Opens nothing yet.
    pub(super) open: fn(&Path) -> Box<dyn Provider>,
}

/// A key of an add-on's table that not every provider takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    As,
    Mount,
    Size,
    UrlFrom,
}

impl Key {
    const ALL: [Self; 4] = [Self::As, Self::Mount, Self::Size, Self::UrlFrom];

    fn text(self) -> &'static str {
        match self {
            Self::As => "as",
            Self::Mount => "mount",
            Self::Size => "size",
            Self::UrlFrom => "url_from",
        }
    }

    fn is_in(self, addon: &Addon) -> bool {
        match self {
            Self::As => addon.prefix.is_some(),
            Self::Mount => addon.mount.is_some(),
            Self::Size => addon.size.is_some(),
            Self::UrlFrom => addon.url_from.is_some(),
        }
    }
}

/// One add-on to be bound.
pub(super) struct Request<'a> {
    pub(super) name: &'a AddonName,
    pub(super) addon: &'a Addon,
    /// The release's config vars.
    pub(super) config: &'a BTreeMap<String, String>,
}

/// What an add-on gives to a process that has it.
#[derive(Clone, Default)]
pub(super) struct Offer {
    /// Exactly the variables that [`ProviderInfo::variables`] names.
    pub(super) env: BTreeMap<String, String>,
    /// Sockets to open.
    pub(super) endpoints: Vec<Endpoint>,
    /// A bucket for `wasi:keyvalue`.
    pub(super) kv: Option<Arc<dyn KvBucket>>,
}

/// Why an add-on cannot be bound: what is wrong, and what to do. Never holds a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct BindError(pub(super) String);

/// A provider at the service of one app.
#[async_trait::async_trait]
pub(super) trait Provider: Send + Sync {
    /// Provisions the add-on if it is not there yet, and says what it gives. Called once per release.
    async fn bind(&self, request: &Request<'_>) -> Result<Offer, BindError>;
    /// Flushes and closes what is open; the host is shutting down, or the app is removed.
    async fn close(&self);
}

/// The provider of this name; an error lists the known ones.
pub(super) fn find(name: &str) -> Result<&'static ProviderInfo, BindError> {
    PROVIDERS
        .iter()
        .copied()
        .find(|info| info.name == name)
        .ok_or_else(|| {
            let known = PROVIDERS
                .iter()
                .map(|info| format!("`{}` ({})", info.name, info.about))
                .collect::<Vec<_>>();
            let meant = suggestion(name, PROVIDERS.iter().map(|info| info.name));
            BindError(format!(
                "unknown provider `{name}`{meant}; known are {}",
                known.join(", ")
            ))
        })
}

/// Everything wrong with an add-on's own line: plan, keys and the names of its variables.
pub(super) fn mistakes(info: &ProviderInfo, name: &AddonName, addon: &Addon) -> Vec<String> {
    let mut mistakes = Vec::new();
    if let Some(plan) = addon
        .plan
        .as_deref()
        .filter(|plan| !info.plans.contains(plan))
    {
        mistakes.push(if info.plans.is_empty() {
            format!(
                "provider `{}` has no plans, but `{plan}` is asked for; write `{}`",
                info.name, info.name
            )
        } else {
            let meant = suggestion(plan, info.plans.iter().copied());
            format!(
                "provider `{}` has no plan `{plan}`{meant}; it has {}",
                info.name,
                info.plans.join(", ")
            )
        });
    }
    for key in Key::ALL
        .into_iter()
        .filter(|key| key.is_in(addon) && !info.keys.contains(key))
    {
        let text = key.text();
        let takers: Vec<_> = PROVIDERS
            .iter()
            .filter(|other| other.keys.contains(&key))
            .map(|other| format!("`{}`", other.name))
            .collect();
        let takers = if takers.is_empty() {
            String::new()
        } else {
            format!("; only {} does", takers.join(", "))
        };
        mistakes.push(format!(
            "provider `{}` does not take the key `{text}`{takers}",
            info.name
        ));
    }
    if info.keys.contains(&Key::As) {
        mistakes.extend(
            (info.variables)(name, addon)
                .iter()
                .filter_map(|variable| refused(variable)),
        );
    }
    mistakes
}

/// Why a variable of this name cannot be set.
fn refused(variable: &str) -> Option<String> {
    let fits = !variable.starts_with(|c: char| c.is_ascii_digit())
        && variable
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !fits {
        return Some(format!(
            "it would set `{variable}`, which no variable can be called; choose another prefix with `as`"
        ));
    }
    let reserved = variable == "PORT" || variable == "DYNO" || variable.starts_with("OARLOCK_");
    reserved.then(|| format!("it would set `{variable}`, which is the platform's own; choose another prefix with `as`"))
}

/// The prefix of an add-on's variables: `as`, or its name in capitals.
pub(super) fn prefix(name: &AddonName, addon: &Addon) -> String {
    addon
        .prefix
        .clone()
        .unwrap_or_else(|| name.as_str().to_ascii_uppercase().replace('-', "_"))
}

/// The variables and sources of one add-on.
pub(super) fn names(
    info: &ProviderInfo,
    name: &AddonName,
    addon: &Addon,
) -> (Vec<String>, BTreeSet<String>) {
    (
        (info.variables)(name, addon),
        (info.sources)(name, addon).into_iter().collect(),
    )
}

/// `, did you mean …?` or nothing.
fn suggestion<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .map(|name| (strsim::damerau_levenshtein(text, name), name))
        .filter(|(distance, name)| *distance <= 2 && *distance < name.len())
        .min()
        .map_or_else(String::new, |(_, name)| format!(", did you mean `{name}`?"))
}
