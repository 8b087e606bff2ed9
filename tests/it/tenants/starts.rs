//! What starts when: requests for apps that are on their way, apps that hang, and an end in the midst of a start.

use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock_tests::app::{Answer, Launch, Running, fetch};
use oarlock_tests::apps::Apps;
use oarlock_tests::need_program;
use rustix::process::Signal;

use super::until;
use crate::binary;

/// A release phase that does not end by itself, and is not waited for at the end.
const HANGS: &str =
    "release = \"worker.wasm sleep 600000\"\n[limits.release]\nstop_grace = \"1s\"\n";

fn tenant(apps: &Apps, app: &str, more: &str) {
    apps.add(app, &format!("[processes]\nweb = \"web.wasm\"\n{more}"));
    apps.put_guest(&format!("{app}/web.wasm"), "hello-p2");
    apps.put_guest(&format!("{app}/worker.wasm"), "probe-p2");
}

/// A host, and where it will listen.
async fn begin(launch: impl Fn(&str) -> Launch) -> (Running, String) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let host = launch(&address).spawn();
    until("the host listens", async || {
        tokio::net::TcpStream::connect(&address).await.is_ok()
    })
    .await;
    (host, address)
}

async fn ask(address: &str, app: &str) -> Answer {
    let host = format!("{app}.localhost");
    let url = format!("http://{address}/");
    fetch("GET", &url, &[("host", &host)], Bytes::new())
        .await
        .unwrap()
}

fn code(answer: &Answer) -> (u16, &str, bool) {
    let code = answer.headers.get("oarlock-error");
    let code = code.map_or("", |code| code.to_str().unwrap());
    let seconds = answer.headers.get("retry-after");
    let seconds = seconds.map(|seconds| seconds.to_str().unwrap().parse::<u64>().unwrap());
    (answer.status, code, seconds.is_some_and(|it| it > 0))
}

async fn says(host: &Running, app: &str, text: &str) {
    until(text, async || {
        let shown = host.oarlock(&["ps", "--app", app]).await;
        shown.stdout.contains(text)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_waits_for_an_app_that_is_starting() {
    let apps = Apps::new();
    tenant(&apps, "ada", "release = \"worker.wasm sleep 2000\"\n");
    tenant(&apps, "eve", "");
    let (mut host, address) = begin(|address| apps.serve_at(binary(), address)).await;
    let began = Instant::now();
    let (ada, eve) = tokio::join!(ask(&address, "ada"), ask(&address, "eve"));
    assert_eq!((ada.status, eve.status), (200, 200));
    assert!(
        began.elapsed() > Duration::from_secs(1),
        "it was up already"
    );
    assert_eq!(
        code(&ask(&address, "bob").await),
        (404, "unknown-host", false)
    );
    host.signal(Signal::TERM);
    assert_eq!(host.wait().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_starts_too_long_or_fails_is_told_so() {
    let apps = Apps::new();
    tenant(
        &apps,
        "slow",
        &format!("{HANGS}[limits.web]\nboot_timeout = \"300ms\"\n"),
    );
    tenant(&apps, "bad", "release = \"worker.wasm exit-with-code 7\"\n");
    tenant(&apps, "broken", "[oops]\n");
    let (mut host, address) = begin(|address| apps.serve_at(binary(), address)).await;
    says(&host, "slow", "slow: starting (release phase)").await;
    assert_eq!(
        code(&ask(&address, "slow").await),
        (503, "app-starting", true)
    );
    host.output.wait_for("at=error code=app-starting").await;
    says(&host, "bad", "bad: failed: the release phase failed").await;
    says(&host, "broken", "broken: failed: ").await;
    for app in ["bad", "broken"] {
        assert_eq!(code(&ask(&address, app).await), (503, "H14", true), "{app}");
    }
    assert_eq!(
        code(&ask(&address, "bob").await),
        (404, "unknown-host", false)
    );
    let asked = Instant::now();
    host.signal(Signal::TERM);
    assert_eq!(host.wait().await, Some(0), "as any stop");
    assert!(asked.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_hang_in_their_builds_and_two_in_release_phases_hold_up_no_third() {
    need_program("bwrap", "bubblewrap");
    let apps = Apps::new();
    for app in ["build-one", "build-two"] {
        tenant(&apps, app, "[build]\ncommand = \"sleep 6301.25\"\n");
    }
    for app in ["phase-one", "phase-two"] {
        tenant(&apps, app, HANGS);
    }
    tenant(&apps, "plain", "");
    tenant(&apps, "zoe", "[build]\ncommand = \"true\"\n");
    let serve = |address: &str| apps.serve_at(binary(), address).args(&["--build"]);
    let (mut host, address) = begin(serve).await;
    for app in ["plain", "zoe"] {
        assert_eq!(ask(&address, app).await.status, 200, "{app}");
    }
    says(&host, "build-one", "build-one: starting (building)").await;
    says(&host, "phase-two", "phase-two: starting (release phase)").await;
    let asked = Instant::now();
    host.signal(Signal::TERM);
    assert_eq!(host.wait().await, Some(0));
    assert!(asked.elapsed() < Duration::from_secs(20));
    until("the builds have ended", async || {
        !super::builds::runs("6301.25")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_a_start_of_many_apps() {
    let apps = Apps::new();
    for n in 0..150 {
        // Each has a component of its own, so that none is in a cache.
        let app = format!("app-{n:03}");
        apps.add(&app, "[processes]\nworker = \"worker.wasm\"\n");
        let component = wat::parse_str(format!(
            r#"(component
                (core module $main (func (export "run") (result i32) (drop (i32.const {n})) (i32.const 0)))
                (core instance $main (instantiate $main))
                (func $run (result (result)) (canon lift (core func $main "run")))
                (instance $command (export "run" (func $run)))
                (export "wasi:cli/run@0.2.0" (instance $command)))"#
        ));
        std::fs::write(apps.path(&app).join("worker.wasm"), component.unwrap()).unwrap();
    }
    let (mut host, _) = begin(|address| apps.serve_at(binary(), address)).await;
    host.output.wait_for("Running").await;
    host.signal(Signal::TERM);
    assert_eq!(host.wait().await, Some(0));
    let output = host.output.lines().join("\n");
    let running = output.matches("Running").count();
    assert!(running < 150, "{running} were started");
}
