//! What starts when: apps that hang, fail or are too many, and an end in the midst of it.

use oarlock_spec::api::{AppRow, AppState};

use super::*;
use crate::store::Write;

impl Place {
    /// An app of `serve`.
    fn tenant(&self, app: &str, more: &str) {
        self.write(
            &format!("{app}/oarlock.toml"),
            &format!("app = \"{app}\"\n[processes]\nweb = \"web.wasm\"\n{more}"),
        );
        self.write(&format!("{app}/web.wasm"), app);
    }

    fn tenants(&self) -> Source {
        Source::Apps {
            dir: self.root.path().to_owned(),
            data: None,
        }
    }

    async fn begin(&self, runtime: &Arc<FakeRuntime>, building: Building) -> Running {
        self.begin_in(self.root.path(), runtime, self.tenants(), building)
            .await
            .unwrap()
    }
}

impl Running {
    async fn row(&self, app: &str) -> AppRow {
        let rows = self.client.apps().await.unwrap();
        rows.into_iter()
            .find(|row| row.app.as_str() == app)
            .unwrap()
    }

    async fn until_state(&self, app: &str, state: AppState, detail: &str) {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            let row = self.row(app).await;
            let shown = row.detail.as_deref().unwrap_or_default();
            if row.state == state && shown.contains(detail) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{row:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn what_hangs_keeps_nobody_else_from_starting() {
    let place = Place::new();
    let build = "[build]\ncommand = \"sleep 6201\"\n";
    for app in ["build-one", "build-two"] {
        place.tenant(app, build);
    }
    for app in ["phase-one", "phase-two", "quick"] {
        place.tenant(app, "[build]\ncommand = \"true\"\n");
    }
    let runtime = FakeRuntime::new();
    runtime.hang(&["phase-one", "phase-two"]);
    let mut running = place.begin(&runtime, Building::Yes).await;
    for app in ["build-one", "build-two", "phase-one", "phase-two", "quick"] {
        assert_eq!(runtime.expects(app), Some(true), "{app}");
    }
    // Both builders have the turns of building for a while, and then give them on.
    running.until_state("quick", AppState::Running, "").await;
    running
        .until_state("build-two", AppState::Starting, "building")
        .await;
    running
        .until_state("phase-one", AppState::Starting, "compiling")
        .await;
    // Its records are settled already, so it is no matter for the API that it is not up.
    let error = running
        .client
        .formation(&"phase-one".parse().unwrap())
        .await
        .unwrap_err();
    assert_eq!(word(&error), words::NOT_RUNNING);
    let asked = std::time::Instant::now();
    running.core.stop_changing();
    runtime.hang(&[]);
    let left = running.core.started().await.unwrap_err();
    assert_eq!(left.exit_code, exit::INTERRUPTED);
    running.stop().await;
    assert!(asked.elapsed() < LIMIT, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn the_end_of_a_start_begins_no_more_apps() {
    let place = Place::new();
    for n in 0..40 {
        place.tenant(&format!("app-{n:02}"), "");
    }
    let runtime = FakeRuntime::new();
    let all: Vec<String> = (0..40).map(|n| format!("app-{n:02}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    runtime.hang(&all);
    let mut running = place.begin(&runtime, Building::No).await;
    running
        .until_state("app-00", AppState::Starting, "compiling")
        .await;
    running.core.stop_changing();
    runtime.hang(&[]);
    running.stop().await;
    let begun = runtime.told().len();
    assert!(begun < 40, "{begun} were begun");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(runtime.told().len(), begun);
}

#[tokio::test]
async fn a_damaged_record_is_its_apps_failure_alone() {
    let place = Place::new();
    place.tenant("ada", "");
    place.tenant("eve", "");
    let runtime = FakeRuntime::new();
    let running = place.start(&runtime, place.tenants(), Building::No).await;
    running.unwrap().stop().await;
    let store = place.store.as_ref().unwrap();
    let (entries, _) = store.list("apps/ada/releases/").await.unwrap();
    let slug = serde_json::from_slice::<serde_json::Value>(&entries[0].value).unwrap()["slug"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut half = entries[0].value.clone();
    half.truncate(half.len() - 1);
    let damage = [
        Write::Put(entries[0].key.clone(), half),
        Write::Put("names/9".to_owned(), b"?".to_vec()),
    ];
    store.commit(&[], &damage).await.unwrap();

    place.write("eve/web.wasm", "changed");
    let runtime = FakeRuntime::new();
    let mut running = place
        .start(&runtime, place.tenants(), Building::No)
        .await
        .unwrap();
    let (app, message) = running.failed().await;
    assert_eq!(app, "ada");
    assert!(message.contains("apps/ada/releases/"), "{message}");
    assert_eq!(runtime.expects("ada"), Some(false));
    assert_eq!(running.row("ada").await.state, AppState::Failed);
    let eve = running.row("eve").await;
    assert_eq!(
        (eve.state, eve.release),
        (AppState::Running, Some(ReleaseId(2)))
    );
    // The sweep went on, and left what the damaged record may want.
    let slugs = place.root.path().join(".oarlock/slugs");
    assert!(slugs.join(slug).is_dir());
    running.stop().await;
}

#[tokio::test]
async fn what_ran_before_serves_while_it_is_built() {
    let place = Place::new();
    place.tenant(
        "ada",
        "[build]\ncommand = \"[ ! -e slow ] || sleep 6202\"\n",
    );
    let runtime = FakeRuntime::new();
    let running = place.start(&runtime, place.tenants(), Building::Yes).await;
    running.unwrap().stop().await;
    place.write("ada/slow", "");
    let runtime = FakeRuntime::new();
    let mut running = place.begin(&runtime, Building::Yes).await;
    assert_eq!(running.ready().await, ReleaseId(1));
    loop {
        if let Event::Building { .. } = running.event().await {
            break;
        }
    }
    assert_eq!(running.row("ada").await.state, AppState::Running);
    running.stop().await;
}

#[tokio::test]
async fn of_1001_folders_1000_run_and_one_is_refused_by_name() {
    let place = Place::new();
    for n in 0..1_000 {
        place.tenant(&format!("app-{n:03}"), "");
    }
    place.write("Not-An-App/Procfile", "web: web.wasm\n");
    let runtime = FakeRuntime::new();
    let running = place.start(&runtime, place.tenants(), Building::No).await;
    running.unwrap().stop().await;
    // One that comes later, with a name before all others, takes nobody's place.
    place.tenant("aaa", "");
    let mut running = place
        .start(&runtime, place.tenants(), Building::No)
        .await
        .unwrap();
    let mut refused = Vec::new();
    let mut ready = 0;
    while let Ok(event) = running.events.try_recv() {
        match event {
            Event::Refused { folder, message } => refused.push((folder, message)),
            Event::Ready { .. } => ready += 1,
            Event::Failed { app, message } => panic!("{app}: {message}"),
            _ => {}
        }
    }
    assert_eq!(ready, 1_000);
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused[0].0.ends_with("Not-An-App"), "{refused:?}");
    assert!(refused[1].0.ends_with("aaa"), "{refused:?}");
    assert!(refused[1].1.contains("one host takes 1000"), "{refused:?}");
    running.stop().await;
}
