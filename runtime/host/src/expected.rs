//! Apps that the host knows before their first release serves.
//!
//! An app's name is known long before it answers: its folder is still built, its components are compiled, its release
//! phase runs, its dynos boot. A request for it waits in the same queue that the app later serves, so that its first dyno
//! answers it. The wait is bounded as any other: `queue` requests at once, each for `boot_timeout`; more, or longer, and
//! it is told `app-starting`. What is said of an app that has served has no effect here: its dynos speak for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use oarlock_spec::limits::Limits;
use oarlock_spec::names::AppName;

use crate::host::{Host, Inner, lock};
use crate::logs::AppLog;
use crate::web::{RequestLimits, WebPool};

/// The pools of apps that are expected, until they are opened.
#[derive(Default)]
pub(crate) struct Expected {
    pools: Mutex<BTreeMap<AppName, Arc<WebPool>>>,
}

impl Expected {
    /// The pool of an app that is opened now: the one in which requests wait already, if it was expected. Whoever
    /// expects it meanwhile gets the same, until it is open.
    pub(crate) fn pool(&self, app: &AppName, log: &AppLog) -> Arc<WebPool> {
        let mut pools = lock(&self.pools);
        let pool = pools.entry(app.clone());
        Arc::clone(pool.or_insert_with(|| WebPool::new(log.clone())))
    }

    /// It is open: from here on the app has its pool.
    pub(crate) fn opened(&self, app: &AppName) {
        lock(&self.pools).remove(app);
    }

    pub(crate) fn all(&self) -> Vec<Arc<WebPool>> {
        lock(&self.pools).values().cloned().collect()
    }
}

impl Host {
    /// Says that this app's first release is to come: from now on a request for it waits for it instead of being told
    /// that nobody has its host name. `limits`: those of its `web`, as far as they are known; it may be called again when
    /// they are.
    pub fn expect(&self, app: &AppName, limits: &Limits) {
        let inner = &self.inner;
        let pool = match inner.find(app) {
            Some(app) => Arc::clone(&app.pool),
            None => inner.shared.expected.pool(app, &inner.log(app)),
        };
        pool.expect(RequestLimits::from(limits));
        if !inner.is_closing() {
            inner.shared.router.add(app, pool);
        }
    }

    /// Says that an expected app's first release does not come, for it failed. Who waits for it, and who comes, is
    /// answered H14 until the app is expected again or a release of it serves.
    pub fn give_up(&self, app: &AppName) {
        if let Some(pool) = self.inner.early_pool(app) {
            pool.give_up();
        }
    }

    /// Forgets an app that was never opened.
    pub(crate) fn stop_expecting(&self, app: &AppName) {
        let shared = &self.inner.shared;
        if let Some(pool) = lock(&shared.expected.pools).remove(app) {
            shared.router.remove(app, &pool);
            pool.give_up();
        }
    }
}

impl Inner {
    fn early_pool(&self, app: &AppName) -> Option<Arc<WebPool>> {
        let opened = self.find(app).map(|app| Arc::clone(&app.pool));
        opened.or_else(|| lock(&self.shared.expected.pools).get(app).cloned())
    }
}
