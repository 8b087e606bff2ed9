//! The thread that writes the logs' files, and tells their followers that there is something to read: whoever
//! writes a line wakes nobody but this thread, and that once per [`GATHER`] at most.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::file::IDLE;
use super::{Inner, lock};

/// How long lines are gathered before they are written, unless there are many.
const GATHER: Duration = Duration::from_millis(50);

pub(super) struct Writer {
    logs: Mutex<Vec<Arc<Inner>>>,
    /// There is something to write.
    dirty: AtomicBool,
    /// There is much to write.
    hurry: AtomicBool,
    stopping: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Set before the first log can be registered.
    wake: std::sync::OnceLock<Thread>,
}

impl Writer {
    pub(super) fn start() -> std::io::Result<Arc<Self>> {
        let writer = Arc::new(Self {
            logs: Mutex::new(Vec::new()),
            dirty: AtomicBool::new(false),
            hurry: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            thread: Mutex::new(None),
            wake: std::sync::OnceLock::new(),
        });
        let own = writer.clone();
        let thread = thread::Builder::new()
            .name("oarlock-logs".to_owned())
            .spawn(move || own.run())?;
        let _ = writer.wake.set(thread.thread().clone());
        *lock(&writer.thread) = Some(thread);
        Ok(writer)
    }

    pub(super) fn register(&self, log: Arc<Inner>) {
        lock(&self.logs).push(log);
    }

    pub(super) fn forget(&self, log: &Arc<Inner>) {
        lock(&self.logs).retain(|known| !Arc::ptr_eq(known, log));
    }

    /// A line was written. Two loads on the usual path: a wake-up happens once per [`GATHER`] at most.
    pub(super) fn signal(&self, hurry: bool) {
        let news = !self.dirty.load(Ordering::SeqCst) && !self.dirty.swap(true, Ordering::SeqCst);
        let hurried = hurry
            && !self.hurry.load(Ordering::Relaxed)
            && !self.hurry.swap(true, Ordering::SeqCst);
        if news || hurried {
            self.unpark();
        }
    }

    fn unpark(&self) {
        if let Some(thread) = self.wake.get() {
            thread.unpark();
        }
    }

    /// Writes what is left, closes all logs and joins the thread.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.unpark();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the log writer's thread panicked");
        }
        for log in std::mem::take(&mut *lock(&self.logs)) {
            log.close();
        }
    }

    fn run(&self) {
        // When files that nobody writes to are looked for; `None`: none is open.
        let mut look: Option<Instant> = None;
        loop {
            while !self.dirty.load(Ordering::SeqCst) {
                if self.stopping.load(Ordering::SeqCst) {
                    return;
                }
                match look {
                    None => thread::park(),
                    Some(at) => thread::park_timeout(at.saturating_duration_since(Instant::now())),
                }
                look = self.release(look);
            }
            // A line after a silence is shown at once; those that come with it, together.
            self.each(Inner::tell);
            self.gather();
            // Cleared before the rings are read: a line written after that is a new signal.
            self.hurry.store(false, Ordering::SeqCst);
            self.dirty.store(false, Ordering::SeqCst);
            self.each(|log| {
                log.save();
                log.tell();
            });
            look = self.release(look.or_else(|| Some(Instant::now() + IDLE)));
        }
    }

    /// Lets go of the files that were not written for a while, if it is time to; when it is time again.
    fn release(&self, look: Option<Instant>) -> Option<Instant> {
        let now = Instant::now();
        if look? > now {
            return look;
        }
        let logs = lock(&self.logs).clone();
        let open = logs.iter().filter(|log| log.release()).count();
        (open > 0).then(|| now + IDLE)
    }

    fn each(&self, what: impl Fn(&Inner)) {
        let logs = lock(&self.logs).clone();
        for log in &logs {
            what(log);
        }
    }

    fn gather(&self) {
        let until = Instant::now() + GATHER;
        while !self.hurry.load(Ordering::SeqCst) && !self.stopping.load(Ordering::SeqCst) {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return;
            }
            thread::park_timeout(rest);
        }
    }
}
