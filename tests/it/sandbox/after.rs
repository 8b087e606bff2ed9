//! Work that goes on after its answer, in instances that serve many calls.

use std::sync::Arc;
use std::time::Duration;

use oarlock_sandbox::{Hold, Instance, InstanceEnd, LiveCallError};

use super::fresh::{WORKED_ON, free, gone, whole};
use super::{Setup, get, soon, text};

/// Both versions of WASI.
const HANDLERS: [&str; 2] = ["handler-p2", "handler-p3"];

fn setup(limit_ms: u64) -> Setup {
    let mut setup = Setup::new();
    setup.limits.after_response = Duration::from_millis(limit_ms);
    setup
}

/// A call that is answered, and what holds its slot.
async fn answered(instance: &Instance, path: &str) -> Arc<()> {
    let slot = Arc::new(());
    let hold = Hold::new(slot.clone());
    let response = soon(instance.try_call(get(path), hold)).await.unwrap();
    assert_eq!(whole(response).await, "answered", "{path}");
    slot
}

async fn call(instance: &Instance, path: &str) -> Result<String, LiveCallError> {
    let response = instance.try_call(get(path), Hold::NONE).await?;
    Ok(text(Ok(response)).await)
}

#[tokio::test]
async fn a_lone_call_that_works_on_for_too_long_ends_its_instance() {
    for guest in HANDLERS {
        for path in ["/after/3600000", "/after-spin"] {
            let setup = setup(300);
            let sandbox = setup.sandbox(guest);
            let instance = soon(sandbox.start()).await.unwrap();
            let slot = answered(&instance, path).await;
            assert_eq!(Arc::strong_count(&slot), 2, "{guest} {path}");
            assert!(!instance.has_ended());
            assert_eq!(soon(instance.ended()).await, InstanceEnd::Killed);
            gone(&sandbox).await;
            free(&slot).await;
            let remarks = setup.log.remarks.lock().unwrap().clone();
            // A machine that is busy may also have let it compute for long.
            let (last, others) = remarks.split_last().unwrap();
            assert_eq!(last, WORKED_ON, "{guest} {path}");
            let is_slow = |remark: &String| remark.starts_with("The component computes for long");
            assert!(others.iter().all(is_slow), "{guest} {path}: {others:?}");
        }
    }
}

#[tokio::test]
async fn work_within_after_response_leaves_the_instance_as_it_is() {
    for guest in HANDLERS {
        let setup = setup(2_000);
        let instance = soon(setup.sandbox(guest).start()).await.unwrap();
        for count in 1..=3 {
            let slot = answered(&instance, "/after/50").await;
            assert_eq!(Arc::strong_count(&slot), 2, "{guest}");
            free(&slot).await;
            assert_eq!(
                call(&instance, "/counter").await.unwrap(),
                count.to_string()
            );
        }
        assert!(setup.log.remarks.lock().unwrap().is_empty(), "{guest}");
    }
}

#[tokio::test]
async fn calls_beside_work_that_goes_on_for_too_long_are_finished_and_no_more_are_taken() {
    let setup = setup(300);
    let sandbox = setup.sandbox("handler-p3");
    let instance = soon(sandbox.start()).await.unwrap();
    let slot = answered(&instance, "/after/3600000").await;
    // Seen to have work and no call.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let beside = tokio::spawn({
        let instance = instance.clone();
        async move { call(&instance, "/sleep/3000").await }
    });
    soon(instance.to_be_replaced()).await;
    assert!(!beside.is_finished());
    let Err(LiveCallError::Unserved(request)) = soon(call(&instance, "/counter")).await else {
        panic!("it was answered");
    };
    assert_eq!(request.uri().path(), "/counter");
    // Its slot is taken as long as the instance lives.
    assert_eq!(Arc::strong_count(&slot), 2);
    assert_eq!(soon(beside).await.unwrap().unwrap(), "slept");
    assert_eq!(soon(instance.ended()).await, InstanceEnd::Killed);
    gone(&sandbox).await;
    free(&slot).await;
    let remarks = setup.log.remarks.lock().unwrap().clone();
    assert!(
        remarks[0].starts_with("Replacing the process: it went on"),
        "{remarks:?}"
    );
}

#[tokio::test]
async fn a_stream_is_not_work_after_the_response() {
    let setup = setup(300);
    let instance = soon(setup.sandbox("handler-p3").start()).await.unwrap();
    let stream = tokio::spawn({
        let instance = instance.clone();
        async move { call(&instance, "/stream/60").await }
    });
    // Answers beside it, and work after them that ends, are none of its business.
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..5 {
        answered(&instance, "/after/20").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(soon(stream).await.unwrap().unwrap().contains("59\n"));
    assert_eq!(call(&instance, "/counter").await.unwrap(), "2");
    assert!(!instance.has_ended());
    assert!(setup.log.remarks.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_abandoned_call_that_does_not_return_has_its_instance_replaced() {
    let setup = setup(300);
    let sandbox = setup.sandbox("handler-p3");
    let instance = soon(sandbox.start()).await.unwrap();
    let beside = tokio::spawn({
        let instance = instance.clone();
        async move { call(&instance, "/sleep/2500").await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let slot = Arc::new(());
    let hold = Hold::new(slot.clone());
    let gone_away = instance.try_call(get("/sleep/3600000"), hold);
    assert!(
        tokio::time::timeout(Duration::from_millis(50), gone_away)
            .await
            .is_err()
    );
    assert_eq!(Arc::strong_count(&slot), 2);
    soon(instance.to_be_replaced()).await;
    assert!(!beside.is_finished());
    assert_eq!(Arc::strong_count(&slot), 2);
    assert_eq!(soon(beside).await.unwrap().unwrap(), "slept");
    assert_eq!(soon(instance.ended()).await, InstanceEnd::Killed);
    gone(&sandbox).await;
    free(&slot).await;
}

#[tokio::test]
async fn one_slot_alone_waits_for_the_work_after_its_answer() {
    let mut setup = setup(5_000);
    setup.limits.concurrency = Some(1);
    let instance = soon(setup.sandbox("handler-p3").start()).await.unwrap();
    let slot = answered(&instance, "/after/300").await;
    assert_eq!(call(&instance, "/counter").await.unwrap(), "1");
    // Not before the work was done.
    assert_eq!(Arc::strong_count(&slot), 1);
}
