//! The commands' words: they say what has happened, once, and never what has not.

use std::path::Path;
use std::time::Duration;

use oarlock_spec::codes::exit;
use oarlock_tests::app::{App, Finished, Launch, Running, oarlock};
use rustix::process::Signal;

use super::{command, until};

const APP: &str = "[processes]\nweb = \"web.wasm\"\ncat = \"probe.wasm cat\"\n[scale]\ncat = 0\n";

async fn start() -> (App, Running) {
    let app = App::new(APP)
        .guest("web.wasm", "hello-p2")
        .guest("probe.wasm", "probe-p2");
    let running = app.up(crate::binary()).start().await;
    (app, running)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_nothing_says_so() {
    let (_app, running) = start().await;
    for (line, said) in [
        ("config set A=2", "v2: Set A config var\n"),
        (
            "config set A=2",
            "Nothing changed: A has that value already\n",
        ),
        (
            "config unset NOPE NONE",
            "Nothing changed: NONE, NOPE are not set\n",
        ),
        ("scale web=1", "Nothing changed: cat=0 web=1\n"),
        ("scale web=2", "cat=0 web=2\n"),
        ("scale", "cat=0 web=2\n"),
        ("restart cat", "Nothing changed: no such dyno runs\n"),
        ("config unset A", "v3: Unset A config var\n"),
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let done = running.oarlock(&args).await;
        assert_eq!((done.code, done.stdout.as_str()), (0, said), "{line}");
    }
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_nobody_is_refused_with_those_there_are() {
    let (_app, running) = start().await;
    for name in ["nonsense", "web.x", "webb.1"] {
        let done = running.oarlock(&["logs", "-f", "--dyno", name]).await;
        assert_eq!(done.code, i32::from(exit::FAILURE), "{name}: {done:?}");
        let listed = "there are: cat, web, run, router, api, build, scheduler";
        assert!(
            done.stderr.contains(name) && done.stderr.contains(listed),
            "{done:?}"
        );
    }
    for name in ["web", "web.9", "cat", "run", "router", "api"] {
        let done = running.oarlock(&["logs", "--dyno", name]).await;
        assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{name}");
    }
    assert_eq!(running.interrupt().await, Some(0));
}

/// How often something was said on both streams.
fn said(running: &Running, text: &str) -> usize {
    let lines = running.output.lines();
    lines.iter().filter(|line| line.contains(text)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_printed_once_and_stays_in_the_log() {
    let app =
        App::new("[processes]\nweb = \"web.wasm\"\nrelease = \"probe.wasm exit-with-code 7\"\n")
            .guest("web.wasm", "hello-p2")
            .guest("probe.wasm", "probe-p2");
    let mut running = app.up(crate::binary()).spawn();
    assert_eq!(running.wait().await, Some(7));
    running.output.wait_for("the release phase failed").await;
    assert_eq!(said(&running, "the release phase failed"), 1);

    let apps = tempfile::tempdir().unwrap();
    for (name, more) in [
        ("phase", "release = \"probe.wasm exit-with-code 7\"\n"),
        ("broken", "[oops]\n"),
    ] {
        let folder = apps.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let manifest = format!("app = \"{name}\"\n[processes]\nweb = \"web.wasm\"\n{more}");
        std::fs::write(folder.join("oarlock.toml"), manifest).unwrap();
        for (file, guest) in [("web.wasm", "hello-p2"), ("probe.wasm", "probe-p2")] {
            std::fs::copy(oarlock_tests::guest(guest), folder.join(file)).unwrap();
        }
    }
    let mut running = Launch::new(crate::binary(), apps.path())
        .args(&["serve", "--apps", ".", "--listen", "127.0.0.1:0"])
        .spawn();
    running.output.wait_for("Listening on 127.0.0.1:").await;
    running.output.wait_for("the release phase failed").await;
    running.output.wait_for("`oops`").await;
    // What is logged as well has had its time.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(said(&running, "the release phase failed"), 1);
    assert_eq!(said(&running, "`oops`"), 1);
    for (name, text) in [("phase", "the release phase failed"), ("broken", "`oops`")] {
        let log = oarlock(crate::binary(), apps.path(), &["logs", "--app", name]).await;
        assert_eq!(log.stdout.matches(text).count(), 1, "{log:?}");
    }
    running.signal(Signal::INT);
    assert_eq!(running.wait().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_run_says_what_happens_and_a_second_ends_it() {
    let (app, running) = start().await;
    let mut sleeping = Launch::new(crate::binary(), app.path())
        .args(&["run", "probe.wasm", "sleep", "60000"])
        .spawn();
    running
        .output
        .wait_for("Starting process with command `probe.wasm sleep")
        .await;
    until("it listens for signals", || {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", sleeping.pid().as_raw_nonzero()))
                .unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        u64::from_str_radix(caught.unwrap().trim(), 16).unwrap() & 2 != 0
    })
    .await;
    sleeping.signal(Signal::INT);
    let line = sleeping.output.wait_for("Stopping").await;
    assert!(line.contains("Ctrl-C again ends it at once"), "{line}");
    sleeping.signal(Signal::INT);
    assert_eq!(sleeping.wait().await, Some(i32::from(exit::INTERRUPTED)));
    assert_eq!(running.interrupt().await, Some(0));
}

/// A command as the user `nobody`; `None` where that cannot be.
async fn as_nobody(folder: &Path, args: &[&str]) -> Option<Finished> {
    let user = [
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "--",
    ];
    let binary = crate::binary().display().to_string();
    let mut launch = Launch::new(Path::new("setpriv"), folder)
        .args(&user)
        .args(&[binary.as_str()])
        .args(args);
    let done = launch.command.output().await.ok()?;
    let stderr = String::from_utf8(done.stderr).unwrap();
    if stderr.contains("setpriv:") {
        return None;
    }
    Some(Finished {
        code: done.status.code().unwrap_or(-1),
        stdout: String::from_utf8(done.stdout).unwrap(),
        stderr,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_users_host_is_nobodys_to_remove() {
    let (app, running) = start().await;
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(app.path(), open).unwrap();
    for (args, code) in [
        (&["ps"][..], exit::FAILURE),
        (&["config", "set", "A=1"], exit::FAILURE),
        (
            &["up", "--no-build", "--listen", "127.0.0.1:0"],
            exit::FAILURE,
        ),
    ] {
        let Some(done) = as_nobody(app.path(), args).await else {
            println!("skipped: no other user can be taken (`setpriv`)");
            break;
        };
        assert_eq!(done.code, i32::from(code), "{args:?}: {done:?}");
        let owner = format!("another user (uid {})", rustix::process::geteuid().as_raw());
        assert!(done.stderr.contains(&owner), "{args:?}: {done:?}");
        for word in ["remove", "delete", "--data", "no host runs"] {
            assert!(!done.stderr.contains(word), "{args:?}: {done:?}");
        }
    }
    let done = command(&app, &["ps"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(running.interrupt().await, Some(0));
}
