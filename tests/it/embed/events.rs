//! Events, logs and meters.

use std::sync::{Arc, Mutex};

use oarlock_host::App;
use oarlock_host::events::{Event, Events};
use oarlock_host::logs::LogFilter;
use oarlock_host::spec::api::{DynoState, LogSource};
use oarlock_host::usage::{Meters, Used};
use oarlock_tests::app::PATIENCE;

use super::{Embedded, ask, guest, name, until, web};

async fn next(events: &mut Events) -> Option<Event> {
    tokio::time::timeout(PATIENCE, events.next()).await.unwrap()
}

/// As short text, up to the one that is `last`.
async fn told(events: &mut Events, last: &str) -> Vec<String> {
    let mut all = Vec::new();
    while all.last().is_none_or(|text| text != last) {
        let text = match next(events)
            .await
            .unwrap_or_else(|| panic!("the end in {all:#?}"))
        {
            Event::AppAdded { app, release } => format!("{app} {release} added"),
            Event::AppReleased { app, release } => format!("{app} {release} released"),
            Event::ReleaseFailed { app, release, .. } => format!("{app} {release} failed"),
            Event::AppRemoved { app } => format!("{app} removed"),
            Event::Dyno(dyno) => {
                let from = dyno.from.map_or("new", DynoState::as_str);
                let why = dyno
                    .reason
                    .map(|why| format!(" ({why})"))
                    .unwrap_or_default();
                format!(
                    "{} {} {from} {}{why}",
                    dyno.dyno,
                    dyno.release,
                    dyno.to.as_str()
                )
            }
            other => format!("{other:?}"),
        };
        all.push(text);
    }
    all
}

#[tokio::test]
async fn a_hosts_life_is_told_in_order() {
    let embedded = Embedded::new();
    let (host, shop) = (&embedded.host, name("shop"));
    let mut events = host.events();
    embedded.add(web("shop", "handler-p2", "")).await;
    let first = told(&mut events, "shop v1 added").await;
    assert_eq!(
        first,
        [
            "web.1 v1 new starting",
            "web.1 v1 starting up",
            "shop v1 added"
        ]
    );

    let two = [("web".parse().unwrap(), 2)].into();
    host.scale(&shop, two).await.unwrap();
    let scaled = told(&mut events, "web.2 v1 starting up").await;
    assert_eq!(scaled, ["web.2 v1 new starting", "web.2 v1 starting up"]);

    embedded
        .add(web("shop", "handler-p3", "").scale("web", 1))
        .await;
    let released = told(&mut events, "shop v2 released").await;
    let at = |text: &str| {
        let found = released.iter().position(|event| event == text);
        found.unwrap_or_else(|| panic!("no {text} in {released:#?}"))
    };
    assert!(at("web.1 v2 new starting") < at("web.1 v2 starting up"));
    assert!(at("web.1 v2 starting up") < at("web.1 v1 up stopping"));

    host.remove(&shop).await;
    let removed = told(&mut events, "shop removed").await;
    assert!(
        removed.contains(&"web.1 v2 stopping finished".to_owned()),
        "{removed:#?}"
    );
    host.shutdown().await;
    assert_eq!(told(&mut events, "Drained").await, ["Draining", "Drained"]);
    assert_eq!(next(&mut events).await, None);
}

#[tokio::test]
async fn crashes_and_failed_releases_are_told_with_their_reasons() {
    let embedded = Embedded::new();
    let mut events = embedded.host.events();
    let manifest = "app = \"shop\"\n[processes]\nworker = \"worker.wasm later 1\"\n";
    let app = App::from_manifest(manifest).component("worker.wasm", guest("formation-worker"));
    embedded.add(app.clone()).await;
    let crash = "worker.1 v1 up crashed (it exited with status 1)";
    told(&mut events, crash).await;
    let broken = app.component("worker.wasm", wat::parse_str("(component)").unwrap());
    embedded.host.add(broken).await.unwrap_err();
    told(&mut events, "shop v2 failed").await;
    embedded.host.shutdown().await;
}

#[tokio::test]
async fn dropping_a_host_ends_its_events() {
    let embedded = Embedded::new();
    let mut events = embedded.host.events();
    drop(embedded);
    assert_eq!(next(&mut events).await, None);
}

#[tokio::test]
async fn logs_can_be_followed() {
    let embedded = Embedded::new();
    let service = embedded.serving(web("shop", "handler-p2", "")).await;
    let filter = LogFilter {
        source: Some(LogSource::App),
        ..LogFilter::default()
    };
    let mut follower = embedded.host.log(&name("shop")).follow(10, filter);
    assert_eq!(ask(&service, "/log").await.text(), "logged");
    let mut lines = Vec::new();
    for _ in 0..2 {
        let line = tokio::time::timeout(PATIENCE, follower.next())
            .await
            .unwrap();
        let line = line.unwrap();
        lines.push(format!("{} {}", line.dyno, line.message));
    }
    lines.sort();
    assert_eq!(lines, ["web.1 a line", "web.1 an error"]);
    embedded.host.shutdown().await;
    let end = tokio::time::timeout(PATIENCE, follower.next())
        .await
        .unwrap();
    assert!(end.is_none());
}

#[derive(Clone, Default)]
struct Bill(Arc<Mutex<Vec<Used>>>);

impl Meters for Bill {
    fn used(&self, used: &[Used]) {
        self.0.lock().unwrap().extend(used.iter().cloned());
    }
}

impl Bill {
    fn total(&self) -> (u64, u128, u128) {
        let all = self.0.lock().unwrap();
        let web = all
            .iter()
            .filter(|used| used.app.as_str() == "shop" && used.process.as_str() == "web");
        web.fold((0, 0, 0), |(requests, nanos, memory), used| {
            (
                requests + used.requests,
                nanos + used.cpu.as_nanos(),
                memory + used.memory_byte_ms,
            )
        })
    }
}

#[tokio::test]
async fn meters_are_told_what_usage_says() {
    let bill = Bill::default();
    let embedded = Embedded::with(|config| config.meters = Some(Arc::new(bill.clone())));
    let isolated = web("shop", "handler-p2", "isolation = \"dyno\"");
    let service = embedded.serving(isolated.clone()).await;
    for _ in 0..3 {
        ask(&service, "/").await.text();
    }
    // The instance lives on, so its memory is there to be found.
    until("memory over time", || bill.total().2 > 0).await;
    // Another release: its dynos' counters are added to those of the dynos before.
    embedded.add(isolated).await;
    for _ in 0..4 {
        ask(&service, "/").await.text();
    }
    let usage = embedded.host.usage(&name("shop")).unwrap();
    let web = usage
        .iter()
        .find(|usage| usage.process.as_str() == "web")
        .unwrap();
    assert_eq!(web.requests, 7);
    assert!(!web.cpu.is_zero());
    assert!(web.memory_bytes > 0);
    embedded.host.shutdown().await;
    let (requests, nanos, _) = bill.total();
    assert_eq!(
        requests, 7,
        "the last words are told before a shutdown is over"
    );
    assert!(nanos >= web.cpu.as_nanos());
}

#[tokio::test]
async fn an_app_that_was_removed_is_metered_to_its_end() {
    let bill = Bill::default();
    let embedded = Embedded::with(|config| config.meters = Some(Arc::new(bill.clone())));
    let service = embedded.serving(web("shop", "handler-p2", "")).await;
    ask(&service, "/").await.text();
    embedded.host.remove(&name("shop")).await;
    assert_eq!(bill.total().0, 1);
    assert!(embedded.host.usage(&name("shop")).is_none());
    embedded.host.shutdown().await;
}
