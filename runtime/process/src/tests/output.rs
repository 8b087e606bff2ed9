//! What a child says costs a bounded amount, and pipes are pipes.

use std::io::{Read as _, Write as _};

use super::*;
use crate::{Command, IN_FLIGHT, MAX_LINE, Stream, last_words};

fn heard(script: &str) -> Command {
    Command::shell(script)
        .env(PATH)
        .stdout(Stream::Piped)
        .stderr(Stream::Piped)
}

#[tokio::test]
async fn output_and_errors_come_line_by_line() {
    let mut child = heard("echo one; printf 'two\\r\\n' >&2; printf three")
        .start()
        .unwrap();
    let mut lines = child.lines().unwrap();
    let mut all = Vec::new();
    while let Some(line) = lines.next().await {
        all.push(line);
    }
    all.sort_unstable();
    assert_eq!(all, ["one", "three", "two"]);
    child.ended().await.unwrap();
    assert!(child.end().unwrap().success());
}

/// Bytes that this process has in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * rustix::param::page_size()
}

#[tokio::test]
async fn a_line_that_never_ends_costs_a_bounded_amount() {
    let before = resident();
    let mut child = heard("head -c 300000000 /dev/zero; echo; echo next")
        .start()
        .unwrap();
    let mut lines = child.lines().unwrap();
    let line = lines.next().await.unwrap();
    assert_eq!(line.len(), MAX_LINE);
    assert_eq!(lines.next().await.unwrap(), "next");
    let more = resident().saturating_sub(before);
    assert!(more < 100 << 20, "{more} bytes more");
}

/// Its readers are tasks, which go on while this test waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_waits_when_nobody_takes_its_lines() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("count");
    let script = format!(
        "line=$(head -c 4000 /dev/zero | tr '\\0' x); i=0\n\
         while :; do i=$((i+1)); echo $line; echo $i > {}; done",
        file.display()
    );
    let mut child = heard(&script).start().unwrap();
    let mut lines = child.lines().unwrap();
    let count = || {
        std::fs::read_to_string(&file)
            .ok()?
            .trim()
            .parse::<usize>()
            .ok()
    };
    // It goes on until its count stands still.
    let mut last = None;
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = count();
        if now.is_some() && now == last {
            break;
        }
        last = now;
    }
    let written = count().unwrap();
    // Those in flight, and what two readers and a pipe of 64 KiB hold.
    assert!((IN_FLIGHT..IN_FLIGHT + 64).contains(&written), "{written}");
    for _ in 0..100 {
        lines.next().await.unwrap();
    }
    until("it goes on", || count().is_some_and(|now| now > written));
}

#[test]
fn input_and_output_can_be_pipes() {
    let command = Command::new("cat").env(PATH).stdin(Stream::Piped);
    let mut child = command.stdout(Stream::Piped).start().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"there and back").unwrap();
    drop(stdin);
    let mut text = String::new();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "there and back");
    assert!(child.ended_within(PATIENCE).unwrap());
    assert!(child.end().unwrap().success());
}

#[test]
fn last_words_are_cut_and_all_is_read() {
    let mut child = heard("head -c 3000000 /dev/zero | tr '\\0' x >&2")
        .start()
        .unwrap();
    let words = last_words(child.stderr.take().unwrap(), 10);
    assert_eq!(words, "x".repeat(10));
    assert!(child.ended_within(PATIENCE).unwrap());
    assert!(child.end().unwrap().success());
}
