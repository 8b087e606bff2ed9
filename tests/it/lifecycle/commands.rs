//! The commands that talk to a running `up`: what they do, print, and exit with.

use oarlock_spec::codes::exit;
use oarlock_tests::app::{App, Finished, Running};
use serde_json::Value;

use super::command;

const APP: &str = "[processes]\nweb = \"web.wasm\"\nworker = \"worker.wasm stdin\"\ncat = \"worker.wasm cat\"\n\
    [scale]\ncat = 0\n[config]\nGREETING = \"manifest\"\nONLY = \"manifest\"\n";

fn app() -> App {
    App::new(APP)
        .guest("web.wasm", "formation-web")
        .guest("worker.wasm", "probe-p2")
}

async fn start(app: &App) -> Running {
    app.up(crate::binary()).start().await
}

fn assert_failed(done: &Finished, code: u8, words: &[&str]) {
    assert_eq!(done.code, i32::from(code), "{done:?}");
    assert_eq!(done.stdout, "", "errors go to stderr");
    for word in words {
        assert!(
            done.stderr.contains(word),
            "{word:?} is not in: {}",
            done.stderr
        );
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

async fn json(running: &Running, args: &[&str]) -> Value {
    let done = running.oarlock(args).await;
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{args:?}");
    serde_json::from_str(&done.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_host_they_say_how_to_start_one() {
    let app = app();
    for args in [
        &["ps"][..],
        &["scale", "web=2"],
        &["logs"],
        &["config"],
        &["releases"],
        &["rollback"],
        &["restart"],
        &["run", "cat"],
    ] {
        assert_failed(&command(&app, args).await, exit::NO_HOST, &["oarlock up"]);
    }
    // The same where a host ran once, and where it was killed.
    let mut running = start(&app).await;
    running.signal(rustix::process::Signal::KILL);
    assert_eq!(running.wait().await, None);
    assert_failed(
        &command(&app, &["ps"]).await,
        exit::NO_HOST,
        &["oarlock up"],
    );
    assert_eq!(start(&app).await.interrupt().await, Some(0));
    assert_failed(
        &command(&app, &["ps"]).await,
        exit::NO_HOST,
        &["oarlock up"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_unknown_is_named_beside_what_is_known() {
    let app = app();
    let running = start(&app).await;
    for (args, code, words) in [
        (
            &["scale", "nope=2"][..],
            exit::FAILURE,
            &["`nope`", "cat, web, worker"][..],
        ),
        (&["scale", "web"], exit::USAGE, &["`web=3`"]),
        (
            &["run", "nope"],
            exit::FAILURE,
            &["`nope`", "cat, web, worker", "worker.wasm"],
        ),
        (
            &["restart", "web.9"],
            exit::FAILURE,
            &["`web.9`", "web.1, worker.1"],
        ),
        (&["rollback"], exit::FAILURE, &["v1"]),
        (
            &["rollback", "v99"],
            exit::FAILURE,
            &["v99", "oarlock releases"],
        ),
        (&["rollback", "twelve"], exit::USAGE, &["`v12`"]),
        (
            &["config", "set", "PORT=1"],
            exit::FAILURE,
            &["`PORT`", "use another name"],
        ),
        (&["config", "set", "DYNO=1"], exit::FAILURE, &["`DYNO`"]),
        (
            &["config", "set", "OARLOCK_X=1"],
            exit::FAILURE,
            &["`OARLOCK_X`"],
        ),
        (&["config", "set", "nothing"], exit::USAGE, &["NAME=VALUE"]),
        (
            &["config", "get", "NONE"],
            exit::FAILURE,
            &["`NONE`", "oarlock config"],
        ),
        (
            &["config", "unset", "GREETING"],
            exit::FAILURE,
            &["`GREETING`", "[config]"],
        ),
        (&["ps", "--app", "other"], exit::FAILURE, &["other"]),
        (
            &["logs", "--source", "x"],
            exit::USAGE,
            &["`app` or `oarlock`"],
        ),
        (&["pss"], exit::USAGE, &["ps"]),
    ] {
        assert_failed(&running.oarlock(args).await, code, words);
    }
    let rows = json(&running, &["releases", "--json"]).await;
    assert_eq!(
        rows.as_array().unwrap().len(),
        1,
        "nothing of it made a release"
    );
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_have_their_json() {
    let app = app();
    let running = start(&app).await;
    assert_eq!(running.get("/").await.status, 200);

    let dynos = json(&running, &["ps", "--json"]).await;
    let [web, worker] = dynos.as_array().unwrap().as_slice() else {
        panic!("{dynos}")
    };
    assert_eq!(
        keys(web),
        [
            "dyno",
            "process",
            "state",
            "release",
            "since",
            "restarts",
            "cpu_ms",
            "memory_bytes",
            "requests"
        ]
        .into_iter()
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
    );
    assert_eq!(
        (&web["dyno"], &web["state"], &web["release"]),
        (&"web.1".into(), &"up".into(), &"v1".into())
    );
    assert_eq!((&web["requests"], &web["restarts"]), (&1.into(), &0.into()));
    assert!(web["since"].as_str().unwrap().ends_with('Z'));
    assert_eq!(worker["process"], "worker");

    assert_eq!(
        json(&running, &["scale", "web=2", "--json"]).await,
        serde_json::json!({"cat": 0, "web": 2, "worker": 1})
    );
    assert_eq!(json(&running, &["scale", "--json"]).await["web"], 2);
    assert_eq!(
        json(&running, &["config", "--json"]).await,
        serde_json::json!({"GREETING": "manifest", "ONLY": "manifest"})
    );
    assert_eq!(
        json(&running, &["restart", "worker", "--json"]).await,
        serde_json::json!(["worker.1"])
    );
    let release = json(&running, &["config", "set", "A=1", "--json"]).await;
    assert_eq!(
        keys(&release),
        ["created_at", "description", "release", "slug", "status"]
    );
    assert_eq!(
        (&release["release"], &release["description"]),
        (&"v2".into(), &"Set A config var".into())
    );
    let releases = json(&running, &["releases", "--json"]).await;
    assert_eq!(
        (&releases[0]["status"], &releases[1]["status"]),
        (&"current".into(), &"superseded".into())
    );
    assert_eq!(
        json(&running, &["rollback", "--json"]).await["description"],
        "Rollback to v1"
    );

    let lines = running
        .oarlock(&["logs", "--json", "--dyno", "worker.1"])
        .await
        .stdout;
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(keys(&line), ["dyno", "message", "source", "time"]);
        assert_eq!(line["dyno"], "worker.1");
    }
    let checked = json(&running, &["check", "--json"]).await;
    assert_eq!(
        keys(&checked[0]),
        [
            "addons",
            "args",
            "built",
            "component",
            "config",
            "dynos",
            "files",
            "in_serve_at_most",
            "limits_without_effect",
            "listen",
            "memory_bytes",
            "network",
            "process",
            "refused_by_serve",
            "schedule",
            "singleton",
            "variables_elsewhere"
        ]
    );
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_can_be_narrowed_and_followed() {
    let app = app();
    let running = start(&app).await;
    let text = running.oarlock(&["logs"]).await.stdout;
    assert!(text.contains(" app[worker.1]: waiting\n"), "{text}");
    assert!(
        text.contains(" oarlock[web.1]: State changed from starting to up\n"),
        "{text}"
    );
    let text = running.oarlock(&["logs", "--dyno", "worker"]).await.stdout;
    assert!(
        !text.is_empty() && text.lines().all(|line| line.contains("[worker.1]: ")),
        "{text}"
    );
    let text = running.oarlock(&["logs", "--source", "app"]).await.stdout;
    assert!(
        !text.is_empty() && text.lines().all(|line| line.contains(" app[")),
        "{text}"
    );
    assert_eq!(
        running
            .oarlock(&["logs", "-n", "2"])
            .await
            .stdout
            .lines()
            .count(),
        2
    );

    let following = oarlock_tests::app::Launch::new(crate::binary(), app.path())
        .args(&["logs", "-f", "-n", "0", "--dyno", "router"])
        .spawn();
    // It follows from the moment it is connected; ask until one line came.
    for _ in 0..200 {
        running.get("/follow").await;
        if following.output.find("/follow").is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let line = following.output.wait_for("path=\"/follow\"").await;
    assert!(
        line.contains("oarlock[router]: at=info method=GET"),
        "{line}"
    );
    assert_eq!(following.interrupt().await, Some(0));
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_off_dynos_have_their_streams_and_codes() {
    let app = app();
    let running = start(&app).await;
    let run = |args: &'static [&'static str]| running.oarlock(args);
    let done = run(&["run", "worker.wasm", "--", "print"]).await;
    assert_eq!(
        (done.code, done.stdout.as_str(), done.stderr.as_str()),
        (0, "to stdout\nno end", "to stderr\n")
    );
    assert_eq!(
        run(&["run", "worker.wasm", "--", "exit", "0"]).await.code,
        0
    );
    assert_eq!(
        run(&["run", "worker.wasm", "--", "exit", "3"]).await.code,
        1,
        "exit knows only well and badly"
    );
    assert_eq!(
        run(&["run", "worker.wasm", "--", "exit-with-code", "7"])
            .await
            .code,
        7
    );
    let done = run(&["run", "worker.wasm", "--", "trap"]).await;
    assert_failed(&done, exit::TRAP, &["trapped"]);

    let mut launch =
        oarlock_tests::app::Launch::new(crate::binary(), app.path()).args(&["run", "cat"]);
    let input = vec![b'x'; 300_000];
    launch.command.stdin(std::process::Stdio::piped());
    let mut child = launch.command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let typed = input.clone();
    tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut stdin, &typed).await });
    let done = child.wait_with_output().await.unwrap();
    assert_eq!((done.status.code(), done.stdout == input), (Some(0), true));

    // Ctrl-C stops the dyno; what ignores it is ended by the host, and a second one ends the command.
    let mut sleeping = oarlock_tests::app::Launch::new(crate::binary(), app.path())
        .args(&["run", "worker.wasm", "--", "sleep", "60000"])
        .spawn();
    for _ in 0..1_000 {
        if running.oarlock(&["ps"]).await.stdout.contains("run.") {
            break;
        }
    }
    sleeping.signal(rustix::process::Signal::INT);
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    sleeping.signal(rustix::process::Signal::INT);
    assert_eq!(sleeping.wait().await, Some(i32::from(exit::INTERRUPTED)));
    assert_eq!(running.interrupt().await, Some(0));
}

/// The value of a variable in a web dyno.
async fn seen(running: &Running, name: &str) -> String {
    let env = running.get("/env").await;
    let start = format!("{name}=");
    env.text()
        .lines()
        .find_map(|line| line.strip_prefix(&start))
        .unwrap_or("unset")
        .to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_goes_over_dot_env_over_the_manifest_and_rolls_back() {
    let app = app();
    let running = start(&app).await;
    assert_eq!(seen(&running, "GREETING").await, "manifest");
    assert_eq!(running.interrupt().await, Some(0));

    app.write(".env", "GREETING=\"dot env\"\n");
    let running = start(&app).await;
    assert_eq!(seen(&running, "GREETING").await, "dot env");
    assert_eq!(seen(&running, "ONLY").await, "manifest");
    let set = running
        .oarlock(&["config", "set", "GREETING=set", "NEW=a b"])
        .await;
    assert_eq!(
        set.stdout, "v3: Set GREETING, NEW config vars\n",
        "{}",
        set.stderr
    );
    assert_eq!(seen(&running, "GREETING").await, "set");
    assert_eq!(
        running.oarlock(&["config", "get", "NEW"]).await.stdout,
        "a b\n"
    );
    assert_eq!(
        running.oarlock(&["config"]).await.stdout,
        "GREETING=set\nNEW=a b\nONLY=manifest\n"
    );
    // What was set stays when `up` ends.
    assert_eq!(running.interrupt().await, Some(0));
    let running = start(&app).await;
    assert!(
        running.output.find("Running test v3").is_some(),
        "nothing differs: no new release"
    );
    assert_eq!(seen(&running, "GREETING").await, "set");

    assert_eq!(
        running.oarlock(&["rollback"]).await.stdout,
        "v4: Rollback to v2\n"
    );
    assert_eq!(
        (
            seen(&running, "GREETING").await,
            seen(&running, "NEW").await
        ),
        ("dot env".to_owned(), "unset".to_owned())
    );
    assert_eq!(
        running.oarlock(&["rollback", "v1"]).await.stdout,
        "v5: Rollback to v1\n"
    );
    assert_eq!(seen(&running, "GREETING").await, "manifest");
    assert_eq!(
        running.oarlock(&["config", "unset", "GREETING"]).await.code,
        i32::from(exit::FAILURE)
    );
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_writes_nothing_to_the_terminal_and_is_read_by_shells() {
    let app = app();
    let running = start(&app).await;
    let values = [
        ("BELL", "a\u{7}\u{1b}[2Jb"),
        ("LINES", "one\nTWO=2"),
        ("QUOTED", "it's $HOME `id` \\ \"x\""),
        ("EMPTY", ""),
        ("PLAIN", "plain"),
    ];
    let set: Vec<String> = values.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let args: Vec<&str> = ["config", "set"]
        .into_iter()
        .chain(set.iter().map(String::as_str))
        .collect();
    let done = running.oarlock(&args).await;
    assert_eq!(done.code, 0, "{done:?}");
    let table = running.oarlock(&["config"]).await.stdout;
    assert_eq!(
        table,
        "BELL=a\\u{7}\\u{1b}[2Jb\nEMPTY=\nGREETING=manifest\nLINES=one\\nTWO=2\nONLY=manifest\nPLAIN=plain\n\
         QUOTED=it's $HOME `id` \\ \"x\"\n"
    );
    let shell = running.oarlock(&["config", "--shell"]).await;
    assert!(shell.stdout.contains("PLAIN=plain\n"), "{shell:?}");
    app.write("vars.sh", &shell.stdout);
    let script = ". ./vars.sh; for n in BELL LINES QUOTED EMPTY PLAIN; do eval \"printf '%s|' \\\"\\$$n\\\"\"; done";
    let mut launch = oarlock_tests::app::Launch::new(std::path::Path::new("sh"), app.path())
        .args(&["-c", script]);
    let read = launch.command.output().await.unwrap();
    let expected: String = values.iter().map(|(_, v)| format!("{v}|")).collect();
    assert_eq!(String::from_utf8(read.stdout).unwrap(), expected);
    assert_eq!(running.interrupt().await, Some(0));
}
