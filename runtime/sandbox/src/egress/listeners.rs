//! Who listens on this machine: the host's own listeners and the dynos' ports are never granted to a guest.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};

use super::ranges::plain;

/// `$PORT`s of the dynos of this process, each with how many hold it. Process-wide, because one app's dyno must
/// be unreachable for every other app, whichever host object of the process runs it.
static DYNOS: LazyLock<Mutex<HashMap<SocketAddr, usize>>> = LazyLock::new(Mutex::default);

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

/// Keeps a dyno's `$PORT` out of every guest's reach until it is dropped.
#[derive(Debug)]
pub(crate) struct DynoPort(SocketAddr);

impl DynoPort {
    pub(crate) fn hold(addr: SocketAddr) -> Self {
        let addr = SocketAddr::new(plain(addr.ip()), addr.port());
        *DYNOS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(addr)
            .or_default() += 1;
        Self(addr)
    }
}

impl Drop for DynoPort {
    fn drop(&mut self) {
        let mut dynos = DYNOS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = dynos.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                dynos.remove(&self.0);
            }
        }
    }
}

/// Whether a dyno of this process listens on what `ip:port` reaches.
pub(crate) fn is_a_dynos(ip: IpAddr, port: u16) -> bool {
    let dynos = DYNOS.lock().unwrap_or_else(PoisonError::into_inner);
    dynos.keys().any(|own| reaches(ip, port, *own))
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
    fn a_dynos_port_is_kept_until_the_last_holder_is_gone() {
        let addr: SocketAddr = "127.77.0.1:4711".parse().unwrap();
        let first = DynoPort::hold(addr);
        let second = DynoPort::hold(addr);
        drop(first);
        assert!(is_a_dynos(addr.ip(), 4711));
        drop(second);
        assert!(!is_a_dynos(addr.ip(), 4711));
    }
}
