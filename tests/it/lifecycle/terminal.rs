//! What a terminal sees: colours unless `NO_COLOR`; a pipe never sees them.

use oarlock_tests::app::{App, Launch};
use rustix::process::Signal;

/// Runs `up` on a terminal of 80 columns until it serves; what that terminal was sent. `None` without
/// `script`, which makes the terminal.
async fn on_a_terminal(app: &App, no_color: &str) -> Option<String> {
    let typescript = app.path().join("typescript");
    let line = format!(
        "stty cols 80; exec {} up --no-build --listen 127.0.0.1:0",
        crate::binary().display()
    );
    let mut launch = Launch::new(std::path::Path::new("script"), app.path());
    launch
        .command
        .args(["-q", "-e", "-c", &line])
        .arg(&typescript);
    launch
        .command
        .env("NO_COLOR", no_color)
        .env("TERM", "xterm");
    launch.command.stdin(std::process::Stdio::piped());
    if std::process::Command::new("script")
        .arg("--version")
        .output()
        .is_err()
    {
        return None;
    }
    let running = launch.spawn();
    running.output.wait_for("Running").await;
    let pid = std::fs::read_to_string(app.path().join(".oarlock/lock")).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    let mut running = running;
    assert_eq!(running.wait().await, Some(0));
    Some(running.output.lines().join("\n"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colours_are_for_terminals_and_not_with_no_color() {
    let app = App::new("[processes]\nweb = \"web.wasm\"\nworker = \"worker.wasm stdin\"\n")
        .guest("web.wasm", "hello-p2")
        .guest("worker.wasm", "probe-p2");
    let Some(coloured) = on_a_terminal(&app, "").await else {
        println!("skipped: `script` is not installed");
        return;
    };
    assert!(coloured.contains("\u{1b}["), "{coloured}");
    let colour_of = |dyno: &str| {
        let line = coloured
            .lines()
            .find(|line| line.contains(&format!("oarlock[{dyno}]")))
            .unwrap();
        line.split_once('m').unwrap().0.to_owned()
    };
    assert_ne!(
        colour_of("web.1"),
        colour_of("worker.1"),
        "each dyno has its colour"
    );
    let plain = on_a_terminal(&app, "1").await.unwrap();
    assert!(!plain.contains("\u{1b}["), "{plain}");
    assert!(
        plain.contains("Running test v1 at http://127.0.0.1:"),
        "{plain}"
    );

    let running = app.up(crate::binary()).start().await;
    let output = running.output.clone();
    assert_eq!(running.interrupt().await, Some(0));
    assert!(!output.lines().join("\n").contains('\u{1b}'));
}
