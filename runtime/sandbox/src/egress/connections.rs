//! TCP connections of guests and of the outgoing HTTP client: each can be ended from outside.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use rustix::net::Shutdown;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::Granted;

/// The live connections that an egress allowed. Bounded by the socket limits of its dynos.
#[derive(Default)]
pub(crate) struct Connections {
    next: AtomicU64,
    alive: Mutex<HashMap<u64, Entry>>,
}

struct Entry {
    addon: Option<Arc<str>>,
    connection: Weak<OutboundConnection>,
}

/// One TCP connection: its descriptor, its grant, its place under a limit.
pub(crate) struct OutboundConnection {
    stream: TcpStream,
    peer: SocketAddr,
    ended: AtomicBool,
    id: u64,
    owner: Arc<Connections>,
    /// Counts against `limits.sockets` until the last user of the connection is gone.
    _slot: Option<OwnedSemaphorePermit>,
}

impl Connections {
    /// Takes a connection in. Sets TCP_NODELAY: guests cannot, and would pay 40 ms a request for it.
    pub(crate) fn admit(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        granted: Granted,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Arc<OutboundConnection> {
        // Fails only on a connection that is already gone; the guest will see that.
        let _ = stream.set_nodelay(true);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(OutboundConnection {
            stream,
            peer,
            ended: AtomicBool::new(false),
            id,
            owner: self.clone(),
            _slot: slot,
        });
        let entry = Entry {
            addon: granted.addon,
            connection: Arc::downgrade(&connection),
        };
        self.alive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, entry);
        connection
    }

    /// Ends those whose add-on the filter picks.
    pub(crate) fn end(&self, picked: impl Fn(Option<&str>) -> bool) {
        let ending: Vec<_> = {
            let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
            let picked = alive
                .values()
                .filter(|entry| picked(entry.addon.as_deref()));
            picked
                .filter_map(|entry| entry.connection.upgrade())
                .collect()
        };
        // Outside the lock: dropping the last reference takes it.
        for connection in ending {
            connection.end();
        }
    }
}

impl Drop for OutboundConnection {
    fn drop(&mut self) {
        self.owner
            .alive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}

impl OutboundConnection {
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// As it was at the beginning: a connection that was reset has none, and wasi-libc aborts a guest for that.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Cuts it: both sides see it at once, and ours sees an error instead of a clean end.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.shutdown(Shutdown::Both);
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        // Fails only if the peer was faster.
        let _ = rustix::net::shutdown(&self.stream, how);
    }

    fn cut(&self) -> io::Result<()> {
        if self.ended.load(Ordering::Acquire) {
            Err(io::ErrorKind::ConnectionReset.into())
        } else {
            Ok(())
        }
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_read_ready(cx).map(|_| ())
    }

    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_write_ready(cx).map(|_| ())
    }

    /// Reads what is there; 0 is the end.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            self.cut()?;
            match self.stream.try_read(buffer) {
                Ok(0) => return Poll::Ready(self.cut().map(|()| 0)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream.poll_read_ready(cx))?
                }
                other => return Poll::Ready(other),
            }
        }
    }

    /// Writes what fits.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            self.cut()?;
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream.poll_write_ready(cx))?
                }
                other => return Poll::Ready(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_have_no_delay_and_can_be_cut() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stream = TcpStream::connect(addr).await.unwrap();
        let (mut other, _) = listener.accept().await.unwrap();
        let connections = Arc::<Connections>::default();
        let granted = Granted {
            addon: Some("db".into()),
        };
        let connection = connections.admit(stream, addr, granted, None);
        assert!(connection.stream().nodelay().unwrap());
        connections.end(|addon| addon == Some("db"));
        let read = std::future::poll_fn(|cx| connection.poll_read(cx, &mut [0; 8])).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let ended = tokio::io::AsyncReadExt::read(&mut other, &mut [0; 8]).await;
        assert!(matches!(ended, Ok(0) | Err(_)));
        drop(connection);
        assert!(connections.alive.lock().unwrap().is_empty());
    }
}
