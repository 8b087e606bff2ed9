//! The place of a listening dyno: a port number that exists only in this process.
//!
//! The guest binds `$PORT` and accepts as anywhere, but no kernel listens: whoever holds the [`Port`] makes a pair
//! of [pipes](super::pipe) and puts one end into the guest's queue. So nobody else on the machine can connect, two hosts
//! cannot clash, no descriptors are used, and whether a guest has read anything of a request is known exactly.
//!
//! Bounded by the places that [`Port::open`] is given: connections that wait or that the guest has not let go of.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::{Semaphore, watch};

use super::ends::{PipeSocket, PortStream, connection};
use super::loopback;
use crate::egress::{DynoPort, PortsTaken};

/// What guests see as the ports of those who connect to them: as a kernel would choose them, and below those that
/// their own sockets get on loopback.
const PEERS: std::ops::Range<u16> = 32_768..*loopback::EPHEMERAL.start();

/// How far a guest is with its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has not asked for a connection yet.
    Silent,
    Accepting,
    /// It has let go of its listener, or has ended.
    Gone,
}

/// The port of one dyno. Cheap to clone; its number is given back with the last clone.
#[derive(Clone)]
pub struct Port(Arc<PortState>);

struct PortState {
    number: DynoPort,
    places: Arc<Semaphore>,
    stage: watch::Sender<Stage>,
    queue: Mutex<Queue>,
    /// The guest did not end well: its connections were cut, not closed.
    crashed: Arc<AtomicBool>,
}

struct Queue {
    waiting: VecDeque<PipeSocket>,
    /// A socket is bound to it.
    claimed: bool,
    /// The host takes it back.
    closed: bool,
    /// The guest has heard of that. It hears it once: a loop that takes no notice waits from then on, and does not spin.
    told: bool,
    waker: Option<Waker>,
    next_peer: u16,
}

/// Nobody accepts on the port (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the process does not listen on its port")]
pub struct Refused;

impl Port {
    /// A number of its own for a dyno that may have so many connections at once.
    ///
    /// # Errors
    ///
    /// If all numbers are taken.
    pub fn open(places: u32) -> Result<Self, PortsTaken> {
        Ok(Self(Arc::new(PortState {
            number: DynoPort::take()?,
            places: Arc::new(Semaphore::new(places.max(1) as usize)),
            stage: watch::Sender::new(Stage::Silent),
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                claimed: false,
                closed: false,
                told: false,
                waker: None,
                next_peer: PEERS.start,
            }),
            crashed: Arc::default(),
        })))
    }

    /// The number, for `PORT`.
    pub fn number(&self) -> u16 {
        self.0.number.number()
    }

    /// Waits until the guest first asks for a connection. Having bound the port is not enough: some look in this way
    /// whether it is free.
    pub async fn accepting(&self) {
        self.reaches(|stage| stage == Stage::Accepting).await;
    }

    /// Waits until the guest has accepted, and has then let go of its listener.
    pub async fn gone(&self) {
        self.reaches(|stage| stage == Stage::Gone).await;
    }

    async fn reaches(&self, wanted: impl Fn(Stage) -> bool) {
        // The sender is ours, and so alive.
        let _ = self
            .0
            .stage
            .subscribe()
            .wait_for(|stage| wanted(*stage))
            .await;
    }

    /// Connects to the guest; waits for a place, if it has as many connections as it may.
    ///
    /// # Errors
    ///
    /// If nobody accepts.
    pub async fn connect(&self) -> Result<PortStream, Refused> {
        let place = tokio::select! {
            biased;
            () = self.gone() => return Err(Refused),
            place = self.0.places.clone().acquire_owned() => place.map_err(|_| Refused)?,
        };
        let (stream, waker) = {
            let mut queue = self.0.lock();
            if queue.closed || *self.0.stage.borrow() != Stage::Accepting {
                return Err(Refused);
            }
            let peer = queue.next_peer;
            queue.next_peer = if peer + 1 < PEERS.end {
                peer + 1
            } else {
                PEERS.start
            };
            let (stream, socket) = connection(peer, self.0.crashed.clone(), place);
            queue.waiting.push_back(socket);
            (stream, queue.waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(stream)
    }

    /// Closes the listener: connections that wait are still accepted, then `accept` fails, and with it the loop of
    /// a guest that knows no other sign.
    pub fn close(&self) {
        let waker = {
            let mut queue = self.0.lock();
            queue.closed = true;
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether connections are refused.
    pub fn is_closed(&self) -> bool {
        self.0.lock().closed || *self.0.stage.borrow() != Stage::Accepting
    }

    /// Takes the port for a socket; `None`: another has it.
    pub(crate) fn claim(&self) -> Option<Claim> {
        let mut queue = self.0.lock();
        let free = !std::mem::replace(&mut queue.claimed, true);
        free.then(|| Claim(self.0.clone()))
    }

    /// To be dropped before the guest's store: unless it ended well, its connections are cut.
    pub(crate) fn watch_end(&self) -> EndGuard {
        EndGuard {
            port: self.0.clone(),
            ended_well: false,
        }
    }
}

impl PortState {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No invariant spans a panic here.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Port::watch_end`].
pub(crate) struct EndGuard {
    port: Arc<PortState>,
    ended_well: bool,
}

impl EndGuard {
    pub(crate) fn ended_well(&mut self) {
        self.ended_well = true;
    }
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if !self.ended_well {
            self.port.crashed.store(true, Ordering::SeqCst);
        }
        self.port.stage.send_replace(Stage::Gone);
    }
}

/// The way to a guest's port for the guest itself.
#[derive(Clone)]
pub(super) struct Inside(Arc<PortState>);

impl Inside {
    pub(super) fn number(&self) -> u16 {
        self.0.number.number()
    }

    /// Puts an end into the guest's own queue; the end comes back if nobody will accept it.
    pub(super) fn join(&self, socket: PipeSocket) -> Result<(), PipeSocket> {
        let waker = {
            let mut queue = self.0.lock();
            if queue.closed || !queue.claimed {
                return Err(socket);
            }
            queue.waiting.push_back(socket);
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

/// A guest's hold on its port: bound, and perhaps accepting. The port is free again when it is dropped.
pub(crate) struct Claim(Arc<PortState>);

impl Claim {
    /// For connections of the guest's own.
    pub(super) fn inside(&self) -> Inside {
        Inside(self.0.clone())
    }

    /// Ready when there is a connection, or an end.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        if *self.0.stage.borrow() == Stage::Silent {
            self.0.stage.send_replace(Stage::Accepting);
        }
        let mut abandoned = Vec::new();
        let mut queue = self.0.lock();
        // Whoever has gone meanwhile needs no guest.
        while queue.waiting.front().is_some_and(PipeSocket::is_abandoned) {
            abandoned.extend(queue.waiting.pop_front());
        }
        let ready = !queue.waiting.is_empty() || (queue.closed && !queue.told);
        if !ready && !cx.waker().data().is_null() {
            queue.waker = Some(cx.waker().clone());
        }
        drop(queue);
        if ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// The next connection; `None`, once: there will be none.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Option<PipeSocket>> {
        std::task::ready!(self.poll_ready(cx));
        let mut queue = self.0.lock();
        let next = queue.waiting.pop_front();
        queue.told |= next.is_none();
        Poll::Ready(next)
    }

    /// Whether the host has taken the port back, and nobody waits any more.
    pub(crate) fn is_closed(&self) -> bool {
        let queue = self.0.lock();
        queue.closed && queue.waiting.is_empty()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let waiting = {
            let mut queue = self.0.lock();
            queue.claimed = false;
            std::mem::take(&mut queue.waiting)
        };
        if *self.0.stage.borrow() == Stage::Accepting {
            self.0.stage.send_replace(Stage::Gone);
        }
        for socket in waiting {
            if socket.is_own() {
                socket.refuse();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn now() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    async fn accept(claim: &Claim) -> Option<PipeSocket> {
        poll_fn(|cx| claim.poll_accept(cx)).await
    }

    #[tokio::test]
    async fn is_ready_when_the_guest_accepts_and_gone_when_it_lets_go() {
        let port = Port::open(4).unwrap();
        let other = Port::open(4).unwrap();
        assert_ne!(port.number(), other.number());
        assert_eq!(port.connect().await.err(), Some(Refused));
        let looking = port.claim().unwrap();
        assert!(port.claim().is_none());
        drop(looking);
        let claim = port.claim().unwrap();
        assert!(claim.poll_ready(&mut now()).is_pending());
        port.accepting().await;
        let mut host = port.connect().await.unwrap();
        let guest = accept(&claim).await.unwrap();
        host.write_all(b"hi").await.unwrap();
        assert_eq!(host.progress().taken(), 0);
        let mut buffer = [0; 8];
        let read = poll_fn(|cx| guest.incoming().poll_read(cx, &mut buffer)).await;
        assert_eq!(read.unwrap(), 2);
        assert_eq!(host.progress().taken(), 2);
        drop(claim);
        port.gone().await;
        assert_eq!(port.connect().await.err(), Some(Refused));
        // What was accepted goes on.
        drop(guest);
        assert_eq!(host.read(&mut buffer).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_closed_port_hands_out_who_waits_and_then_ends() {
        let port = Port::open(4).unwrap();
        let claim = port.claim().unwrap();
        assert!(claim.poll_ready(&mut now()).is_pending());
        let gone = port.connect().await.unwrap();
        let _waits = port.connect().await.unwrap();
        drop(gone);
        port.close();
        assert_eq!(port.connect().await.err(), Some(Refused));
        assert!(!claim.is_closed());
        assert!(accept(&claim).await.is_some());
        assert!(accept(&claim).await.is_none());
        assert!(claim.is_closed());
        assert!(
            claim.poll_accept(&mut now()).is_pending(),
            "it is said once"
        );
    }

    #[tokio::test]
    async fn connections_above_the_places_wait() {
        let port = Port::open(1).unwrap();
        let claim = port.claim().unwrap();
        assert!(claim.poll_ready(&mut now()).is_pending());
        let _first = port.connect().await.unwrap();
        let mut second = Box::pin(port.connect());
        assert!(second.as_mut().poll(&mut now()).is_pending());
        drop(accept(&claim).await);
        second.await.unwrap();
    }

    #[tokio::test]
    async fn a_guest_that_crashes_cuts_its_connections() {
        for well in [true, false] {
            let port = Port::open(4).unwrap();
            let mut guard = port.watch_end();
            let claim = port.claim().unwrap();
            assert!(claim.poll_ready(&mut now()).is_pending());
            let mut host = port.connect().await.unwrap();
            let guest = accept(&claim).await.unwrap();
            let half = poll_fn(|cx| {
                guest
                    .outgoing()
                    .poll_write(cx, std::iter::once(&b"half"[..]))
            });
            half.await.unwrap();
            if well {
                guard.ended_well();
            }
            drop(guard);
            drop((guest, claim));
            let mut bytes = Vec::new();
            let read = host.read_to_end(&mut bytes).await;
            assert_eq!((read.is_ok(), &bytes[..]), (well, &b"half"[..]));
        }
    }
}
