//! What a connection runs over: a socket, and what else carries bytes; and the bytes that were read of it before it was
//! known what they are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Carries a client's connection.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Its close, which comes next, shall tell the client that something is missing.
    fn reset_at_close(&self);
}

impl Transport for TcpStream {
    fn reset_at_close(&self) {
        // A lingering time of zero makes the close a reset. If it fails, the close is only less clear.
        let _ = self.set_zero_linger();
    }
}

#[cfg(test)]
impl Transport for tokio::io::DuplexStream {
    fn reset_at_close(&self) {}
}

/// How a connection of HTTP/2 begins (RFC 9113 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const PREFACE_LENGTH: usize = PREFACE.len();

/// The HTTP that a client speaks, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// The first bytes of a connection: read to see which HTTP they are, and then read once more by the one who serves it.
#[derive(Debug, Default)]
pub(super) struct Prefix {
    bytes: [u8; PREFACE_LENGTH],
    read: usize,
    replayed: usize,
}

impl Prefix {
    /// Reads until it is clear which HTTP it is. `None`: the connection ended before.
    ///
    /// No request of HTTP/1 begins with the whole preface: `PRI` is registered as a method that is never one.
    pub(super) fn poll_detect<T: AsyncRead + Unpin>(
        &mut self,
        transport: &mut T,
        context: &mut Context<'_>,
    ) -> Poll<Option<Version>> {
        loop {
            let mut rest = ReadBuf::new(self.bytes.get_mut(self.read..).unwrap_or_default());
            if std::task::ready!(Pin::new(&mut *transport).poll_read(context, &mut rest)).is_err() {
                return Poll::Ready(None);
            }
            let more = rest.filled().len();
            if more == 0 {
                return Poll::Ready(None);
            }
            self.read += more;
            let seen = self.bytes.get(..self.read).unwrap_or_default();
            if !PREFACE.starts_with(seen) {
                return Poll::Ready(Some(Version::Http1));
            }
            if seen.len() == PREFACE_LENGTH {
                return Poll::Ready(Some(Version::Http2));
            }
        }
    }

    /// Whether something has come.
    pub(super) fn has_begun(&self) -> bool {
        self.read > 0
    }

    /// Reads what was read already, and then what comes.
    pub(super) fn poll_read<T: AsyncRead + Unpin>(
        &mut self,
        transport: &mut T,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.replayed == self.read {
            return Pin::new(transport).poll_read(context, into);
        }
        let rest = self.bytes.get(self.replayed..self.read).unwrap_or_default();
        let (piece, rest) = rest.split_at(rest.len().min(into.remaining()));
        into.put_slice(piece);
        self.replayed = self.read - rest.len();
        if into.remaining() > 0 {
            // The rest of the head, so that it is parsed once. A failure comes again, by itself.
            let _ = Pin::new(transport).poll_read(context, into);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    async fn detect(
        prefix: &mut Prefix,
        transport: &mut (impl AsyncRead + Unpin),
    ) -> Option<Version> {
        std::future::poll_fn(|context| prefix.poll_detect(transport, context)).await
    }

    struct Replay<T>(Prefix, T);

    impl<T: AsyncRead + Unpin> AsyncRead for Replay<T> {
        fn poll_read(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let Self(prefix, transport) = self.get_mut();
            prefix.poll_read(transport, context, into)
        }
    }

    /// What comes out when `text` is sent whole or byte by byte, and the version.
    async fn both_ways(text: &str) -> (Option<Version>, String) {
        let mut seen = Vec::new();
        for piece in [1, text.len()] {
            let (mut client, mut server) = duplex(1 << 10);
            let bytes = text.as_bytes().to_vec();
            tokio::spawn(async move {
                for part in bytes.chunks(piece) {
                    client.write_all(part).await.unwrap();
                    tokio::task::yield_now().await;
                }
            });
            let mut prefix = Prefix::default();
            let version = detect(&mut prefix, &mut server).await;
            let mut all = String::new();
            Replay(prefix, server)
                .read_to_string(&mut all)
                .await
                .unwrap();
            seen.push((version, all));
        }
        assert_eq!(seen[0], seen[1]);
        seen.remove(0)
    }

    #[tokio::test]
    async fn versions_are_told_apart_by_the_whole_preface_and_no_byte_is_lost() {
        let preface = std::str::from_utf8(PREFACE).unwrap();
        let settings = format!("{preface}more");
        for text in [preface, &settings] {
            assert_eq!(
                both_ways(text).await,
                (Some(Version::Http2), text.to_owned())
            );
        }
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "PUT",
            "PRIVATE /",
            "PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n",
            "x",
        ] {
            assert_eq!(
                both_ways(text).await,
                (Some(Version::Http1), text.to_owned())
            );
        }
    }

    #[tokio::test]
    async fn an_end_before_it_is_clear_is_seen_at_once() {
        for text in ["P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            assert_eq!(both_ways(text).await.0, None);
        }
        let (client, mut server) = duplex(1);
        drop(client);
        let mut prefix = Prefix::default();
        assert_eq!(detect(&mut prefix, &mut server).await, None);
        assert!(!prefix.has_begun());
    }
}
