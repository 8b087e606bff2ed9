//! What the WebSockets have in common: they are kept awake, end for a slow reader, and close properly.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use tokio::time::{Instant, interval_at, timeout};

use crate::stop::Stop;

/// A ping goes out this often: a connection without traffic is closed on its way (55 s at the router).
const PING: Duration = Duration::from_secs(25);
/// The longest that a message may wait for its reader.
const SEND: Duration = Duration::from_secs(10);
/// The longest wait for the other side's half of the close.
const CLOSE: Duration = Duration::from_secs(2);

/// Why a connection is closed, by the codes of RFC 6455 (7.4.1).
pub(crate) enum End {
    /// The other side has closed it, or is gone.
    Gone,
    /// The dyno stops.
    Stopping,
    /// A message was longer than this connection takes.
    TooLong,
    /// The text is for the visitor.
    Refused(String),
}

/// Something that happened on a connection.
pub(crate) enum Event<T> {
    Text(String),
    Binary(axum::body::Bytes),
    /// What `other` returned.
    Other(T),
}

/// A connection with its timers.
pub(crate) struct Socket {
    socket: WebSocket,
    pings: tokio::time::Interval,
    stop: Stop,
}

impl Socket {
    pub(crate) fn new(socket: WebSocket, stop: Stop) -> Socket {
        Socket {
            socket,
            pings: interval_at(Instant::now() + PING, PING),
            stop,
        }
    }

    /// The next thing that happens: a message, or what `other` waits for.
    pub(crate) async fn next<T>(
        &mut self,
        other: impl Future<Output = T>,
    ) -> Result<Event<T>, End> {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                message = self.socket.recv() => match message {
                    Some(Ok(Message::Text(text))) => return Ok(Event::Text(text.as_str().to_owned())),
                    Some(Ok(Message::Binary(data))) => return Ok(Event::Binary(data)),
                    // Pings are answered below here.
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(_))) | None => return Err(End::Gone),
                    Some(Err(error)) => return Err(failed(&error)),
                },
                _ = self.pings.tick() => self.send(Message::Ping(Default::default())).await?,
                () = self.stop.wait() => return Err(End::Stopping),
                done = &mut other => return Ok(Event::Other(done)),
            }
        }
    }

    pub(crate) async fn send(&mut self, message: Message) -> Result<(), End> {
        match timeout(SEND, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }

    /// Tells the other side why, and waits a moment for its answer.
    pub(crate) async fn close(mut self, end: End) {
        let (code, reason) = match end {
            End::Gone => return,
            End::Stopping => (close_code::AWAY, "the server stops".to_owned()),
            End::TooLong => (close_code::SIZE, "the message is too long".to_owned()),
            End::Refused(reason) => (close_code::AGAIN, reason),
        };
        let frame = CloseFrame {
            code,
            reason: reason.into(),
        };
        if self.send(Message::Close(Some(frame))).await.is_ok() {
            let answer = async { while let Some(Ok(_)) = self.socket.recv().await {} };
            let _in_time = timeout(CLOSE, answer).await;
        }
    }
}

fn failed(error: &axum::Error) -> End {
    // axum has no type for it.
    let too_long = std::error::Error::source(error)
        .is_some_and(|source| source.to_string().contains("too long"));
    if too_long { End::TooLong } else { End::Gone }
}
