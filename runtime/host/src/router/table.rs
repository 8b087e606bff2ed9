//! The routing table: an immutable look-up by host name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use oarlock_spec::names::AppName;

use crate::web::WebPool;

/// A DNS name's longest.
const LONGEST_HOST: usize = 253;

#[derive(Default)]
pub(super) struct Table {
    by_host: HashMap<Box<str>, Arc<WebPool>>,
    /// The app, if it is the only one: every host name is its.
    only: Option<Arc<WebPool>>,
}

impl Table {
    /// `domain` is in lower case.
    pub(super) fn new(apps: &BTreeMap<AppName, Arc<WebPool>>, domain: &str) -> Self {
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
        }
    }

    /// `host`: without a port; case and a dot at the end do not matter.
    pub(super) fn route(&self, host: &str) -> Option<&Arc<WebPool>> {
        if self.only.is_some() {
            return self.only.as_ref();
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        let mut lower = [0; LONGEST_HOST];
        let lower = lower.get_mut(..host.len())?;
        lower.copy_from_slice(host.as_bytes());
        lower.make_ascii_lowercase();
        self.by_host.get(std::str::from_utf8(lower).ok()?)
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
        let table = Table::new(&apps, "example.test");
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
        assert_eq!(routed(&table(&["one"]), "127.0.0.1"), Some("one"));
        assert_eq!(routed(&table(&[]), "one.example.test"), None);
    }
}
