//! Isolation `dyno`: one instance that serves many calls.

use std::time::Duration;

use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use oarlock_sandbox::{CallError, Hold, Instance, InstanceEnd, LiveCallError, Sandbox};

use super::fresh::gone;
use super::{Setup, get, post, soon, text};

/// Both versions of WASI.
const HANDLERS: [&str; 2] = ["handler-p2", "handler-p3"];

#[tokio::test]
async fn an_instance_keeps_its_memory_between_calls() {
    for guest in HANDLERS {
        let instance = soon(Setup::new().sandbox(guest).start()).await.unwrap();
        for count in 1..=5 {
            assert_eq!(
                text(soon(instance.call(get("/counter"))).await).await,
                count.to_string(),
                "{guest}"
            );
        }
        let echoed = text(soon(instance.call(post("/echo", "echo"))).await).await;
        assert_eq!(echoed, "echo");
    }
}

#[tokio::test]
async fn calls_of_0_3_run_at_once() {
    let instance = soon(Setup::new().sandbox("handler-p3").start())
        .await
        .unwrap();
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let instance = instance.clone();
            tokio::spawn(async move { text(instance.call(get("/sleep/200")).await).await })
        })
        .collect();
    let started = std::time::Instant::now();
    for call in calls {
        assert_eq!(soon(call).await.unwrap(), "slept");
    }
    // One after the other they would take 1.6 s.
    assert!(
        started.elapsed() < Duration::from_millis(1_200),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn calls_of_0_2_run_one_after_the_other() {
    let instance = soon(Setup::new().sandbox("handler-p2").start())
        .await
        .unwrap();
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let instance = instance.clone();
            tokio::spawn(async move { text(instance.call(get("/counter")).await).await })
        })
        .collect();
    let mut counts = Vec::new();
    for call in calls {
        counts.push(soon(call).await.unwrap().parse::<u32>().unwrap());
    }
    counts.sort_unstable();
    assert_eq!(counts, (1..=8).collect::<Vec<_>>());
}

/// A call that waits until an instance of 0.2 has answered another.
fn behind(
    instance: &Instance,
    path: &'static str,
) -> tokio::task::JoinHandle<Result<String, LiveCallError>> {
    let instance = instance.clone();
    tokio::spawn(async move {
        let response = instance.try_call(get(path), Hold::NONE).await?;
        Ok(text(Ok(response)).await)
    })
}

#[tokio::test]
async fn what_waits_for_an_instance_of_0_2_comes_back_when_it_ends() {
    for abandon in [false, true] {
        let instance = soon(Setup::new().sandbox("handler-p2").start())
            .await
            .unwrap();
        let spinning = behind(&instance, "/spin");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let waiting = behind(&instance, "/counter");
        tokio::time::sleep(Duration::from_millis(50)).await;
        if abandon {
            spinning.abort();
        } else {
            instance.kill();
        }
        let Err(LiveCallError::Unserved(request)) = soon(waiting).await.unwrap() else {
            panic!("it was answered");
        };
        assert_eq!(request.uri().path(), "/counter");
        assert_eq!(soon(instance.ended()).await, InstanceEnd::Killed);
    }
}

#[tokio::test]
async fn a_guest_of_0_2_that_keeps_what_it_would_answer_by_gives_no_response() {
    let component = r#"(component
        (import "wasi:http/types@0.2.0" (instance $types
            (export "incoming-request" (type (sub resource)))
            (export "response-outparam" (type (sub resource)))))
        (alias export $types "incoming-request" (type $request))
        (alias export $types "response-outparam" (type $out))
        (core module $main (func (export "handle") (param i32 i32)))
        (core instance $main (instantiate $main))
        (func $handle (param "request" (own $request)) (param "response-out" (own $out))
            (canon lift (core func $main "handle")))
        (instance $handler (export "handle" (func $handle)))
        (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#;
    let component = wat::parse_str(component).unwrap();
    let program = super::engine().load("silent.wasm", &component).unwrap();
    let setup = Setup::new();
    let sandbox = Sandbox::new(&program, setup.grant.clone(), &setup.limits).unwrap();
    let instance = soon(sandbox.start()).await.unwrap();
    // Not the instance's end.
    for _ in 0..3 {
        let error = soon(instance.call(get("/"))).await.unwrap_err();
        assert!(matches!(error, CallError::NoResponse(_)), "{error}");
    }
    let error = soon(sandbox.call(get("/"))).await.unwrap_err();
    assert!(matches!(error, CallError::NoResponse(_)), "{error}");
}

#[tokio::test]
async fn a_retired_instance_of_0_2_serves_what_waits_for_it() {
    let sandbox = Setup::new().sandbox("handler-p2");
    let instance = soon(sandbox.start()).await.unwrap();
    let slow = behind(&instance, "/sleep/200");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let waiting = [behind(&instance, "/counter"), behind(&instance, "/counter")];
    tokio::time::sleep(Duration::from_millis(50)).await;
    instance.retire();
    assert!(!instance.has_ended());
    assert_eq!(soon(slow).await.unwrap().unwrap(), "slept");
    let mut counts = Vec::new();
    for call in waiting {
        counts.push(soon(call).await.unwrap().unwrap());
    }
    counts.sort_unstable();
    assert_eq!(counts, ["1", "2"]);
    assert_eq!(soon(instance.ended()).await, InstanceEnd::Retired);
    assert!(matches!(
        soon(instance.try_call(get("/"), Hold::NONE))
            .await
            .unwrap_err(),
        LiveCallError::Unserved(_)
    ));
    gone(&sandbox).await;
}

#[tokio::test]
async fn a_trap_fails_all_calls_of_its_instance() {
    let sandbox = Setup::new().sandbox("handler-p3");
    let instance = soon(sandbox.start()).await.unwrap();
    let streaming = soon(instance.call(get("/slow"))).await.unwrap();
    let waiting = tokio::spawn({
        let instance = instance.clone();
        async move { instance.call(get("/sleep/60000")).await.map(drop) }
    });
    let mut frames = streaming.into_body().into_data_stream();
    assert!(soon(frames.next()).await.unwrap().is_ok());
    let trap = "wasm `unreachable` instruction executed".to_owned();
    assert_eq!(
        soon(instance.call(get("/trap"))).await.unwrap_err(),
        CallError::Trap(trap.clone())
    );
    assert_eq!(
        soon(waiting).await.unwrap().unwrap_err(),
        CallError::Trap(trap.clone())
    );
    let end = soon(async {
        loop {
            match frames.next().await {
                Some(Ok(_)) => {}
                other => break other,
            }
        }
    })
    .await;
    assert!(end.expect("not a clean end").is_err());
    assert_eq!(soon(instance.ended()).await, InstanceEnd::Trap(trap));
    // The store is never entered again.
    assert!(matches!(
        soon(instance.call(get("/"))).await.unwrap_err(),
        CallError::Ended(_)
    ));
    gone(&sandbox).await;
}

#[tokio::test]
async fn a_trap_in_0_2_ends_the_instance() {
    let instance = soon(Setup::new().sandbox("handler-p2").start())
        .await
        .unwrap();
    assert!(matches!(
        soon(instance.call(get("/trap"))).await.unwrap_err(),
        CallError::Trap(_)
    ));
    assert!(matches!(soon(instance.ended()).await, InstanceEnd::Trap(_)));
    let instance = soon(Setup::new().sandbox("handler-p2").start())
        .await
        .unwrap();
    let response = soon(instance.call(get("/trap-after-head"))).await.unwrap();
    let mut frames = response.into_body().into_data_stream();
    let end = soon(async {
        loop {
            match frames.next().await {
                Some(Ok(_)) => {}
                other => break other,
            }
        }
    })
    .await;
    assert!(end.expect("not a clean end").is_err());
    assert!(matches!(soon(instance.ended()).await, InstanceEnd::Trap(_)));
}

#[tokio::test]
async fn the_memory_limit_ends_an_instance() {
    for guest in HANDLERS {
        let instance = soon(Setup::new().memory(32).sandbox(guest).start())
            .await
            .unwrap();
        let error = soon(instance.call(get("/alloc/64"))).await.unwrap_err();
        assert_eq!(error, CallError::Memory { limit: 32 << 20 });
        assert_eq!(soon(instance.ended()).await, InstanceEnd::Memory);
    }
}

#[tokio::test]
async fn a_retired_instance_finishes_its_calls() {
    let sandbox = Setup::new().sandbox("handler-p3");
    let instance = soon(sandbox.start()).await.unwrap();
    let waiting = tokio::spawn({
        let instance = instance.clone();
        async move { text(instance.call(get("/sleep/200")).await).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    instance.retire();
    assert_eq!(soon(waiting).await.unwrap(), "slept");
    assert_eq!(soon(instance.ended()).await, InstanceEnd::Retired);
    assert!(matches!(
        soon(instance.call(get("/"))).await.unwrap_err(),
        CallError::Ended(_)
    ));
    gone(&sandbox).await;
    for guest in HANDLERS {
        let idle = soon(Setup::new().sandbox(guest).start()).await.unwrap();
        idle.retire();
        assert_eq!(soon(idle.ended()).await, InstanceEnd::Retired);
    }
}

#[tokio::test]
async fn a_retired_guest_hears_that_it_is_to_stop() {
    let setup = Setup::new();
    let instance = soon(setup.sandbox("handler-p3").start()).await.unwrap();
    assert_eq!(
        text(soon(instance.call(get("/until-stop"))).await).await,
        "answered"
    );
    assert_eq!(text(soon(instance.call(get("/"))).await).await, "hello");
    instance.retire();
    assert_eq!(soon(instance.ended()).await, InstanceEnd::Retired);
    assert_eq!(setup.log.stdout(), ["stopping"]);
}

#[tokio::test]
async fn an_abandoned_call_ends_an_instance_that_has_no_other() {
    for guest in HANDLERS {
        for path in ["/spin", "/slow"] {
            let instance = soon(Setup::new().sandbox(guest).start()).await.unwrap();
            let call = tokio::time::timeout(Duration::from_millis(100), async {
                let response = instance.call(get(path)).await;
                tokio::time::sleep(Duration::from_secs(60)).await;
                response
            });
            assert!(call.await.is_err());
            assert_eq!(soon(instance.ended()).await, InstanceEnd::Killed);
        }
    }
}

#[tokio::test]
async fn a_call_that_comes_as_another_is_abandoned_is_served() {
    let instance = soon(Setup::new().sandbox("handler-p3").start())
        .await
        .unwrap();
    for count in 1..=20 {
        let slow = soon(instance.call(get("/slow"))).await.unwrap();
        let (answer, ()) = tokio::join!(instance.call(get("/counter")), async { drop(slow) });
        assert_eq!(text(answer).await, count.to_string());
    }
}

#[tokio::test]
async fn an_abandoned_call_beside_others_leaves_them_alone() {
    let instance = soon(Setup::new().sandbox("handler-p3").start())
        .await
        .unwrap();
    let other = tokio::spawn({
        let instance = instance.clone();
        async move { text(instance.call(get("/sleep/400")).await).await }
    });
    let abandoned = soon(instance.call(get("/slow"))).await.unwrap();
    drop(abandoned);
    let call = tokio::time::timeout(Duration::from_millis(50), instance.call(get("/sleep/100")));
    assert!(call.await.is_err());
    assert_eq!(soon(other).await.unwrap(), "slept");
    // All of them have come to their ends, and the instance serves on.
    assert_eq!(text(soon(instance.call(get("/"))).await).await, "hello");
}

#[tokio::test]
async fn a_killed_instance_fails_its_calls() {
    for guest in HANDLERS {
        let sandbox = Setup::new().sandbox(guest);
        let instance = soon(sandbox.start()).await.unwrap();
        let spinning = tokio::spawn({
            let instance = instance.clone();
            async move { instance.call(get("/spin")).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        instance.kill();
        assert!(matches!(
            soon(spinning).await.unwrap().unwrap_err(),
            CallError::Ended(_)
        ));
        assert_eq!(soon(instance.ended()).await, InstanceEnd::Killed);
        gone(&sandbox).await;
    }
}

#[tokio::test]
async fn dropping_the_last_handle_kills_the_instance() {
    for guest in HANDLERS {
        let sandbox = Setup::new().sandbox(guest);
        let instance = soon(sandbox.start()).await.unwrap();
        drop(instance.clone());
        assert_eq!(text(soon(instance.call(get("/"))).await).await, "hello");
        drop(instance);
        gone(&sandbox).await;
    }
}

#[test]
fn calls_come_from_any_thread() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    for guest in HANDLERS {
        let home = runtime();
        let instance = home.block_on(Setup::new().sandbox(guest).start()).unwrap();
        let caller = std::thread::spawn(move || {
            runtime().block_on(async move {
                let answer = text(soon(instance.call(post("/echo", "from afar"))).await).await;
                instance.retire();
                (answer, soon(instance.ended()).await)
            })
        });
        let ended = home.block_on(async {
            while !caller.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            caller.join().unwrap()
        });
        assert_eq!(ended, ("from afar".to_owned(), InstanceEnd::Retired));
    }
}

#[tokio::test]
async fn an_unread_body_of_a_head_request_abandons_nothing() {
    for guest in HANDLERS {
        let instance = soon(Setup::new().sandbox(guest).start()).await.unwrap();
        for count in 1..=3 {
            let mut request = get("/counter");
            *request.method_mut() = http::Method::HEAD;
            assert_eq!(
                soon(instance.call(request)).await.unwrap().status(),
                200,
                "{guest} {count}"
            );
        }
        assert_eq!(
            text(soon(instance.call(get("/counter"))).await).await,
            "4",
            "{guest}"
        );
    }
}
