//! The epoch ticker: one OS thread for both of a host's engines, which interrupts running guests so that others on
//! their core may run. A thread and not a task: a task would wait behind the guests it is to interrupt.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the running guests of an engine were interrupted so far: a machine that is busy lets its ticker wait, too.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ticks(Arc<AtomicU64>);

impl Ticks {
    pub(crate) fn so_far(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one.
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ticks until it is dropped; dropping it joins the thread.
pub(crate) struct Ticker {
    pub(crate) ticks: Ticks,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Raises the engines' epochs every `tick`.
    pub(crate) fn start(engines: [&wasmtime::Engine; 2], tick: Duration) -> std::io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        // Weak, so that the thread never keeps the engines alive.
        let engines = engines.map(wasmtime::Engine::weak);
        let ticks = Ticks::default();
        let counted = ticks.clone();
        let thread = std::thread::Builder::new()
            .name("oarlock-ticker".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
                    counted.count();
                    for engine in &engines {
                        match engine.upgrade() {
                            Some(engine) => engine.increment_epoch(),
                            None => return,
                        }
                    }
                }
            })?;
        Ok(Self {
            ticks,
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
