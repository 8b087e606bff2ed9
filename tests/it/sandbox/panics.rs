//! A host function that panics ends the instance that called it, and nothing else.

use std::sync::OnceLock;
use std::time::Duration;

use oarlock_sandbox::wasmtime::component::{Accessor, Resource};
use oarlock_sandbox::wasmtime::{Result, StoreContextMut};
use oarlock_sandbox::{
    CallError, Engine, EngineConfig, Exit, Guest, Hold, HostFunctions, InstanceEnd, LiveCallError,
    Output, Program, Sandbox, Stdin,
};
use wasmtime_wasi::p2::DynPollable;

use super::{Setup, get, soon, text};

const CLOCK_2: &str = "wasi:clocks/monotonic-clock@0.2.12";
const CLOCK_3: &str = "wasi:clocks/monotonic-clock@0.3.0";

/// Sleeping panics in these engines: at once, or when the guest has waited.
fn engine(late: bool) -> &'static Engine {
    static ENGINES: [OnceLock<Engine>; 2] = [OnceLock::new(), OnceLock::new()];
    ENGINES[usize::from(late)].get_or_init(|| {
        let functions = HostFunctions::new().link(move |linker| {
            linker.allow_shadowing(true);
            linker.instance(CLOCK_2)?.func_wrap_async(
                "subscribe-duration",
                move |_: StoreContextMut<'_, Guest>, (_,): (u64,)| {
                    Box::new(async move {
                        if late {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        panic!("a secret of the host's");
                        #[expect(unreachable_code, reason = "it is the function's type")]
                        Ok::<(Resource<DynPollable>,), _>(unreachable!())
                    })
                },
            )?;
            // Only one of the two engines has this.
            let concurrent = linker.instance(CLOCK_3)?.func_wrap_concurrent(
                "wait-for",
                move |_: &Accessor<Guest>, (_,): (u64,)| {
                    Box::pin(async move {
                        if late {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        panic!("a secret of the host's");
                        #[expect(unreachable_code, reason = "it is the function's type")]
                        Result::Ok(())
                    })
                },
            );
            drop(concurrent);
            linker.allow_shadowing(false);
            Ok(())
        });
        Engine::new(EngineConfig {
            functions,
            ..EngineConfig::default()
        })
        .unwrap()
    })
}

fn program(late: bool, guest: &str) -> Program {
    let wasm = std::fs::read(oarlock_tests::guest(guest)).unwrap();
    engine(late).load(guest, &wasm).unwrap()
}

fn sandbox(setup: &Setup, late: bool, guest: &str) -> Sandbox {
    Sandbox::new(&program(late, guest), setup.grant.clone(), &setup.limits).unwrap()
}

fn is_of_the_host(text: &str) -> bool {
    text.contains("the host failed") && !text.contains("secret")
}

const GUESTS: [(&str, bool); 4] = [
    ("handler-p2", false),
    ("handler-p2", true),
    ("handler-p3", false),
    ("handler-p3", true),
];

#[tokio::test]
async fn in_a_fresh_instance() {
    for (guest, late) in GUESTS {
        let setup = Setup::new();
        let sandbox = sandbox(&setup, late, guest);
        let neighbour = soon(sandbox.start()).await.unwrap();
        for _ in 0..3 {
            let error = soon(sandbox.call(get("/sleep/1"))).await.unwrap_err();
            let CallError::Trap(said) = error else {
                panic!("{guest}, {late}: {error:?}")
            };
            assert!(is_of_the_host(&said), "{said}");
            assert_eq!(text(soon(sandbox.call(get("/"))).await).await, "hello");
        }
        assert!(
            setup
                .log
                .remarks
                .lock()
                .unwrap()
                .iter()
                .any(|remark| is_of_the_host(remark))
        );
        assert_eq!(text(soon(neighbour.call(get("/counter"))).await).await, "1");
        assert!(!neighbour.has_ended());
        drop(neighbour);
        super::fresh::gone(&sandbox).await;
    }
}

#[tokio::test]
async fn in_an_instance_that_serves_many_calls() {
    for (guest, late) in GUESTS {
        let sandbox = sandbox(&Setup::new(), late, guest);
        let neighbour = soon(sandbox.start()).await.unwrap();
        let instance = soon(sandbox.start()).await.unwrap();
        assert_eq!(text(soon(instance.call(get("/counter"))).await).await, "1");
        let error = soon(instance.call(get("/sleep/1"))).await.unwrap_err();
        assert!(
            matches!(&error, CallError::Trap(said) if is_of_the_host(said)),
            "{guest}, {late}: {error:?}"
        );
        let end = soon(instance.ended()).await;
        assert!(
            matches!(&end, InstanceEnd::Trap(said) if is_of_the_host(said)),
            "{guest}, {late}: {end:?}"
        );
        // It takes no more, and says so in a way that lets another be asked.
        let next = soon(instance.try_call(get("/"), Hold::NONE)).await;
        assert!(matches!(next, Err(LiveCallError::Unserved(_))));
        assert_eq!(text(soon(neighbour.call(get("/counter"))).await).await, "1");
        let another = soon(sandbox.start()).await.unwrap();
        assert_eq!(text(soon(another.call(get("/counter"))).await).await, "1");
        drop((instance, neighbour, another));
        super::fresh::gone(&sandbox).await;
    }
}

#[tokio::test]
async fn in_a_worker() {
    for (guest, args) in [("probe-p2", ["sleep", "1"]), ("probe-p3", ["sleep", "1"])] {
        for late in [false, true] {
            let setup = Setup::new().args(&args);
            let sandbox = sandbox(&setup, late, guest);
            let run = sandbox.run(Stdin::Ended, Output::Log, &[]);
            let exit = soon(run.wait()).await;
            assert!(
                matches!(&exit, Exit::Trap(said) if is_of_the_host(said)),
                "{guest}, {late}: {exit:?}"
            );
            super::fresh::gone(&sandbox).await;
        }
    }
}
