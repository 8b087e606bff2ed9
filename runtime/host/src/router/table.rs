//! The routing table: an immutable look-up by host name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use oarlock_spec::names::AppName;

use crate::web::WebPool;

/// A DNS name's longest.
const LONGEST_HOST: usize = 253;

/// Whose the host names are that no running app has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unclaimed {
    /// The only app's, all of them (`up`).
    OnlyApps,
    /// The only app's, but for names that another app would have: it may be between two starts, and its clients'
    /// requests are not for its neighbour.
    OnlyAppsButOtherApps,
}

#[derive(Default)]
pub(super) struct Table {
    by_host: HashMap<Box<str>, Arc<WebPool>>,
    /// The app, if it is the only one.
    only: Option<Arc<WebPool>>,
    /// `.` and the domain, if names below it are not the only app's.
    below: Option<Box<str>>,
}

impl Table {
    /// `domain` is in lower case.
    pub(super) fn new(
        apps: &BTreeMap<AppName, Arc<WebPool>>,
        domain: &str,
        rest: Unclaimed,
    ) -> Self {
        let only = if apps.len() == 1 {
            apps.values().next().cloned()
        } else {
            None
        };
        let host = |app: &AppName| format!("{app}.{domain}").into_boxed_str();
        Self {
            by_host: apps
                .iter()
                .map(|(app, pool)| (host(app), pool.clone()))
                .collect(),
            only,
            below: match rest {
                Unclaimed::OnlyApps => None,
                Unclaimed::OnlyAppsButOtherApps => Some(format!(".{domain}").into_boxed_str()),
            },
        }
    }

    /// `host`: without a port; case and a dot at the end do not matter.
    pub(super) fn route(&self, host: &str) -> Option<&Arc<WebPool>> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let mut lower = [0; LONGEST_HOST];
        let lower = lower.get_mut(..host.len())?;
        lower.copy_from_slice(host.as_bytes());
        lower.make_ascii_lowercase();
        let host = std::str::from_utf8(lower).ok()?;
        let own = self.by_host.get(host);
        let below = self.below.as_deref();
        let is_an_apps = below
            .and_then(|below| host.strip_suffix(below))
            .is_some_and(|name| !name.is_empty() && !name.contains('.'));
        if is_an_apps {
            own
        } else {
            own.or(self.only.as_ref())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::AppLog;

    type Apps = BTreeMap<AppName, Arc<WebPool>>;

    fn table(names: &[&str]) -> (Apps, Table) {
        let pool = |name: &&str| (name.parse().unwrap(), WebPool::new(AppLog::in_memory()));
        let apps: Apps = names.iter().map(pool).collect();
        let table = Table::new(&apps, "example.test", Unclaimed::OnlyAppsButOtherApps);
        (apps, table)
    }

    fn routed<'a>((apps, table): &'a (Apps, Table), host: &str) -> Option<&'a str> {
        let routed = table.route(host)?;
        let (name, _) = apps.iter().find(|(_, pool)| Arc::ptr_eq(pool, routed))?;
        Some(name.as_str())
    }

    #[test]
    fn hosts_name_apps_below_the_domain() {
        let two = table(&["one", "two"]);
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
    fn an_only_app_has_every_host() {
        let one = table(&["one"]);
        for host in [
            "127.0.0.1",
            "one.example.test",
            "example.test",
            "www.shop.test",
            "",
        ] {
            assert_eq!(routed(&one, host), Some("one"), "{host}");
        }
        assert_eq!(routed(&one, "two.example.test"), None);
        let pool = WebPool::new(AppLog::in_memory());
        let apps = BTreeMap::from([("one".parse().unwrap(), pool)]);
        let all = Table::new(&apps, "example.test", Unclaimed::OnlyApps);
        assert!(all.route("two.example.test").is_some());
        assert_eq!(routed(&table(&[]), "one.example.test"), None);
    }
}
