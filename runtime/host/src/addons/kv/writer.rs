//! The one thread that writes to a kv add-on. Writes that wait while it commits share the next
//! commit, and so its flush to the disk: a hundred dynos that write at once cost a few flushes, not
//! a hundred. A write is answered only when its commit is durable.
//!
//! Bounded: 256 writes and 64 MiB wait at most; what finds no place within 30 seconds is refused and
//! has changed nothing. A write that was taken is not given up, since it may happen: it is waited for.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use oarlock_sandbox::KvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::database::{Database, DbError, guarded};
use super::tables::{Done, Op};

/// Writes in the queue, and in one commit.
const QUEUE: usize = 256;
/// Bytes of keys and values in the queue.
const QUEUE_BYTES: u32 = 64 << 20;
/// How long a write waits for a place in the queue.
pub(super) const WAIT: Duration = Duration::from_secs(30);

/// A write on its way.
pub(super) struct Request {
    op: Op,
    /// The size of the add-on, as the release that writes has it.
    size: u64,
    answer: oneshot::Sender<Result<Done, KvError>>,
    /// Its bytes' place in the queue.
    _place: Option<OwnedSemaphorePermit>,
}

/// What the thread and its callers share.
pub(super) struct OpenDatabase {
    pub(super) addon: String,
    pub(super) database: Database,
    /// A commit failed: the database takes no more writes and is to be opened anew.
    pub(super) broken: AtomicBool,
    pub(super) commits: AtomicU64,
}

/// The thread, from its callers' side.
pub(super) struct Writer {
    shared: Arc<OpenDatabase>,
    queue: Mutex<Option<mpsc::Sender<Request>>>,
    bytes: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(shared: Arc<OpenDatabase>) -> io::Result<Self> {
        let (queue, requests) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name(format!("kv-{}", shared.addon))
            .spawn({
                let shared = Arc::clone(&shared);
                move || write_all(&shared, requests)
            })?;
        Ok(Self {
            shared,
            queue: Mutex::new(Some(queue)),
            bytes: Arc::new(Semaphore::new(QUEUE_BYTES as usize)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Hands a write of `bytes` to an add-on of this `size` over and waits until it is durable.
    pub(super) async fn write(&self, op: Op, size: u64, bytes: usize) -> Result<Done, KvError> {
        let failed = || DbError::Failed(redb::Error::DatabaseClosed).for_guest(&self.shared.addon);
        let queue = self
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(failed)?;
        let (answer, answered) = oneshot::channel();
        let enter = async {
            let bytes = u32::try_from(bytes).unwrap_or(QUEUE_BYTES).min(QUEUE_BYTES);
            let place = Arc::clone(&self.bytes)
                .acquire_many_owned(bytes)
                .await
                .map_err(|_| failed())?;
            queue
                .send(Request {
                    op,
                    size,
                    answer,
                    _place: Some(place),
                })
                .await
                .map_err(|_| failed())
        };
        match tokio::time::timeout(WAIT, enter).await {
            Ok(entered) => entered?,
            Err(_) => {
                return Err(KvError::Busy {
                    seconds: WAIT.as_secs(),
                });
            }
        }
        drop(queue);
        answered.await.unwrap_or_else(|_| Err(failed()))
    }

    /// Writes what is in the queue, and ends the thread. Blocks until then.
    pub(super) fn close(&self) {
        drop(
            self.queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(addon = %self.shared.addon, "the kv writer panicked");
        }
    }
}

/// The thread's work: until every sender is gone, or a commit fails.
fn write_all(shared: &OpenDatabase, mut requests: mpsc::Receiver<Request>) {
    while let Some(first) = requests.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < QUEUE {
            let Ok(next) = requests.try_recv() else { break };
            batch.push(next);
        }
        let (ops, answers): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|request| ((request.op, request.size), (request.answer, request._place)))
            .unzip();
        match guarded(|| shared.database.commit(ops)) {
            Ok(results) => {
                shared.commits.fetch_add(1, Ordering::Relaxed);
                for ((answer, _place), result) in answers.into_iter().zip(results) {
                    // A guest that was ended meanwhile no longer listens.
                    let _ = answer.send(result);
                }
            }
            Err(error) => {
                tracing::error!(addon = %shared.addon, %error, "a kv commit failed; the database will be opened anew");
                shared.broken.store(true, Ordering::Release);
                for (answer, _place) in answers {
                    let _ = answer.send(Err(error.for_guest(&shared.addon)));
                }
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::database::Place;
    use super::*;

    #[test]
    fn writes_that_wait_share_one_commit() {
        let data = tempfile::tempdir().unwrap();
        let place = Place {
            data: data.path().to_owned(),
            addon: "store".to_owned(),
        };
        let shared = OpenDatabase {
            addon: "store".to_owned(),
            database: Database::open(&place).unwrap(),
            broken: AtomicBool::new(false),
            commits: AtomicU64::new(0),
        };
        let (queue, requests) = mpsc::channel(QUEUE);
        let answers: Vec<_> = (0..200)
            .map(|i| {
                let (answer, answered) = oneshot::channel();
                let op = Op::Set(vec![(format!("k{i}"), b"v".to_vec())]);
                queue
                    .blocking_send(Request {
                        op,
                        size: 1 << 30,
                        answer,
                        _place: None,
                    })
                    .unwrap();
                answered
            })
            .collect();
        drop(queue);
        write_all(&shared, requests);
        assert_eq!(shared.commits.load(Ordering::Relaxed), 1);
        for answer in answers {
            assert_eq!(answer.blocking_recv().unwrap(), Ok(Done::Changed));
        }
        assert_eq!(shared.database.list(None).unwrap().keys.len(), 200);
    }
}
