//! A connection that has switched protocols (WebSockets, mostly): bytes both ways until one side is done.
//!
//! It is one request: its exchange, and with it the lease and the log line, lives as long as the tunnel. Bounds:
//! [`BUFFER`] bytes each way, `idle_timeout` without a byte in either direction, [`HALF_CLOSED`] once one side has ended.

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use oarlock_spec::codes::RouterCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::connection::{Connection, Order};
use super::exchange::Exchange;

/// Bytes on their way in each direction.
const BUFFER: usize = 16 * 1024;

/// How long one direction may be silent after the other has ended: protocols that say their goodbyes need no more.
const HALF_CLOSED: Duration = Duration::from_secs(5);

/// Where a request leaves the tunnel that its connection becomes.
pub(super) type TunnelSlot = Arc<Mutex<Option<Tunnel>>>;

/// A tunnel to be opened as soon as both sides have switched.
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) dyno: OnUpgrade,
    pub(super) exchange: Box<Exchange>,
    pub(super) idle_timeout: Duration,
}

/// How a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Both sides, or one and then the other's silence.
    Closed,
    /// Nothing came for too long.
    Idle,
    /// The client's connection failed.
    Client,
    /// The dyno's connection failed: its guest ended.
    Dyno,
    /// The host ends.
    Aborted,
}

impl Tunnel {
    /// Carries bytes until the end.
    pub(super) async fn run(self, connection: &Connection) {
        let Self {
            client,
            dyno,
            mut exchange,
            idle_timeout,
        } = self;
        let Ok((client, dyno)) = futures::future::try_join(client, dyno).await else {
            return exchange.failed(connection.why_dropped());
        };
        let (client, dyno) = (TokioIo::new(client), TokioIo::new(dyno));
        let aborted = |context: &mut Context<'_>| connection.poll_order(context) == Order::Abort;
        let (end, bytes) = carry(client, dyno, idle_timeout, aborted).await;
        exchange.bytes = bytes;
        match end {
            End::Closed => exchange.done(),
            End::Idle => exchange.failed(RouterCode::H15),
            End::Client => exchange.failed(connection.why_dropped()),
            End::Dyno | End::Aborted => exchange.failed(RouterCode::H18),
        }
    }
}

/// Which side of a direction failed.
enum Fault {
    Reading,
    Writing,
}

/// One direction.
struct Way {
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
    /// The reader's end was met.
    ended: bool,
    carried: u64,
}

impl Way {
    fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER].into(),
            from: 0,
            to: 0,
            ended: false,
            carried: 0,
        }
    }

    /// Ready when the end was passed on.
    fn poll(
        &mut self,
        reader: Pin<&mut impl AsyncRead>,
        mut writer: Pin<&mut impl AsyncWrite>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        let mut reader = reader;
        loop {
            if self.from < self.to {
                let bytes = self.buffer.get(self.from..self.to).unwrap_or_default();
                let written = ready!(writer.as_mut().poll_write(context, bytes));
                match written {
                    Ok(0) | Err(_) => return Poll::Ready(Err(Fault::Writing)),
                    Ok(written) => {
                        self.from += written;
                        self.carried += written as u64;
                    }
                }
                continue;
            }
            if self.ended {
                let shut = ready!(writer.as_mut().poll_shutdown(context));
                return Poll::Ready(shut.map_err(|_| Fault::Writing));
            }
            match self.fill(reader.as_mut(), context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::Reading)),
                Poll::Pending => {
                    let flushed = ready!(writer.as_mut().poll_flush(context));
                    return match flushed {
                        Ok(()) => Poll::Pending,
                        Err(_) => Poll::Ready(Err(Fault::Writing)),
                    };
                }
            }
        }
    }

    fn fill(
        &mut self,
        reader: Pin<&mut impl AsyncRead>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(reader.poll_read(context, &mut buffer))?;
        (self.from, self.to) = (0, buffer.filled().len());
        self.ended = self.to == 0;
        Poll::Ready(Ok(()))
    }
}

/// Carries bytes both ways; how it ended, and how many the client got.
async fn carry<C, D>(
    client: C,
    dyno: D,
    idle_timeout: Duration,
    aborted: impl Fn(&mut Context<'_>) -> bool,
) -> (End, u64)
where
    C: AsyncRead + AsyncWrite,
    D: AsyncRead + AsyncWrite,
{
    let (mut client, mut dyno) = (pin!(client), pin!(dyno));
    let (mut up, mut down) = (Way::new(), Way::new());
    let (mut up_done, mut down_done) = (false, false);
    let mut quiet = Quiet::new(idle_timeout);
    let end = std::future::poll_fn(|context| {
        if aborted(context) {
            return Poll::Ready(End::Aborted);
        }
        if !up_done {
            match up.poll(client.as_mut(), dyno.as_mut(), context) {
                Poll::Ready(Ok(())) => up_done = true,
                Poll::Ready(Err(Fault::Reading)) => return Poll::Ready(End::Client),
                // Why the dyno takes no more is told by how its own direction ends.
                Poll::Ready(Err(Fault::Writing)) => up_done = true,
                Poll::Pending => {}
            }
        }
        if !down_done {
            match down.poll(dyno.as_mut(), client.as_mut(), context) {
                Poll::Ready(Ok(())) => down_done = true,
                Poll::Ready(Err(Fault::Reading)) => return Poll::Ready(End::Dyno),
                Poll::Ready(Err(Fault::Writing)) => return Poll::Ready(End::Client),
                Poll::Pending => {}
            }
        }
        if up_done && down_done {
            return Poll::Ready(End::Closed);
        }
        let half = up_done || down_done;
        let silent = quiet.poll(up.carried + down.carried, half, context);
        silent.map(|()| if half { End::Closed } else { End::Idle })
    })
    .await;
    (end, down.carried)
}

/// Measures silence.
struct Quiet {
    idle_timeout: Duration,
    carried: u64,
    half: bool,
    last: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Quiet {
    fn new(idle_timeout: Duration) -> Self {
        Self {
            idle_timeout,
            carried: 0,
            half: false,
            last: Instant::now(),
            sleep: Box::pin(tokio::time::sleep(idle_timeout)),
        }
    }

    /// Ready when nothing has been carried for too long.
    fn poll(&mut self, carried: u64, half: bool, context: &mut Context<'_>) -> Poll<()> {
        if (carried, half) != (self.carried, self.half) {
            (self.carried, self.half, self.last) = (carried, half, Instant::now());
        }
        let patience = if half {
            self.idle_timeout.min(HALF_CLOSED)
        } else {
            self.idle_timeout
        };
        let due = self.last + patience;
        // Set forward only when it fires, or when it would fire too late.
        if due < self.sleep.deadline() {
            self.sleep.as_mut().reset(due);
        }
        loop {
            ready!(self.sleep.as_mut().poll(context));
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    const LONG: Duration = Duration::from_secs(3_600);

    fn never(_: &mut Context<'_>) -> bool {
        false
    }

    /// The two outer ends, and the tunnel between them.
    fn tunnel(
        idle: Duration,
    ) -> (
        DuplexStream,
        DuplexStream,
        tokio::task::JoinHandle<(End, u64)>,
    ) {
        let (client, near) = duplex(1_000);
        let (far, dyno) = duplex(1_000);
        (client, dyno, tokio::spawn(carry(near, far, idle, never)))
    }

    #[tokio::test]
    async fn carries_both_ways_at_once_and_counts_what_the_client_gets() {
        let (client, dyno, tunnel) = tunnel(LONG);
        let (mut client_reads, mut client_writes) = tokio::io::split(client);
        let (mut dyno_reads, mut dyno_writes) = tokio::io::split(dyno);
        let (up, down) = (vec![1; 100_000], vec![2; 50_000]);
        let sending = async {
            client_writes.write_all(&up).await.unwrap();
            client_writes.shutdown().await.unwrap();
        };
        let answering = async {
            dyno_writes.write_all(&down).await.unwrap();
            dyno_writes.shutdown().await.unwrap();
        };
        let (mut at_dyno, mut at_client) = (Vec::new(), Vec::new());
        let (_, _, one, other) = tokio::join!(
            sending,
            answering,
            dyno_reads.read_to_end(&mut at_dyno),
            client_reads.read_to_end(&mut at_client)
        );
        assert_eq!((one.unwrap(), other.unwrap()), (100_000, 50_000));
        assert_eq!((at_dyno, at_client), (up, down));
        assert_eq!(tunnel.await.unwrap(), (End::Closed, 50_000));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_a_byte_puts_that_off() {
        let (mut client, mut dyno, tunnel) = tunnel(Duration::from_secs(10));
        let began = Instant::now();
        tokio::time::sleep(Duration::from_secs(8)).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(dyno.read_u8().await.unwrap(), b'x');
        assert_eq!(tunnel.await.unwrap(), (End::Idle, 0));
        assert_eq!(began.elapsed().as_secs(), 18);
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_that_has_ended_leaves_the_other_little_time() {
        let (mut client, dyno, tunnel) = tunnel(LONG);
        client.shutdown().await.unwrap();
        let began = Instant::now();
        assert_eq!(tunnel.await.unwrap(), (End::Closed, 0));
        assert_eq!(began.elapsed(), HALF_CLOSED);
        drop(dyno);
    }

    #[tokio::test]
    async fn an_order_ends_it() {
        let (near, _client) = duplex(10);
        let (far, _dyno) = duplex(10);
        let ended = carry(near, far, LONG, |_| true).await;
        assert_eq!(ended, (End::Aborted, 0));
    }
}
