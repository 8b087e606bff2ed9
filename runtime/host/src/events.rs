//! What happens to the apps of a host, as it happens.
//!
//! A subscription ([`Host::events`](crate::Host::events)) begins with what happens next; what has become of things
//! before is asked of [`Host::dynos`](crate::Host::dynos). Events of one app come in the order in which they
//! happened. Bounds: the last [`CAPACITY`] events are kept for whoever is slower than they come; what a subscriber
//! missed is counted for it in one [`Event::Lagged`]. Telling an event never waits, and costs next to nothing
//! while nobody listens.
//!
//! ```
//! use oarlock_host::events::Event;
//! use oarlock_host::{App, Host, HostConfig};
//!
//! # let data = tempfile::tempdir()?;
//! # let hello = wat::parse_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/hello.wat")))?;
//! # let app = App::from_manifest("app = \"hello\"\n[processes]\nweb = \"web.wasm\"").component("web.wasm", hello);
//! # futures::executor::block_on(async {
//! let host = Host::start(HostConfig::new(data.path()))?;
//! let mut events = host.events();
//! host.add(app).await?;
//! host.shutdown().await;
//! let mut dynos = Vec::new();
//! while let Some(event) = events.next().await {
//!     if let Event::Dyno(dyno) = event {
//!         dynos.push(format!("{} is {}", dyno.dyno, dyno.to.as_str()));
//!     }
//! }
//! assert_eq!(dynos, ["web.1 is starting", "web.1 is up", "web.1 is stopping", "web.1 is finished"]);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

use oarlock_spec::api::DynoState;
use oarlock_spec::names::{AppName, DynoName, ReleaseId};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::formation::StateChange;

/// Events kept for slow subscribers.
pub const CAPACITY: usize = 1024;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The first release of an app runs.
    AppAdded {
        /// Which app.
        app: AppName,
        /// Which release.
        release: ReleaseId,
    },
    /// Another release of an app runs in the place of the one before.
    AppReleased {
        /// Which app.
        app: AppName,
        /// Which release.
        release: ReleaseId,
    },
    /// A release could not be brought up; what ran before goes on.
    ReleaseFailed {
        /// Of which app.
        app: AppName,
        /// Which release.
        release: ReleaseId,
        /// Why, and what to do.
        reason: String,
    },
    /// An app was removed: its dynos have ended.
    AppRemoved {
        /// Which app.
        app: AppName,
    },
    /// The state of a dyno has changed.
    Dyno(DynoEvent),
    /// The host shuts down: it takes no more requests, and finishes what is under way.
    Draining,
    /// All dynos have ended: the last event of a host.
    Drained,
    /// This subscriber was too slow: it missed so many events, which would have been here.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// A dyno's change of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynoEvent {
    /// Whose it is.
    pub app: AppName,
    /// Which.
    pub dyno: DynoName,
    /// Of which release.
    pub release: ReleaseId,
    /// What it was; `None`: it is new.
    pub from: Option<DynoState>,
    /// What it is now.
    pub to: DynoState,
    /// Why it ended, if it ended otherwise than it was told to.
    pub reason: Option<String>,
}

/// A subscription.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
    is_over: bool,
}

impl Events {
    /// The next event, on any runtime; `None` when the host is gone. May be dropped and asked again without loss.
    pub async fn next(&mut self) -> Option<Event> {
        if self.is_over {
            return None;
        }
        let event = match self.receiver.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(missed)) => Event::Lagged { missed },
            Err(RecvError::Closed) => return None,
        };
        self.is_over = event == Event::Drained;
        Some(event)
    }
}

/// Where events are told.
pub(crate) struct EventSender(broadcast::Sender<Event>);

impl EventSender {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }

    pub(crate) fn subscribe(&self) -> Events {
        Events {
            receiver: self.0.subscribe(),
            is_over: false,
        }
    }

    pub(crate) fn tell(&self, event: Event) {
        // Fails only where nobody listens.
        drop(self.0.send(event));
    }

    /// A dyno is to be started.
    pub(crate) fn starting(&self, app: &AppName, dyno: &DynoName, release: ReleaseId) {
        self.dyno(|| DynoEvent {
            app: app.clone(),
            dyno: dyno.clone(),
            release,
            from: None,
            to: DynoState::Starting,
            reason: None,
        });
    }

    pub(crate) fn state(&self, app: &AppName, change: StateChange) {
        // That a crashed dyno's place is to be filled again is said when the dyno that fills it starts.
        if change.to != DynoState::Starting {
            self.dyno(|| DynoEvent {
                app: app.clone(),
                dyno: change.dyno,
                release: change.release,
                from: Some(change.from),
                to: change.to,
                reason: change.reason,
            });
        }
    }

    fn dyno(&self, event: impl FnOnce() -> DynoEvent) {
        if self.0.receiver_count() > 0 {
            self.tell(Event::Dyno(event()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slow_are_told_how_much_they_missed_and_then_go_on() {
        let teller = EventSender::new();
        let mut events = teller.subscribe();
        let app: AppName = "shop".parse().unwrap();
        for release in 0..CAPACITY as u64 + 3 {
            teller.tell(Event::AppReleased {
                app: app.clone(),
                release: ReleaseId(release),
            });
        }
        teller.tell(Event::Drained);
        let next = |events: &mut Events| futures::executor::block_on(events.next());
        assert_eq!(next(&mut events), Some(Event::Lagged { missed: 4 }));
        let mut last = None;
        while let Some(event) = next(&mut events) {
            last = Some(event);
        }
        assert_eq!(last, Some(Event::Drained));
    }
}
