//! What commands do when stdout takes no more: with real shells, pipes and `/dev/full`.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock_spec::codes::exit;
use oarlock_tests::app::{App, Finished, Launch, PATIENCE, Running, fetch};
use oarlock_tests::apps;

const APP: &str = "[processes]\nweb = \"web.wasm\"\ncat = \"probe.wasm cat\"\n[scale]\ncat = 0\n[config]\nGREETING = \"hello\"\n";

async fn start() -> (App, Running) {
    let app = App::new(APP)
        .guest("web.wasm", "hello-p2")
        .guest("probe.wasm", "probe-p2");
    let running = app.up(crate::binary()).start().await;
    (app, running)
}

/// Runs a line of bash in which `$oarlock` is the binary; one that does not end is killed.
async fn bash(folder: &Path, line: &str) -> Finished {
    let mut launch = Launch::new(Path::new("bash"), folder).args(&["-c", line]);
    let patient = format!("timeout -s KILL {}", PATIENCE.as_secs());
    launch.command.env(
        "oarlock",
        format!("{patient} {}", crate::binary().display()),
    );
    let done = launch.command.output().await.unwrap();
    Finished {
        code: done.status.code().unwrap_or(-1),
        stdout: String::from_utf8(done.stdout).unwrap(),
        stderr: String::from_utf8(done.stderr).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_has_enough_ends_a_command_quietly() {
    let (app, running) = start().await;
    assert_eq!(running.get("/").await.status, 200);
    for (line, first) in [
        // No line comes after those that `head` takes.
        ("$oarlock logs -f -n 2 | head -1", "oarlock["),
        ("$oarlock logs -f -n 2 --json | head -1", "{"),
        ("$oarlock ps | true", ""),
        ("$oarlock ps --json | true", ""),
        ("$oarlock releases | true", ""),
        ("$oarlock completions bash | head -1", "_oarlock"),
        ("$oarlock --help | true", ""),
        (
            "$oarlock run cat < <(head -c 20000000 /dev/zero | tr '\\0' x) | head -c 3",
            "xxx",
        ),
    ] {
        let done = bash(app.path(), &format!("{line}; echo +${{PIPESTATUS[0]}}")).await;
        assert!(done.stdout.ends_with("+0\n"), "{line}: {done:?}");
        assert!(done.stdout.contains(first), "{line}: {done:?}");
        assert_eq!(done.stderr, "", "{line}");
    }
    assert_eq!(running.get("/").await.status, 200);
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_below_stdout_fails_each_command() {
    let (app, running) = start().await;
    for command in [
        "ps",
        "ps --json",
        "scale",
        "scale web=1 --json",
        "config",
        "config --json",
        "config set A=1",
        "config get A",
        "releases",
        "restart web",
        "logs",
        "logs --json",
        "check",
        "completions fish",
        "run probe.wasm -- print",
        "--help",
        "help ps",
        "--version",
    ] {
        let done = bash(app.path(), &format!("$oarlock {command} > /dev/full")).await;
        assert_eq!(done.code, i32::from(exit::FAILURE), "{command}: {done:?}");
        assert!(
            done.stderr.contains("stdout cannot be written: No space"),
            "{command}: {done:?}"
        );
    }
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_ends_with_its_reader_and_serve_goes_on() {
    let app = App::new(APP)
        .guest("web.wasm", "hello-p2")
        .guest("probe.wasm", "probe-p2");
    let up = "$oarlock up --no-build --listen 127.0.0.1:0";
    let done = bash(
        app.path(),
        &format!("{up} | head -1 > /dev/null; echo ${{PIPESTATUS[0]}}"),
    )
    .await;
    assert_eq!(done.stdout, "0\n", "{done:?}");
    assert!(!done.stderr.contains("error"), "{done:?}");
    let done = bash(app.path(), &format!("{up} > /dev/full")).await;
    assert_eq!(done.code, i32::from(exit::FAILURE), "{done:?}");
    assert_eq!(done.stderr.matches("error:").count(), 1, "{done:?}");
    assert!(done.stderr.contains("stdout cannot be written"), "{done:?}");

    let apps = tempfile::tempdir().unwrap();
    let folder = apps.path().join("one");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(
        folder.join("oarlock.toml"),
        "app = \"one\"\n[processes]\nweb = \"web.wasm\"\n",
    )
    .unwrap();
    std::fs::copy(oarlock_tests::guest("hello-p2"), folder.join("web.wasm")).unwrap();
    let line = format!(
        "exec {} serve --apps . --listen 127.0.0.1:0 > /dev/full",
        crate::binary().display()
    );
    let mut running = Launch::new(Path::new("bash"), apps.path())
        .args(&["-c", &line])
        .spawn();
    running.output.wait_for("`oarlock logs` has").await;
    running.ready().await;
    for _ in 0..2 {
        assert_eq!(apps::get(&running, "one", "/").await.status, 200);
    }
    let output = running.output.clone();
    assert_eq!(running.interrupt().await, Some(0));
    let said = output.lines().join("\n");
    assert_eq!(
        said.matches("stdout cannot be written").count(),
        1,
        "{said}"
    );
}

/// A pipe that is open and never read fills after 64 KiB; a terminal after Ctrl-S does the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_output_nobody_reads_stops_all_the_same() {
    let app =
        App::new("app = \"loud\"\n[processes]\nweb = \"web.wasm\"\n").guest("web.wasm", "hello-p2");
    for serve in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let place = if serve {
            std::fs::create_dir(folder.path().join("loud")).unwrap();
            for file in ["oarlock.toml", "web.wasm"] {
                std::fs::copy(app.path().join(file), folder.path().join("loud").join(file))
                    .unwrap();
            }
            "serve --apps ."
        } else {
            "up --no-build"
        };
        // bash holds the reading end, and reads nothing.
        let line = format!(
            "mkfifo p; exec 9<>p; exec {} {place} --listen 127.0.0.1:0 2> {} > p",
            crate::binary().display(),
            log.display()
        );
        let cwd = if serve { folder.path() } else { app.path() };
        let mut running = Launch::new(Path::new("bash"), cwd)
            .args(&["-c", &line])
            .spawn();
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        let deadline = Instant::now() + PATIENCE;
        while !said().contains("Running") {
            assert!(Instant::now() < deadline, "{}", said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let text = said();
        let port = text.split("127.0.0.1:").nth(1).unwrap();
        let port: String = port.chars().take_while(char::is_ascii_digit).collect();
        let url = format!("http://127.0.0.1:{port}/");
        // Each request is a line of some 250 bytes.
        for _ in 0..400 {
            let asked = fetch("GET", &url, &[("host", "loud.localhost")], Bytes::new()).await;
            assert_eq!(asked.unwrap().status, 200);
        }
        running.signal(rustix::process::Signal::INT);
        assert_eq!(running.wait().await, Some(0), "{}", said());
        assert!(said().contains("Stopping"), "{}", said());
    }
}
