//! An `up` that is ended in each of its phases: nothing of it is left, and the next one starts.

use std::time::Duration;

use bytes::Bytes;
use oarlock_spec::codes::exit;
use oarlock_tests::app::{App, Launch, Running, fetch};
use rustix::process::Signal;

use super::{MARK, marked, none_left, starts_and_serves, until, up_and_build};

const SIGNALS: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::KILL];

/// Starts with a mark of its own, of the phase and the signal.
fn start(launch: Launch, phase: &str, signal: Signal) -> (Running, String) {
    let mark = format!("{phase}-{}-{}", signal.as_raw(), std::process::id());
    let mut launch = launch;
    launch.command.env(MARK, &mark);
    (launch.spawn(), mark)
}

/// Sends the signal; the exit code is the interruption's, or there is none after `kill -9`.
async fn end(mut running: Running, signal: Signal, mark: &str) {
    running.signal(signal);
    let code = running.wait().await;
    let expected = (signal != Signal::KILL).then_some(i32::from(exit::INTERRUPTED));
    assert_eq!(
        code,
        expected,
        "{signal:?}:\n{}",
        running.output.lines().join("\n")
    );
    assert_eq!(
        running.output.find("Running"),
        None,
        "it ended before it served"
    );
    none_left(mark).await;
}

fn web_app(manifest: &str) -> App {
    App::new(&format!("[processes]\nweb = \"web.wasm\"\n{manifest}"))
        .guest("web.wasm", "hello-p2")
        .guest("worker.wasm", "probe-p2")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_the_build() {
    for signal in SIGNALS {
        let app = web_app("[build]\ncommand = \"sh build.sh\"\n");
        app.write(
            "build.sh",
            "[ -e fast ] && exit 0\n(sleep 311; touch too-late) &\ntouch begun\nsleep 312\n",
        );
        let (running, mark) = start(up_and_build(&app), "build", signal);
        let begun = app.path().join("begun");
        until("the build begins", || begun.exists()).await;
        assert!(
            marked(&mark).len() >= 4,
            "up, the build, and what it started: {:?}",
            marked(&mark)
        );
        end(running, signal, &mark).await;
        app.write("fast", "");
        let mut again = up_and_build(&app).start().await;
        assert_eq!(again.get("/").await.status, 200);
        again.signal(Signal::INT);
        assert_eq!(again.wait().await, Some(0));
        assert!(!app.path().join("too-late").exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_the_compilation() {
    for signal in SIGNALS {
        let app = web_app("");
        let cache = tempfile::tempdir().unwrap();
        let mut launch = app.up(crate::binary());
        launch.command.env("XDG_CACHE_HOME", cache.path());
        let (running, mark) = start(launch, "compile", signal);
        running.output.wait_for("Release v1 created").await;
        end(running, signal, &mark).await;
        // The same cache, with whatever is left of an entry in it; it is whole after the next start.
        let mut launch = app.up(crate::binary());
        launch.command.env("XDG_CACHE_HOME", cache.path());
        let again = launch.start().await;
        assert_eq!(again.get("/").await.status, 200);
        assert_eq!(again.interrupt().await, Some(0));
        let mut launch = app.up(crate::binary());
        launch.command.env("XDG_CACHE_HOME", cache.path());
        let again = launch.start().await;
        again.output.wait_for(" 0 compiled, 1 from the cache").await;
        assert_eq!(again.interrupt().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_the_release_phase() {
    for signal in SIGNALS {
        let app = web_app("release = \"worker.wasm sleep 3000\"\n");
        let (running, mark) = start(app.up(crate::binary()), "release", signal);
        running
            .output
            .wait_for("Starting process with command `worker.wasm sleep")
            .await;
        end(running, signal, &mark).await;
        // It never came to its end, so it runs again, and the release becomes current.
        let again = app.up(crate::binary()).start().await;
        assert!(again.output.find("worker.wasm sleep 3000").is_some());
        assert_eq!(again.get("/").await.status, 200);
        assert_eq!(again.interrupt().await, Some(0));
        starts_and_serves(&app).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_the_boot() {
    for signal in SIGNALS {
        // A worker counts as up when it has lived for a moment: that is the boot that is interrupted.
        let app = web_app("worker = \"worker.wasm stdin\"\n");
        let (running, mark) = start(app.up(crate::binary()), "boot", signal);
        running
            .output
            .wait_for("Starting process with command `worker.wasm")
            .await;
        let mut running = running;
        running.signal(signal);
        let code = running.wait().await;
        // On a slow machine the signal may come when it is running already.
        let running_already = running.output.find("Running").is_some();
        match (signal, running_already) {
            (Signal::KILL, _) => assert_eq!(code, None),
            (_, false) => assert_eq!(code, Some(i32::from(exit::INTERRUPTED))),
            (_, true) => assert_eq!(code, Some(0)),
        }
        none_left(&mark).await;
        starts_and_serves(&app).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_runs() {
    for signal in SIGNALS {
        let app = web_app("worker = \"worker.wasm stdin\"\n");
        let (mut running, mark) = start(app.up(crate::binary()), "running", signal);
        running.ready().await;
        assert_eq!(running.get("/").await.status, 200);
        running.signal(signal);
        let code = running.wait().await;
        assert_eq!(code, (signal != Signal::KILL).then_some(0), "{signal:?}");
        if signal != Signal::KILL {
            running
                .output
                .wait_for("app[worker.1]: stdin ended after 0 bytes")
                .await;
        }
        none_left(&mark).await;
        starts_and_serves(&app).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_drains() {
    for signal in SIGNALS {
        let app = App::new("[processes]\nweb = \"web.wasm\"\n").guest("web.wasm", "handler-p2");
        let (mut running, mark) = start(app.up(crate::binary()), "draining", signal);
        running.ready().await;
        // A request whose answer has no end.
        let url = format!("http://{}/slow", running.address());
        let request = tokio::spawn(async move { fetch("GET", &url, &[], Bytes::new()).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        running.signal(Signal::INT);
        running.output.wait_for("Stopping").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        running.signal(signal);
        let code = running.wait().await;
        let expected = (signal != Signal::KILL).then_some(i32::from(exit::INTERRUPTED));
        assert_eq!(code, expected, "a second signal ends at once");
        assert!(
            request.await.unwrap().is_err(),
            "a cut body does not look whole"
        );
        none_left(&mark).await;
        starts_and_serves(&app).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_under_way_is_finished_and_one_without_end_is_cut_after_stop_grace() {
    let app = App::new("[processes]\nweb = \"web.wasm\"\n[limits.web]\nstop_grace = \"1s\"\n")
        .guest("web.wasm", "formation-web");
    let mut running = app.up(crate::binary()).start().await;
    let url = format!("http://{}/slow", running.address());
    let request = tokio::spawn(async move { fetch("GET", &url, &[], Bytes::new()).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    running.signal(Signal::TERM);
    assert_eq!(request.await.unwrap().unwrap().text(), "web.1");
    assert_eq!(running.wait().await, Some(0));

    app.put_guest("web.wasm", "handler-p2");
    let mut running = app.up(crate::binary()).start().await;
    let url = format!("http://{}/slow", running.address());
    let request = tokio::spawn(async move { fetch("GET", &url, &[], Bytes::new()).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    running.signal(Signal::HUP);
    assert!(request.await.unwrap().is_err(), "cut, and seen to be cut");
    assert_eq!(running.wait().await, Some(0));
}
