//! Folders that are watched.

use super::*;

#[tokio::test]
async fn watching_releases_what_changes_and_keeps_the_old_when_it_fails() {
    let place = Place::app();
    let runtime = FakeRuntime::new();
    let mut running = place
        .start(&runtime, place.source(true), Building::No)
        .await
        .unwrap();
    assert_eq!(running.ready().await, ReleaseId(1));
    place.write("web.wasm", "2");
    assert_eq!(running.ready().await, ReleaseId(2));
    place.write("oarlock.toml", "app = \"guestbook\"\n[processes\n");
    let (_, message) = running.failed().await;
    assert!(
        message.contains("oarlock.toml") && message.contains("the old release goes on"),
        "{message}"
    );
    runtime.fail([phase_failure(Some(1))]);
    place.write(
        "oarlock.toml",
        "app = \"guestbook\"\n[processes]\nweb = \"web.wasm\"\n",
    );
    let (_, message) = running.failed().await;
    assert!(message.contains("migrate.wasm failed"), "{message}");
    place.write(".env", "B=other\n");
    assert_eq!(running.ready().await, ReleaseId(4));
    assert_eq!(
        running.client.config(&name()).await.unwrap(),
        vars(&[("B", "other")])
    );
    running.stop().await;
}

#[tokio::test]
async fn a_watched_build_does_not_start_itself_again() {
    let place = Place::app();
    let manifest = "app = \"guestbook\"\n[processes]\nweb = \"out/web.wasm\"\n[files]\ninclude = [\"static/*\"]\n[build]\ncommand = \"mkdir -p out static; cp source out/web.wasm; cp source static/copy; echo run >> .oarlock/runs; date +%N > stamp\"\n";
    place.write("oarlock.toml", manifest);
    place.write("source", "1");
    let runtime = FakeRuntime::new();
    let mut running = place
        .start(&runtime, place.source(true), Building::Yes)
        .await
        .unwrap();
    assert_eq!(running.ready().await, ReleaseId(1));
    place.write("source", "2");
    assert_eq!(running.ready().await, ReleaseId(2));
    // `stamp` is never the same: even so the builds come to an end.
    let runs = || {
        std::fs::read_to_string(place.root.path().join(".oarlock/runs"))
            .unwrap()
            .lines()
            .count()
    };
    let mut before = runs();
    let mut quiet = 0;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = runs();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
        if quiet == 6 {
            break;
        }
    }
    assert_eq!(quiet, 6, "{before} builds, and still going on");
    assert!(before <= 10, "{before} builds for one change");
    assert_eq!(running.rows().await.len(), 2);
    running.stop().await;
}
