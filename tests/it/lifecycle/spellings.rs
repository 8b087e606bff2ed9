//! Heroku's and Spin's spellings, over the real binary: each is done, or answered by one line that says how.

use oarlock_spec::codes::exit;
use oarlock_tests::app::{App, Launch, Running};

use super::command;

const APP: &str =
    "[processes]\nweb = \"web.wasm\"\nprobe = \"probe.wasm stdin\"\n[scale]\nprobe = 0\n";

fn app() -> App {
    App::new(APP)
        .guest("web.wasm", "hello-p2")
        .guest("probe.wasm", "probe-p2")
}

async fn start() -> (App, Running) {
    let app = app();
    let running = app.up(crate::binary()).start().await;
    (app, running)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn herokus_spellings_do_what_they_do_there() {
    let (app, running) = start().await;
    for (line, code, said) in [
        ("ps:scale web=2", 0, "probe=0 web=2\n"),
        ("-a test ps:scale web=1", 0, "probe=0 web=1\n"),
        ("config:set A=1", 0, "v2: Set A config var\n"),
        ("config:add B=2 -a test", 0, "v3: Set B config var\n"),
        ("config:get A --app test", 0, "1\n"),
        ("--app=test config:get B", 0, "2\n"),
        ("config:unset A B", 0, "v4: "),
        ("ps:restart web", 0, "Restarted web.1\n"),
        ("logs --num 1 -d router", 0, ""),
        ("run probe.wasm exit-with-code 7", 7, ""),
        ("run probe.wasm -- exit-with-code 8", 8, ""),
        ("run -a test probe.wasm exit-with-code 9", 9, ""),
        ("run probe.wasm -a test exit-with-code 10", 10, ""),
        // What comes after the dyno's first argument is the dyno's.
        ("run probe.wasm exit-with-code 11 -a other", 11, ""),
        ("run probe.wasm print -v", 0, "to stdout\nno end"),
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let done = running.oarlock(&args).await;
        assert_eq!(done.code, code, "{line}: {done:?}");
        assert!(done.stdout.starts_with(said), "{line}: {done:?}");
    }
    for args in [&["logs", "--tail"][..], &["logs", "-t"], &["tail"]] {
        let mut following = Launch::new(crate::binary(), app.path()).args(args).spawn();
        following.output.wait_for("Release v1 created").await;
        following.signal(rustix::process::Signal::INT);
        assert_eq!(following.wait().await, Some(0), "{args:?}");
    }
    assert_eq!(running.interrupt().await, Some(0));

    let watching = Launch::new(crate::binary(), app.path())
        .args(&["watch", "--no-build", "--port", "0"])
        .start()
        .await;
    assert_eq!(watching.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_there_is_not_gets_one_line_that_says_how() {
    let app = app();
    for (line, word) in [
        ("addons:add kv", "[addons]"),
        ("addons:create heroku-postgresql", "[addons]"),
        ("create my-app", "`oarlock new NAME`"),
        ("open", "http://127.0.0.1:8080"),
        ("deploy", "`oarlock up`"),
        ("releases:info v1", "`oarlock releases`"),
        ("-a test ps:stop web.1", "`oarlock scale web=0`"),
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let done = command(&app, &args).await;
        assert_eq!(done.code, i32::from(exit::USAGE), "{line}");
        assert_eq!(done.stdout, "", "{line}");
        assert_eq!(done.stderr.lines().count(), 1, "{line}: {}", done.stderr);
        assert!(done.stderr.contains(word), "{line}: {}", done.stderr);
    }
    let version = command(&app, &["version"]).await;
    assert_eq!(version.stdout, command(&app, &["-V"]).await.stdout);
    let help = command(&app, &["help", "config:set"]).await;
    assert_eq!(
        help.stdout,
        command(&app, &["config", "set", "--help"]).await.stdout
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spellings_are_in_no_help_and_no_completion() {
    let app = app();
    for args in [
        &["--help"][..],
        &["logs", "--help"],
        &["up", "--help"],
        &["completions", "bash"],
        &["completions", "zsh"],
        &["completions", "fish"],
    ] {
        let said = command(&app, args).await.stdout;
        assert!(said.len() > 100, "{args:?}");
        for hidden in [
            "ps:scale",
            "config:set",
            "addons",
            "tail",
            "--port",
            "deploy",
        ] {
            assert!(!said.contains(hidden), "{args:?}: {hidden}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_understood_as_it_is_written() {
    let app = app();
    for (option, before) in [
        ("--listen", ""),
        ("--listen", ":"),
        ("--listen", "localhost:"),
        ("--port", ""),
    ] {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let written = format!("{before}{port}");
        let running = Launch::new(crate::binary(), app.path())
            .args(&["up", "--no-build", option, &written])
            .start()
            .await;
        assert_eq!(running.address().port(), port, "{written}");
        assert_eq!(running.get("/").await.status, 200);
        assert_eq!(running.interrupt().await, Some(0));
    }
    let done = command(&app, &["up", "--listen", "70000"]).await;
    assert_eq!(done.code, i32::from(exit::USAGE));
    assert!(done.stderr.contains("65535"), "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_has_an_owner_and_another_line_to_paste() {
    let app = app();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let done = command(&app, &["up", "--no-build", "--port", &port]).await;
    assert_eq!(done.code, i32::from(exit::ADDRESS_IN_USE));
    let owner = format!("process {} (", std::process::id());
    assert!(done.stderr.contains(&owner), "{}", done.stderr);
    let line = done.stderr.lines().last().unwrap().trim();
    assert!(
        line.starts_with("oarlock up --no-build --listen 127.0.0.1:"),
        "{line}"
    );
    let pasted: Vec<&str> = line.split(' ').skip(1).collect();
    let running = Launch::new(crate::binary(), app.path())
        .args(&pasted)
        .start()
        .await;
    assert_eq!(running.get("/").await.status, 200);
    assert_eq!(running.interrupt().await, Some(0));
}
