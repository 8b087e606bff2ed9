//! Places: the right to have an instance alive. One semaphore counts those of both engines, as many as the capacity has;
//! the calls of one app get a share of them, so that no app's slow requests leave the others without.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use oarlock_spec::names::AppName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::capacity::{Bound, Capacity, Most};
use crate::resident::Loaded;

/// What there is no room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Full {
    /// All instances that the host has room for are alive.
    Instances {
        /// How many.
        limit: u32,
        /// What raises it.
        bound: Bound,
    },
    /// The calls of the app have all instances that those of one app may have.
    App {
        /// How many.
        limit: u32,
        /// What raises it.
        bound: Bound,
    },
    /// The machine gave no more of something; what it said.
    Machine(String),
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instances { limit, bound } => write!(
                f,
                "no room for an instance: the host has room for {limit}, and all are taken; raise {bound}"
            ),
            Self::App { limit, bound } => write!(
                f,
                "no room for an instance: the requests of one app may have {limit} at once, and all are taken; raise {bound}"
            ),
            Self::Machine(reason) => {
                write!(f, "the machine has no room for an instance: {reason}")
            }
        }
    }
}

/// The calls' share of one app.
pub(crate) struct Share(Arc<Semaphore>);

/// All places of an engine.
pub(crate) struct Places {
    all: Arc<Semaphore>,
    most: Most,
    per_app: u32,
    apps: Mutex<HashMap<AppName, Weak<Semaphore>>>,
}

/// Room for one instance, and the code that it runs. To be dropped after the instance's store.
pub(crate) struct Place {
    pub(crate) loaded: Arc<Loaded>,
    _permit: OwnedSemaphorePermit,
    _share: Option<OwnedSemaphorePermit>,
}

impl Places {
    pub(crate) fn new(capacity: &Capacity) -> Self {
        Self {
            all: Arc::new(Semaphore::new(capacity.instances.count as usize)),
            most: capacity.instances,
            per_app: capacity.per_app,
            apps: Mutex::default(),
        }
    }

    /// Places that nobody has.
    pub(crate) fn free(&self) -> u32 {
        u32::try_from(self.all.available_permits()).unwrap_or(u32::MAX)
    }

    /// Takes so many places, if they are free now.
    pub(crate) fn try_hold(&self, count: u32) -> Option<OwnedSemaphorePermit> {
        self.all.clone().try_acquire_many_owned(count).ok()
    }

    /// The share of an app: one, whatever number of sandboxes it has.
    pub(crate) fn share_of(&self, app: &AppName) -> Share {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = apps.get(app).and_then(Weak::upgrade) {
            return Share(share);
        }
        apps.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(self.per_app as usize));
        apps.insert(app.clone(), Arc::downgrade(&share));
        Share(share)
    }

    /// Waits for `count` places, at most for `patience`.
    pub(crate) async fn take(
        &self,
        share: Option<&Share>,
        count: u32,
        patience: Duration,
        loaded: Arc<Loaded>,
    ) -> Result<Place, Full> {
        let bound = self.most.bound;
        let of_app = Full::App {
            limit: self.per_app,
            bound,
        };
        let of_all = Full::Instances {
            limit: self.most.count,
            bound,
        };
        let _share = match share {
            Some(Share(share)) if self.per_app < self.most.count => {
                Some(permits(share, (count, self.per_app), patience, of_app).await?)
            }
            Some(_) | None => None,
        };
        let _permit = permits(&self.all, (count, self.most.count), patience, of_all).await?;
        Ok(Place {
            loaded,
            _permit,
            _share,
        })
    }
}

async fn permits(
    semaphore: &Arc<Semaphore>,
    (count, most): (u32, u32),
    patience: Duration,
    full: Full,
) -> Result<OwnedSemaphorePermit, Full> {
    // The usual case needs no timer.
    if let Ok(permit) = semaphore.clone().try_acquire_many_owned(count) {
        return Ok(permit);
    }
    if count > most {
        return Err(full);
    }
    match tokio::time::timeout(patience, semaphore.clone().acquire_many_owned(count)).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(full),
    }
}
