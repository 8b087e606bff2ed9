//! What an operator allows at most: in `serve` without a policy, and with one.

use oarlock_spec::codes::exit;
use oarlock_tests::app::{App, Running, oarlock};
use oarlock_tests::apps::{Apps, get};
use serde_json::Value;

use super::until;
use crate::binary;

const WEB: &str = "[processes]\nweb = \"web.wasm\"\n";

/// What is said, however it was wrapped.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn app(manifest: &str) -> App {
    App::new(&format!("{WEB}{manifest}"))
        .guest("web.wasm", "hello-p2")
        .guest("worker.wasm", "probe-p2")
}

fn with_policy(app: &App, policy: &str) -> String {
    app.write("policy.toml", policy);
    app.path().join("policy.toml").display().to_string()
}

async fn webs(running: &Running, app: &str) -> Value {
    let shown = running.oarlock(&["scale", "--json", "--app", app]).await;
    let formation: Value = serde_json::from_str(&shown.stdout).unwrap_or_default();
    formation["web"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_of_serve_cannot_give_himself_the_machine() {
    let apps = Apps::new();
    apps.add("ada", WEB);
    apps.add(
        "eve",
        &format!("{WEB}[limits.web]\nmemory = \"64 GiB\"\nhandles = 1_000_000\ntimeout = \"1d\"\n"),
    );
    apps.add("mal", &format!("{WEB}[scale]\nweb = 10_000\n"));
    apps.add(
        "kim",
        &format!("{WEB}[addons]\nkv = {{ plan = \"kv\", size = \"1 TiB\" }}\n"),
    );
    for app in ["ada", "eve", "mal", "kim"] {
        apps.put_guest(&format!("{app}/web.wasm"), "hello-p2");
    }
    let host = apps.start(binary(), &["ada"]).await;
    for said in [
        "`memory` is above",
        "`handles` is above",
        "`timeout` is above",
        "10000 dynos over all",
        "`kv_size` in",
    ] {
        until(said, async || {
            words(&host.output.lines().join("\n").replace("! ", "")).contains(said)
        })
        .await;
    }
    assert_eq!(get(&host, "ada", "/").await.status, 200);
    let eve = get(&host, "eve", "/").await;
    assert_eq!(
        (eve.status, &eve.headers["oarlock-error"] == "H14"),
        (503, true)
    );

    let refused = host.oarlock(&["scale", "web=101", "--app", "ada"]).await;
    assert_ne!(refused.code, 0);
    let said = words(&refused.stderr);
    assert!(
        said.contains("101 dynos")
            && said.contains("at most 100")
            && said.contains("`dynos` in [caps]"),
        "{said}"
    );
    assert_eq!(webs(&host, "ada").await, 1);
    assert_eq!(host.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_raises_and_lowers_the_caps() {
    let apps = Apps::new();
    apps.add("ada", &format!("{WEB}[limits.web]\nmemory = \"2 GiB\"\n"));
    apps.put_guest("ada/web.wasm", "hello-p2");
    apps.write("policy.toml", "[caps]\nmemory = \"2 GiB\"\n");
    let policy = apps.path("policy.toml").display().to_string();
    let host = apps.serve(binary()).args(&["--policy", &policy]);
    let host = oarlock_tests::apps::running(host, &["ada"]).await;
    assert_eq!(get(&host, "ada", "/").await.status, 200);
    let scaled = host.oarlock(&["scale", "web=6", "--app", "ada"]).await;
    assert_eq!(scaled.code, 0, "{scaled:?}");
    assert_eq!(host.interrupt().await, Some(0));

    // What was allowed once is held below today's caps, and the app is told.
    apps.write("policy.toml", "[caps]\nmemory = \"2 GiB\"\ndynos = 2\n");
    let host = apps.serve(binary()).args(&["--policy", &policy]);
    let host = oarlock_tests::apps::running(host, &["ada"]).await;
    assert_eq!(webs(&host, "ada").await, 2);
    let log = host.oarlock(&["logs", "--app", "ada"]).await.stdout;
    assert!(log.contains("`dynos` in [caps]"), "{log}");
    assert_eq!(host.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_has_the_caps_of_its_policy_and_no_others() {
    let app = app(
        "[limits.web]\nmemory = \"2 GiB\"\n[addons]\nkv = { plan = \"kv\", size = \"5 GiB\" }\n",
    );
    let running = app.up(binary()).start().await;
    assert_eq!(running.get("/").await.status, 200);
    assert_eq!(running.interrupt().await, Some(0));

    let policy = with_policy(&app, "[caps]\ndynos = 3\n");
    let mut refused = app
        .up(binary())
        .args(&["--policy", &policy, "--scale", "web=4"])
        .spawn();
    assert_eq!(refused.wait().await, Some(i32::from(exit::MANIFEST)));
    let said = words(&refused.output.lines().join("\n").replace("! ", ""));
    assert!(
        said.contains("4 dynos") && said.contains("at most 3"),
        "{said}"
    );

    let running = app.up(binary()).args(&["--policy", &policy]).start().await;
    assert_eq!(running.oarlock(&["scale", "web=3"]).await.code, 0);
    let refused = running.oarlock(&["scale", "web=4"]).await;
    assert!(
        words(&refused.stderr).contains("`dynos` in [caps]"),
        "{refused:?}"
    );
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_phase_has_the_policy_s_time() {
    let app = app("");
    app.write(
        "oarlock.toml",
        &format!("app = \"test\"\n{WEB}release = \"worker.wasm sleep 600000\"\n"),
    );
    let policy = with_policy(
        &app,
        "[caps]\nrelease_phase = \"1s\"\nstop_grace = \"1s\"\n",
    );
    let mut running = app.up(binary()).args(&["--policy", &policy]).spawn();
    assert_eq!(running.wait().await, Some(i32::from(exit::RELEASE_PHASE)));
    let said = words(&running.output.lines().join("\n").replace("! ", ""));
    assert!(
        said.contains("longer than 1 seconds") && said.contains("`release_phase`"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_shows_what_serve_allows_and_would_refuse() {
    let app = app("");
    let checked = oarlock(binary(), app.path(), &["check"]).await;
    assert_eq!(checked.code, 0, "{checked:?}");
    let said = words(&checked.stdout);
    for cap in [
        "in serve at most",
        "memory \"1 GiB\"",
        "cpu 2",
        "handles 10_000",
        "dynos 100",
        "kv_size \"4 GiB\"",
        "release_phase \"15m\"",
    ] {
        assert!(said.contains(cap), "{cap}: {said}");
    }
    assert!(!said.contains("would refuse"), "{said}");

    app.write(
        "oarlock.toml",
        &format!("app = \"test\"\n{WEB}[limits.web]\nmemory = \"2 GiB\"\n"),
    );
    let checked = oarlock(binary(), app.path(), &["check"]).await;
    assert_eq!(checked.code, 0, "`up` takes it: {checked:?}");
    let said = words(&checked.stdout);
    assert!(
        said.contains("would refuse this app") && said.contains("`memory` is above"),
        "{said}"
    );
    let checked = oarlock(binary(), app.path(), &["check", "--json"]).await;
    let rows: Value = serde_json::from_str(&checked.stdout).unwrap();
    assert_eq!(rows[0]["in_serve_at_most"]["memory"], "\"1 GiB\"");
    assert!(rows[0]["refused_by_serve"].is_string());

    let policy = with_policy(&app, "[caps]\nmemory = \"3 GiB\"\n");
    let checked = oarlock(binary(), app.path(), &["check", "--policy", &policy]).await;
    assert!(!checked.stdout.contains("would refuse"), "{checked:?}");
    let policy = with_policy(&app, "[caps]\nmemory = \"1 GiB\"\n");
    let checked = oarlock(binary(), app.path(), &["check", "--policy", &policy]).await;
    assert_eq!(checked.code, i32::from(exit::MANIFEST), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_tmp_keeps_no_app_from_starting() {
    use rustix::fs::{Mode, OFlags};

    let app = app("");
    let running = app.up(binary()).start().await;
    assert_eq!(running.interrupt().await, Some(0));
    let tmp = app.path().join(".oarlock/apps/test/tmp");
    // A host that was killed left a tree that no path and no recursion comes to the end of.
    let mut here: std::os::fd::OwnedFd = std::fs::File::open(&tmp).unwrap().into();
    for depth in 0..12_000 {
        let name = if depth == 0 { "tmp-1-1" } else { "d" };
        rustix::fs::mkdirat(&here, name, Mode::RWXU).unwrap();
        here = rustix::fs::openat(&here, name, OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    // And something that is not what it is taken for.
    std::fs::write(tmp.join("tmp-1-2"), "no folder").unwrap();
    let running = app.up(binary()).start().await;
    assert_eq!(running.get("/").await.status, 200);
    running.output.wait_for("tmp/tmp-1-2").await;
    assert_eq!(running.interrupt().await, Some(0));
    let left: Vec<_> = std::fs::read_dir(&tmp)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["tmp-1-2"]);
}
