//! The apps of a host by name. One owner of the question which incarnation of a name is there: an app that was removed
//! and added again is another one, with an [`AppId`] of its own, and there is never more than one that is not yet gone.
//!
//! A name is free, is being opened, is open, or is being left; who wants to open a name that is being opened or left
//! waits until that is over. The lock is held for a look-up and never over the disk or an await.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oarlock_spec::names::AppName;
use tokio::sync::Notify;

use crate::formation::HostedApp;

/// One incarnation of an app: given once, never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AppId(u64);

/// See the module.
#[derive(Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    /// A name was opened or is free again.
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    entries: BTreeMap<AppName, Entry>,
    last: u64,
    closed: bool,
}

enum Entry {
    Opening(AppId),
    Open(Arc<HostedApp>),
    Leaving(AppId),
}

/// What [`Registry::enter`] found.
pub(crate) enum Entered {
    /// It is there.
    Open(Arc<HostedApp>),
    /// The name is the caller's to open.
    Opening(Opening),
    /// The host shuts down: nothing is opened any more.
    Closed,
}

impl Registry {
    /// The app of this name, if one is open.
    pub(crate) fn find(&self, name: &AppName) -> Option<Arc<HostedApp>> {
        match self.lock().entries.get(name) {
            Some(Entry::Open(app)) => Some(Arc::clone(app)),
            Some(Entry::Opening(_) | Entry::Leaving(_)) | None => None,
        }
    }

    /// All that are open.
    pub(crate) fn all(&self) -> Vec<Arc<HostedApp>> {
        let inner = self.lock();
        let open = inner.entries.values().filter_map(|entry| match entry {
            Entry::Open(app) => Some(Arc::clone(app)),
            Entry::Opening(_) | Entry::Leaving(_) => None,
        });
        open.collect()
    }

    /// The app of this name, or the right to open it.
    pub(crate) async fn enter(self: &Arc<Self>, name: &AppName) -> Entered {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(entered) = self.try_enter(name) {
                return entered;
            }
            changed.await;
        }
    }

    fn try_enter(self: &Arc<Self>, name: &AppName) -> Option<Entered> {
        let mut inner = self.lock();
        if inner.closed {
            return Some(Entered::Closed);
        }
        match inner.entries.get(name) {
            Some(Entry::Open(app)) => Some(Entered::Open(Arc::clone(app))),
            Some(Entry::Opening(_) | Entry::Leaving(_)) => None,
            None => {
                inner.last += 1;
                let id = AppId(inner.last);
                inner.entries.insert(name.clone(), Entry::Opening(id));
                Some(Entered::Opening(Opening {
                    place: Place {
                        registry: Arc::clone(self),
                        name: name.clone(),
                        id,
                    },
                }))
            }
        }
    }

    /// Takes an open app off. Its name is free once what is returned was dropped.
    pub(crate) fn leave(self: &Arc<Self>, name: &AppName) -> Option<Leaving> {
        let mut inner = self.lock();
        let entry = inner.entries.get_mut(name)?;
        let Entry::Open(app) = entry else {
            return None;
        };
        let app = Arc::clone(app);
        *entry = Entry::Leaving(app.id);
        let place = Place {
            registry: Arc::clone(self),
            name: name.clone(),
            id: app.id,
        };
        // Whoever finds that the name is not left yet also finds that the app is not gone.
        app.gone.cancel();
        drop(inner);
        Some(Leaving { app, _place: place })
    }

    /// Opens nothing more, and hands out all that are open: they are the caller's to end.
    pub(crate) fn close(&self) -> Vec<Arc<HostedApp>> {
        let mut inner = self.lock();
        inner.closed = true;
        let is_open = |_: &AppName, entry: &mut Entry| matches!(entry, Entry::Open(_));
        let open = inner.entries.extract_if(.., is_open);
        let open: Vec<_> = open
            .filter_map(|(_, entry)| match entry {
                Entry::Open(app) => Some(app),
                Entry::Opening(_) | Entry::Leaving(_) => None,
            })
            .collect();
        open.iter().for_each(|app| app.gone.cancel());
        drop(inner);
        self.changed.notify_waiters();
        open
    }

    /// Waits until those that were left before [`Registry::close`] have ended.
    pub(crate) async fn all_left(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.lock().entries.is_empty() {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A look-up table whose invariants span no panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name that is not open; free again on drop.
struct Place {
    registry: Arc<Registry>,
    name: AppName,
    id: AppId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.registry.lock();
        let ours = match inner.entries.get(&self.name) {
            Some(Entry::Opening(id) | Entry::Leaving(id)) => *id == self.id,
            Some(Entry::Open(_)) | None => false,
        };
        if ours {
            inner.entries.remove(&self.name);
        }
        drop(inner);
        self.registry.changed.notify_waiters();
    }
}

/// The right to open a name.
pub(crate) struct Opening {
    place: Place,
}

impl Opening {
    /// Of the app to be opened.
    pub(crate) fn id(&self) -> AppId {
        self.place.id
    }

    /// It is open; `false`: the host shuts down meanwhile, and nobody will end the app but the caller.
    pub(crate) fn done(self, app: &Arc<HostedApp>) -> bool {
        let mut inner = self.place.registry.lock();
        if inner.closed {
            return false;
        }
        let Some(entry) = inner.entries.get_mut(&self.place.name) else {
            return false;
        };
        let ours = matches!(entry, Entry::Opening(id) if *id == self.place.id);
        if ours {
            *entry = Entry::Open(Arc::clone(app));
        }
        ours
    }
}

/// An app that was taken off: it is to be ended.
pub(crate) struct Leaving {
    pub(crate) app: Arc<HostedApp>,
    _place: Place,
}
