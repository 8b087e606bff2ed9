//! How children end, and who is told what.

use super::*;
use crate::{Command, Exit, Stream, User};

fn exit_of(script: &str) -> Exit {
    let child = Command::shell(script).env(PATH).start().unwrap();
    assert!(child.ended_within(PATIENCE).unwrap());
    child.end().unwrap()
}

#[test]
fn codes_and_signals_are_told_apart() {
    assert_eq!(exit_of("exit 7"), Exit::Code(7));
    assert_eq!(exit_of("kill -9 $$"), Exit::Signal(9));
    // A shell's way to say signal 9, and still a code.
    assert_eq!(exit_of("exit 137"), Exit::Code(137));
    assert!(exit_of("true").success());
    let text = |script| exit_of(script).to_string();
    assert_eq!(text("exit 7"), "exit code 7");
    assert_eq!(text("kill -15 $$"), "killed by signal 15");
    assert_eq!(
        text("no-such-program 2>&-"),
        "exit code 127: a program was not found"
    );
}

#[test]
fn dropping_the_handle_ends_the_child_and_its_group() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ids");
    let script = format!(
        "sleep 1000 & echo $! > {0}; echo $$ >> {0}; wait",
        file.display()
    );
    let child = Command::shell(script).env(PATH).start().unwrap();
    let ids = ids(&file, 2);
    drop(child);
    ended(&ids);
}

#[test]
fn what_a_child_left_behind_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ids");
    let script = format!("sleep 1000 & echo $! > {0}; exit 3", file.display());
    let child = Command::shell(script).env(PATH).start().unwrap();
    assert!(child.ended_within(PATIENCE).unwrap());
    assert_eq!(child.end().unwrap(), Exit::Code(3));
    ended(&ids(&file, 1));
}

#[test]
fn a_child_of_another_user_and_session_is_ended() {
    let mut command = Command::new("setsid").args(["sleep", "1000"]).env(PATH);
    if is_root() {
        command = command.user(User {
            uid: 65534,
            gid: 65534,
        });
    }
    let child = command.start().unwrap();
    assert!(!child.ended_within(Duration::from_millis(100)).unwrap());
    assert_eq!(child.end().unwrap(), Exit::Signal(9));
}

#[tokio::test]
async fn a_stop_asks_the_whole_group_first() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("said");
    let script = format!(
        "(trap 'echo child >> {0}; exit' TERM; echo up; while :; do sleep 0.01; done) &\n\
         trap 'echo parent >> {0}; wait; exit 5' TERM; echo up; while :; do sleep 0.01; done",
        file.display()
    );
    let command = Command::shell(script).env(PATH).stdout(Stream::Piped);
    let mut child = command.start().unwrap();
    let mut lines = child.lines().unwrap();
    for _ in 0..2 {
        assert_eq!(lines.next().await.unwrap(), "up");
    }
    assert_eq!(child.stop(PATIENCE).await.unwrap(), Exit::Code(5));
    let said = std::fs::read_to_string(file).unwrap();
    assert!(said.contains("parent") && said.contains("child"), "{said}");
}

#[tokio::test]
async fn a_stop_ends_what_does_not_listen_after_its_grace() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ids");
    let script = format!(
        "trap '' TERM; sleep 1000 & echo $! > {0}; echo $$ >> {0}; wait; wait",
        file.display()
    );
    let child = Command::shell(script).env(PATH).start().unwrap();
    let ids = ids(&file, 2);
    let grace = Duration::from_millis(300);
    let began = Instant::now();
    assert_eq!(child.stop(grace).await.unwrap(), Exit::Signal(9));
    let took = began.elapsed();
    assert!(took >= grace && took < 10 * grace, "{took:?}");
    ended(&ids);
}

/// Who waits for a stop no longer may be gone, and then there is nobody to end it later.
#[tokio::test]
async fn a_stop_that_is_dropped_ends_the_child() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ids");
    let script = format!(
        "trap '' TERM; echo $$ > {0}; while :; do sleep 0.01; done",
        file.display()
    );
    let child = Command::shell(script).env(PATH).start().unwrap();
    let ids = ids(&file, 1);
    let stop = child.stop(Duration::from_secs(1000));
    tokio::time::timeout(Duration::from_millis(50), stop)
        .await
        .unwrap_err();
    ended(&ids);
}
