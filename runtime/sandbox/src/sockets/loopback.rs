//! The loopback network of one instance: its own sockets reach each other on 127.0.0.1 and ::1, in memory.
//!
//! Languages build their self-pipes and event loops of that. Nothing of it is in the kernel, and nobody else can connect:
//! two instances that listen on the same number do not know of each other. `$PORT` is reached here too, by the dyno itself;
//! the router knows nothing of the other numbers.
//!
//! Each end of a connection takes a place of `sockets`, those included that wait to be accepted, and each connection
//! [`CONNECTION`] bytes of `memory`. So the limits of the dyno bound everything here, but for [`MOST_KNOWN`] numbers that
//! were used before.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::ends::PipeSocket;
use super::family::Family;
use super::pipe;
use super::port::Inside;

/// Bytes of `limits.memory` that a connection takes as long as one of its ends is open: its two pipes, full. The host holds
/// less while they are not. Above the limit a connect fails with "out of memory" (`ENOMEM`).
pub(super) const CONNECTION: u64 = 2 * pipe::CAPACITY as u64;

/// Connections that may wait to be accepted, at most, and if the guest does not say: Linux's `somaxconn` of old, as std and
/// libuv ask for it. Above it a connect is refused.
pub(super) const BACKLOG: usize = 128;

/// The numbers that are chosen for who does not choose (RFC 6335).
pub(super) const EPHEMERAL: RangeInclusive<u16> = 49_152..=65_535;

/// Numbers that an instance chose and let go of, and for which a connect is "refused" from then on, as on any machine. For
/// further ones the manifest's rules answer, as for those that it never used.
const MOST_KNOWN: usize = 256;

/// See the module.
#[derive(Default)]
pub(crate) struct Loopback(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// The numbers in use, and who accepts on them.
    taken: HashMap<Key, Option<Arc<Queue>>>,
    /// `$PORT`, while the instance listens on it.
    port: Option<Inside>,
    /// How many numbers were chosen for the guest.
    chosen: usize,
    /// Numbers that it chose itself, free again.
    known: HashSet<Key>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    family: Family,
    number: u16,
}

/// Who accepts at an address.
pub(super) enum Target {
    Queue(Arc<Queue>),
    Port(Inside),
}

impl Target {
    /// Hands over the end of who accepts; it comes back if there is no room.
    pub(super) fn push(&self, socket: PipeSocket) -> Result<(), PipeSocket> {
        match self {
            Self::Queue(queue) => queue.push(socket),
            Self::Port(port) => port.join(socket),
        }
    }
}

impl Loopback {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // No invariant spans a panic here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a number; `None`: another socket has it.
    pub(super) fn claim(self: &Arc<Self>, family: Family, number: u16) -> Option<Claim> {
        let key = Key { family, number };
        let mut table = self.lock();
        if table.taken.contains_key(&key) {
            return None;
        }
        table.taken.insert(key, None);
        table.known.remove(&key);
        Some(Claim {
            network: self.clone(),
            key,
        })
    }

    /// Takes a number that is free and that `usable` does not refuse. Those in use rest for long after they are free again.
    pub(super) fn claim_any(
        self: &Arc<Self>,
        family: Family,
        usable: impl Fn(u16) -> bool,
    ) -> Option<Claim> {
        for _ in EPHEMERAL {
            let number = {
                let mut table = self.lock();
                let step = table.chosen % EPHEMERAL.len();
                table.chosen += 1;
                EPHEMERAL.start() + u16::try_from(step).unwrap_or_default()
            };
            if usable(number)
                && let Some(claim) = self.claim(family, number)
            {
                return Some(claim);
            }
        }
        None
    }

    /// Who accepts at this number.
    pub(super) fn listener(&self, family: Family, number: u16) -> Option<Target> {
        let table = self.lock();
        let own = table.taken.get(&Key { family, number });
        if let Some(Some(queue)) = own {
            return Some(Target::Queue(queue.clone()));
        }
        let port = table.port.as_ref();
        port.filter(|port| port.number() == number)
            .map(|port| Target::Port(port.clone()))
    }

    /// Whether the instance has or had this number, so that nobody else is meant by it.
    pub(super) fn is_known(&self, family: Family, number: u16) -> bool {
        let key = Key { family, number };
        let table = self.lock();
        let chosen =
            EPHEMERAL.contains(&number) && usize::from(number - EPHEMERAL.start()) < table.chosen;
        chosen || table.taken.contains_key(&key) || table.known.contains(&key)
    }

    /// Makes `$PORT` reachable until the guard is dropped.
    pub(super) fn publish(self: &Arc<Self>, port: Inside) -> Published {
        self.lock().port = Some(port);
        Published(self.clone())
    }
}

/// See [`Loopback::publish`].
pub(super) struct Published(Arc<Loopback>);

impl Drop for Published {
    fn drop(&mut self) {
        // Dropped without the lock: it may hold the port's last connections.
        let port = self.0.lock().port.take();
        drop(port);
    }
}

/// A number in use; free again when it is dropped.
pub(super) struct Claim {
    network: Arc<Loopback>,
    key: Key,
}

impl Claim {
    pub(super) fn number(&self) -> u16 {
        self.key.number
    }

    /// Accepts connections from now on.
    pub(super) fn listen(self, backlog: usize) -> Accepting {
        let queue = Arc::new(Queue(Mutex::new(Waiting {
            sockets: VecDeque::new(),
            backlog,
            closed: false,
            waker: None,
        })));
        self.network
            .lock()
            .taken
            .insert(self.key, Some(queue.clone()));
        Accepting {
            queue,
            _claim: self,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut table = self.network.lock();
        // It may hold the queue's last connections: to be dropped without the lock.
        let queue = table.taken.remove(&self.key);
        if !EPHEMERAL.contains(&self.key.number) && table.known.len() < MOST_KNOWN {
            table.known.insert(self.key);
        }
        drop(table);
        drop(queue);
    }
}

/// The connections that wait to be accepted.
pub(super) struct Queue(Mutex<Waiting>);

struct Waiting {
    sockets: VecDeque<PipeSocket>,
    backlog: usize,
    closed: bool,
    waker: Option<Waker>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_backlog(&self, backlog: usize) {
        self.lock().backlog = backlog;
    }

    fn push(&self, socket: PipeSocket) -> Result<(), PipeSocket> {
        let waker = {
            let mut waiting = self.lock();
            if waiting.closed || waiting.sockets.len() >= waiting.backlog {
                return Err(socket);
            }
            waiting.sockets.push_back(socket);
            waiting.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

/// A number that connections are accepted on, until it is dropped: those that wait are then reset.
pub(super) struct Accepting {
    queue: Arc<Queue>,
    _claim: Claim,
}

impl Accepting {
    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Ready when there is a connection.
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.queue.lock();
        if !waiting.sockets.is_empty() {
            return Poll::Ready(());
        }
        // A call that only looks must not displace somebody who waits.
        if !cx.waker().data().is_null() {
            waiting.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<PipeSocket> {
        if let Some(socket) = self.queue.lock().sockets.pop_front() {
            return Poll::Ready(socket);
        }
        std::task::ready!(self.poll_ready(cx));
        match self.queue.lock().sockets.pop_front() {
            Some(socket) => Poll::Ready(socket),
            None => Poll::Pending,
        }
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        let waiting = {
            let mut waiting = self.queue.lock();
            waiting.closed = true;
            std::mem::take(&mut waiting.sockets)
        };
        waiting.into_iter().for_each(PipeSocket::refuse);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiter::MemoryLimiter;
    use crate::sockets::connecting::inside;
    use crate::sockets::port::Port;
    use tokio::sync::Semaphore;

    fn now() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    /// Connects to `target` from a number of `network`; whether it was taken.
    fn connect(network: &Arc<Loopback>, target: &Target, places: &Arc<Semaphore>) -> bool {
        let slot = || places.clone().try_acquire_owned().unwrap();
        let name = network.claim_any(Family::V4, |_| true).unwrap();
        let memory = MemoryLimiter::new(CONNECTION, Arc::default());
        let charge = memory.charge(CONNECTION).unwrap();
        let (connected, refused) = inside(target, (slot(), name), (slot(), 80), charge);
        drop(connected);
        !refused
    }

    #[test]
    fn a_number_has_one_owner_per_family_and_is_known_afterwards() {
        let network = Arc::new(Loopback::default());
        let claim = network.claim(Family::V4, 80).unwrap();
        assert!(network.claim(Family::V4, 80).is_none());
        assert!(network.claim(Family::V6, 80).is_some());
        assert!(network.is_known(Family::V4, 80));
        assert!(!network.is_known(Family::V4, 81));
        drop(claim);
        assert!(network.is_known(Family::V4, 80));
        assert!(network.claim(Family::V4, 80).is_some());
    }

    #[test]
    fn chosen_numbers_pass_over_what_is_taken_or_unusable() {
        let network = Arc::new(Loopback::default());
        let first = *EPHEMERAL.start();
        let _taken = network.claim(Family::V4, first).unwrap();
        let usable = |number| number != first + 1;
        let claim = network.claim_any(Family::V4, usable).unwrap();
        assert_eq!(claim.number(), first + 2);
        assert!(network.claim_any(Family::V4, |_| false).is_none());
        // All numbers went by: each of them may have been somebody's.
        assert!(network.is_known(Family::V4, *EPHEMERAL.end()));
        let _again = network.claim_any(Family::V4, |_| true).unwrap();
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let network = Arc::new(Loopback::default());
        for number in 1..=2_000 {
            drop(network.claim(Family::V4, number));
        }
        assert_eq!(network.lock().known.len(), MOST_KNOWN);
        assert!(network.lock().taken.is_empty());
    }

    #[test]
    fn places_and_numbers_come_back_whoever_goes_first() {
        let network = Arc::new(Loopback::default());
        let places = Arc::new(Semaphore::new(8));
        let claim = network.claim(Family::V4, 80).unwrap();
        let accepting = claim.listen(3);
        let target = network.listener(Family::V4, 80).unwrap();
        assert!(network.listener(Family::V6, 80).is_none());
        for _ in 0..3 {
            assert!(connect(&network, &target, &places));
        }
        assert!(!connect(&network, &target, &places), "above the backlog");
        assert!(accepting.poll_accept(&mut now()).is_ready());
        assert!(connect(&network, &target, &places));
        // Three wait, each with one end.
        assert_eq!(places.available_permits(), 5);
        drop(accepting);
        assert!(!connect(&network, &target, &places), "nobody accepts");
        assert!(network.listener(Family::V4, 80).is_none());
        assert_eq!(places.available_permits(), 8);
        assert!(network.lock().taken.is_empty());
    }

    #[test]
    fn the_port_is_reached_while_it_is_listened_on() {
        for guard_first in [true, false] {
            let network = Arc::new(Loopback::default());
            let places = Arc::new(Semaphore::new(8));
            let port = Port::open(1).unwrap();
            let number = port.number();
            let claim = port.claim().unwrap();
            assert!(network.listener(Family::V4, number).is_none());
            let guard = network.publish(claim.inside());
            let target = network.listener(Family::V6, number).unwrap();
            // Of no place of the router's.
            assert!(connect(&network, &target, &places));
            assert!(connect(&network, &target, &places));
            assert!(matches!(
                claim.poll_accept(&mut now()),
                Poll::Ready(Some(_))
            ));
            port.close();
            assert!(!connect(&network, &target, &places), "it is closed");
            // One still waits, and holds a number of the table that it is dropped under.
            if guard_first {
                drop((port, target, guard));
                drop(claim);
            } else {
                drop((port, target, claim));
                drop(guard);
            }
            assert!(network.listener(Family::V4, number).is_none());
            assert_eq!(places.available_permits(), 8);
            assert!(network.lock().taken.is_empty());
        }
    }
}
