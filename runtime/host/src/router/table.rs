//! The routing table: a look-up by host name that takes no lock. An app that comes or goes changes its own entry.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use oarlock_spec::names::AppName;

use crate::web::WebPool;

/// A DNS name's longest.
const LONGEST_HOST: usize = 253;

/// Whose the host names are that no app has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unclaimed {
    /// The only app's, all of them (`up`).
    OnlyApps,
    /// Nobody's: an app that is the only one left may be another tenant's.
    Nobodys,
}

pub(super) struct Table {
    by_host: papaya::HashMap<Box<str>, Arc<WebPool>>,
    /// The app, if it is the only one.
    only: ArcSwapOption<WebPool>,
    /// In lower case.
    domain: String,
    unclaimed: Unclaimed,
    /// Held by whoever changes an entry, so that `only` is true to the entries.
    changing: Mutex<()>,
}

impl Table {
    pub(super) fn new(domain: &str, unclaimed: Unclaimed) -> Self {
        let domain = domain.to_ascii_lowercase();
        Self {
            by_host: papaya::HashMap::new(),
            only: ArcSwapOption::empty(),
            unclaimed,
            domain,
            changing: Mutex::new(()),
        }
    }

    pub(super) fn add(&self, app: &AppName, pool: Arc<WebPool>) {
        self.change(|table| {
            table.by_host.pin().insert(table.host(app).into(), pool);
        });
    }

    /// Only if it is this pool that has the name.
    pub(super) fn remove(&self, app: &AppName, pool: &Arc<WebPool>) {
        self.change(|table| {
            // `Err`: it is another one's by now.
            let _kept = table
                .by_host
                .pin()
                .remove_if(table.host(app).as_str(), |_, known| {
                    Arc::ptr_eq(known, pool)
                })
                .is_err();
        });
    }

    /// The host name of an app.
    pub(super) fn host(&self, app: &AppName) -> String {
        format!("{app}.{}", self.domain)
    }

    /// The pool of an app.
    pub(super) fn of(&self, app: &AppName) -> Option<Arc<WebPool>> {
        self.by_host.pin().get(self.host(app).as_str()).cloned()
    }

    fn change(&self, change: impl FnOnce(&Self)) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        change(self);
        let entries = self.by_host.pin();
        let only = if entries.len() == 1 {
            entries.values().next().cloned()
        } else {
            None
        };
        self.only.store(only);
    }

    /// `host`: without a port; case and a dot at the end do not matter.
    pub(super) fn route(&self, host: &str) -> Option<Arc<WebPool>> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let mut lower = [0; LONGEST_HOST];
        let lower = lower.get_mut(..host.len())?;
        lower.copy_from_slice(host.as_bytes());
        lower.make_ascii_lowercase();
        let host = std::str::from_utf8(lower).ok()?;
        let own = self.by_host.pin().get(host).cloned();
        match self.unclaimed {
            Unclaimed::OnlyApps => own.or_else(|| self.only.load_full()),
            Unclaimed::Nobodys => own,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::logs::AppLog;

    type Apps = BTreeMap<AppName, Arc<WebPool>>;

    fn table(unclaimed: Unclaimed, names: &[&str]) -> (Apps, Table) {
        let pool = |name: &&str| (name.parse().unwrap(), WebPool::new(AppLog::in_memory()));
        let apps: Apps = names.iter().map(pool).collect();
        let table = Table::new("Example.test", unclaimed);
        for (app, pool) in &apps {
            table.add(app, pool.clone());
        }
        (apps, table)
    }

    fn routed<'a>((apps, table): &'a (Apps, Table), host: &str) -> Option<&'a str> {
        let routed = table.route(host)?;
        let (name, _) = apps.iter().find(|(_, pool)| Arc::ptr_eq(pool, &routed))?;
        Some(name.as_str())
    }

    #[test]
    fn an_app_that_goes_takes_its_own_entry_only() {
        let both = table(Unclaimed::Nobodys, &["one", "two"]);
        let (apps, routes) = &both;
        let (one, two): (AppName, AppName) = ("one".parse().unwrap(), "two".parse().unwrap());
        assert_eq!(routed(&both, "www.shop.test"), None);
        // Another incarnation has the name by now.
        routes.remove(&one, &WebPool::new(AppLog::in_memory()));
        assert_eq!(routed(&both, "one.example.test"), Some("one"));
        routes.remove(&one, &apps[&one]);
        assert_eq!(routed(&both, "one.example.test"), None);
        assert_eq!(routed(&both, "two.example.test"), Some("two"));
        routes.remove(&two, &apps[&two]);
        assert_eq!(routed(&both, "two.example.test"), None);
    }

    #[test]
    fn hosts_name_apps_below_the_domain() {
        let two = table(Unclaimed::OnlyApps, &["one", "two"]);
        assert_eq!(routed(&two, "one.example.test"), Some("one"));
        assert_eq!(routed(&two, "TWO.Example.test."), Some("two"));
        for unknown in [
            "example.test",
            "three.example.test",
            "one.other.test",
            "x.one.example.test",
            "",
            ".",
        ] {
            assert_eq!(routed(&two, unknown), None);
        }
        assert_eq!(routed(&two, &"a".repeat(300)), None);
    }

    #[test]
    fn an_only_app_has_every_host_or_its_own_alone() {
        let own = "one.example.test";
        let others = [
            "127.0.0.1",
            "example.test",
            "two.example.test",
            "www.shop.test",
            "",
        ];
        for unclaimed in [Unclaimed::OnlyApps, Unclaimed::Nobodys] {
            let one = table(unclaimed, &["one"]);
            assert_eq!(routed(&one, own), Some("one"));
            let expected = (unclaimed == Unclaimed::OnlyApps).then_some("one");
            for host in others {
                assert_eq!(routed(&one, host), expected, "{unclaimed:?} {host}");
            }
            assert_eq!(routed(&table(unclaimed, &[]), own), None);
        }
    }
}
