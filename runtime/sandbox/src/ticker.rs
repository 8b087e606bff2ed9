//! The epoch ticker: one OS thread for both of a host's engines, which interrupts running guests so that others on
//! their core may run. A thread and not a task: a task would wait behind the guests it is to interrupt.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often any ticker of this process has ticked.
static TICKS: AtomicU64 = AtomicU64::new(0);

/// How often running guests were interrupted so far: a machine that is busy lets a ticker wait, too.
pub(crate) fn ticks() -> u64 {
    TICKS.load(Ordering::Relaxed)
}

/// Counts one.
pub(crate) fn count() {
    TICKS.fetch_add(1, Ordering::Relaxed);
}

/// Ticks until it is dropped; dropping it joins the thread.
pub(crate) struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Raises the engines' epochs every `tick`.
    pub(crate) fn start(engines: [&wasmtime::Engine; 2], tick: Duration) -> std::io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        // Weak, so that the thread never keeps the engines alive.
        let engines = engines.map(wasmtime::Engine::weak);
        let thread = std::thread::Builder::new()
            .name("oarlock-ticker".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
                    count();
                    for engine in &engines {
                        match engine.upgrade() {
                            Some(engine) => engine.increment_epoch(),
                            None => return,
                        }
                    }
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        // Wakes the thread at once, instead of at its next tick.
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the epoch ticker panicked");
        }
    }
}
