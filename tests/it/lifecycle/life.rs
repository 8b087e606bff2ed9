//! Restarts and releases of a running `up`: singletons, workers that do not stop, the release phase,
//! `--watch`, the code cache.

use std::time::{Duration, Instant};

use oarlock_spec::codes::exit;
use oarlock_tests::app::{App, Launch, PATIENCE, Running};

use super::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_singleton_never_overlaps_itself() {
    // Twenty in a row are in `formation`, in-process; this is the way from the command line to it.
    let app = App::new(
        "[processes]\nweb = \"web.wasm\"\nclock = { run = \"worker.wasm\", singleton = true }\n",
    )
    .guest("web.wasm", "hello-p2")
    .guest("worker.wasm", "formation-worker");
    let running = app.up(crate::binary()).start().await;
    for round in 0..6 {
        let (restart, set) = (["restart", "clock.1"], format!("ROUND={round}"));
        let done = if round % 2 == 0 {
            running.oarlock(&restart).await
        } else {
            running.oarlock(&["config", "set", &set]).await
        };
        assert_eq!(done.code, 0, "{}", done.stderr);
    }
    let output = running.output.clone();
    assert_eq!(running.interrupt().await, Some(0));
    let lines: Vec<String> = output.lines();
    let mut events: Vec<(u128, String)> = lines
        .iter()
        .filter_map(|line| line.split_once("app[clock.1]: "))
        .map(|(_, told)| {
            let words: Vec<&str> = told.split(' ').collect();
            (words[1].parse().unwrap(), words[0].to_owned())
        })
        .collect();
    events.sort_unstable();
    let order: Vec<&str> = events.iter().map(|(_, what)| what.as_str()).collect();
    assert_eq!(
        order,
        ["begin", "end"].repeat(7),
        "one ends before the next begins"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_ignores_stopping_is_ended_with_r12() {
    let app = App::new(
        "[processes]\nworker = \"worker.wasm ignore\"\n[limits.worker]\nstop_grace = \"1s\"\n",
    )
    .guest("worker.wasm", "formation-worker");
    let running = app.up(crate::binary()).start().await;
    let done = running.oarlock(&["restart", "worker.1"]).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    running
        .output
        .wait_for("oarlock[worker.1]: Error R12 (Exit timeout)")
        .await;
    let output = running.output.clone();
    let begun = || {
        output
            .lines()
            .iter()
            .filter(|line| line.contains("app[worker.1]: begin"))
            .count()
    };
    until("the worker is started again", || begun() == 2).await;
    let asked = Instant::now();
    assert_eq!(running.interrupt().await, Some(0));
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(
        output
            .lines()
            .iter()
            .filter(|line| line.contains("Error R12"))
            .count(),
        2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_phase_that_fails_at_the_first_start_ends_up_with_its_code() {
    let app = App::new("")
        .guest("web.wasm", "hello-p2")
        .guest("worker.wasm", "probe-p2");
    for (args, code) in [
        ("exit-with-code 7", 7),
        ("exit 3", 1),
        ("trap", exit::RELEASE_PHASE),
    ] {
        app.write(
            "oarlock.toml",
            &format!("app = \"test\"\n[processes]\nweb = \"web.wasm\"\nrelease = \"worker.wasm {args}\"\n"),
        );
        // Twice: it never came to exit 0, so it runs again.
        for _ in 0..2 {
            let mut running = app.up(crate::binary()).spawn();
            assert_eq!(running.wait().await, Some(i32::from(code)), "{args}");
            let error = running.output.wait_for("! error: ").await;
            assert!(error.contains("release phase"), "{error}");
            running
                .output
                .wait_for(&format!("with command `worker.wasm {args}`"))
                .await;
        }
    }
}

/// Waits until the app answers so.
async fn until_answer(running: &Running, path: &str, holds: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = running.get(path).await;
        if holds(answer.text()) {
            return;
        }
        assert!(Instant::now() < deadline, "still {:?}", answer.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_takes_what_changes_and_keeps_what_runs_when_that_fails() {
    let manifest = |more: &str| format!("app = \"test\"\n[processes]\nweb = \"web.wasm\"\n{more}");
    let app = App::new(&manifest("")).guest("web.wasm", "hello-p2");
    std::fs::copy(
        oarlock_tests::guest("probe-p2"),
        app.path().join("worker.wasm"),
    )
    .unwrap();
    let mut launch = app.up(crate::binary());
    launch.command.arg("--watch");
    let running = launch.start().await;
    let first = running.get("/").await.text().to_owned();

    app.put_guest("web.wasm", "formation-web");
    until_answer(&running, "/", |text| text.starts_with("web.1 v2 ")).await;
    assert_ne!(first, running.get("/").await.text());

    app.write("web.wasm", "not wasm");
    running
        .output
        .wait_for("! error: test: web.wasm is not a WebAssembly component")
        .await;
    assert!(running.get("/").await.text().starts_with("web.1 v2 "));
    app.write("oarlock.toml", &manifest("[scael]\n"));
    running.output.wait_for("unknown key `scael`").await;
    app.put_guest("web.wasm", "formation-web");
    app.write(
        "oarlock.toml",
        &manifest("release = \"worker.wasm exit-with-code 9\"\n"),
    );
    running
        .output
        .wait_for("! error: test: the release phase failed")
        .await;
    let text = running.get("/").await.text().to_owned();
    assert!(text.starts_with("web.1 v2 "), "{text}");

    app.write("oarlock.toml", &manifest("[config]\nNOW = \"well\"\n"));
    until_answer(&running, "/env", |text| text.contains("NOW=well\n")).await;
    assert_eq!(running.interrupt().await, Some(0));
}

/// A new app as a person makes it; its build is the longest of all tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_app_builds_and_serves() {
    let folder = tempfile::tempdir().unwrap();
    let done = oarlock_tests::app::oarlock(crate::binary(), folder.path(), &["new", "demo"]).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(
        done.stdout.contains("cd demo\n  oarlock up"),
        "{}",
        done.stdout
    );
    let demo = folder.path().join("demo");
    // The versions that the guestbook is locked to, which are here already.
    let lock = oarlock_tests::repository().join("examples/guestbook/Cargo.lock");
    std::fs::copy(lock, demo.join("Cargo.lock")).unwrap();
    let mut running = Launch::new(crate::binary(), &demo)
        .args(&["up", "--listen", "127.0.0.1:0"])
        .spawn();
    let deadline = Instant::now() + 10 * PATIENCE;
    while running.output.find("Loaded").is_none() && Instant::now() < deadline {
        let failed = running.output.find("! error:");
        assert!(failed.is_none(), "{failed:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    running.ready().await;
    let answer = running.get("/").await;
    assert_eq!(
        (answer.status, answer.text()),
        (200, "Hello from demo, visitor 1\n")
    );
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_compiled_once_is_not_compiled_again() {
    const COMPONENTS: [&str; 5] = ["web", "worker", "scheduler", "nightly", "release"];
    let folder = tempfile::tempdir().unwrap();
    let manifest = oarlock_tests::repository().join("examples/guestbook/oarlock.toml");
    std::fs::copy(manifest, folder.path().join("oarlock.toml")).unwrap();
    let built = folder.path().join("target/wasm32-wasip2/release");
    std::fs::create_dir_all(&built).unwrap();
    for component in COMPONENTS {
        std::fs::copy(
            oarlock_tests::example("guestbook", component),
            built.join(format!("{component}.wasm")),
        )
        .unwrap();
    }
    let cache = tempfile::tempdir().unwrap();
    let mut times = Vec::new();
    for words in [
        " 5 compiled, 0 from the cache",
        " 0 compiled, 5 from the cache",
    ] {
        let mut launch = Launch::new(crate::binary(), folder.path()).args(&[
            "up",
            "--no-build",
            "--listen",
            "127.0.0.1:0",
        ]);
        launch.command.env("XDG_CACHE_HOME", cache.path());
        let began = Instant::now();
        let running = launch.start().await;
        times.push(began.elapsed());
        running.output.wait_for(words).await;
        assert_eq!(running.get("/").await.status, 200);
        assert_eq!(running.interrupt().await, Some(0));
    }
    // Not judged here: other tests run beside this one.
    println!(
        "ready after {:?} with an empty code cache, then after {:?}: {:.0} %",
        times[0],
        times[1],
        times[1].as_secs_f64() / times[0].as_secs_f64() * 100.0
    );
}
