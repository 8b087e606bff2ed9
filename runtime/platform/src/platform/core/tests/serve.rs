//! Many apps in one host.

use super::*;

#[tokio::test]
async fn serve_goes_on_without_the_apps_that_fail() {
    let place = Place::new();
    for (app, name) in [("one", "one"), ("two", "two"), ("twin", "one")] {
        place.write(
            &format!("{app}/oarlock.toml"),
            &format!("app = \"{name}\"\n[processes]\nweb = \"web.wasm\"\n"),
        );
        place.write(&format!("{app}/web.wasm"), app);
    }
    place.write("broken/oarlock.toml", "app = 1\n");
    place.write("proc-file/Procfile", "web: web.wasm\n");
    place.write("nothing/readme", "");
    let runtime = FakeRuntime::new();
    let source = Source::Apps {
        dir: place.root.path().to_owned(),
        data: None,
    };
    let mut running = place
        .start(&runtime, source.clone(), Building::No)
        .await
        .unwrap();
    let failed = BTreeMap::from([
        running.failed().await,
        running.failed().await,
        running.failed().await,
    ]);
    assert!(failed["broken"].contains("oarlock.toml"), "{failed:?}");
    assert!(
        failed["twin"].contains("write `app = \"twin\"`"),
        "{failed:?}"
    );
    assert!(failed["proc-file"].contains("web.wasm"), "{failed:?}");
    let apps = running.client.apps().await.unwrap();
    let urls: Vec<_> = apps
        .iter()
        .map(|row| (row.app.as_str(), row.url.as_deref()))
        .collect();
    assert_eq!(
        urls,
        [
            ("broken", None),
            ("one", Some("http://one.localhost:8080")),
            ("proc-file", None),
            ("twin", None),
            ("two", Some("http://two.localhost:8080"))
        ]
    );
    let two: AppName = "two".parse().unwrap();
    let web = "web".parse().unwrap();
    running
        .client
        .scale(&two, &Formation::from([(web, 4)]))
        .await
        .unwrap();
    let error = running
        .client
        .formation(&"proc-file".parse().unwrap())
        .await
        .unwrap_err();
    assert_eq!(word(&error), words::NOT_RUNNING);
    running.stop().await;

    // The scaled formation is kept, and an app whose new code fails runs its old.
    place.write("two/web.wasm", "new");
    std::fs::remove_dir_all(place.root.path().join("twin")).unwrap();
    let next = FakeRuntime::new();
    std::fs::remove_dir_all(place.root.path().join("one")).unwrap();
    next.fail([phase_failure(Some(1))]);
    let mut running = place.start(&next, source, Building::No).await.unwrap();
    let told = next.last();
    assert_eq!(
        (told.app.as_str(), told.release, told.phase),
        ("two", ReleaseId(1), ReleasePhase::Done)
    );
    assert_eq!(told.formation.values().copied().collect::<Vec<_>>(), [4]);
    let failed = BTreeMap::from([
        running.failed().await,
        running.failed().await,
        running.failed().await,
    ]);
    assert!(
        failed["two"].contains("the old release goes on"),
        "{failed:?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_link_in_one_apps_part_of_the_data_folder_is_that_apps_failure() {
    let place = Place::new();
    for app in ["one", "two"] {
        place.write(&format!("{app}/Procfile"), "web: web.wasm\n");
        place.write(&format!("{app}/web.wasm"), app);
    }
    let victim = tempfile::tempdir().unwrap();
    let apps = place.root.path().join(".oarlock/apps");
    std::fs::create_dir_all(&apps).unwrap();
    std::os::unix::fs::symlink(victim.path(), apps.join("two")).unwrap();
    let source = Source::Apps {
        dir: place.root.path().to_owned(),
        data: None,
    };
    let runtime = FakeRuntime::new();
    let mut running = place.start(&runtime, source, Building::No).await.unwrap();
    let Event::Refused { folder, message } = running.event().await else {
        panic!("another event");
    };
    assert!(folder.ends_with("two"), "{}", folder.display());
    assert!(
        message.contains(".oarlock/apps/two: this is a symbolic link"),
        "{message}"
    );
    assert_eq!(runtime.last().app.as_str(), "one");
    running.stop().await;
    assert_eq!(std::fs::read_dir(victim.path()).unwrap().count(), 0);
}
