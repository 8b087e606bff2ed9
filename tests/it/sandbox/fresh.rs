//! Isolation `request`: a fresh instance for each call.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use oarlock_sandbox::{Body, Bound, CallError, Full, Hold, Sandbox, StartError};

use super::{LONG, Setup, get, post, soon, text};

/// Both versions of WASI.
const HANDLERS: [&str; 2] = ["handler-p2", "handler-p3"];

/// Waits until no instance of the sandbox is left.
pub(super) async fn gone(sandbox: &Sandbox) {
    let limit = tokio::time::Instant::now() + LONG;
    while sandbox.meter().memory_bytes() > 0 {
        assert!(tokio::time::Instant::now() < limit, "the instance lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until no more than so many instances of the sandbox are left.
pub(super) async fn only(sandbox: &Sandbox, instances: u64) {
    let most = instances * sandbox.limits().memory;
    let limit = tokio::time::Instant::now() + LONG;
    while sandbox.meter().memory_bytes() > most.min(instances * (4 << 20)) {
        assert!(tokio::time::Instant::now() < limit, "the instances live on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn hello() {
    for guest in ["hello-p2", "hello-p3"] {
        let sandbox = Setup::new().sandbox(guest);
        for _ in 0..3 {
            assert_eq!(
                text(soon(sandbox.call(get("/"))).await).await,
                "Hello, Oarlock"
            );
        }
        assert_eq!(sandbox.meter().requests(), 3);
        assert!(sandbox.meter().cpu_nanos() > 0);
        gone(&sandbox).await;
    }
}

#[tokio::test]
async fn each_call_has_memory_of_its_own() {
    for guest in HANDLERS {
        let sandbox = Setup::new().sandbox(guest);
        for _ in 0..3 {
            assert_eq!(
                text(soon(sandbox.call(get("/counter"))).await).await,
                "1",
                "{guest}"
            );
        }
    }
}

#[tokio::test]
async fn a_handler_sees_its_environment_and_its_lines_are_logged() {
    for guest in HANDLERS {
        let setup = Setup::new();
        let sandbox = setup.sandbox(guest);
        assert_eq!(
            text(soon(sandbox.call(get("/env"))).await).await,
            "DYNO=web.1\n"
        );
        assert_eq!(text(soon(sandbox.call(get("/log"))).await).await, "logged");
        assert_eq!(
            (setup.log.stdout(), setup.log.stderr()),
            (vec!["a line".into()], vec!["an error".into()])
        );
    }
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let bytes = vec![b'x'; 3 << 20];
    for guest in HANDLERS {
        let sandbox = Setup::new().sandbox(guest);
        assert_eq!(
            text(soon(sandbox.call(post("/length", bytes.clone()))).await).await,
            "3145728"
        );
        let echoed = soon(sandbox.call(post("/echo", bytes.clone())))
            .await
            .unwrap();
        assert!(
            soon(echoed.into_body().collect()).await.unwrap().to_bytes() == bytes,
            "{guest}"
        );
        gone(&sandbox).await;
    }
}

#[tokio::test]
async fn a_trap_before_the_head_is_an_error() {
    for guest in HANDLERS {
        let sandbox = Setup::new().sandbox(guest);
        let error = soon(sandbox.call(get("/trap"))).await.unwrap_err();
        assert_eq!(
            error,
            CallError::Trap("wasm `unreachable` instruction executed".into()),
            "{guest}"
        );
        let error = soon(sandbox.call(get("/exit"))).await.unwrap_err();
        assert_eq!(
            error,
            CallError::Trap("it exited with code 1".into()),
            "{guest}"
        );
        // The next call has an instance of its own.
        assert_eq!(text(soon(sandbox.call(get("/"))).await).await, "hello");
        gone(&sandbox).await;
    }
}

#[tokio::test]
async fn an_error_code_is_told_from_no_response() {
    let sandbox = Setup::new().sandbox("handler-p3");
    let error = soon(sandbox.call(get("/error"))).await.unwrap_err();
    let CallError::ErrorCode(text) = &error else {
        panic!("{error}")
    };
    assert!(text.contains("as asked"), "{text}");
}

#[tokio::test]
async fn a_trap_after_the_head_is_never_a_clean_end() {
    for guest in HANDLERS {
        let sandbox = Setup::new().sandbox(guest);
        for _ in 0..5 {
            let response = soon(sandbox.call(get("/trap-after-head"))).await.unwrap();
            assert_eq!(response.status(), 200);
            let mut frames = response.into_body().into_data_stream();
            let mut chunks = 0;
            let end = loop {
                match soon(frames.next()).await {
                    Some(Ok(_)) => chunks += 1,
                    other => break other,
                }
            };
            assert!(chunks > 0);
            let error = end.expect("not a clean end").unwrap_err().to_string();
            assert!(error.contains("unreachable"), "{guest}: {error}");
        }
    }
}

#[tokio::test]
async fn the_memory_limit_ends_a_call() {
    for guest in HANDLERS {
        let sandbox = Setup::new().memory(32).sandbox(guest);
        let error = soon(sandbox.call(get("/alloc/64"))).await.unwrap_err();
        assert_eq!(error, CallError::Memory { limit: 32 << 20 }, "{guest}");
        assert_eq!(
            text(soon(sandbox.call(get("/alloc/8"))).await).await,
            (8 << 20).to_string()
        );
    }
}

#[tokio::test]
async fn dropping_a_call_ends_its_instance() {
    for guest in HANDLERS {
        let sandbox = Setup::new().sandbox(guest);
        // While the guest computes, and while it streams.
        let call = tokio::time::timeout(Duration::from_millis(100), sandbox.call(get("/spin")));
        assert!(call.await.is_err());
        gone(&sandbox).await;
        let response = soon(sandbox.call(get("/slow"))).await.unwrap();
        let mut frames = response.into_body().into_data_stream();
        assert!(soon(frames.next()).await.unwrap().is_ok());
        assert!(sandbox.meter().memory_bytes() > 0);
        drop(frames);
        gone(&sandbox).await;
    }
}

/// What the log says when an instance has worked for too long after its answer, at a limit of 300 ms.
pub(super) const WORKED_ON: &str = "Ending the instance: it went on for more than 0.3 seconds after its response; \
                                    raise `after_response` in `[limits]`, or move the work to a worker";

#[tokio::test]
async fn a_guest_may_go_on_after_its_response_but_not_for_ever() {
    for guest in HANDLERS {
        for path in ["/after/3600000", "/after-spin"] {
            let mut setup = Setup::new();
            setup.limits.after_response = Duration::from_millis(300);
            let sandbox = setup.sandbox(guest);
            let slot = Arc::new(());
            let hold = Hold::new(slot.clone());
            let response = soon(sandbox.call_holding(get(path), hold)).await;
            assert_eq!(whole(response.unwrap()).await, "answered", "{guest} {path}");
            // Its slot is taken as long as it lives.
            assert!(sandbox.meter().memory_bytes() > 0, "{guest} {path}");
            assert_eq!(Arc::strong_count(&slot), 2, "{guest} {path}");
            soon(sandbox.calls_gone()).await;
            gone(&sandbox).await;
            free(&slot).await;
            let remarks = setup.log.remarks.lock().unwrap().clone();
            assert_eq!(remarks, [WORKED_ON], "{guest} {path}");
        }
    }
}

/// The body, read as servers do: up to the length that the head says, if it does.
pub(super) async fn whole(response: http::Response<Body>) -> String {
    let length = response.headers().get("content-length");
    let length = length.map(|length| length.to_str().unwrap().parse::<usize>().unwrap());
    let mut frames = response.into_body().into_data_stream();
    let mut all = Vec::new();
    while Some(all.len()) != length
        && let Some(frame) = soon(frames.next()).await
    {
        all.extend_from_slice(&frame.unwrap());
    }
    String::from_utf8(all).unwrap()
}

/// Waits until nobody holds it any more.
pub(super) async fn free(slot: &Arc<()>) {
    soon(async {
        while Arc::strong_count(slot) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn work_within_after_response_is_finished() {
    for guest in HANDLERS {
        let setup = Setup::new();
        let sandbox = setup.sandbox(guest);
        let slot = Arc::new(());
        let hold = Hold::new(slot.clone());
        let response = soon(sandbox.call_holding(get("/after/100"), hold)).await;
        assert_eq!(whole(response.unwrap()).await, "answered", "{guest}");
        assert_eq!(Arc::strong_count(&slot), 2, "{guest}");
        free(&slot).await;
        gone(&sandbox).await;
        assert!(setup.log.remarks.lock().unwrap().is_empty(), "{guest}");
    }
}

#[tokio::test]
async fn a_trap_after_the_whole_response_is_remarked() {
    let setup = Setup::new();
    let sandbox = setup.sandbox("handler-p3");
    assert_eq!(
        text(soon(sandbox.call(get("/trap-later"))).await).await,
        "answered"
    );
    gone(&sandbox).await;
    let remarks = setup.log.remarks.lock().unwrap().clone();
    assert_eq!(
        remarks,
        ["The component trapped after its response: wasm `unreachable` instruction executed"]
    );
}

#[tokio::test]
async fn neighbours_answer_while_guests_spin() {
    for guest in HANDLERS {
        let sandbox = Setup::new().sandbox(guest);
        let spinners: Vec<_> = (0..4)
            .map(|_| {
                let sandbox = sandbox.clone();
                tokio::spawn(async move { sandbox.call(get("/spin")).await.is_ok() })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        for _ in 0..20 {
            let answer = text(sandbox.call(get("/")).await);
            assert_eq!(
                tokio::time::timeout(Duration::from_secs(5), answer)
                    .await
                    .unwrap(),
                "hello"
            );
        }
        spinners.iter().for_each(tokio::task::JoinHandle::abort);
        gone(&sandbox).await;
    }
}

#[tokio::test]
async fn a_full_pool_makes_callers_wait_and_then_says_so() {
    let mut setup = Setup::new();
    setup.limits.timeout = Duration::from_millis(400);
    let engine = oarlock_sandbox::Engine::new(oarlock_sandbox::EngineConfig {
        instances: 2,
        max_memory: 256 << 20,
        tick: Duration::from_millis(1),
        code_cache: None,
        ..oarlock_sandbox::EngineConfig::default()
    })
    .unwrap();
    let wasm = std::fs::read(oarlock_tests::guest("handler-p2")).unwrap();
    let program = engine.load("web.wasm", &wasm).unwrap();
    let sandbox = Sandbox::new(&program, setup.grant.clone(), &setup.limits).unwrap();
    let first = soon(sandbox.call(get("/slow"))).await.unwrap();
    let _second = soon(sandbox.call(get("/slow"))).await.unwrap();
    let error = soon(sandbox.call(get("/"))).await.unwrap_err();
    assert_eq!(
        error,
        CallError::Start(StartError::Full(Full::Instances {
            limit: 2,
            bound: Bound::Configured,
        }))
    );
    let (answer, ()) = soon(async {
        tokio::join!(sandbox.call(get("/")), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(first);
        })
    })
    .await;
    assert_eq!(text(answer).await, "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_on_several_threads() {
    for guest in HANDLERS {
        let sandbox = Setup::new().sandbox(guest);
        let calls = (0..200).map(|_| {
            let sandbox = sandbox.clone();
            tokio::spawn(async move { text(sandbox.call(post("/echo", "echo")).await).await })
        });
        for call in calls.collect::<Vec<_>>() {
            assert_eq!(soon(call).await.unwrap(), "echo");
        }
        gone(&sandbox).await;
    }
}
