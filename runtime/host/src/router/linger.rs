//! The close of a connection whose client may still be sending.
//!
//! A socket that is closed with input nobody has read is reset, and the reset takes the answer from the client that has not
//! read it yet: an early answer to a large upload, say, or a refusal of it. So the close has stages (RFC 9112 9.6): our side
//! ends, what still comes is thrown away, and the socket is closed when the client has ended, says nothing for [`SILENCE`],
//! or when a bound is reached: [`UPLOAD`], [`MALFORMED`]. Whoever needs the connection's place, or ends the host, does not
//! wait for it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, sleep_until};

use super::connection::{Connection, Order};
use super::transport::Transport;

/// A client that sends nothing for so long has heard that we have ended, or never will.
const SILENCE: Duration = Duration::from_secs(2);
/// What may be thrown away of a client that goes on sending.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    time: Duration,
    bytes: u64,
}

/// Of a body that nobody wants.
const UPLOAD: Bounds = Bounds {
    time: Duration::from_secs(30),
    bytes: 256 << 20,
};
/// Of what makes no sense.
const MALFORMED: Bounds = Bounds {
    time: SILENCE,
    bytes: 8 << 20,
};

/// Read at once.
const PIECE: usize = 16 << 10;
/// Pieces between two turns of the core's other tasks.
const IN_A_ROW: usize = 16;

/// What is known of the input that nobody has read: the state of a request's body.
#[derive(Debug, Default)]
pub(super) struct Unread(AtomicU8);

const NONE: u8 = 0;
const BODY: u8 = 1;
const NONSENSE: u8 = 2;

impl Unread {
    /// A request begins.
    pub(super) fn begin(&self, has_body: bool) {
        let state = if has_body { BODY } else { NONE };
        self.0.store(state, Ordering::Relaxed);
    }

    /// The body has been read to its end.
    pub(super) fn ends(&self) {
        self.0.store(NONE, Ordering::Relaxed);
    }

    /// The body is malformed.
    pub(super) fn is_malformed(&self) {
        self.0.store(NONSENSE, Ordering::Relaxed);
    }

    /// Of a close that comes now; `None`: all was read.
    pub(super) fn bounds(&self, in_head: bool) -> Option<Bounds> {
        match self.0.load(Ordering::Relaxed) {
            BODY => Some(UPLOAD),
            NONSENSE => Some(MALFORMED),
            _ => in_head.then_some(MALFORMED),
        }
    }
}

/// Ends our side, reads what comes, and closes.
pub(super) async fn close<T: Transport>(connection: &Connection, mut transport: T) {
    let Some(most) = connection.closes_within() else {
        return;
    };
    if transport.shutdown().await.is_err() {
        return;
    }
    let end = Instant::now() + most.time;
    let mut read = 0;
    while read < most.bytes && Instant::now() < end {
        let until = (Instant::now() + SILENCE).min(end);
        match throw_away(connection, &mut transport, until).await {
            Ok(0) | Err(_) => return,
            Ok(bytes) => read += bytes,
        }
        tokio::task::yield_now().await;
    }
}

/// Waits for input and reads some; 0: there will be no more of it, or nobody waits for it any longer.
async fn throw_away<T: Transport>(
    connection: &Connection,
    transport: &mut T,
    until: Instant,
) -> io::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut silence = pin!(sleep_until(until));
    poll_fn(|context| {
        if connection.poll_order(context) != Order::Serve || connection.gives_way() {
            return Poll::Ready(Ok(0));
        }
        if silence.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(0));
        }
        let mut bytes = 0;
        for _ in 0..IN_A_ROW {
            let mut into = ReadBuf::new(&mut piece);
            match Pin::new(&mut *transport).poll_read(context, &mut into) {
                Poll::Pending if bytes > 0 => break,
                read => ready!(read)?,
            }
            bytes += into.filled().len() as u64;
            if into.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(bytes))
    })
    .await
}
