//! Name look-ups: on blocking threads, few at once, 20 a second, one for all who ask for the same name meanwhile.

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Denial;
use super::remarks::Bucket;

/// Look-ups a second (contract 1).
pub(crate) const LOOKUPS_PER_SECOND: u32 = 20;
/// Blocking threads one process type may hold with look-ups.
const THREADS: usize = 4;
/// After which a guest is told to try again; the thread may take longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a look-up brought no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    /// Not granted, or all its addresses are denied.
    #[error("{}", .0.reason)]
    Denied(Denial),
    /// Not a name.
    #[error("it is no valid name")]
    Invalid,
    /// Above the rate.
    #[error("more than {LOOKUPS_PER_SECOND} look-ups a second")]
    TooMany,
    /// The resolver did not answer in time.
    #[error("the resolver did not answer within {} s", PATIENCE.as_secs())]
    Timeout,
    /// There is no such name, or the resolver failed.
    #[error("the name cannot be resolved: {0}")]
    Unresolvable(String),
}

type Answer = Result<Vec<IpAddr>, LookupError>;

pub(crate) struct Resolver {
    bucket: Mutex<Bucket>,
    threads: Arc<Semaphore>,
    /// At most as many entries as the bucket let through within [`PATIENCE`].
    under_way: Mutex<HashMap<String, Shared<BoxFuture<'static, Answer>>>>,
}

impl Resolver {
    pub(crate) fn new() -> Self {
        Self {
            bucket: Mutex::new(Bucket::new(LOOKUPS_PER_SECOND, LOOKUPS_PER_SECOND)),
            threads: Arc::new(Semaphore::new(THREADS)),
            under_way: Mutex::default(),
        }
    }

    /// The addresses of a name that was already judged.
    pub(crate) async fn look_up(&self, name: &str) -> Answer {
        let shared = {
            let mut under_way = self
                .under_way
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // Whoever starts one may be dropped before its end, so that finished ones are cleared here too.
            under_way.retain(|_, lookup| lookup.peek().is_none());
            match under_way.get(name) {
                Some(lookup) => lookup.clone(),
                None => {
                    if !self
                        .bucket
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .take(Instant::now())
                    {
                        return Err(LookupError::TooMany);
                    }
                    let lookup = self.start(name.to_owned()).boxed().shared();
                    under_way.insert(name.to_owned(), lookup.clone());
                    lookup
                }
            }
        };
        shared.await
    }

    /// The look-up has a task of its own: it goes on when the guest that asked is gone.
    fn start(&self, name: String) -> impl Future<Output = Answer> + Send + 'static {
        let threads = self.threads.clone();
        let task = tokio::spawn(tokio::time::timeout(PATIENCE, async move {
            let permit = threads
                .acquire_owned()
                .await
                .map_err(|_| LookupError::Timeout)?;
            let answer = tokio::task::spawn_blocking(move || {
                // The thread keeps its place even if nobody waits for it any more.
                let _permit = permit;
                (name.as_str(), 0)
                    .to_socket_addrs()
                    .map(|all| all.map(|addr| addr.ip()).collect::<Vec<_>>())
            });
            match answer.await {
                Ok(Ok(addresses)) => Ok(addresses),
                Ok(Err(error)) => Err(LookupError::Unresolvable(error.to_string())),
                Err(error) => Err(LookupError::Unresolvable(error.to_string())),
            }
        }));
        async move {
            match task.await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_elapsed)) => Err(LookupError::Timeout),
                Err(error) => Err(LookupError::Unresolvable(error.to_string())),
            }
        }
    }
}
