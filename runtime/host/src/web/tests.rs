use std::collections::HashMap;
use std::future::Future;

use oarlock_sandbox::CallError;

use super::*;
use crate::router::fake;

fn dyno(name: &str, capacity: u32, core: Option<usize>) -> Arc<WebDyno> {
    fake::dyno(name, capacity, core.map(CoreId), |_| async {
        Err(CallError::Ended("a test".to_owned()))
    })
}

fn pool() -> Arc<WebPool> {
    WebPool::new(AppLog::in_memory())
}

fn limits(queue: u32, timeout_ms: u64, boot_ms: u64) -> RequestLimits {
    RequestLimits {
        queue,
        timeout: Duration::from_millis(timeout_ms),
        boot_timeout: Duration::from_millis(boot_ms),
        ..RequestLimits::default()
    }
}

async fn code(pool: &Arc<WebPool>) -> RouterCode {
    match pool.lease(None).await {
        Ok(lease) => panic!("leased {}", lease.dyno().label),
        Err(code) => code,
    }
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

#[tokio::test]
async fn who_waits_for_an_app_that_starts_is_served_by_its_first_dyno() {
    let pool = pool();
    pool.expect(limits(1, 10_000, 10_000));
    let mut waiting = std::pin::pin!(pool.lease(None));
    assert!(poll_once(waiting.as_mut()).is_pending());
    assert_eq!(
        code(&pool).await,
        RouterCode::AppStarting,
        "the queue is full"
    );
    pool.publish(
        vec![dyno("web.1", 1, None)],
        PoolState::Serving,
        limits(1, 10_000, 10_000),
    );
    let lease = waiting.await.unwrap();
    assert_eq!(&*lease.dyno().label, "web.1");
    drop(lease);
    // What is said of its start has no effect any more.
    pool.expect(limits(0, 10, 10));
    pool.give_up();
    pool.refuse_early();
    assert!(pool.lease(None).await.is_ok());
}

#[tokio::test]
async fn an_app_that_starts_too_late_or_not_at_all_has_its_codes() {
    let pool = pool();
    pool.expect(limits(1, 10_000, 50));
    assert_eq!(code(&pool).await, RouterCode::AppStarting);
    pool.expect(limits(0, 10_000, 10_000));
    assert_eq!(code(&pool).await, RouterCode::AppStarting);
    pool.expect(limits(5, 10_000, 10_000));
    for (end, expected) in [
        (
            WebPool::refuse_early as fn(&WebPool),
            RouterCode::AppStarting,
        ),
        (WebPool::give_up, RouterCode::H14),
    ] {
        let mut waiting = std::pin::pin!(code(&pool));
        assert!(poll_once(waiting.as_mut()).is_pending());
        end(&pool);
        assert_eq!(waiting.await, expected);
        assert_eq!(pool.waiting(), 0);
    }
    assert_eq!(code(&pool).await, RouterCode::H14, "nobody waits for it");
    pool.expect(limits(1, 10_000, 10));
    assert_eq!(
        code(&pool).await,
        RouterCode::AppStarting,
        "it is tried again"
    );
}

#[tokio::test]
async fn states_have_their_codes() {
    let pool = pool();
    assert_eq!(code(&pool).await, RouterCode::H14);
    pool.publish(Vec::new(), PoolState::Crashed, limits(1, 50, 50));
    assert_eq!(code(&pool).await, RouterCode::H10);
    pool.publish(Vec::new(), PoolState::Serving, limits(1, 10_000, 50));
    assert_eq!(code(&pool).await, RouterCode::H20);
    let one = dyno("web.1", 1, None);
    pool.publish(vec![one], PoolState::Serving, limits(1, 50, 10_000));
    let _held = pool.lease(None).await.unwrap();
    assert_eq!(code(&pool).await, RouterCode::H11);
    assert_eq!(pool.waiting(), 0);
    pool.publish(
        vec![dyno("web.2", 1, None)],
        PoolState::Serving,
        limits(0, 50, 50),
    );
    let _held = pool.lease(None).await.unwrap();
    assert_eq!(code(&pool).await, RouterCode::H11);
}

#[tokio::test]
async fn those_who_wait_are_told_when_the_state_changes() {
    for (state, expected) in [
        (PoolState::Crashed, RouterCode::H10),
        (PoolState::NoDynos, RouterCode::H14),
    ] {
        let pool = pool();
        pool.publish(Vec::new(), PoolState::Serving, limits(1, 60_000, 60_000));
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { code(&pool).await }
        });
        while pool.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        pool.publish(Vec::new(), state, limits(1, 60_000, 60_000));
        assert_eq!(waiting.await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_request_that_waits_for_the_boot_is_served_by_it() {
    let pool = pool();
    pool.publish(Vec::new(), PoolState::Serving, limits(1, 20, 60_000));
    let mut waiting = std::pin::pin!(pool.lease(None));
    assert!(poll_once(waiting.as_mut()).is_pending());
    // Longer than `timeout`, which does not count while nothing is ready.
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(poll_once(waiting.as_mut()).is_pending());
    pool.publish(
        vec![dyno("web.1", 1, None)],
        PoolState::Serving,
        limits(1, 20, 60_000),
    );
    assert_eq!(&*waiting.await.unwrap().dyno().label, "web.1");
}

#[tokio::test]
async fn the_queue_is_first_come_first_served_and_bounded() {
    let pool = pool();
    pool.publish(
        vec![dyno("web.1", 1, None)],
        PoolState::Serving,
        limits(2, 60_000, 60_000),
    );
    let held = pool.lease(None).await.unwrap();
    let mut first = Box::pin(pool.lease(None));
    let mut second = Box::pin(pool.lease(None));
    assert!(poll_once(first.as_mut()).is_pending());
    assert!(poll_once(second.as_mut()).is_pending());
    assert_eq!(code(&pool).await, RouterCode::H11);
    drop(held);
    // Nobody overtakes.
    let mut third = Box::pin(pool.lease(None));
    assert!(poll_once(third.as_mut()).is_pending());
    assert!(poll_once(second.as_mut()).is_pending());
    let first = first.await.unwrap();
    drop(first);
    assert!(poll_once(third.as_mut()).is_pending());
    drop(second.await.unwrap());
    drop(third.await.unwrap());
    assert_eq!(pool.waiting(), 0);
}

#[tokio::test]
async fn a_waiter_that_goes_away_leaves_no_trace() {
    let pool = pool();
    let one = dyno("web.1", 1, None);
    pool.publish(
        vec![one.clone()],
        PoolState::Serving,
        limits(10, 60_000, 60_000),
    );
    let held = pool.lease(None).await.unwrap();
    let mut gone = Box::pin(pool.lease(None));
    let mut gone_served = Box::pin(pool.lease(None));
    let mut stays = Box::pin(pool.lease(None));
    assert!(poll_once(gone.as_mut()).is_pending());
    assert!(poll_once(gone_served.as_mut()).is_pending());
    assert!(poll_once(stays.as_mut()).is_pending());
    drop(gone);
    assert_eq!(pool.waiting(), 2);
    drop(held);
    // It has the slot without knowing it, and goes.
    assert_eq!(pool.waiting(), 1);
    drop(gone_served);
    drop(stays.await.unwrap());
    assert_eq!((one.in_flight(), pool.waiting()), (0, 0));
    assert_eq!(one.requests(), 3);
}

#[tokio::test]
async fn own_core_first_then_another() {
    let pool = pool();
    let dynos = vec![dyno("web.1", 2, Some(0)), dyno("web.2", 2, Some(1))];
    pool.publish(dynos, PoolState::Serving, limits(1, 50, 50));
    let mut leases = Vec::new();
    for expected in ["web.1", "web.1", "web.2", "web.2"] {
        let lease = pool.lease(Some(CoreId(0))).await.unwrap();
        assert_eq!(&*lease.dyno().label, expected);
        leases.push(lease);
    }
    leases.clear();
    // A core that has none of its own.
    assert!(pool.lease(Some(CoreId(7))).await.is_ok());
}

#[tokio::test]
async fn load_is_spread() {
    let pool = pool();
    let dynos: Vec<_> = (1..=4)
        .map(|n| dyno(&format!("web.{n}"), 1_000, None))
        .collect();
    pool.publish(dynos.clone(), PoolState::Serving, limits(1, 50, 50));
    let mut leases = Vec::new();
    for _ in 0..400 {
        leases.push(pool.lease(Some(CoreId(0))).await.unwrap());
    }
    for dyno in &dynos {
        assert!(
            (70..=130).contains(&dyno.in_flight()),
            "{}: {}",
            dyno.label,
            dyno.in_flight()
        );
    }
}

#[tokio::test]
async fn a_dyno_that_left_the_pool_drains_and_is_never_leased_again() {
    let pool = pool();
    let (old, new) = (dyno("web.1", 5, None), dyno("web.1", 5, None));
    pool.publish(vec![old.clone()], PoolState::Serving, limits(1, 50, 50));
    let lease = pool.lease(None).await.unwrap();
    pool.publish(vec![new.clone()], PoolState::Serving, limits(1, 50, 50));
    let mut drained = Box::pin(old.drained());
    assert!(poll_once(drained.as_mut()).is_pending());
    assert!(!old.take());
    drop(lease);
    drained.await;
    new.drained().await;
    // Back again: it is open again.
    pool.publish(vec![old.clone()], PoolState::Serving, limits(1, 50, 50));
    assert!(pool.lease(None).await.is_ok());
}

#[test]
fn many_threads_never_exceed_a_capacity_nor_lose_a_wake_up() {
    let pool = pool();
    let dynos = vec![
        dyno("web.1", 2, Some(0)),
        dyno("web.2", 1, Some(1)),
        dyno("web.3", 2, None),
    ];
    let capacity: HashMap<Box<str>, u32> = dynos
        .iter()
        .map(|dyno| (dyno.label.clone(), dyno.capacity))
        .collect();
    pool.publish(
        dynos.clone(),
        PoolState::Serving,
        limits(10_000, 60_000, 60_000),
    );
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (pool, capacity) = (pool.clone(), &capacity);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let work = (0..16).map(|task| one_client(&pool, capacity, thread, task));
                    let all = futures::future::join_all(work);
                    tokio::time::timeout(Duration::from_secs(60), all)
                        .await
                        .expect("somebody was not woken");
                });
            });
        }
        // Meanwhile lists come and go.
        for n in 0..200 {
            let shown = if n % 2 == 0 {
                vec![dynos[n % 3].clone()]
            } else {
                dynos.clone()
            };
            pool.publish(shown, PoolState::Serving, limits(10_000, 60_000, 60_000));
            std::thread::yield_now();
        }
        pool.publish(
            dynos.clone(),
            PoolState::Serving,
            limits(10_000, 60_000, 60_000),
        );
    });
    assert_eq!(pool.waiting(), 0);
    assert!(dynos.iter().all(|dyno| dyno.in_flight() == 0));
}

async fn one_client(
    pool: &Arc<WebPool>,
    capacity: &HashMap<Box<str>, u32>,
    thread: usize,
    task: usize,
) {
    for turn in 0..100 {
        let lease = pool.lease(Some(CoreId(thread % 2)));
        // Some go away while they wait.
        let lease = if (task + turn).is_multiple_of(5) {
            match tokio::time::timeout(Duration::from_micros(50), lease).await {
                Ok(lease) => lease.unwrap(),
                Err(_) => continue,
            }
        } else {
            lease.await.unwrap()
        };
        let dyno = lease.dyno();
        assert!((1..=capacity[&dyno.label]).contains(&dyno.in_flight()));
        tokio::task::yield_now().await;
    }
}
