//! Accepts clients: on every core, within the bounds, each served where it was accepted.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::bounds::{Counted, Key, Place};
use super::connection::Connection;
use super::registry::Registry;
use super::{Inner, drive, proxied};
use crate::cores::CoreId;

/// Connections at once, if there are files enough.
pub(crate) const MAX_CONNECTIONS: u32 = 16_384;

/// Connections at once, whatever the limit on files.
const MIN_CONNECTIONS: u64 = 8;

/// Files that the host has open without any app or client.
const OWN_FILES: u64 = 32;

/// How long to wait when the system has no more files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a new client waits for the idle connections that were asked for their place, before more are asked.
const ROOM_PAUSE: Duration = Duration::from_millis(50);

/// Idle connections that are asked for their place at once: to find the oldest, all are looked at.
const ASKED_AT_ONCE: u32 = 64;

/// How often the operator is told of refused clients.
const REMARK_PAUSE: Duration = Duration::from_secs(10);

/// Connections at once where the process may have so many files: half of what the host itself leaves, for guests and apps
/// need the others.
pub(crate) fn permits(files: u64) -> u32 {
    let half = files.saturating_sub(OWN_FILES) / 2;
    let half = half.clamp(MIN_CONNECTIONS, u64::from(MAX_CONNECTIONS));
    u32::try_from(half).unwrap_or(MAX_CONNECTIONS)
}

/// Accepts on one core until the router stops.
pub(super) async fn accept(
    router: Arc<Inner>,
    core: CoreId,
    registry: Arc<Registry>,
    listener: std::net::TcpListener,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a listener cannot be used");
            return;
        }
    };
    let stop = router.stop.clone();
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, client)) => {
                    // Before the permit, so that an address over its bound is refused at once.
                    let Some(admitted) = admit(&router, client.ip()) else {
                        continue;
                    };
                    let Some(permit) = permit(&router).await else {
                        return;
                    };
                    begin(
                        &router,
                        core,
                        &registry,
                        (stream, client),
                        (admitted, permit),
                    );
                }
                Err(error) => {
                    if is_out_of_files(&error) {
                        make_room(&router);
                    }
                    router.remarks.failed(&error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = accepting => {}
    }
}

fn is_out_of_files(error: &io::Error) -> bool {
    let errno = error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error);
    matches!(
        errno,
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE)
    )
}

/// An accepted connection and its place in the count of its address. A trusted proxy's counts for no address.
struct Admitted(Option<(Key, Place)>);

/// Counts a connection. `None`: its address has too many already, and the caller closes the socket.
fn admit(router: &Inner, ip: IpAddr) -> Option<Admitted> {
    if router.proxies.contains(ip) {
        return Some(Admitted(None));
    }
    if router.proxy_protocol {
        router
            .remarks
            .unproxied(&ip.to_string(), "it is no proxy of `trusted_proxies`");
        return None;
    }
    count(router, ip)
}

fn count(router: &Inner, ip: IpAddr) -> Option<Admitted> {
    let key = Key::of(ip);
    match router.bounds.enter(key, Counted::Whole) {
        Some(place) => Some(Admitted(Some((key, place)))),
        None => {
            router.remarks.refused(&ip.to_string(), Counted::Whole);
            None
        }
    }
}

fn begin(
    router: &Arc<Inner>,
    core: CoreId,
    registry: &Arc<Registry>,
    (mut stream, client): (TcpStream, SocketAddr),
    (admitted, permit): (Admitted, OwnedSemaphorePermit),
) {
    // Without it, answers wait for the client's delayed acknowledgements. If it fails, they only do that.
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().unwrap_or(client);
    let (router, registry) = (router.clone(), registry.clone());
    tokio::spawn(async move {
        let (client, admitted) = if router.proxy_protocol {
            match proxied(&router, &mut stream, client).await {
                Some(proxied) => proxied,
                None => return,
            }
        } else {
            (client, admitted)
        };
        let (key, place) = admitted.0.unzip();
        let connection = Arc::new(Connection::new(router, core, (client, key), local));
        let registered = registry.enter(&connection);
        drive::serve(connection, stream).await;
        drop((place, registered, permit));
    });
}

/// Whose connection a proxy's is. `None`: it does not say so in time, or its client has too many already.
async fn proxied(
    router: &Arc<Inner>,
    stream: &mut TcpStream,
    proxy: SocketAddr,
) -> Option<(SocketAddr, Admitted)> {
    let named = tokio::select! {
        () = router.stop.cancelled() => return None,
        named = tokio::time::timeout(router.head_timeout, proxied::client(stream)) => named,
    };
    let refused = match named {
        Ok(Ok(Some(client))) => return count(router, client.ip()).map(|it| (client, it)),
        Ok(Ok(None)) => return Some((proxy, Admitted(None))),
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => "its header of the PROXY protocol did not come in time".to_owned(),
    };
    router.remarks.unproxied(&proxy.to_string(), &refused);
    None
}

/// A connection's permit. When there is none, idle connections give way, the oldest first. `None`: the router is gone.
pub(super) async fn permit(router: &Arc<Inner>) -> Option<OwnedSemaphorePermit> {
    loop {
        if let Ok(permit) = router.permits.clone().try_acquire_owned() {
            return Some(permit);
        }
        router.remarks.full(router.permit_count);
        make_room(router);
        let acquired = router.permits.clone().acquire_owned();
        match tokio::time::timeout(ROOM_PAUSE, acquired).await {
            Ok(acquired) => return acquired.ok(),
            Err(_elapsed) => {}
        }
    }
}

/// A permit for a request that has no client of its own to wait in the listener's queue.
pub(super) async fn permit_soon(router: &Arc<Inner>) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = router.permits.clone().try_acquire_owned() {
        return Some(permit);
    }
    make_room(router);
    let acquired = router.permits.clone().acquire_owned();
    tokio::time::timeout(ROOM_PAUSE, acquired).await.ok()?.ok()
}

/// Asks the connections that have been idle for longest for their places.
fn make_room(router: &Inner) {
    let mut idle = Vec::new();
    for registry in &router.registries {
        registry.add_idle(&mut idle);
    }
    let asked = (router.permit_count / ASKED_AT_ONCE).clamp(1, ASKED_AT_ONCE) as usize;
    if asked < idle.len() {
        idle.select_nth_unstable_by_key(asked, |(since, _)| *since);
        idle.truncate(asked);
    }
    for (_, connection) in idle {
        connection.ask_for_place();
    }
}

/// Tells the operator what is refused, each kind once per [`REMARK_PAUSE`] and with the number of all.
pub(super) struct Remarks {
    began: Instant,
    refused: Remark,
    half_heads: Remark,
    full: Remark,
    failed: Remark,
    unproxied: Remark,
}

#[derive(Default)]
struct Remark {
    count: AtomicU64,
    /// Milliseconds from the begin to the next one.
    next: AtomicU64,
}

impl Remarks {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            refused: Remark::default(),
            half_heads: Remark::default(),
            full: Remark::default(),
            failed: Remark::default(),
            unproxied: Remark::default(),
        }
    }

    /// How many there are since the last time, if it is time to tell.
    fn due(&self, remark: &Remark) -> Option<u64> {
        remark.count.fetch_add(1, Ordering::Relaxed);
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = remark.next.load(Ordering::Relaxed);
        let pause = u64::try_from(REMARK_PAUSE.as_millis()).unwrap_or(u64::MAX);
        let is_due = now >= next
            && remark
                .next
                .compare_exchange(next, now + pause, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        is_due.then(|| remark.count.swap(0, Ordering::Relaxed))
    }

    /// A client has as many of these as it may.
    pub(super) fn refused(&self, client: &str, what: Counted) {
        match what {
            Counted::Whole => {
                if let Some(count) = self.due(&self.refused) {
                    tracing::warn!(
                        client,
                        count,
                        "clients were refused: their address has as many connections, or requests by a trusted proxy, as it \
                         may; see `per_address` below [connections] in the policy, and `trusted_proxies`"
                    );
                }
            }
            Counted::HalfHead => {
                if let Some(count) = self.due(&self.half_heads) {
                    tracing::warn!(
                        client,
                        count,
                        "connections were closed: their address has as many unfinished request heads as it may; see \
                         `half_heads_per_address` below [connections] in the policy"
                    );
                }
            }
        }
    }

    fn full(&self, permits: u32) {
        if let Some(count) = self.due(&self.full) {
            tracing::warn!(
                permits,
                count,
                "all connections that this host may have are taken: idle ones are closed for new clients; a higher limit on \
                 open files (`ulimit -n`) allows more, up to {MAX_CONNECTIONS}"
            );
        }
    }

    /// A connection does not begin as `proxy_protocol` asks for.
    fn unproxied(&self, client: &str, why: &str) {
        if let Some(count) = self.due(&self.unproxied) {
            tracing::warn!(
                client,
                count,
                "connections were closed, because `proxy_protocol` is on in the policy: {why}"
            );
        }
    }

    fn failed(&self, error: &io::Error) {
        if let Some(count) = self.due(&self.failed) {
            tracing::warn!(%error, count, "a connection could not be accepted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_files_are_for_connections() {
        let permits = [0, 64, 1_024, 20_032, 1 << 20, u64::MAX].map(permits);
        assert_eq!(
            permits,
            [8, 16, 496, 10_000, MAX_CONNECTIONS, MAX_CONNECTIONS]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn remarks_are_made_once_in_a_while_with_the_number_of_all() {
        let remarks = Remarks::new();
        let told: Vec<_> = (0..100).map(|_| remarks.due(&remarks.refused)).collect();
        assert_eq!(told[0], Some(1));
        assert!(told[1..].iter().all(Option::is_none));
        tokio::time::advance(REMARK_PAUSE).await;
        assert_eq!(remarks.due(&remarks.refused), Some(100));
        assert_eq!(remarks.due(&remarks.half_heads), Some(1));
    }
}
