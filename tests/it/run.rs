//! `oarlock run` over the real binary: how a one-off dyno's end and its stdin reach the terminal.

use std::process::Stdio;
use std::time::Duration;

use oarlock_tests::app::{App, Launch, Running};
use tokio::io::AsyncWriteExt as _;

async fn up() -> (App, Running) {
    let app = App::new("[processes]\nprobe = \"probe.wasm\"\n[scale]\nprobe = 0\n")
        .guest("probe.wasm", "probe-p2");
    let running = app.up(crate::binary()).start().await;
    (app, running)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dyno_that_ends_before_stdin_does_keeps_its_exit_code() {
    let (_app, running) = up().await;
    // Whether the end of stdin or of the dyno is told first is a race: each order must do.
    for code in 10..25 {
        let asked = code.to_string();
        let done = running
            .oarlock(&["run", "probe", "--", "exit-with-code", &asked])
            .await;
        assert_eq!(done.code, code, "{}", done.stderr);
    }
    running.interrupt().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dyno_that_does_not_read_its_stdin_still_shows_and_ends() {
    let (app, running) = up().await;
    let mut command = Launch::new(crate::binary(), app.path())
        .args(&["run", "probe", "--", "exit-with-code", "7"])
        .command;
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than all buffers on the way hold; the write fails when the command has ended.
    let fed = tokio::spawn(async move {
        let chunk = vec![b'x'; 1 << 20];
        while stdin.write_all(&chunk).await.is_ok() {}
    });
    let ended = tokio::time::timeout(Duration::from_secs(60), child.wait()).await;
    assert_eq!(ended.unwrap().unwrap().code(), Some(7));
    fed.await.unwrap();
    running.interrupt().await;
}
