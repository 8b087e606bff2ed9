//! Hosts that are killed.

use super::*;

/// The child of [`a_host_killed_at_any_moment_starts_again`]: releases one change after the other.
#[tokio::test]
#[ignore = "run by another test, as a process of its own"]
async fn release_until_killed() {
    let Some(root) = std::env::var_os("OARLOCK_TEST_APP") else {
        return;
    };
    let runtime = FakeRuntime::new();
    let mut place = Place::app();
    place.store = None;
    for n in 0u64.. {
        // Not the app's own folder, whose guard would remove it.
        let app = PathBuf::from(&root);
        write(&app, "web.wasm", &n.to_string());
        let source = Source::App {
            dir: app.clone(),
            scale: Formation::new(),
            watch: false,
        };
        let running = place
            .start_in(&app, &runtime, source, Building::No)
            .await
            .unwrap();
        running
            .client
            .change_config(&name(), &change(&[("N", Some(&n.to_string()))]))
            .await
            .unwrap();
        running.stop().await;
    }
}

#[tokio::test]
async fn a_host_killed_at_any_moment_starts_again() {
    let mut place = Place::app();
    place.store = None;
    let mut releases = 0;
    for round in 0..10u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "platform::core::tests::release_until_killed",
                "--ignored",
            ])
            .env("OARLOCK_TEST_APP", place.root.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(60 + round * 37)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let running = place.up(&FakeRuntime::new()).await.unwrap();
        let rows = running.rows().await;
        assert_eq!(
            rows.iter()
                .filter(|row| row.1 == ReleaseStatus::Current)
                .count(),
            1
        );
        assert!(
            rows.iter().all(|row| row.1 != ReleaseStatus::Pending),
            "{rows:?}"
        );
        assert!(rows.len() >= releases, "no release is lost");
        releases = rows.len();
        let left = std::fs::read_dir(place.root.path().join(".oarlock/tmp"))
            .unwrap()
            .count();
        assert_eq!(left, 0, "nothing half-written stays");
        running
            .client
            .change_config(&name(), &change(&[("R", Some(&round.to_string()))]))
            .await
            .unwrap();
        running.stop().await;
    }
}
