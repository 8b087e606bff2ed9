//! Who listens on this machine: the host's own listeners and the dynos' ports are never granted to a guest.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};

use super::ranges::plain;

/// The numbers that `$PORT` is chosen from: below those that systems choose by themselves, so that few servers have
/// one, and above those of well-known services.
const NUMBERS: std::ops::RangeInclusive<u16> = 10_000..=32_767;

/// The `$PORT`s of the dynos of this process. Process-wide, so that no guest meets a neighbour's number, whichever
/// host object of the process runs it.
static DYNOS: LazyLock<Mutex<Taken>> = LazyLock::new(|| {
    Mutex::new(Taken {
        numbers: HashSet::new(),
        next: *NUMBERS.start(),
    })
});

struct Taken {
    numbers: HashSet<u16>,
    /// Where the search goes on: a number that was given back rests for long.
    next: u16,
}

/// The addresses that a host listens on: never granted to a guest of any egress that was made with them, however
/// late they were added. Clones share one list.
#[derive(Debug, Clone, Default)]
pub struct HostListeners(Arc<RwLock<Vec<SocketAddr>>>);

impl HostListeners {
    /// Keeps an address from all guests.
    pub fn add(&self, addr: SocketAddr) {
        let addr = SocketAddr::new(plain(addr.ip()), addr.port());
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(addr);
    }

    /// Gives them all back: nobody listens any more.
    pub fn clear(&self) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Whether a connection to `ip:port` ends at one of them.
    pub(crate) fn reached_by(&self, ip: IpAddr, port: u16) -> bool {
        let own = self.0.read().unwrap_or_else(PoisonError::into_inner);
        own.iter().any(|own| reaches(ip, port, *own))
    }
}

impl FromIterator<SocketAddr> for HostListeners {
    fn from_iter<I: IntoIterator<Item = SocketAddr>>(addresses: I) -> Self {
        let listeners = Self::default();
        addresses.into_iter().for_each(|addr| listeners.add(addr));
        listeners
    }
}

/// All numbers for `$PORT` are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {} port numbers for listening web dynos are taken", NUMBERS.len())]
pub struct PortsTaken;

/// A `$PORT`: a number that no other dyno of this process has, and that no guest may connect to. Nothing listens on it
/// in the kernel. Given back on drop.
#[derive(Debug)]
pub(crate) struct DynoPort(u16);

impl DynoPort {
    pub(crate) fn take() -> Result<Self, PortsTaken> {
        let mut dynos = DYNOS.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in NUMBERS {
            let number = dynos.next;
            dynos.next = if number < *NUMBERS.end() {
                number + 1
            } else {
                *NUMBERS.start()
            };
            if !dynos.numbers.contains(&number) && !is_a_servers(number) {
                dynos.numbers.insert(number);
                return Ok(Self(number));
            }
        }
        Err(PortsTaken)
    }

    pub(crate) fn number(&self) -> u16 {
        self.0
    }
}

impl Drop for DynoPort {
    fn drop(&mut self) {
        let mut dynos = DYNOS.lock().unwrap_or_else(PoisonError::into_inner);
        dynos.numbers.remove(&self.0);
    }
}

/// Whether a server of this machine has it: guests that are granted that server must not be kept from it.
fn is_a_servers(number: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_err()
}

/// Whether `ip:port` is what a dyno of this process has as its own.
pub(crate) fn is_a_dynos(ip: IpAddr, port: u16) -> bool {
    ip.is_loopback()
        && DYNOS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .numbers
            .contains(&port)
}

/// Whether a connection to `ip:port` ends at a listener on `own`.
pub(crate) fn reaches(ip: IpAddr, port: u16, own: SocketAddr) -> bool {
    if port != own.port() {
        return false;
    }
    ip == own.ip() || (own.ip().is_unspecified() && is_this_machine(ip))
}

/// Asked only for a listener on all addresses. The system knows its own: no other can be bound.
fn is_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_by_each_of_them() {
        let all = "0.0.0.0:8080".parse().unwrap();
        assert!(reaches("127.0.0.1".parse().unwrap(), 8080, all));
        assert!(reaches("127.9.9.9".parse().unwrap(), 8080, all));
        assert!(!reaches("127.0.0.1".parse().unwrap(), 8081, all));
        assert!(!reaches("93.184.216.34".parse().unwrap(), 8080, all));
    }

    #[test]
    fn a_hosts_listeners_are_kept_however_late_they_come() {
        let listeners = HostListeners::default();
        let theirs = listeners.clone();
        let ip = "127.0.0.1".parse().unwrap();
        assert!(!theirs.reached_by(ip, 8080));
        listeners.add("[::ffff:127.0.0.1]:8080".parse().unwrap());
        assert!(theirs.reached_by(ip, 8080));
        listeners.clear();
        assert!(!theirs.reached_by(ip, 8080));
    }

    #[test]
    fn a_dynos_port_is_its_own_until_it_is_given_back() {
        let first = DynoPort::take().unwrap();
        let second = DynoPort::take().unwrap();
        assert_ne!(first.number(), second.number());
        let (loopback, number) = (IpAddr::V4(Ipv4Addr::LOCALHOST), first.number());
        assert!(is_a_dynos(loopback, number));
        assert!(is_a_dynos("::1".parse().unwrap(), number));
        // Elsewhere it is another machine's.
        assert!(!is_a_dynos("93.184.216.34".parse().unwrap(), number));
        drop(first);
        assert!(!is_a_dynos(loopback, number));
    }
}
