//! The apps of a host by name. One owner of the question which incarnation of a name is there: an app that was removed
//! and added again is another one, with an [`AppId`] of its own, and there is never more than one that is not yet gone.
//!
//! A name is free, is expected, is being opened, is open, or is being left; who wants to open a name that is being opened
//! or left waits until that is over. The lock is held for a look-up and never over the disk or an await. What the router
//! knows of an app before it serves changes under it too, so that it is never of another incarnation than the entry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oarlock_spec::names::AppName;
use tokio::sync::Notify;

use crate::formation::HostedApp;
use crate::web::{RequestLimits, WebPool};

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
    /// Requests wait in its pool until it is opened and serves.
    Expected(Arc<WebPool>),
    Opening {
        id: AppId,
        pool: Arc<WebPool>,
        /// What it is again if it cannot be opened.
        expected: bool,
    },
    Open(Arc<HostedApp>),
    Leaving {
        id: AppId,
        /// The next one of its name is, within these limits.
        expected: Option<RequestLimits>,
    },
}

impl Entry {
    /// That of an app which is not being left.
    fn pool(&self) -> Option<&Arc<WebPool>> {
        match self {
            Self::Expected(pool) | Self::Opening { pool, .. } => Some(pool),
            Self::Open(app) => Some(&app.pool),
            Self::Leaving { .. } => None,
        }
    }
}

/// What makes the pool of a new app, and what tells the router of it: both called with the registry's lock held.
pub(crate) trait Pools {
    /// For an app that is new.
    fn make(&self, name: &AppName) -> Arc<WebPool>;
    /// Requests for the app are this pool's.
    fn route(&self, name: &AppName, pool: &Arc<WebPool>);
    /// They are not any more.
    fn unroute(&self, name: &AppName, pool: &Arc<WebPool>);
}

/// All that a closed registry had.
pub(crate) struct Closed {
    /// Those that are open: the caller's to end.
    pub(crate) open: Vec<Arc<HostedApp>>,
    /// Where requests wait for apps that will not be opened any more.
    pub(crate) early: Vec<Arc<WebPool>>,
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
            Some(Entry::Expected(_) | Entry::Opening { .. } | Entry::Leaving { .. }) | None => None,
        }
    }

    /// An app of this name is to come: until it serves, requests wait for it within these limits. Whether that is new;
    /// it is not where it was expected before, or has served.
    pub(crate) fn expect(&self, name: &AppName, limits: RequestLimits, pools: &impl Pools) -> bool {
        let mut inner = self.lock();
        if inner.closed {
            return false;
        }
        let entry = inner.entries.entry(name.clone());
        let entry = entry.or_insert_with(|| Entry::Expected(pools.make(name)));
        let pool = match entry {
            Entry::Expected(pool) => &*pool,
            Entry::Opening { pool, expected, .. } => {
                *expected = true;
                &*pool
            }
            Entry::Open(app) => &app.pool,
            Entry::Leaving { expected, .. } => return expected.replace(limits).is_none(),
        };
        let new = pool.expect(limits);
        pools.route(name, pool);
        new
    }

    /// What is expected of this name fails: who waits for it is told so.
    pub(crate) fn give_up(&self, name: &AppName) {
        match self.lock().entries.get_mut(name) {
            Some(Entry::Leaving { expected, .. }) => *expected = None,
            Some(entry) => entry.pool().into_iter().for_each(|pool| pool.give_up()),
            None => {}
        }
    }

    /// Nothing is expected of this name any more. An app that has served stays as it is.
    pub(crate) fn forget(&self, name: &AppName, pools: &impl Pools) {
        self.lock().forget(name, pools);
    }

    /// All that are open.
    pub(crate) fn all(&self) -> Vec<Arc<HostedApp>> {
        let inner = self.lock();
        let open = inner.entries.values().filter_map(|entry| match entry {
            Entry::Open(app) => Some(Arc::clone(app)),
            Entry::Expected(_) | Entry::Opening { .. } | Entry::Leaving { .. } => None,
        });
        open.collect()
    }

    /// The app of this name, or the right to open it.
    pub(crate) async fn enter(self: &Arc<Self>, name: &AppName, pools: &impl Pools) -> Entered {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(entered) = self.try_enter(name, pools) {
                return entered;
            }
            changed.await;
        }
    }

    fn try_enter(self: &Arc<Self>, name: &AppName, pools: &impl Pools) -> Option<Entered> {
        let mut inner = self.lock();
        if inner.closed {
            return Some(Entered::Closed);
        }
        let (pool, expected) = match inner.entries.get(name) {
            Some(Entry::Open(app)) => return Some(Entered::Open(Arc::clone(app))),
            Some(Entry::Opening { .. } | Entry::Leaving { .. }) => return None,
            Some(Entry::Expected(pool)) => (Arc::clone(pool), true),
            None => (pools.make(name), false),
        };
        inner.last += 1;
        let id = AppId(inner.last);
        let entry = Entry::Opening {
            id,
            pool: Arc::clone(&pool),
            expected,
        };
        inner.entries.insert(name.clone(), entry);
        let place = self.place(name, id);
        Some(Entered::Opening(Opening { place, pool }))
    }

    fn place(self: &Arc<Self>, name: &AppName, id: AppId) -> Place {
        Place {
            registry: Arc::clone(self),
            name: name.clone(),
            id,
        }
    }

    /// Takes an open app off. Its name is free once what is returned was dropped. One that is not open yet is not
    /// expected any more.
    pub(crate) fn leave(self: &Arc<Self>, name: &AppName, pools: &impl Pools) -> Option<Leaving> {
        let mut inner = self.lock();
        let Some(Entry::Open(app)) = inner.entries.get(name) else {
            inner.forget(name, pools);
            return None;
        };
        let app = Arc::clone(app);
        let entry = Entry::Leaving {
            id: app.id,
            expected: None,
        };
        inner.entries.insert(name.clone(), entry);
        // Whoever finds that the name is not left yet also finds that the app is not gone.
        app.gone.cancel();
        drop(inner);
        let place = self.place(name, app.id);
        Some(Leaving { app, place })
    }

    /// Opens nothing more, and hands out all that there are.
    pub(crate) fn close(&self) -> Closed {
        let mut inner = self.lock();
        inner.closed = true;
        let (mut open, mut early) = (Vec::new(), Vec::new());
        inner.entries.retain(|_, entry| match entry {
            Entry::Open(app) => {
                app.gone.cancel();
                open.push(Arc::clone(app));
                false
            }
            Entry::Expected(pool) => {
                early.push(Arc::clone(pool));
                false
            }
            // Whoever opens it finds that the registry is closed.
            Entry::Opening { pool, .. } => {
                early.push(Arc::clone(pool));
                true
            }
            Entry::Leaving { .. } => true,
        });
        drop(inner);
        self.changed.notify_waiters();
        Closed { open, early }
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

impl Inner {
    fn forget(&mut self, name: &AppName, pools: &impl Pools) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        match entry {
            Entry::Leaving { expected, .. } => *expected = None,
            Entry::Opening { expected, .. } => *expected = false,
            Entry::Expected(_) | Entry::Open(_) => {}
        }
        if let Some(pool) = entry.pool()
            && !pool.has_served()
        {
            pools.unroute(name, pool);
            pool.give_up();
        }
        if matches!(entry, Entry::Expected(_)) {
            self.entries.remove(name);
        }
    }
}

/// A name that is not open; on drop it is free again, or expected as before.
struct Place {
    registry: Arc<Registry>,
    name: AppName,
    id: AppId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.registry.lock();
        let name = self.name.clone();
        match inner.entries.remove(&name) {
            Some(Entry::Opening { id, pool, expected })
                if id == self.id && expected && !inner.closed =>
            {
                inner.entries.insert(name, Entry::Expected(pool));
            }
            Some(Entry::Opening { id, .. } | Entry::Leaving { id, .. }) if id == self.id => {}
            // It was handed on.
            Some(other) => drop(inner.entries.insert(name, other)),
            None => {}
        }
        drop(inner);
        self.registry.changed.notify_waiters();
    }
}

/// The right to open a name.
pub(crate) struct Opening {
    place: Place,
    /// The app's: requests may wait in it already.
    pub(crate) pool: Arc<WebPool>,
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
        let ours = matches!(entry, Entry::Opening { id, .. } if *id == self.place.id);
        if ours {
            *entry = Entry::Open(Arc::clone(app));
        }
        ours
    }
}

/// An app that was taken off: it is to be ended.
pub(crate) struct Leaving {
    pub(crate) app: Arc<HostedApp>,
    place: Place,
}

impl Leaving {
    /// It has ended. Its name is free; or expected, if somebody has said so meanwhile.
    pub(crate) fn done(self, pools: &impl Pools) {
        let name = &self.place.name;
        let mut inner = self.place.registry.lock();
        let expected = match inner.entries.get_mut(name) {
            Some(Entry::Leaving { expected, .. }) => expected.take(),
            Some(Entry::Expected(_) | Entry::Opening { .. } | Entry::Open(_)) | None => None,
        };
        if let Some(limits) = expected.filter(|_| !inner.closed) {
            let pool = pools.make(name);
            pool.expect(limits);
            pools.route(name, &pool);
            inner.entries.insert(name.clone(), Entry::Expected(pool));
        }
    }
}
