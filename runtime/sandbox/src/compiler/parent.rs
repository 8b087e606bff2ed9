//! The host's side: starts the child, gives it its work, and sees to its end. Blocks.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use oarlock_process::{Child, Command, Exit, StartError, Stream, last_words};
use rustix::process::Signal;

use super::{CompileError, Limits, MAGIC, MAX_WASM, SUBCOMMAND, Status, expect_magic, read_bytes};

/// What is kept of a child's stderr.
const LAST_WORDS: u64 = 4 << 10;
/// How long a child that closed its output may take to end by itself.
const END: Duration = Duration::from_secs(1);

struct Answer {
    status: Status,
    payload: Vec<u8>,
}

/// The machine code of a component.
pub(super) fn compile(
    path: &Path,
    limits: &Limits,
    compatibility: &blake3::Hash,
    wasm: &[u8],
) -> Result<Vec<u8>, CompileError> {
    let failed =
        |reason: String| CompileError::Child(format!("the compiler {} {reason}", path.display()));
    if wasm.len() as u64 > MAX_WASM {
        return Err(CompileError::Invalid(format!(
            "it has {} bytes, and at most {MAX_WASM} are compiled",
            wasm.len()
        )));
    }
    let mut child = start(path).map_err(|error| failed(format!("does not start: {error}")))?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        return Err(failed("has no pipes".to_owned()));
    };
    thread::scope(|scope| {
        let (told, answers) = mpsc::channel();
        let words = scope.spawn(move || last_words(stderr, LAST_WORDS));
        scope.spawn(move || ask(stdin, compatibility, limits, wasm));
        scope.spawn(move || told.send(listen(stdout)));
        let answer = answers.recv_timeout(limits.deadline);
        let no_answer =
            matches!(&answer, Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof);
        if no_answer {
            // Its own end says why. Without one in time, ours does.
            let _ = child.ended_within(END);
        }
        // The threads of this scope end with the pipes, and those with the child.
        let exit = child.end();
        match answer {
            Ok(Ok(answer)) => of_answer(answer, limits).map_err(|error| match error {
                CompileError::Child(reason) => failed(reason),
                invalid @ CompileError::Invalid(_) => invalid,
            }),
            Ok(Err(_)) if no_answer => {
                Err(failed(end(exit, limits, &words.join().unwrap_or_default())))
            }
            Ok(Err(error)) => Err(failed(format!("answered nonsense: {error}"))),
            Err(_elapsed) => Err(failed(late(limits))),
        }
    })
}

fn start(path: &Path) -> Result<Child, StartError> {
    Command::new(path)
        .args([SUBCOMMAND])
        .stdin(Stream::Piped)
        .stdout(Stream::Piped)
        .stderr(Stream::Piped)
        .start()
}

/// A child that does not read says why in its answer, or by its end.
fn ask(mut stdin: impl Write, compatibility: &blake3::Hash, limits: &Limits, wasm: &[u8]) {
    let memory = limits.memory.to_le_bytes();
    let cpu = seconds(limits.cpu).to_le_bytes();
    let length = (wasm.len() as u64).to_le_bytes();
    let parts: [&[u8]; 6] = [
        MAGIC,
        compatibility.as_bytes(),
        &memory,
        &cpu,
        &length,
        wasm,
    ];
    for part in parts {
        if stdin.write_all(part).is_err() {
            return;
        }
    }
}

fn listen(mut stdout: impl Read) -> io::Result<Answer> {
    expect_magic(&mut stdout)?;
    let [status] = super::read_array(&mut stdout)?;
    let status = Status::of(status).ok_or_else(|| super::broken("its status is unknown"))?;
    let digest = super::read_array::<{ blake3::OUT_LEN }>(&mut stdout)?;
    let payload = read_bytes(&mut stdout, status.limit())?;
    if blake3::hash(&payload) != blake3::Hash::from_bytes(digest) {
        return Err(super::broken("its answer is not what it said it would be"));
    }
    Ok(Answer { status, payload })
}

fn of_answer(answer: Answer, limits: &Limits) -> Result<Vec<u8>, CompileError> {
    let text = |payload: &[u8]| String::from_utf8_lossy(payload).into_owned();
    match answer.status {
        Status::Compiled => Ok(answer.payload),
        Status::Invalid => Err(CompileError::Invalid(text(&answer.payload))),
        Status::Unfit => Err(CompileError::Child(format!(
            "cannot be used: {}",
            text(&answer.payload)
        ))),
        Status::NoMemory => Err(CompileError::Child(format!(
            "had no memory left ({}); {}",
            text(&answer.payload),
            more_memory(limits)
        ))),
    }
}

fn late(limits: &Limits) -> String {
    format!(
        "took longer than {} seconds for this component and was ended; the policy's `[compile] deadline` raises that",
        limits.deadline.as_secs_f64()
    )
}

fn more_memory(limits: &Limits) -> String {
    format!(
        "perhaps this component needs more than {} MiB, or than the machine has, to be compiled; the policy's \
         `[compile] memory` raises that",
        limits.memory >> 20
    )
}

/// Whole ones, rounded up, and at least one: with none the kernel ends it at once.
fn seconds(time: Duration) -> u64 {
    let more = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(more).max(1)
}

fn end(exit: io::Result<Exit>, limits: &Limits, words: &str) -> String {
    let how = match exit {
        Ok(Exit::Signal(signal)) if signal == Signal::XCPU.as_raw() => format!(
            "took over {} seconds of CPU time for this component and was ended; the policy's `[compile] cpu` \
             raises that",
            seconds(limits.cpu)
        ),
        Ok(Exit::Signal(signal)) => format!(
            "was ended by signal {signal} before it had an answer; {}",
            more_memory(limits)
        ),
        // A panic: it may be a fault of the compiler's, or the end of the memory where nobody asked for little.
        Ok(Exit::Code(code)) => format!(
            "exited with {code} before it had an answer; {}",
            more_memory(limits)
        ),
        Err(error) => format!("was lost: {error}"),
    };
    if words.is_empty() {
        how
    } else {
        format!("{how}; it said: {words}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        memory: 64 << 20,
        cpu: Duration::from_millis(1_500),
        deadline: Duration::from_secs(9),
    };

    #[test]
    fn each_end_of_a_child_names_the_setting_that_raises_it() {
        let by = |signal: Signal| end(Ok(Exit::Signal(signal.as_raw())), &LIMITS, "");
        let no_memory = Answer {
            status: Status::NoMemory,
            payload: b"mmap failed".to_vec(),
        };
        let Err(CompileError::Child(no_memory)) = of_answer(no_memory, &LIMITS) else {
            panic!("this is no answer");
        };
        for (text, setting, limit) in [
            (by(Signal::XCPU), "`[compile] cpu`", "2 seconds"),
            (by(Signal::ABORT), "`[compile] memory`", "64 MiB"),
            (by(Signal::KILL), "`[compile] memory`", "64 MiB"),
            (
                end(Ok(Exit::Code(101)), &LIMITS, "x"),
                "`[compile] memory`",
                "64 MiB",
            ),
            (no_memory, "`[compile] memory`", "mmap failed"),
            (late(&LIMITS), "`[compile] deadline`", "9 seconds"),
        ] {
            assert!(text.contains(setting) && text.contains(limit), "{text}");
            assert!(
                text.ends_with("raises that") || text.ends_with("it said: x"),
                "{text}"
            );
        }
    }

    /// A program that takes the place of a compiler, and does this.
    fn compiler(script: &str) -> String {
        use std::os::unix::fs::PermissionsExt as _;
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("compiler");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let limits = Limits {
            deadline: Duration::from_secs(2),
            ..LIMITS
        };
        match compile(&program, &limits, &blake3::hash(b""), b"wasm") {
            Err(CompileError::Child(reason)) => reason,
            _ => panic!("it compiles nothing"),
        }
    }

    #[test]
    fn a_child_that_hangs_or_is_killed_is_told_by_the_setting() {
        let hangs = compiler("sleep 6301");
        assert!(
            hangs.contains("2 seconds") && hangs.contains("`[compile] deadline`"),
            "{hangs}"
        );
        let aborts = compiler("ulimit -c 0; kill -ABRT $$");
        assert!(
            aborts.contains("signal 6") && aborts.contains("`[compile] memory`"),
            "{aborts}"
        );
        let spins = compiler("kill -XCPU $$");
        assert!(spins.contains("`[compile] cpu`"), "{spins}");
    }
}
