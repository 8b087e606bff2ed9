//! The in-memory store, for tests: it can be told to fail.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    Bound, Change, Commit, Condition, Entry, MAX_LIST, Rev, Store, StoreError, Watch, WatchError,
    Write, check_batch, check_key, check_prefix, prefix_range,
};

/// What befalls a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not happen, and the caller cannot know.
    UnknownBefore,
    /// It happens, and the caller cannot know.
    UnknownAfter,
    /// It is refused, whatever its conditions.
    Conflict,
    /// It waits this long first.
    Delay(Duration),
}

struct State {
    entries: BTreeMap<String, Entry>,
    rev: Rev,
    log: VecDeque<Change>,
    /// Changes up to this one may be gone from the log.
    compacted: Rev,
    log_limit: usize,
    faults: VecDeque<Option<Fault>>,
}

/// A store in memory. Clones share one state, so that a clone stands for the store opened again.
#[derive(Clone)]
pub struct MemStore {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<Rev>,
}

impl MemStore {
    /// An empty store that keeps the last `log_limit` changes for its watches.
    pub fn new(log_limit: usize) -> Self {
        let state = State {
            entries: BTreeMap::new(),
            rev: Rev(0),
            log: VecDeque::new(),
            compacted: Rev(0),
            log_limit,
            faults: VecDeque::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            changed: watch::Sender::new(Rev(0)),
        }
    }

    /// What befalls the next commits, one entry each; `None` lets one pass.
    pub fn inject(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.lock().faults.extend(faults);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit_now(&self, conditions: &[Condition], writes: &[Write]) -> Commit {
        let mut state = self.lock();
        let holds = conditions.iter().all(|condition| match condition {
            Condition::Absent(key) => !state.entries.contains_key(key),
            Condition::Unchanged(key, rev) => state
                .entries
                .get(key)
                .is_some_and(|entry| entry.modified == *rev),
        });
        if !holds {
            return Commit::Conflict;
        }
        let changes = |write: &&Write| {
            matches!(write, Write::Put(..)) || state.entries.contains_key(write.key())
        };
        let writes: Vec<Write> = writes.iter().filter(changes).cloned().collect();
        if writes.is_empty() {
            return Commit::Done(state.rev);
        }
        let rev = Rev(state.rev.0 + 1);
        state.rev = rev;
        for write in writes {
            let change = match write {
                Write::Put(key, value) => {
                    let created = state.entries.get(&key).map_or(rev, |entry| entry.created);
                    let entry = Entry {
                        key: key.clone(),
                        value: value.clone(),
                        created,
                        modified: rev,
                    };
                    state.entries.insert(key.clone(), entry);
                    Change {
                        rev,
                        key,
                        value: Some(value),
                    }
                }
                Write::Delete(key) => {
                    state.entries.remove(&key);
                    Change {
                        rev,
                        key,
                        value: None,
                    }
                }
            };
            state.log.push_back(change);
        }
        while state.log.len() > state.log_limit {
            if let Some(change) = state.log.pop_front() {
                state.compacted = change.rev;
            }
        }
        drop(state);
        self.changed.send_replace(rev);
        Commit::Done(rev)
    }
}

#[async_trait]
impl Store for MemStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        Ok(self.lock().entries.get(key).cloned())
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Rev), StoreError> {
        check_prefix(prefix)?;
        let state = self.lock();
        let found: Vec<Entry> = state
            .entries
            .range(prefix_range(prefix))
            .take(MAX_LIST + 1)
            .map(|(_, entry)| entry.clone())
            .collect();
        if found.len() > MAX_LIST {
            return Err(Bound::ListLength(prefix.to_owned()).into());
        }
        Ok((found, state.rev))
    }

    async fn commit(
        &self,
        conditions: &[Condition],
        writes: &[Write],
    ) -> Result<Commit, StoreError> {
        check_batch(conditions, writes)?;
        let fault = self.lock().faults.pop_front().flatten();
        match fault {
            None => {}
            Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
            Some(Fault::Conflict) => return Ok(Commit::Conflict),
            Some(Fault::UnknownBefore) => {
                return Err(StoreError::Unknown("injected, before".to_owned()));
            }
            Some(Fault::UnknownAfter) => {
                self.commit_now(conditions, writes);
                return Err(StoreError::Unknown("injected, after".to_owned()));
            }
        }
        Ok(self.commit_now(conditions, writes))
    }

    fn watch(&self, prefix: &str, from: Rev) -> Box<dyn Watch> {
        let changed = self.changed.subscribe();
        Box::new(MemWatch {
            store: self.clone(),
            prefix: prefix.to_owned(),
            position: from,
            changed,
        })
    }
}

struct MemWatch {
    store: MemStore,
    prefix: String,
    position: Rev,
    changed: watch::Receiver<Rev>,
}

impl MemWatch {
    /// The changes of the first commit after the position that touch the prefix; moves on past the others.
    fn step(&mut self) -> Result<Vec<Change>, WatchError> {
        let state = self.store.lock();
        if self.position < state.compacted {
            return Err(WatchError::Compacted);
        }
        let mut found: Vec<Change> = Vec::new();
        for change in state.log.iter().filter(|change| change.rev > self.position) {
            if found.first().is_some_and(|first| first.rev != change.rev) {
                break;
            }
            if change.key.starts_with(&self.prefix) {
                found.push(change.clone());
            }
        }
        self.position = found
            .first()
            .map_or(state.rev, |first| first.rev)
            .max(self.position);
        Ok(found)
    }
}

#[async_trait]
impl Watch for MemWatch {
    async fn next(&mut self) -> Result<Vec<Change>, WatchError> {
        check_prefix(&self.prefix).map_err(StoreError::from)?;
        loop {
            // Marked as seen before the look, so that a change between the two is not slept through.
            self.changed.borrow_and_update();
            let found = self.step()?;
            if !found.is_empty() {
                return Ok(found);
            }
            if self.changed.changed().await.is_err() {
                return Err(StoreError::Unavailable("the store was closed".to_owned()).into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn conforms() {
        conformance::run(async |log_limit| {
            let store = MemStore::new(log_limit);
            conformance::Fixture {
                open: Box::new(move || Arc::new(store.clone())),
            }
        })
        .await;
    }

    #[tokio::test]
    async fn faults_befall_the_commits_they_are_meant_for() {
        let store = MemStore::new(10);
        let put = [Write::Put("k".to_owned(), b"1".to_vec())];
        let absent = [Condition::Absent("k".to_owned())];
        store.inject([
            Some(Fault::UnknownBefore),
            Some(Fault::Conflict),
            None,
            Some(Fault::UnknownAfter),
        ]);
        assert!(matches!(
            store.commit(&absent, &put).await,
            Err(StoreError::Unknown(_))
        ));
        assert_eq!(store.get("k").await.unwrap(), None);
        assert_eq!(store.commit(&absent, &put).await.unwrap(), Commit::Conflict);
        assert_eq!(
            store.commit(&absent, &put).await.unwrap(),
            Commit::Done(Rev(1))
        );
        let second = [Write::Put("k".to_owned(), b"2".to_vec())];
        assert!(matches!(
            store.commit(&[], &second).await,
            Err(StoreError::Unknown(_))
        ));
        assert_eq!(store.get("k").await.unwrap().unwrap().value, b"2");
    }
}
