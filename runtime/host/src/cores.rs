//! The host's own threads: one current-thread tokio runtime per core, on which guests run.
//!
//! A request is accepted, run and answered on one of them; nothing is stolen by another. They are
//! not for blocking work: each has a small pool of blocking threads for file work and look-ups.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

/// Threads for blocking work per core: enough for file work, too few to let one core's guests fill the machine.
const BLOCKING_THREADS: usize = 32;
/// One part in this many of the threads that the process may have is for blocking work of the cores.
const THREADS_SHARE: u64 = 4;

/// How often something is given to the threads for blocking work. It is less than tokio keeps an idle one: so there is
/// always one, and on a machine that allows no more threads blocking work waits for it instead of panicking.
const BLOCKING_TURN: Duration = Duration::from_secs(5);

/// How long a core's blocking work may go on after its runtime has stopped.
const BLOCKING_GRACE: Duration = Duration::from_secs(2);

/// Which of the threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CoreId(pub(crate) usize);

/// The threads. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cores {
    pub(crate) inner: Arc<CoresInner>,
}

pub(crate) struct CoresInner {
    cores: Vec<Handle>,
    next: AtomicUsize,
    stop: CancellationToken,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Cores {
    /// Starts `count` threads (at least one). May be called on any thread.
    pub(crate) fn start(count: usize) -> std::io::Result<Self> {
        let stop = CancellationToken::new();
        let mut cores = Vec::new();
        let mut threads = Vec::new();
        let blocking_threads = blocking_threads(count, oarlock_sandbox::threads());
        for index in 0..count.max(1) {
            let started = start_core(index, blocking_threads, stop.clone());
            let (handle, thread) = match started {
                Ok(started) => started,
                Err(error) => {
                    // Those already started end with the token.
                    stop.cancel();
                    return Err(error);
                }
            };
            cores.push(handle);
            threads.push(thread);
        }
        let inner = CoresInner {
            cores,
            next: AtomicUsize::new(0),
            stop,
            threads: Mutex::new(threads),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.inner.cores.len()
    }

    /// The next core for a dyno that needs one: round robin.
    pub(crate) fn assign(&self) -> CoreId {
        CoreId(self.inner.next.fetch_add(1, Ordering::Relaxed) % self.count())
    }

    /// Spawns on a core's runtime, from any thread. After [`Cores::stop`] the task is dropped at
    /// once and its handle says that it was cancelled. A core that does not exist wraps around.
    pub(crate) fn spawn<F>(&self, core: CoreId, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        self.handle(core).spawn(task)
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "there is at least one core, and the index is taken modulo their number"
    )]
    fn handle(&self, core: CoreId) -> &Handle {
        &self.inner.cores[core.0 % self.inner.cores.len()]
    }

    /// Ends the threads: all tasks are dropped on their own core, then the threads are joined. Blocks
    /// for as long as a task's poll or drop takes; from one of the threads itself, that one is not
    /// joined. May be called again.
    pub(crate) fn stop(&self) {
        self.inner.stop.cancel();
        let threads = std::mem::take(
            &mut *self
                .inner
                .threads
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let this = thread::current().id();
        for thread in threads {
            if thread.thread().id() != this && thread.join().is_err() {
                tracing::error!("a core's thread panicked");
            }
        }
    }
}

impl Drop for CoresInner {
    /// Without [`Cores::stop`] the threads still end, but nobody waits for them: the last clone may
    /// be dropped on one of them.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// How many of each core's threads the process's limit has room for.
fn blocking_threads(cores: usize, limit: Option<u64>) -> usize {
    let share = limit.map_or(u64::MAX, |limit| {
        limit / THREADS_SHARE / cores.max(1) as u64
    });
    usize::try_from(share)
        .unwrap_or(usize::MAX)
        .clamp(1, BLOCKING_THREADS)
}

fn start_core(
    index: usize,
    blocking_threads: usize,
    stop: CancellationToken,
) -> std::io::Result<(Handle, thread::JoinHandle<()>)> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(blocking_threads)
        .thread_name(format!("oarlock-io-{index}"))
        .build()?;
    let handle = runtime.handle().clone();
    let thread = thread::Builder::new()
        .name(format!("oarlock-core-{index}"))
        .spawn(move || run_core(runtime, &stop))?;
    Ok((handle, thread))
}

fn run_core(runtime: Runtime, stop: &CancellationToken) {
    runtime.block_on(async {
        let mut turn = tokio::time::interval(BLOCKING_TURN);
        while stop.run_until_cancelled(turn.tick()).await.is_some() {
            drop(tokio::task::spawn_blocking(|| ()));
        }
    });
    // Drops the tasks here, on their own thread; blocking work that hangs must not hold the host.
    runtime.shutdown_timeout(BLOCKING_GRACE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_run_on_the_core_they_were_given_to() {
        let cores = Cores::start(3).unwrap();
        assert_eq!(cores.count(), 3);
        let runtime = Builder::new_current_thread().build().unwrap();
        for index in 0..3 {
            let task = cores.spawn(CoreId(index), async {
                thread::current().name().map(str::to_owned)
            });
            let name = runtime.block_on(task).unwrap();
            assert_eq!(name, Some(format!("oarlock-core-{index}")));
        }
        cores.stop();
    }

    #[test]
    fn blocking_threads_fit_the_limit_of_the_process() {
        assert_eq!(blocking_threads(2, None), 32);
        assert_eq!(blocking_threads(2, Some(4_096)), 32);
        assert_eq!(blocking_threads(4, Some(64)), 4);
        assert_eq!(blocking_threads(64, Some(64)), 1);
    }

    #[test]
    fn dynos_are_dealt_round_robin() {
        let cores = Cores::start(2).unwrap();
        let dealt: Vec<usize> = (0..5).map(|_| cores.assign().0).collect();
        assert_eq!(dealt, [0, 1, 0, 1, 0]);
        cores.stop();
    }

    #[test]
    fn stop_drops_the_tasks_and_joins() {
        struct Flag(Arc<AtomicUsize>);
        impl Drop for Flag {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let cores = Cores::start(2).unwrap();
        let dropped = Arc::new(AtomicUsize::new(0));
        for index in 0..2 {
            let flag = Flag(dropped.clone());
            cores.spawn(CoreId(index), async move {
                let _flag = flag;
                std::future::pending::<()>().await;
            });
        }
        cores.stop();
        assert_eq!(dropped.load(Ordering::SeqCst), 2);
        cores.stop();
        let late = cores.spawn(CoreId(0), async {});
        let runtime = Builder::new_current_thread().build().unwrap();
        assert!(runtime.block_on(late).unwrap_err().is_cancelled());
    }
}
