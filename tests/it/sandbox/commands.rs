//! Commands: what a run sees, and how it ends.

use std::time::Duration;

use oarlock_sandbox::{Exit, Output, Run, Stdin};
use tokio::sync::mpsc;

use super::{LONG, Setup, soon};

/// Both versions of WASI.
const PROBES: [&str; 2] = ["probe-p2", "probe-p3"];

fn run(setup: &Setup, guest: &str, stdin: Stdin) -> Run {
    setup.sandbox(guest).run(stdin, Output::Log, &[])
}

/// Runs to its end, with an ended stdin; the exit and what it wrote to stdout.
async fn outcome(setup: Setup, guest: &str) -> (Exit, Vec<String>) {
    let exit = soon(run(&setup, guest, Stdin::Ended).wait()).await;
    (exit, setup.log.stdout())
}

#[tokio::test]
async fn a_run_sees_its_arguments_and_environment_and_nothing_of_the_hosts() {
    for guest in PROBES {
        let setup = Setup::new().args(&["args", "a"]);
        let run = setup
            .sandbox(guest)
            .run(Stdin::Ended, Output::Log, &["b c".to_owned()]);
        assert_eq!(soon(run.wait()).await, Exit::Code(0));
        assert_eq!(setup.log.stdout(), ["guest|args|a|b c"]);
        let (_, env) = outcome(Setup::new().args(&["env"]), guest).await;
        assert_eq!(env, ["DYNO=web.1"]);
    }
    let (_, cwd) = outcome(Setup::new().args(&["cwd"]), "probe-p2").await;
    assert_eq!(cwd, [r#"Some("/app")"#]);
}

#[tokio::test]
async fn exits_are_told_apart() {
    for (guest, argument, code) in [
        ("probe-p2", &["exit", "0"][..], 0),
        ("probe-p2", &["exit", "1"], 1),
        ("probe-p2", &["exit-with-code", "42"], 42),
        ("probe-p3", &["fail"], 1),
        ("probe-p3", &["exit"], 7),
    ] {
        let (exit, _) = outcome(Setup::new().args(argument), guest).await;
        assert_eq!(exit, Exit::Code(code), "{guest} {argument:?}");
    }
    for guest in PROBES {
        let (exit, _) = outcome(Setup::new().args(&["trap"]), guest).await;
        assert_eq!(
            exit,
            Exit::Trap("wasm `unreachable` instruction executed".to_owned())
        );
    }
}

#[tokio::test]
async fn each_line_is_a_log_line_and_the_last_needs_no_end() {
    let setup = Setup::new().args(&["print"]);
    soon(run(&setup, "probe-p2", Stdin::Ended).wait()).await;
    assert_eq!(setup.log.stdout(), ["to stdout", "no end"]);
    assert_eq!(setup.log.stderr(), ["to stderr"]);
}

#[tokio::test]
async fn a_panics_message_is_in_the_log() {
    let setup = Setup::new().args(&["panic"]);
    assert!(matches!(
        soon(run(&setup, "probe-p2", Stdin::Ended).wait()).await,
        Exit::Trap(_)
    ));
    assert!(
        setup
            .log
            .stderr()
            .iter()
            .any(|line| line.contains("as asked")),
        "{:?}",
        setup.log.stderr()
    );
}

#[tokio::test]
async fn the_memory_limit_ends_a_run() {
    let setup = Setup::new().args(&["alloc", "100"]).memory(32);
    let sandbox = setup.sandbox("probe-p2");
    assert_eq!(
        soon(sandbox.run(Stdin::Ended, Output::Log, &[]).wait()).await,
        Exit::Memory
    );
    assert_eq!(sandbox.meter().memory_bytes(), 0);
    let (exit, _) = outcome(Setup::new().args(&["alloc", "16"]).memory(32), "probe-p2").await;
    assert_eq!(exit, Exit::Code(0));
}

#[tokio::test]
async fn a_component_that_is_too_large_to_start_says_so() {
    let mut setup = Setup::new().args(&["args"]);
    setup.limits.memory = 64 << 10;
    let (exit, _) = outcome(setup, "probe-p2").await;
    let limit = 64 << 10;
    assert_eq!(
        exit,
        Exit::NotStarted(oarlock_sandbox::StartError::Memory { limit })
    );
}

#[tokio::test]
async fn stop_ends_stdin_and_fires_the_event() {
    for guest in PROBES {
        for (argument, last) in [
            ("stdin", "stdin ended after 0 bytes"),
            ("stopping", "stopping"),
        ] {
            let setup = Setup::new().args(&[argument]);
            let run = run(&setup, guest, Stdin::OpenUntilStop);
            setup.log.until("waiting").await;
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert_eq!(setup.log.stdout(), ["waiting"]);
            run.handle().stop();
            assert_eq!(soon(run.wait()).await, Exit::Code(0), "{guest} {argument}");
            assert_eq!(setup.log.stdout(), ["waiting", last], "{guest} {argument}");
        }
    }
}

#[tokio::test]
async fn an_ended_stdin_is_at_its_end() {
    for guest in PROBES {
        let (exit, lines) = outcome(Setup::new().args(&["stdin"]), guest).await;
        assert_eq!((exit, lines.len()), (Exit::Code(0), 2), "{guest}");
    }
}

#[tokio::test]
async fn a_one_off_run_has_the_callers_streams() {
    let setup = Setup::new().args(&["cat"]);
    let input: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let (stdout, mut output) = mpsc::channel(2);
    let (stderr, _errors) = mpsc::channel(2);
    let stdin = Stdin::From(Box::pin(std::io::Cursor::new(input.clone())));
    let run = setup
        .sandbox("probe-p2")
        .run(stdin, Output::To { stdout, stderr }, &[]);
    let copied = async {
        let mut copied = Vec::new();
        while let Some(bytes) = output.recv().await {
            copied.extend_from_slice(&bytes);
        }
        copied
    };
    let (exit, copied) = soon(async { tokio::join!(run.wait(), copied) }).await;
    assert_eq!(exit, Exit::Code(0));
    assert!(copied == input);
    assert!(setup.log.stdout().is_empty());
}

#[tokio::test]
async fn a_full_output_makes_the_guest_wait() {
    let setup = Setup::new().args(&["flood", "1000"]);
    let (stdout, mut output) = mpsc::channel(1);
    let (stderr, _errors) = mpsc::channel(1);
    let run = setup
        .sandbox("probe-p2")
        .run(Stdin::Ended, Output::To { stdout, stderr }, &[]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(output.len() <= 1);
    let drained = async {
        let mut length = 0;
        while let Some(bytes) = output.recv().await {
            length += bytes.len();
        }
        length
    };
    let (exit, length) = soon(async { tokio::join!(run.wait(), drained) }).await;
    assert_eq!((exit, length), (Exit::Code(0), 1_024_000));
}

#[tokio::test]
async fn a_spinning_guest_is_killed_and_its_neighbours_run_on() {
    for guest in PROBES {
        let setup = Setup::new().args(&["spin"]);
        let sandbox = setup.sandbox(guest);
        let run = sandbox.run(Stdin::Ended, Output::Log, &[]);
        tokio::time::sleep(Duration::from_millis(50)).await;
        // This test has one thread: the guest and this run on the same.
        let (exit, _) = outcome(Setup::new().args(&["args"]), guest).await;
        assert_eq!(exit, Exit::Code(0));
        assert!(sandbox.meter().memory_bytes() > 0);
        run.handle().kill();
        assert_eq!(soon(run.wait()).await, Exit::Killed);
        assert!(sandbox.meter().cpu_nanos() > 1_000_000);
        assert_eq!(sandbox.meter().memory_bytes(), 0);
    }
}

#[tokio::test]
async fn dropping_a_run_ends_it() {
    let setup = Setup::new().args(&["spin"]);
    let sandbox = setup.sandbox("probe-p2");
    let run = sandbox.run(Stdin::Ended, Output::Log, &[]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(run);
    gone(&sandbox).await;
}

/// Waits until no instance of the sandbox is left.
async fn gone(sandbox: &oarlock_sandbox::Sandbox) {
    let limit = tokio::time::Instant::now() + LONG;
    while sandbox.meter().memory_bytes() > 0 {
        assert!(tokio::time::Instant::now() < limit, "the instance lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn folders_are_what_the_grant_says() {
    let temp = tempfile::tempdir().unwrap();
    let (app, data) = (temp.path().join("app"), temp.path().join("data"));
    std::fs::create_dir(&app).unwrap();
    std::fs::create_dir(&data).unwrap();
    std::fs::write(app.join("page"), "a page").unwrap();
    std::fs::write(temp.path().join("secret"), "a secret").unwrap();
    let lines = async |args: &[&str]| {
        let setup = Setup::new()
            .args(args)
            .folder("/app", &app, false)
            .folder("/data", &data, true);
        outcome(setup, "probe-p2").await.1
    };
    assert_eq!(lines(&["read", "/app/page"]).await, ["a page"]);
    assert_eq!(lines(&["write", "/data/file", "kept"]).await, ["kept"]);
    assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "kept");
    for args in [
        &["write", "/app/page", "x"][..],
        &["read", "/app/../secret"],
        &["read", "/etc/passwd"],
        &["write", "/tmp/file", "x"],
    ] {
        let lines = lines(args).await;
        assert!(
            lines.len() == 1 && lines[0].starts_with("error"),
            "{args:?}: {lines:?}"
        );
    }
    assert_eq!(std::fs::read_to_string(app.join("page")).unwrap(), "a page");
}

#[tokio::test]
async fn tmp_is_made_on_use_and_gone_with_the_dyno() {
    let temp = tempfile::tempdir().unwrap();
    let entries = || std::fs::read_dir(temp.path()).unwrap().count();
    for (guest, args) in [
        ("probe-p2", &["write", "/tmp/file", "text"][..]),
        ("probe-p3", &["write"]),
    ] {
        let (exit, lines) = outcome(Setup::new().args(args).tmp_root(temp.path()), guest).await;
        assert_eq!((exit, lines), (Exit::Code(0), vec!["text".to_owned()]));
        soon(async {
            while entries() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    let setup = Setup::new().args(&["stdin"]).tmp_root(temp.path());
    let run = run(&setup, "probe-p2", Stdin::OpenUntilStop);
    setup.log.until("waiting").await;
    assert_eq!(entries(), 0, "made though it was not used");
    run.handle().kill();
    soon(run.wait()).await;
}

#[tokio::test]
async fn nothing_is_connected_to_without_a_grant() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (exit, lines) = outcome(Setup::new().args(&["connect", &address]), "probe-p2").await;
    assert_eq!(
        (exit, lines),
        (Exit::Code(0), vec!["error: PermissionDenied".to_owned()])
    );
}
