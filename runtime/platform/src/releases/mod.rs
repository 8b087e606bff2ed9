//! Releases in the store: what an app was, is and was meant to be.
//!
//! Keys: `apps/<app>/releases/<20 digits>` holds a [`Record`], `apps/<app>/formation` the scaled formation
//! (`serve` only), `apps/<app>/phase` which slug and config the last release phase has succeeded for, while no release
//! has become current since, `names/<app>` that the app exists. A release is pending while it is being applied;
//! making it current and the old one superseded is one commit, so a host that dies at any point leaves
//! at most a pending release, which the next start gives up ([`Releases::resolve`]) or tries again.
//!
//! Bounds: the last [`RELEASES_KEPT`] releases of an app, [`MAX_CONFIG`] bytes of config vars.

mod settle;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use oarlock_spec::api::{ConfigVars, Formation, ReleaseRow, ReleaseStatus};
use oarlock_spec::names::{AppName, ReleaseId, SlugId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::store::{Commit, Condition, Rev, Store, StoreError, Write};
use settle::{Writer, commit_settled};

/// Releases of one app that are kept; older ones are forgotten when a new one is made.
pub(crate) const RELEASES_KEPT: usize = 200;

/// Releases of one app whose slugs are kept for a rollback.
pub(crate) const SLUGS_KEPT: usize = 20;

/// Names and values of an app's config vars together, in bytes.
pub(crate) const MAX_CONFIG: usize = 256 * 1024;

/// One release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) release: ReleaseId,
    pub(crate) slug: SlugId,
    /// `[config]` and `.env` when it was made.
    pub(crate) base: ConfigVars,
    /// What `config set` has set.
    pub(crate) set: ConfigVars,
    pub(crate) status: ReleaseStatus,
    pub(crate) description: String,
    pub(crate) created_at: Timestamp,
    /// Who wrote this, and which of its writes it was.
    stamp: String,
}

impl Record {
    /// The config vars that dynos get (before add-ons).
    pub(crate) fn config(&self) -> ConfigVars {
        let mut config = self.base.clone();
        config.extend(self.set.clone());
        config
    }

    pub(crate) fn row(&self) -> ReleaseRow {
        ReleaseRow {
            release: self.release,
            status: self.status,
            description: self.description.clone(),
            slug: self.slug.clone(),
            created_at: self.created_at,
        }
    }

    fn same_contents(&self, draft: &Draft) -> bool {
        self.slug == draft.slug && self.base == draft.base && self.set == draft.set
    }
}

/// What a release shall hold.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) slug: SlugId,
    pub(crate) base: ConfigVars,
    pub(crate) set: ConfigVars,
    pub(crate) description: String,
}

/// A record as it was read, for changing it only if nobody else has.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) record: Record,
    rev: Rev,
}

/// What is to be done so that a draft runs.
#[derive(Debug)]
pub(crate) enum Step {
    /// The current release is just that: start it.
    Start(Stored),
    /// A pending release, made now or taken up again.
    Release(Stored),
}

/// Why the state of releases could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReleaseError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the stored release at {key} is not understood: {reason}")]
    Damaged { key: String, reason: String },
    #[error("somebody else changed the releases of `{0}` at the same time; try again")]
    Conflict(AppName),
    #[error("the config vars have {0} bytes together; at most {MAX_CONFIG} are allowed")]
    ConfigSize(usize),
}

/// The releases of one app. One task owns it and makes every change.
#[derive(Clone)]
pub(crate) struct Releases {
    store: Arc<dyn Store>,
    app: AppName,
    writer: Arc<Writer>,
}

#[derive(Serialize, Deserialize)]
struct StoredFormation {
    formation: Formation,
    stamp: String,
}

/// The slug and the config vars that a release phase has exited 0 for.
#[derive(Serialize, Deserialize)]
struct StoredPhase {
    slug: SlugId,
    /// SHA-256, in hexadecimal: the values are secrets, and lie with the release already.
    config: String,
    stamp: String,
}

#[derive(Serialize)]
struct StoredName<'a> {
    app: &'a AppName,
    stamp: String,
}

impl Releases {
    pub(crate) fn new(store: Arc<dyn Store>, app: AppName) -> Self {
        Self {
            store,
            app,
            writer: Arc::new(Writer::new()),
        }
    }

    /// All that are kept, newest first.
    pub(crate) async fn all(&self) -> Result<Vec<Stored>, ReleaseError> {
        read_all(&*self.store, &self.app).await
    }

    /// What makes `draft` run. A current release with these contents is started; so that a release phase
    /// that failed is run again by the same release, a newest one with these contents that is not
    /// current is taken up again; otherwise a new one is made.
    pub(crate) async fn plan(&self, draft: Draft) -> Result<Step, ReleaseError> {
        let all = self.all().await?;
        if let Some(current) = find_current(&all)
            && current.record.same_contents(&draft)
        {
            return Ok(Step::Start(current.clone()));
        }
        if let Some(newest) = all.first()
            && newest.record.same_contents(&draft)
            && matches!(
                newest.record.status,
                ReleaseStatus::Failed | ReleaseStatus::Pending
            )
        {
            let record = Record {
                status: ReleaseStatus::Pending,
                ..newest.record.clone()
            };
            return Ok(Step::Release(self.replace(newest, record).await?));
        }
        Ok(Step::Release(self.begin(&all, draft).await?))
    }

    /// A new pending release whatever the current one holds.
    pub(crate) async fn create(&self, draft: Draft) -> Result<Stored, ReleaseError> {
        self.begin(&self.all().await?, draft).await
    }

    async fn begin(&self, all: &[Stored], draft: Draft) -> Result<Stored, ReleaseError> {
        let size = draft
            .base
            .iter()
            .chain(&draft.set)
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if size > MAX_CONFIG {
            return Err(ReleaseError::ConfigSize(size));
        }
        let number = all.first().map_or(0, |newest| newest.record.release.0) + 1;
        let record = Record {
            release: ReleaseId(number),
            slug: draft.slug,
            base: draft.base,
            set: draft.set,
            status: ReleaseStatus::Pending,
            description: draft.description,
            created_at: Timestamp::now(),
            stamp: self.writer.stamp(),
        };
        let key = self.key(record.release);
        let mut writes = vec![Write::Put(key.clone(), encode(&record)?)];
        if all.is_empty() {
            let name = StoredName {
                app: &self.app,
                stamp: self.writer.stamp(),
            };
            writes.push(Write::Put(format!("names/{}", self.app), encode(&name)?));
        }
        let old = all
            .iter()
            .skip(RELEASES_KEPT - 1)
            .filter(|old| old.record.status != ReleaseStatus::Current);
        // The rest waits for the next release: a commit is bounded.
        writes.extend(
            old.take(64)
                .map(|old| Write::Delete(self.key(old.record.release))),
        );
        let rev = self.commit(&[Condition::Absent(key)], &writes).await?;
        Ok(Stored { record, rev })
    }

    /// Makes a pending release current, and the one that was superseded.
    pub(crate) async fn succeed(&self, pending: &Stored) -> Result<Stored, ReleaseError> {
        let all = self.all().await?;
        let record = Record {
            status: ReleaseStatus::Current,
            stamp: self.writer.stamp(),
            ..pending.record.clone()
        };
        let key = self.key(record.release);
        let mut conditions = vec![Condition::Unchanged(key.clone(), pending.rev)];
        // Whatever is released next runs its phase.
        let phase = Write::Delete(self.phase_key());
        let mut writes = vec![Write::Put(key, encode(&record)?), phase];
        if let Some(old) = find_current(&all).filter(|old| old.record.release != record.release) {
            let key = self.key(old.record.release);
            let superseded = Record {
                status: ReleaseStatus::Superseded,
                stamp: self.writer.stamp(),
                ..old.record.clone()
            };
            conditions.push(Condition::Unchanged(key.clone(), old.rev));
            writes.push(Write::Put(key, encode(&superseded)?));
        }
        let rev = self.commit(&conditions, &writes).await?;
        Ok(Stored { record, rev })
    }

    /// Whether a release phase has succeeded for what this one holds, and no release has become current since.
    pub(crate) async fn is_phase_done(&self, record: &Record) -> Result<bool, ReleaseError> {
        let key = self.phase_key();
        let Some(entry) = self.store.get(&key).await? else {
            return Ok(false);
        };
        let stored: StoredPhase = decode(&key, &entry.value)?;
        Ok(stored.slug == record.slug && stored.config == digest(&record.config())?)
    }

    /// Notes that the release phase has exited 0 for what this release holds: if it does not become current after all,
    /// the next one that holds the same need not run it again.
    pub(crate) async fn note_phase_done(&self, record: &Record) -> Result<(), ReleaseError> {
        let stored = StoredPhase {
            slug: record.slug.clone(),
            config: digest(&record.config())?,
            stamp: self.writer.stamp(),
        };
        self.commit(&[], &[Write::Put(self.phase_key(), encode(&stored)?)])
            .await?;
        Ok(())
    }

    /// Makes a pending release failed.
    pub(crate) async fn fail(&self, pending: &Stored) -> Result<Stored, ReleaseError> {
        let record = Record {
            status: ReleaseStatus::Failed,
            ..pending.record.clone()
        };
        self.replace(pending, record).await
    }

    /// At start: what a host that died left pending has failed. Returns how many.
    pub(crate) async fn resolve(&self) -> Result<usize, ReleaseError> {
        let mut resolved = 0;
        for pending in self
            .all()
            .await?
            .iter()
            .filter(|one| one.record.status == ReleaseStatus::Pending)
        {
            self.fail(pending).await?;
            resolved += 1;
        }
        Ok(resolved)
    }

    async fn replace(&self, old: &Stored, record: Record) -> Result<Stored, ReleaseError> {
        let record = Record {
            stamp: self.writer.stamp(),
            ..record
        };
        let key = self.key(record.release);
        let write = Write::Put(key.clone(), encode(&record)?);
        let rev = self
            .commit(&[Condition::Unchanged(key, old.rev)], &[write])
            .await?;
        Ok(Stored { record, rev })
    }

    /// The formation as it was scaled; `None`: never.
    pub(crate) async fn formation(&self) -> Result<Option<Formation>, ReleaseError> {
        let key = self.formation_key();
        let Some(entry) = self.store.get(&key).await? else {
            return Ok(None);
        };
        let stored: StoredFormation = decode(&key, &entry.value)?;
        Ok(Some(stored.formation))
    }

    pub(crate) async fn keep_formation(&self, formation: &Formation) -> Result<(), ReleaseError> {
        let stored = StoredFormation {
            formation: formation.clone(),
            stamp: self.writer.stamp(),
        };
        self.commit(&[], &[Write::Put(self.formation_key(), encode(&stored)?)])
            .await?;
        Ok(())
    }

    async fn commit(
        &self,
        conditions: &[Condition],
        writes: &[Write],
    ) -> Result<Rev, ReleaseError> {
        match commit_settled(&*self.store, conditions, writes).await? {
            Commit::Done(rev) => Ok(rev),
            Commit::Conflict => Err(ReleaseError::Conflict(self.app.clone())),
        }
    }

    fn key(&self, release: ReleaseId) -> String {
        format!("{}{:020}", releases_prefix(&self.app), release.0)
    }

    fn phase_key(&self) -> String {
        format!("apps/{}/phase", self.app)
    }

    fn formation_key(&self) -> String {
        format!("apps/{}/formation", self.app)
    }
}

fn releases_prefix(app: &AppName) -> String {
    format!("apps/{app}/releases/")
}

async fn read_all(store: &dyn Store, app: &AppName) -> Result<Vec<Stored>, ReleaseError> {
    let (entries, _) = store.list(&releases_prefix(app)).await?;
    let read = |entry: crate::store::Entry| {
        Ok(Stored {
            record: decode(&entry.key, &entry.value)?,
            rev: entry.modified,
        })
    };
    entries.into_iter().rev().map(read).collect()
}

/// The one that runs, of a list.
pub(crate) fn find_current(all: &[Stored]) -> Option<&Stored> {
    all.iter()
        .find(|one| one.record.status == ReleaseStatus::Current)
}

/// The slugs that a rollback or a restart may want, of every app that the store knows. A record that cannot be read is
/// its app's matter: whatever looks like a slug's id in it is kept.
pub(crate) async fn wanted_slugs(store: &dyn Store) -> Result<BTreeSet<SlugId>, ReleaseError> {
    let (names, _) = store.list("names/").await?;
    let mut wanted = BTreeSet::new();
    for name in names {
        let Ok(app) = name.key.trim_start_matches("names/").parse::<AppName>() else {
            continue;
        };
        let (entries, _) = store.list(&releases_prefix(&app)).await?;
        for (index, entry) in entries.into_iter().rev().enumerate() {
            let Ok(record) = decode::<Record>(&entry.key, &entry.value) else {
                wanted.extend(ids_in(&entry.value));
                continue;
            };
            let live = matches!(
                record.status,
                ReleaseStatus::Current | ReleaseStatus::Pending
            );
            if index < SLUGS_KEPT || live {
                wanted.insert(record.slug);
            }
        }
    }
    Ok(wanted)
}

/// Of config vars, which are in order.
fn digest(config: &ConfigVars) -> Result<String, ReleaseError> {
    let digest = Sha256::digest(encode(config)?);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What reads like a slug's id in a damaged record.
fn ids_in(bytes: &[u8]) -> impl Iterator<Item = SlugId> {
    let words = bytes.split(|byte| !byte.is_ascii_hexdigit());
    words.filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, ReleaseError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Unavailable(error.to_string()).into())
}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, ReleaseError> {
    serde_json::from_slice(value).map_err(|error| ReleaseError::Damaged {
        key: key.to_owned(),
        reason: error.to_string(),
    })
}

/// `set` after a change; and what of the change had an effect, for the description.
pub(crate) fn change_vars(
    set: &ConfigVars,
    change: &BTreeMap<String, Option<String>>,
) -> (ConfigVars, Vec<String>, Vec<String>) {
    let mut vars = set.clone();
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for (name, value) in change {
        match value {
            Some(value) => {
                if vars.insert(name.clone(), value.clone()).as_ref() != Some(value) {
                    added.push(name.clone());
                }
            }
            None => {
                if vars.remove(name).is_some() {
                    removed.push(name.clone());
                }
            }
        }
    }
    (vars, added, removed)
}

#[cfg(test)]
mod tests;
