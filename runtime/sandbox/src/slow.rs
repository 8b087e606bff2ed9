//! Threads of low priority, for guests that cannot be interrupted in time (`pace.rs` says who that is).
//!
//! There is one for each core, each with a runtime of its own, made when the first is needed. The kernel takes the
//! processor from them whenever a core's own thread has something to do, whatever instruction they are in. On an idle
//! machine they are as fast as any. Where no thread can be made, guests stay where they are.

use std::future::poll_fn;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread::JoinHandle as Thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::meter::Metered;
use crate::sandbox::SandboxInner;

/// Their `nice` value: beside a thread of the usual priority each gets about a tenth of a processor.
const NICE: i32 = 10;

/// Threads for blocking work for each of them.
const BLOCKING_THREADS: usize = 8;
/// How long blocking work may go on when they end.
const BLOCKING_GRACE: Duration = Duration::from_secs(2);

/// The threads, made when they are first needed. Dropping this ends them, and what runs there.
#[derive(Default)]
pub(crate) struct SlowThreads {
    threads: OnceLock<Vec<SlowThread>>,
    next: AtomicUsize,
}

struct SlowThread {
    runtime: Handle,
    stop: CancellationToken,
    thread: Option<Thread<()>>,
}

impl SlowThreads {
    /// The next of the threads; `None`: there are none to be had.
    fn next(&self) -> Option<&Handle> {
        let threads = self.threads.get_or_init(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            (0..cores).map_while(SlowThread::start).collect()
        });
        let turn = self.next.fetch_add(1, Relaxed);
        let index = turn.checked_rem(threads.len())?;
        threads.get(index).map(|thread| &thread.runtime)
    }
}

impl SlowThread {
    fn start(index: usize) -> Option<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build();
        let runtime = runtime.inspect_err(failed).ok()?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name(format!("oarlock-slow-{index}"))
            .spawn(move || {
                // Of this thread alone, though the name says otherwise.
                if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                    tracing::warn!(%error, "a thread of low priority keeps the usual one");
                }
                runtime.block_on(stopped.cancelled());
                runtime.shutdown_timeout(BLOCKING_GRACE);
            });
        Some(Self {
            runtime: handle,
            stop,
            thread: Some(thread.inspect_err(failed).ok()?),
        })
    }
}

fn failed(error: &std::io::Error) {
    tracing::warn!(%error, "a thread for guests that cannot be interrupted in time could not be made");
}

impl Drop for SlowThread {
    fn drop(&mut self) {
        self.stop.cancel();
        let Some(thread) = self.thread.take() else {
            return;
        };
        // The last guest may be dropped on its own thread, and the engine with it.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("a thread of low priority panicked");
        }
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A guest's future, charged to its dyno, which runs where it is polled, or on a slow thread while its dyno is slow.
pub(crate) struct Guest<T> {
    at: At<T>,
    sandbox: Arc<SandboxInner>,
}

enum At<T> {
    Here(Boxed<T>),
    Slow(AbortOnDrop<Away<T>>),
    /// Between the two, or at its end.
    Nowhere,
}

/// How a guest comes back from a slow thread.
enum Away<T> {
    Done(T),
    Back(Boxed<T>),
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T: Send + 'static> Guest<T> {
    pub(crate) fn new(
        guest: impl Future<Output = T> + Send + 'static,
        sandbox: Arc<SandboxInner>,
    ) -> Self {
        let guest = Metered::new(guest, sandbox.meter.clone());
        Self {
            at: At::Here(Box::pin(guest)),
            sandbox,
        }
    }

    /// Hands the guest to a slow thread; if there is none, it comes back.
    fn leave(&self, mut guest: Boxed<T>) -> Result<AbortOnDrop<Away<T>>, Boxed<T>> {
        let Some(runtime) = self.sandbox.program.engine().inner.slow.next() else {
            return Err(guest);
        };
        if self.sandbox.meter.pace.is_untold() {
            self.sandbox.remark(
                "The component computes for long without a point at which it can be interrupted (memory.fill and \
                 memory.copy of many megabytes do); it goes on with low priority",
            );
        }
        let meter = self.sandbox.meter.clone();
        let away = async move {
            let done = poll_fn(|cx| {
                if !meter.pace.is_slow() {
                    return Poll::Ready(None);
                }
                guest.as_mut().poll(cx).map(Some)
            })
            .await;
            done.map_or_else(|| Away::Back(guest), Away::Done)
        };
        Ok(AbortOnDrop(runtime.spawn(away)))
    }
}

impl<T: Send + 'static> Future for Guest<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        loop {
            this.at = match std::mem::replace(&mut this.at, At::Nowhere) {
                At::Here(guest) => {
                    let is_slow = this.sandbox.meter.pace.is_slow();
                    let moved = if is_slow {
                        this.leave(guest)
                    } else {
                        Err(guest)
                    };
                    match moved {
                        Ok(away) => At::Slow(away),
                        Err(mut guest) => {
                            let polled = guest.as_mut().poll(cx);
                            this.at = At::Here(guest);
                            return polled;
                        }
                    }
                }
                At::Slow(mut away) => match Pin::new(&mut away.0).poll(cx) {
                    Poll::Pending => {
                        this.at = At::Slow(away);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(Away::Done(done))) => return Poll::Ready(done),
                    Poll::Ready(Ok(Away::Back(guest))) => At::Here(guest),
                    Poll::Ready(Err(error)) => match error.try_into_panic() {
                        Ok(panic) => resume_unwind(panic),
                        // The threads end only with the engine, which the guest holds: it was ended with them.
                        Err(_cancelled) => return Poll::Pending,
                    },
                },
                At::Nowhere => return Poll::Pending,
            };
        }
    }
}
