//! Workers and jobs: the guest `sdk-worker`, which does what its argument says.

use std::time::Duration;

use oarlock_sandbox::{Exit, Output, Stdin};
use oarlock_tests::Wasi;

use super::program;
use crate::bench::{App, addon, run_program, sandbox_of};

super::on_both!(
    a_worker_ticks_until_it_is_told_to_stop,
    a_long_computation_can_ask,
    a_race_ends_with_the_stop,
    tasks_wait_beside_each_other,
    kv_is_the_same,
    an_error_is_written_and_makes_the_exit_code,
);

const LONG: Duration = Duration::from_secs(60);

/// Starts the guest, tells it to stop once it has said `says`, and waits for its end.
async fn stop_after(wasi: Wasi, argument: &str, says: &str) -> (Exit, String) {
    let data = tempfile::tempdir().unwrap();
    let (binding, env) = App::new(data.path()).release(&[], &[], "worker").await;
    let (sandbox, log) = sandbox_of(&program(wasi, "worker"), &binding, &env);
    let run = sandbox.run(Stdin::OpenUntilStop, Output::Log, &[argument.to_owned()]);
    let handle = run.handle();
    let run = tokio::spawn(run.wait());
    let said = async {
        while !log.text().contains(says) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, said).await.expect(says);
    handle.stop();
    let exit = tokio::time::timeout(LONG, run).await.expect("it ends");
    (exit.unwrap(), log.text())
}

/// Runs the guest to its end.
async fn run(wasi: Wasi, argument: &str) -> (Exit, String) {
    let data = tempfile::tempdir().unwrap();
    let app = App::new(data.path());
    let (binding, env) = app.release(&[("db", addon("kv"))], &[], "worker").await;
    let program = program(wasi, "worker");
    let arguments = [argument];
    let run = run_program(&program, &arguments, &binding, &env);
    tokio::time::timeout(LONG, run).await.expect("it ends")
}

async fn a_worker_ticks_until_it_is_told_to_stop(wasi: Wasi) {
    assert_eq!(
        stop_after(wasi, "tick", "three ticks").await,
        (Exit::Code(0), "three ticks\nstopped".to_owned())
    );
}

async fn a_long_computation_can_ask(wasi: Wasi) {
    assert_eq!(
        stop_after(wasi, "spin", "spinning").await,
        (Exit::Code(0), "spinning\nheard".to_owned())
    );
}

async fn a_race_ends_with_the_stop(wasi: Wasi) {
    assert_eq!(
        stop_after(wasi, "race", "").await,
        (Exit::Code(0), "false".to_owned())
    );
}

async fn tasks_wait_beside_each_other(wasi: Wasi) {
    assert_eq!(run(wasi, "spawn").await, (Exit::Code(0), "6".to_owned()));
}

async fn kv_is_the_same(wasi: Wasi) {
    assert_eq!(
        run(wasi, "kv").await,
        (
            Exit::Code(0),
            r#"hello 2 true ["count", "greeting"]"#.to_owned()
        )
    );
}

async fn an_error_is_written_and_makes_the_exit_code(wasi: Wasi) {
    assert_eq!(
        run(wasi, "fail").await,
        (Exit::Code(1), "error: the queue is gone".to_owned())
    );
}

#[tokio::test]
async fn a_worker_that_waits_for_nothing_is_an_error_on_0_2() {
    assert_eq!(
        run(Wasi::P2, "stuck").await,
        (
            Exit::Code(1),
            "error: it waits for something that no task and no I/O will ever do".to_owned()
        )
    );
}
