//! Runs futures on the one thread that a component has: a root and what it spawned. When none can go
//! on, it parks in `wasi:io/poll`, through `reactor`.
//!
//! It has no bound of its own: a task is memory, which the dyno's limit bounds.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::reactor;

/// After so many rounds in a row in which something could go on, the pollables are looked at: a task
/// that wakes itself keeps nobody else from hearing of their I/O.
const ROUNDS: u32 = 16;

/// All that is left waits for something that nobody does any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stuck;

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it waits for something that no task and no I/O will ever do")
    }
}

impl std::error::Error for Stuck {}

type Task = Pin<Box<dyn Future<Output = ()>>>;

thread_local! {
    static TASKS: RefCell<BTreeMap<u64, Task>> = const { RefCell::new(BTreeMap::new()) };
    static NEXT: Cell<u64> = const { Cell::new(0) };
    /// `drain`, which wants to know that a task has ended.
    static ON_END: Cell<Option<Waker>> = const { Cell::new(None) };
}

/// Who has been woken, in order, each at most once. A waker may be sent to another thread by its type,
/// so this is a mutex, though there is no other thread.
static WOKEN: Mutex<VecDeque<Arc<Signal>>> = Mutex::new(VecDeque::new());

fn woken() -> MutexGuard<'static, VecDeque<Arc<Signal>>> {
    WOKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes a task, or the root, which has no number.
struct Signal {
    task: Option<u64>,
    queued: AtomicBool,
}

impl Signal {
    fn new(task: Option<u64>) -> Arc<Signal> {
        Arc::new(Signal {
            task,
            queued: AtomicBool::new(false),
        })
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            woken().push_back(self);
        }
    }
}

/// Runs `future` beside the root, for as long as that runs or [`drain`] does.
pub(crate) fn spawn(future: impl Future<Output = ()> + 'static) {
    let number = NEXT.get();
    NEXT.set(number + 1);
    TASKS.with_borrow_mut(|tasks| tasks.insert(number, Box::pin(future)));
    Signal::new(Some(number)).wake();
}

/// Runs `root` to its end, and beside it whatever was spawned.
///
/// # Errors
/// [`Stuck`]: it would never end.
pub(crate) fn run<T>(root: impl Future<Output = T>) -> Result<T, Stuck> {
    let mut root = pin!(root);
    let signal = Signal::new(None);
    signal.clone().wake();
    let waker = Waker::from(signal.clone());
    let mut rounds = 0;
    loop {
        // Only those that are woken now: what they wake is for the next round.
        let round = woken().len();
        for _ in 0..round {
            let Some(next) = woken().pop_front() else {
                break;
            };
            next.queued.store(false, Ordering::Relaxed);
            if next.task.is_some() {
                step(next);
            } else if Arc::ptr_eq(&next, &signal)
                && let Poll::Ready(output) = root.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return Ok(output);
            }
        }
        rounds += 1;
        if woken().is_empty() {
            if !reactor::park() {
                return Err(Stuck);
            }
            rounds = 0;
        } else if rounds == ROUNDS {
            reactor::look();
            rounds = 0;
        }
    }
}

/// Runs what was spawned until all of it is done. What never would be is dropped.
///
/// # Errors
/// [`Stuck`]: some of it was dropped.
pub(crate) fn drain() -> Result<(), Stuck> {
    let done = run(std::future::poll_fn(|cx| {
        if TASKS.with_borrow(BTreeMap::is_empty) {
            return Poll::Ready(());
        }
        ON_END.set(Some(cx.waker().clone()));
        Poll::Pending
    }));
    if done.is_err() {
        // Not within the borrow: what is dropped here may spawn.
        let left = TASKS.take();
        drop(left);
    }
    done
}

fn step(signal: Arc<Signal>) {
    // It is taken out meanwhile, because it may spawn others. One that has ended may still be woken.
    let Some(number) = signal.task else { return };
    let Some(mut task) = TASKS.with_borrow_mut(|tasks| tasks.remove(&number)) else {
        return;
    };
    let waker = Waker::from(signal);
    if task
        .as_mut()
        .poll(&mut Context::from_waker(&waker))
        .is_pending()
    {
        TASKS.with_borrow_mut(|tasks| tasks.insert(number, task));
    } else if let Some(waker) = ON_END.take() {
        waker.wake();
    }
}
