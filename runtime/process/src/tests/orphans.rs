//! What outlives a host that is killed, and what does not.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::*;
use crate::{Command, Stream, User};

/// Another process starts `case` in a thread that ends, tells that it has, and waits to be killed. Returns what the case
/// wrote down: the ids of its processes.
fn killed_host(case: &str, count: usize) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let mut host = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::orphans::host", "--ignored"])
        .env("OARLOCK_TEST_CASE", case)
        .env("OARLOCK_TEST_FOLDER", folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ids = ids(&folder.path().join("ids"), count);
    until("the thread ends", || {
        folder.path().join("thread-ended").exists()
    });
    // What went by the thread would have come by now.
    std::thread::sleep(Duration::from_millis(200));
    for id in &ids {
        assert!(runs(id), "{case}: {id} ended with its thread");
    }
    host.kill().unwrap();
    host.wait().unwrap();
    ids
}

#[test]
#[ignore = "run by other tests, as a process of its own"]
fn host() {
    let Some(folder) = std::env::var_os("OARLOCK_TEST_FOLDER").map(PathBuf::from) else {
        return;
    };
    let case = std::env::var("OARLOCK_TEST_CASE").unwrap();
    let command = command(&case, &folder);
    let child = std::thread::spawn(move || command.start().unwrap())
        .join()
        .unwrap();
    if case == "fenced" {
        // Its ids are others inside; outside they are below the child.
        until("the fence's processes run", || {
            sleepers(child.id()).len() == 2
        });
        let ids: String = sleepers(child.id())
            .iter()
            .map(|id| format!("{id}\n"))
            .collect();
        std::fs::write(folder.join("ids"), ids).unwrap();
    }
    std::fs::write(folder.join("thread-ended"), "").unwrap();
    std::thread::sleep(Duration::from_secs(1000));
    drop(child);
}

/// The processes named `sleep` below this one.
fn sleepers(root: u32) -> Vec<String> {
    let mut below = vec![root.to_string()];
    let mut at = 0;
    while at < below.len() {
        let tasks = format!("/proc/{0}/task/{0}/children", below[at]);
        let children = std::fs::read_to_string(tasks).unwrap_or_default();
        below.extend(children.split_whitespace().map(str::to_owned));
        at += 1;
    }
    let is_sleep = |id: &String| {
        std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name == "sleep\n")
    };
    below.into_iter().filter(is_sleep).collect()
}

fn command(case: &str, folder: &Path) -> Command {
    let ids = folder.join("ids").display().to_string();
    let of = |script: String| Command::shell(script).env(PATH);
    match case {
        "plain" => of(format!("sleep 1000 & echo $! >> {ids}; echo $$ >> {ids}; wait")),
        "user" => of(format!(
            "echo $$ >> {ids}; exec setpriv --reuid 65534 --regid 65534 --clear-groups sleep 1000"
        )),
        "other-user" => Command::new("sleep").args(["1000"]).env(PATH).user(User {
            uid: 65534,
            gid: 65534,
        }),
        "session" => of(format!("echo $$ >> {ids}; exec perl -e 'use POSIX; fork and exit 0 if getpgrp == $$; POSIX::setsid(); sleep 1000'")),
        "fenced" => of("setsid sh -c 'sleep 1000 &' ; sleep 1000".to_owned()).fence(fence().unwrap()),
        other => panic!("{other}"),
    }
    .stdin(Stream::Null)
}

#[test]
fn a_child_outlives_its_thread_and_not_its_host() {
    ended(&killed_host("plain", 2));
}

#[test]
fn a_child_that_changes_its_user_does_not_outlive_its_host() {
    if !is_root() {
        println!("NOT TESTED: only root can change its user");
        return;
    }
    ended(&killed_host("user", 1));
}

/// It is no leader of a group, so that it may begin a session without a fork: its group's guard does not reach it by then.
#[test]
fn a_child_that_begins_a_session_does_not_outlive_its_host() {
    ended(&killed_host("session", 1));
}

/// `setsid` and a parent that ends: nothing but the fence's own processes holds it.
#[test]
fn nothing_in_a_fence_outlives_its_host() {
    if fence().is_none() {
        return;
    }
    ended(&killed_host("fenced", 2));
}

/// The limit of a watchdog without a fence, written down: it does not hold what left the group.
#[test]
fn without_a_fence_a_grandchild_of_another_session_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ids");
    let script = format!(
        "setsid sh -c 'echo $$ > {0}; exec sleep 1000' & wait",
        file.display()
    );
    let child = Command::shell(script).env(PATH).start().unwrap();
    let ids = ids(&file, 1);
    child.end().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(
        runs(&ids[0]),
        "it ended: the crate's documentation is out of date"
    );
    let id = rustix::process::Pid::from_raw(ids[0].parse().unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
}
