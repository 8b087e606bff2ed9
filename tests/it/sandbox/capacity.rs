//! Room for instances and for code: each is bounded, and what is over a bound is told who could raise it.

use std::time::Duration;

use oarlock_sandbox::{
    Bound, CallError, Engine, EngineConfig, Full, LoadError, Program, Sandbox, StartError,
};

use super::{LONG, Setup, get, soon, text};

fn engine(config: EngineConfig) -> Engine {
    Engine::new(EngineConfig {
        max_memory: 256 << 20,
        ..config
    })
    .unwrap()
}

/// An engine with room for the code of two programs, and with a cache that it comes back from.
fn two_programs() -> (tempfile::TempDir, Engine) {
    let cache = tempfile::tempdir().unwrap();
    let engine = engine(EngineConfig {
        instances: 16,
        programs: 2,
        code_cache: Some(cache.path().join("code")),
        ..EngineConfig::default()
    });
    (cache, engine)
}

/// A component of its own: the guest's, and a custom section that says which.
fn distinct(guest: &str, number: u8) -> Vec<u8> {
    let mut wasm = std::fs::read(oarlock_tests::guest(guest)).unwrap();
    wasm.extend([0, 3, 1, b'n', number]);
    wasm
}

fn load(engine: &Engine, number: u8) -> Result<Program, LoadError> {
    engine.load(&format!("{number}.wasm"), &distinct("hello-p2", number))
}

fn sandbox(program: &Program, app: &str) -> Sandbox {
    let mut setup = Setup::new();
    setup.grant.app = app.parse().unwrap();
    setup.limits.timeout = Duration::from_millis(400);
    Sandbox::new(program, setup.grant.clone(), &setup.limits).unwrap()
}

#[tokio::test]
async fn code_that_nothing_runs_gives_way_and_comes_back() {
    let (_cache, engine) = two_programs();
    let programs: Vec<_> = (0..6).map(|n| load(&engine, n).unwrap()).collect();
    let sandboxes: Vec<_> = programs.iter().map(|it| sandbox(it, "test")).collect();
    for _ in 0..3 {
        for sandbox in &sandboxes {
            assert_eq!(
                text(soon(sandbox.call(get("/"))).await).await,
                "Hello, Oarlock"
            );
            assert!(engine.loaded_programs() <= 2);
        }
    }
    // Many at once, of programs that are not there: each is loaded once, or finds no room and says so.
    let calls = (0..60).map(|n| {
        let sandbox = sandboxes[n % sandboxes.len()].clone();
        tokio::spawn(async move { sandbox.call(get("/")).await.map(|_| ()) })
    });
    for call in calls.collect::<Vec<_>>() {
        match soon(call).await.unwrap() {
            Ok(()) | Err(CallError::Start(StartError::Full(_))) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn code_that_runs_stays_and_what_has_no_room_is_refused_by_name() {
    let (_cache, engine) = two_programs();
    let programs: Vec<_> = (0..2).map(|n| load(&engine, n).unwrap()).collect();
    let mut running = Vec::new();
    for program in &programs {
        running.push(soon(sandbox(program, "test").start()).await.unwrap());
    }
    let refused = load(&engine, 2).err().unwrap();
    assert!(
        matches!(&refused, LoadError::Full { name, limit: 2, bound: Bound::Configured } if name == "2.wasm"),
        "{refused}"
    );
    let instance = running.pop().unwrap();
    instance.kill();
    soon(instance.ended()).await;
    let limit = tokio::time::Instant::now() + LONG;
    while load(&engine, 2).is_err() {
        assert!(tokio::time::Instant::now() < limit, "its code stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let left = running.pop().unwrap();
    assert_eq!(
        text(soon(left.call(get("/"))).await).await,
        "Hello, Oarlock"
    );
}

#[tokio::test]
async fn without_a_cache_code_stays_until_its_program_goes() {
    let engine = engine(EngineConfig {
        instances: 16,
        programs: 2,
        ..EngineConfig::default()
    });
    let first = load(&engine, 0).unwrap();
    let _second = load(&engine, 1).unwrap();
    assert!(matches!(load(&engine, 2), Err(LoadError::Full { .. })));
    drop(first);
    assert!(load(&engine, 2).is_ok());
}

#[tokio::test]
async fn code_that_is_gone_from_the_cache_is_an_error_of_the_request() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("code");
    let engine = engine(EngineConfig {
        instances: 16,
        programs: 1,
        code_cache: Some(folder.clone()),
        ..EngineConfig::default()
    });
    let first = load(&engine, 0).unwrap();
    let _second = load(&engine, 1).unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "cwasm")
        {
            std::fs::remove_file(path).unwrap();
        }
    }
    match soon(sandbox(&first, "test").call(get("/"))).await {
        Err(CallError::Start(StartError::Platform(reason))) => {
            assert!(
                reason.contains("0.wasm is gone from the code cache"),
                "{reason}"
            );
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[tokio::test]
async fn the_calls_of_one_app_leave_room_for_the_others() {
    let engine = engine(EngineConfig {
        instances: 128,
        ..EngineConfig::default()
    });
    let share = engine.capacity().per_app;
    assert_eq!(share, 64);
    let wasm = std::fs::read(oarlock_tests::guest("handler-p2")).unwrap();
    let program = engine.load("web.wasm", &wasm).unwrap();
    let mut held = Vec::new();
    // Two dynos of one app have one share.
    let dynos = [(); 2].map(|()| sandbox(&program, "greedy"));
    for greedy in dynos.iter().cycle().take(share as usize) {
        held.push(soon(greedy.call(get("/slow"))).await.unwrap());
    }
    let refused = soon(sandbox(&program, "greedy").call(get("/")))
        .await
        .err()
        .unwrap();
    let full = Full::App {
        limit: share,
        bound: Bound::Configured,
    };
    assert_eq!(refused, CallError::Start(StartError::Full(full)));
    let neighbour = soon(sandbox(&program, "neighbour").call(get("/"))).await;
    assert_eq!(text(neighbour).await, "hello");
    held.clear();
    let again = soon(sandbox(&program, "greedy").call(get("/"))).await;
    assert_eq!(text(again).await, "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_burst_left_is_given_back_and_guests_go_on() {
    for guest in ["handler-p2", "handler-p3"] {
        let engine = engine(EngineConfig {
            instances: 400,
            ..EngineConfig::default()
        });
        let wasm = std::fs::read(oarlock_tests::guest(guest)).unwrap();
        let program = engine.load("web.wasm", &wasm).unwrap();
        let sandbox = sandbox(&program, "test");
        let kept = soon(sandbox.call(get("/slow"))).await.unwrap();
        let mut burst = Vec::new();
        for _ in 0..150 {
            burst.push(soon(sandbox.call(get("/slow"))).await.unwrap());
        }
        drop(burst);
        super::fresh::only(&sandbox, 1).await;
        let before = engine.unused_bytes();
        assert!(before > 0);
        for _ in 0..4 {
            engine.trim();
        }
        let after = engine.unused_bytes();
        assert!(
            after <= 4 << 20 || after < before / 2,
            "{before} -> {after}"
        );
        // The slots are as good as new ones, and what was alive never noticed.
        for _ in 0..3 {
            let calls = (0..100).map(|_| sandbox.call(get("/")));
            for answer in futures::future::join_all(calls).await {
                assert_eq!(text(answer).await, "hello");
            }
        }
        drop(kept);
    }
}
