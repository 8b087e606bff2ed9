//! Apps that the host knows before their first release serves.
//!
//! An app's name is known long before it answers: its folder is still built, its components are compiled, its release
//! phase runs, its dynos boot. A request for it waits in the same queue that the app later serves, so that its first dyno
//! answers it. The wait is bounded as any other: `queue` requests at once, each for `boot_timeout`; more, or longer, and
//! it is told `app-starting`. What is said of an app that has served has no effect here: its dynos speak for it.

use std::sync::Arc;

use oarlock_spec::limits::Limits;
use oarlock_spec::names::AppName;

use crate::host::{Host, Inner};
use crate::registry::Pools;
use crate::web::{RequestLimits, WebPool};

impl Host {
    /// Says that this app's first release is to come: from now on a request for it waits for it instead of being told
    /// that nobody has its host name. `limits`: those of its `web`, as far as they are known; it may be called again when
    /// they are. [`Host::add`] does this by itself.
    pub fn expect(&self, app: &AppName, limits: &Limits) {
        self.inner.expect(app, limits);
    }

    /// Says that an expected app's first release does not come, for it failed. Who waits for it, and who comes, is
    /// answered H14 until the app is expected again or a release of it serves.
    pub fn give_up(&self, app: &AppName) {
        self.inner.apps.give_up(app);
    }
}

impl Inner {
    /// Whether that is new.
    pub(crate) fn expect(&self, app: &AppName, limits: &Limits) -> bool {
        self.apps.expect(app, RequestLimits::from(limits), self)
    }
}

impl Pools for Inner {
    fn make(&self, name: &AppName) -> Arc<WebPool> {
        WebPool::new(self.log(name))
    }
    fn route(&self, name: &AppName, pool: &Arc<WebPool>) {
        self.shared.router.add(name, Arc::clone(pool));
    }
    fn unroute(&self, name: &AppName, pool: &Arc<WebPool>) {
        self.shared.router.remove(name, pool);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use http::Request;

    use super::*;
    use crate::{App, HostConfig};

    /// What a request for the app is told: the router's code, or `None` if it was served.
    async fn met(host: &Host, app: &AppName) -> Option<String> {
        let asked = host.service(app).call(Request::new(String::new()));
        let answer = tokio::time::timeout(Duration::from_secs(20), asked).await;
        let head = answer.unwrap().unwrap().into_parts().0;
        let code = head.headers.get("oarlock-error")?;
        Some(code.to_str().unwrap().to_owned())
    }

    fn hello() -> App {
        let wasm = wat::parse_str(include_str!("../doc/hello.wat")).unwrap();
        let app = App::from_manifest("app = \"hello\"\n[processes]\nweb = \"web.wasm\"");
        app.component("web.wasm", wasm)
    }

    fn waits_shortly() -> Limits {
        Limits {
            boot_timeout: Duration::from_millis(20),
            ..Limits::default()
        }
    }

    #[tokio::test]
    async fn an_app_is_expected_again_while_it_is_being_removed() {
        let data = tempfile::tempdir().unwrap();
        let host = Host::start(HostConfig::new(data.path())).unwrap();
        let app = host.add(hello()).await.unwrap().app;
        for expected in [true, false] {
            {
                let mut removed = pin!(host.remove(&app));
                assert!(futures::poll!(removed.as_mut()).is_pending());
                host.expect(&app, &waits_shortly());
                if !expected {
                    host.give_up(&app);
                }
                removed.await;
            }
            let code = if expected { "app-starting" } else { "H14" };
            assert_eq!(met(&host, &app).await.as_deref(), Some(code));
            assert_eq!(host.add(hello()).await.unwrap().app, app);
            assert_eq!(met(&host, &app).await, None);
        }
        host.shutdown().await;
    }

    #[tokio::test]
    async fn a_line_whose_variables_make_it_endless_starts_nothing() {
        let data = tempfile::tempdir().unwrap();
        let host = Host::start(HostConfig::new(data.path())).unwrap();
        let line = "$A".repeat(1_000);
        let manifest = format!(
            "app = \"hello\"\n[processes]\nweb = \"web.wasm {line}\"\n[config]\nA = \"{}\"\n",
            "x".repeat(2_000)
        );
        let wasm = wat::parse_str(include_str!("../doc/hello.wat")).unwrap();
        let app = App::from_manifest(manifest).component("web.wasm", wasm);
        let error = host.add(app).await.unwrap_err().to_string();
        assert!(error.contains("longer than 1048576 bytes"), "{error}");
        host.shutdown().await;
    }

    #[tokio::test]
    async fn an_app_that_never_came_is_nobodys_again() {
        let data = tempfile::tempdir().unwrap();
        let host = Host::start(HostConfig::new(data.path())).unwrap();
        let app: AppName = "hello".parse().unwrap();
        let routed = || host.inner.shared.router.has(&app);
        // By whoever expected it: with `remove`.
        host.expect(&app, &waits_shortly());
        assert!(routed());
        host.remove(&app).await;
        assert!(!routed());
        // By an `add` that fails.
        let bad = App::from_manifest(
            "app = \"hello\"\n[processes]\nweb = \"web.wasm\"\n[limits.web]\nboot_timeout = \"20ms\"",
        );
        let bad = bad.component("web.wasm", b"no component".to_vec());
        assert!(host.add(bad.clone()).await.is_err());
        assert!(!routed());
        // Not if somebody else expects it still.
        host.expect(&app, &waits_shortly());
        assert!(host.add(bad).await.is_err());
        assert!(routed());
        assert_eq!(met(&host, &app).await.as_deref(), Some("app-starting"));
        host.shutdown().await;
    }
}
