//! The one way out of a fetch: an HTTP proxy on a Unix socket that knows `CONNECT` only, and asks the host's egress
//! rules for each connection.
//!
//! Bounds: [`MAX_TUNNELS`] at once, [`MAX_HEAD`] bytes and [`HEAD_TIME`] for a request's head. What comes through is
//! bounded by the build's time and disk.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oarlock_host::Tunnels;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// Connections through one proxy at once; cargo uses two or three.
const MAX_TUNNELS: usize = 32;
/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// How long a head may take.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Refusals that wait to be told; more are not told.
const REFUSALS: usize = 16;

/// A running proxy. Dropped, it ends with its connections.
pub(super) struct Proxy {
    _tasks: JoinSet<()>,
    /// Why a connection was refused, for the build's log.
    pub(super) refusals: mpsc::Receiver<String>,
}

impl Proxy {
    /// Listens on this socket, which must not be there yet.
    pub(super) fn start(socket: &Path, tunnels: Tunnels) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let (tell, refusals) = mpsc::channel(REFUSALS);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let places = Arc::new(Semaphore::new(MAX_TUNNELS));
            let mut open = JoinSet::new();
            loop {
                let Ok(place) = places.clone().acquire_owned().await else {
                    return;
                };
                let Ok((client, _)) = listener.accept().await else {
                    return;
                };
                while open.try_join_next().is_some() {}
                let (tunnels, tell) = (tunnels.clone(), tell.clone());
                open.spawn(async move {
                    if let Err(reason) = serve(client, &tunnels).await {
                        // Nobody has to listen.
                        let _ = tell.try_send(reason);
                    }
                    drop(place);
                });
            }
        });
        Ok(Self {
            _tasks: tasks,
            refusals,
        })
    }
}

async fn serve(mut client: UnixStream, tunnels: &Tunnels) -> Result<(), String> {
    let head = tokio::time::timeout(HEAD_TIME, read_head(&mut client)).await;
    let Some(head) = head.ok().flatten() else {
        return Ok(());
    };
    let Some((host, port)) = target(&head) else {
        refuse(&mut client, "405 Method Not Allowed").await;
        return Err("a fetch may only use HTTPS".to_owned());
    };
    let mut server = match tunnels.connect(host, port).await {
        Ok(server) => server,
        Err(reason) => {
            refuse(&mut client, "403 Forbidden").await;
            // The rest would be for a manifest, which does not decide here.
            let reason = reason.split("; to allow it").next().unwrap_or_default();
            let reason = reason.replace("of the manifest", "of the policy");
            return Err(format!(
                "{host}:{port}: {reason}; the policy's `[build] fetch` lists what a fetch may connect to"
            ));
        }
    };
    if client
        .write_all(b"HTTP/1.1 200 Connected\r\n\r\n")
        .await
        .is_ok()
    {
        // A connection that breaks is the client's to report.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
    Ok(())
}

async fn refuse(client: &mut UnixStream, status: &str) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let _ = client.write_all(head.as_bytes()).await;
}

/// A request's head; `None`: it is too long, or the client is gone. A client sends nothing behind it before it has an
/// answer.
async fn read_head(client: &mut UnixStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD || client.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    String::from_utf8(head).ok()
}

/// Host and port of `CONNECT host:port HTTP/1.1`.
fn target(head: &str) -> Option<(&str, u16)> {
    let mut words = head.lines().next()?.split(' ');
    if words.next()? != "CONNECT" {
        return None;
    }
    let (host, port) = words.next()?.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connect_is_understood() {
        assert_eq!(
            target("CONNECT static.crates.io:443 HTTP/1.1\r\nHost: x\r\n\r\n"),
            Some(("static.crates.io", 443))
        );
        assert_eq!(target("CONNECT [::1]:443 HTTP/1.1"), Some(("::1", 443)));
        for other in [
            "GET http://169.254.169.254/ HTTP/1.1",
            "CONNECT static.crates.io HTTP/1.1",
            "CONNECT a:99999 HTTP/1.1",
            "",
        ] {
            assert_eq!(target(other), None, "{other}");
        }
    }
}
