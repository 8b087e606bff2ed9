//! What a child is started with, and why it is not.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::{Command, Exit, Limits, StartError, Stream, User, last_words};

fn output(command: &Command) -> String {
    let command = command
        .clone()
        .stdout(Stream::Piped)
        .stderr(Stream::Inherit);
    let mut child = command.start().unwrap();
    last_words(child.stdout.take().unwrap(), 1 << 20)
}

#[test]
fn the_environment_is_what_was_given_and_nothing_else() {
    let given = [("PATH", "/usr/bin:/bin"), ("A", "1 2\n3"), ("EMPTY", "")];
    let expected: BTreeSet<&str> = ["PATH=/usr/bin:/bin", "A=1 2\n3", "EMPTY="].into();
    let env = Command::new("env").args(["-0"]).env(given);
    let lines = |command: &Command| {
        let text = output(command);
        let lines = text.split('\0').filter(|line| !line.is_empty());
        lines.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let is = |found: BTreeSet<String>| {
        assert_eq!(
            found.iter().map(String::as_str).collect::<BTreeSet<_>>(),
            expected
        );
    };
    is(lines(&env));
    let limits = Limits {
        cpu: Some(100),
        ..Limits::default()
    };
    is(lines(&env.clone().limits(limits)));
    if let Some(fence) = fence() {
        let mut found = lines(&env.clone().limits(limits).fence(fence.folder("/tmp")));
        assert!(found.remove("PWD=/tmp"), "{found:?}");
        is(found);
    }
    assert_eq!(output(&Command::new("/usr/bin/env")), "");
}

#[test]
fn what_is_missing_is_named() {
    let missing = |command: Command| match command.start().unwrap_err() {
        StartError::Missing { program } => assert_eq!(program, "no-such-program"),
        other => panic!("{other}"),
    };
    let limits = Limits {
        cpu: Some(100),
        ..Limits::default()
    };
    missing(Command::new("no-such-program").env(PATH));
    missing(Command::new("no-such-program"));
    missing(Command::new("no-such-program").env(PATH).limits(limits));
    let error = Command::new("true").env(PATH).folder("/nowhere").start();
    let error = error.unwrap_err();
    assert!(
        matches!(&error, StartError::Folder { path, .. } if path == Path::new("/nowhere")),
        "{error}"
    );
    let error = Command::new("true").env(PATH).folder("/etc/passwd").start();
    assert!(matches!(error, Err(StartError::Folder { .. })));
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("text");
    std::fs::write(&program, "").unwrap();
    let error = Command::new(&program).start().unwrap_err();
    assert!(matches!(&error, StartError::Refused { .. }), "{error}");
}

#[test]
fn it_runs_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    assert_eq!(
        output(&Command::new("/bin/pwd").folder(&path)),
        path.display().to_string()
    );
    assert_eq!(output(&Command::new("/bin/pwd")), "/");
}

#[test]
fn limits_hold() {
    let exit = |script: &str, limits: Limits| {
        let child = Command::shell(script)
            .env(PATH)
            .limits(limits)
            .start()
            .unwrap();
        assert!(child.ended_within(PATIENCE).unwrap());
        child.end().unwrap()
    };
    let file = Limits {
        file: Some(1 << 20),
        ..Limits::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let write = |bytes: u32| {
        let to = folder.path().join("file");
        format!(
            "exec dd if=/dev/zero of={} bs={bytes} count=1 2>/dev/null",
            to.display()
        )
    };
    assert_eq!(exit(&write(1 << 20), file), Exit::Code(0));
    // dd is told once that less was written, and writes on.
    let size = || std::fs::metadata(folder.path().join("file")).unwrap().len();
    exit(&write(2 << 20), file);
    assert_eq!(size(), 1 << 20);
    let cpu = Limits {
        cpu: Some(1),
        ..Limits::default()
    };
    assert!(matches!(
        exit("while :; do :; done", cpu),
        Exit::Signal(9 | 24)
    ));
    let space = Limits {
        address_space: Some(200 << 20),
        ..Limits::default()
    };
    let allocate = "exec dd if=/dev/zero of=/dev/null bs=300M count=1 2>/dev/null";
    assert_eq!(exit(allocate, space), Exit::Code(1));
    let data = Limits {
        data: Some(200 << 20),
        ..Limits::default()
    };
    assert_eq!(exit(allocate, data), Exit::Code(1));
    assert_eq!(exit(allocate, Limits::default()), Exit::Code(0));
}

/// The child of [`a_full_process_table_is_named`].
#[test]
#[ignore = "run by another test, as a process of its own"]
fn start_one() {
    match Command::new("/bin/true").start() {
        Err(StartError::NoRoom) => println!("there was no room"),
        Err(error) => println!("{error}"),
        Ok(_) => println!("it was started"),
    }
}

/// By `ulimit -u`, which root does not have; it runs as nobody then.
#[test]
fn a_full_process_table_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let limit = |processes| {
        let args = [
            "--exact",
            "tests::starts::start_one",
            "--ignored",
            "--nocapture",
        ];
        let command = Command::new(&program).args(args).limits(Limits {
            processes: Some(processes),
            ..Limits::default()
        });
        if is_root() {
            command.user(User {
                uid: 65534,
                gid: 65534,
            })
        } else {
            command
        }
    };
    // Its test needs a thread of its own, which a limit of 1 would refuse: so that fits, and then no more.
    let said = (1..200).map(|processes| output(&limit(processes)));
    let said: Vec<String> = said
        .take_while(|said| !said.contains("it was started"))
        .collect();
    let named = said.iter().any(|said| said.contains("there was no room"));
    assert!(named || !is_root(), "{said:?}");
}

#[test]
fn a_group_is_entered_before_anything_else_and_ends_what_is_in_it() {
    // On a machine with cgroup v2 and a group of ours; controllers are not needed for this.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let top = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ")
            .then(|| mount.split(' ').nth(4))?
    });
    let folder = top.map(|top| Path::new(top).join(format!("oarlock-test-{}", std::process::id())));
    let Some(group) = folder.and_then(crate::ControlGroup::bare) else {
        println!("NOT TESTED: there is no cgroup v2 here that can be written to");
        return;
    };
    let command = Command::shell("cat /proc/self/cgroup; setsid sleep 1000 >&- & echo $!; read x")
        .env(PATH)
        .control_group(&group)
        .stdin(Stream::Piped)
        .stdout(Stream::Piped);
    let mut child = command.start().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let name = format!("oarlock-test-{}", std::process::id());
    let mut line = || lines.next().unwrap().unwrap();
    while !line().contains(&name) {}
    let sleeper = line();
    drop(group);
    ended(&[sleeper, child.id().to_string()]);
    let folder = Path::new(top.unwrap()).join(name);
    until("the group is removed", || !folder.exists());
    // Nobody starts outside of a group that is gone.
    let exit = command.start().unwrap();
    assert!(exit.ended_within(PATIENCE).unwrap());
    assert_eq!(exit.end().unwrap(), Exit::Code(126));
}
