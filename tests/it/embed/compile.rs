//! Compiling in a child: what becomes of it never becomes of the host.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oarlock_host::apply::ApplyError;
use oarlock_host::compile::LoadError;
use oarlock_host::{AddError, App, Compiler};

use super::{Embedded, ask, web};

fn with_compiler(path: impl Into<PathBuf>, deadline: Duration) -> Embedded {
    Embedded::with(|config| {
        config.compiler = Compiler::Child(path.into());
        config.compile_deadline = deadline;
    })
}

/// Why the compiler's process failed.
async fn failure(path: impl Into<PathBuf>, deadline: Duration) -> String {
    let embedded = with_compiler(path, deadline);
    let error = embedded
        .host
        .add(web("shop", "handler-p2", ""))
        .await
        .unwrap_err();
    match error {
        AddError::Apply(ApplyError::Load(LoadError::Compiler { name, reason })) => {
            assert_eq!(name, "web.wasm");
            reason
        }
        other => panic!("{other}"),
    }
}

fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("compiler");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

const LONG: Duration = Duration::from_secs(120);

#[tokio::test]
async fn the_command_is_a_compiler() {
    let embedded = with_compiler(crate::binary(), LONG);
    let added = embedded.add(web("shop", "handler-p2", "")).await;
    assert_eq!(added.compiled, 1);
    let service = embedded.host.service(&added.app);
    assert_eq!(ask(&service, "/").await.text(), "hello");
    let invalid =
        web("shop", "handler-p2", "").component("web.wasm", b"\0asm\x0d\0\x01\0junk".to_vec());
    let error = embedded.host.add(invalid).await.unwrap_err();
    assert!(
        matches!(
            &error,
            AddError::Apply(ApplyError::Load(LoadError::Invalid { .. }))
        ),
        "{error}"
    );
    embedded.host.shutdown().await;
}

#[tokio::test]
async fn the_code_cache_keeps_a_childs_code_too() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("code");
    let start = |compiler| {
        Embedded::with(|config| {
            config.code_cache = Some(folder.clone());
            config.compiler = compiler;
        })
    };
    let first = start(Compiler::Child(crate::binary().to_owned()));
    assert_eq!(first.add(web("shop", "handler-p2", "")).await.compiled, 1);
    first.host.shutdown().await;
    // The same code is good for a host that compiles itself: the child's engine has the same settings.
    let second = start(Compiler::InProcess);
    assert_eq!(second.add(web("shop", "handler-p2", "")).await.cached, 1);
    second.host.shutdown().await;
}

#[tokio::test]
async fn a_child_that_ends_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let exit = failure("/bin/false", LONG).await;
    assert!(exit.contains("/bin/false exited with 1"), "{exit}");
    let words = failure(script(folder.path(), "echo no memory >&2; exit 9"), LONG).await;
    assert!(
        words.contains("exited with 9") && words.ends_with("it said: no memory"),
        "{words}"
    );
    let killed = failure(script(folder.path(), "kill -9 $$"), LONG).await;
    assert!(killed.contains("was ended by signal 9"), "{killed}");
    let missing = failure(folder.path().join("none"), LONG).await;
    assert!(missing.contains("does not start"), "{missing}");
    let nonsense = failure(script(folder.path(), "echo Usage: compile FILE"), LONG).await;
    assert!(nonsense.contains("answered nonsense"), "{nonsense}");
}

#[tokio::test]
async fn a_child_that_takes_too_long_is_ended_with_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let alive = folder.path().join("alive");
    let text = format!(
        "(while :; do echo x >> {}; sleep 0.02; done) & wait",
        alive.display()
    );
    let began = Instant::now();
    let slow = failure(script(folder.path(), &text), Duration::from_millis(500)).await;
    assert!(slow.contains("took longer than 0.5 seconds"), "{slow}");
    assert!(began.elapsed() < LONG);
    let size = || std::fs::metadata(&alive).unwrap().len();
    let at_the_end = size();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(size(), at_the_end, "what the child started goes on");
}

/// A command of a few megabytes, whose one function needs hundreds of them to be compiled.
fn bomb() -> Vec<u8> {
    let step = "(local.set 0 (i32.mul (local.get 0) (i32.const 77777)))";
    wat::parse_str(format!(
        r#"(component
            (core module $main (func (export "run") (result i32) (local i32) {} (local.get 0)))
            (core instance $main (instantiate $main))
            (func $run (result (result)) (canon lift (core func $main "run")))
            (instance $command (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $command)))"#,
        step.repeat(800_000)
    ))
    .unwrap()
}

#[tokio::test]
async fn a_component_too_large_for_the_childs_memory_ends_only_the_child() {
    let folder = tempfile::tempdir().unwrap();
    // The real compiler, with less memory than it would take.
    let binary = crate::binary().display();
    let small = script(
        folder.path(),
        &format!("ulimit -v 300000; exec {binary} \"$@\""),
    );
    let embedded = with_compiler(small, LONG);
    let manifest = "app = \"bomb\"\n[processes]\nworker = \"bomb.wasm\"\n";
    let app = App::from_manifest(manifest).component("bomb.wasm", bomb());
    let error = embedded.host.add(app).await.unwrap_err().to_string();
    assert!(
        error.contains("bomb.wasm could not be compiled")
            && error.contains("before it had an answer"),
        "{error}"
    );
    // What is not too large still is compiled, by another child.
    let service = embedded.serving(web("shop", "handler-p2", "")).await;
    assert_eq!(ask(&service, "/").await.text(), "hello");
    embedded.host.shutdown().await;
}

#[test]
fn people_who_start_it_are_told_what_it_is_for() {
    let output = std::process::Command::new(crate::binary())
        .arg("compile-component")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("this command is for hosts"), "{text}");
}
