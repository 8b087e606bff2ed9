//! Guests that know nothing of Oarlock: made with other crates and other languages, unmodified.

use oarlock_sandbox::{Exit, Output, Sandbox, Stdin};

use crate::bench::{App, program, program_at, sandbox_of};
use crate::calls::{Answer, call, get, post};

async fn sandbox(
    program: &oarlock_sandbox::Program,
) -> (Sandbox, std::sync::Arc<crate::bench::Log>) {
    let data = tempfile::tempdir().unwrap();
    let (binding, mut env) = App::new(data.path()).release(&[], &[], "worker").await;
    env.insert("DYNO".to_owned(), "worker.1".to_owned());
    sandbox_of(program, &binding, &env)
}

#[tokio::test]
async fn handlers_of_wstd_waki_and_raw_wasip3_answer_in_both_isolations() {
    for name in ["hello-p2", "waki-hello", "raw-wasip3"] {
        let (sandbox, _) = sandbox(&program(name)).await;
        let fresh = Answer::read(sandbox.call(get("/x")).await.unwrap()).await;
        assert_eq!(fresh.text(), "Hello, Oarlock", "{name}");
        let instance = sandbox.start().await.unwrap();
        for _ in 0..3 {
            assert_eq!(
                call(&instance, get("/x")).await.text(),
                "Hello, Oarlock",
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn waki_sees_the_path_and_raw_wasip3_echoes_a_stream() {
    let (waki, _) = sandbox(&program("waki-hello")).await;
    let answer = Answer::read(waki.call(get("/some/path")).await.unwrap()).await;
    assert_eq!(answer.header("x-path"), "/some/path");
    let (raw, _) = sandbox(&program("raw-wasip3")).await;
    let text = "wasm ".repeat(50_000);
    let answer = Answer::read(raw.call(post("/", &text)).await.unwrap()).await;
    assert_eq!(answer.text(), text);
}

/// Runs the C worker to its end.
async fn c_worker(args: &[&str], stdin: Stdin) -> (Exit, String) {
    let (sandbox, log) = sandbox(&program_at(&oarlock_tests::c_guest("worker"))).await;
    let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let run = sandbox.run(stdin, Output::Log, &args);
    let handle = run.handle();
    if args.first().is_some_and(|arg| arg == "wait") {
        handle.stop();
    }
    (run.wait().await, log.text())
}

#[tokio::test]
async fn a_worker_in_c_runs_and_stops_at_the_end_of_its_stdin() {
    let hello = "hello from C in worker.1".to_owned();
    assert_eq!(
        c_worker(&[], Stdin::Ended).await,
        (Exit::Code(0), hello.clone())
    );
    assert_eq!(
        c_worker(&["fail"], Stdin::Ended).await,
        (Exit::Code(1), hello.clone())
    );
    assert_eq!(
        c_worker(&["wait"], Stdin::OpenUntilStop).await,
        (Exit::Code(0), format!("{hello}\nstopping"))
    );
}

#[tokio::test]
async fn a_worker_in_c_reaches_nothing_it_was_not_given() {
    let (exit, log) = c_worker(&["file", "/etc/passwd"], Stdin::Ended).await;
    assert_eq!(exit, Exit::Code(1), "{log}");
    let (exit, log) = c_worker(&["talk", "192.0.2.1", "80", "x"], Stdin::Ended).await;
    assert_eq!(exit, Exit::Code(1), "{log}");
}
