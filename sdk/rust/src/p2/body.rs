//! Bodies between `wasi:io` streams and the `http-body` crate.
//!
//! A stream is a child of its body, and a pollable of its stream: each is dropped before its parent,
//! which the order of fields sees to.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use wasip2::http::types::{
    ErrorCode, Fields, FutureTrailers, IncomingBody, OutgoingBody, http_error_code,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

use super::http::{fields, headers, internal};
use super::reactor::{Wait, wait};
use crate::Body;

/// The most bytes of one chunk that comes in.
const CHUNK: u64 = 64 << 10;

/// A body on its way in: of a request to a handler, or of a response to `fetch`.
pub(crate) struct Incoming(State);

enum State {
    Data {
        wait: Option<Wait>,
        stream: InputStream,
        body: IncomingBody,
    },
    Trailers {
        wait: Option<Wait>,
        trailers: FutureTrailers,
    },
    End,
}

impl Incoming {
    /// `None`: it has been taken already.
    pub(super) fn new(body: IncomingBody) -> Option<Incoming> {
        let stream = body.stream().ok()?;
        Some(Incoming(State::Data {
            wait: None,
            stream,
            body,
        }))
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = ErrorCode;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ErrorCode>>> {
        let this = self.get_mut();
        loop {
            if let State::Data { wait, .. } | State::Trailers { wait, .. } = &mut this.0
                && let Some(waiting) = wait
            {
                ready!(Pin::new(waiting).poll(cx));
                *wait = None;
            }
            match &mut this.0 {
                State::Data {
                    wait: waits,
                    stream,
                    ..
                } => match stream.read(CHUNK) {
                    Ok(data) if data.is_empty() => *waits = Some(wait(stream.subscribe())),
                    Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data.into())))),
                    Err(StreamError::Closed) => this.finish(),
                    Err(error) => {
                        this.0 = State::End;
                        return Poll::Ready(Some(Err(code(&error))));
                    }
                },
                State::Trailers {
                    wait: waits,
                    trailers,
                } => {
                    let Some(trailers) = trailers.get() else {
                        *waits = Some(wait(trailers.subscribe()));
                        continue;
                    };
                    this.0 = State::End;
                    return Poll::Ready(match trailers {
                        Ok(Ok(None)) | Err(()) => None,
                        Ok(Ok(Some(fields))) => Some(headers(&fields).map(Frame::trailers)),
                        Ok(Err(code)) => Some(Err(code)),
                    });
                }
                State::End => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, State::End)
    }
}

impl Incoming {
    /// After the last byte: now the trailers.
    fn finish(&mut self) {
        if let State::Data { wait, stream, body } = std::mem::replace(&mut self.0, State::End) {
            drop(wait);
            drop(stream);
            self.0 = State::Trailers {
                wait: None,
                trailers: IncomingBody::finish(body),
            };
        }
    }
}

/// Sends a body to its end. When it fails, or nobody reads it any more, the other side sees it cut
/// short: only `finish` ends it cleanly.
pub(super) async fn send(mut body: Body, to: OutgoingBody) -> Result<(), ErrorCode> {
    let stream = to
        .write()
        .map_err(|()| internal("its body has been taken"))?;
    let mut trailers: Option<Fields> = None;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        // Its own error has been told, to the receiver, by the cut.
        let frame = frame.map_err(internal)?;
        match frame.into_data() {
            Ok(data) => write(&stream, &data).await.map_err(|error| code(&error))?,
            Err(frame) => {
                if let Ok(headers) = frame.into_trailers() {
                    trailers = Some(fields(&headers)?);
                }
            }
        }
    }
    flush(&stream).await.map_err(|error| code(&error))?;
    drop(stream);
    OutgoingBody::finish(to, trailers)
}

async fn write(stream: &OutputStream, mut data: &[u8]) -> Result<(), StreamError> {
    while !data.is_empty() {
        let room = permit(stream).await?;
        let (now, later) = data.split_at(data.len().min(room));
        stream.write(now)?;
        data = later;
    }
    Ok(())
}

async fn flush(stream: &OutputStream) -> Result<(), StreamError> {
    stream.flush()?;
    // Until it is done there is no room.
    permit(stream).await.map(drop)
}

/// How many bytes may be written now; waits until it is more than none.
async fn permit(stream: &OutputStream) -> Result<usize, StreamError> {
    loop {
        match stream.check_write()? {
            0 => wait(stream.subscribe()).await,
            room => return Ok(usize::try_from(room).unwrap_or(usize::MAX)),
        }
    }
}

fn code(error: &StreamError) -> ErrorCode {
    match error {
        StreamError::LastOperationFailed(error) => {
            http_error_code(error).unwrap_or_else(|| internal(error))
        }
        StreamError::Closed => internal("the other side has closed it"),
    }
}
