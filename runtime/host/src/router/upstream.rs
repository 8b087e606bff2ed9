//! The connections to a listening dyno: HTTP/1.1 over its port, kept alive between requests.
//!
//! The port leads to the guest through memory, so it is known whether the guest has read anything of a request: one
//! that met a closed connection, and of which the guest has nothing, is sent again and nobody hears of it. For that,
//! a request's body is held back until the guest has begun to read its head.
//!
//! Bounds: as many idle connections as the dyno takes requests at once, each for at most [`IDLE`]. A connection's
//! task runs on the dyno's core, beside the guest.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use oarlock_sandbox::{Body, BodyError, Port, Progress, other_coding, poll_content};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::{MAX_HEADER, MAX_HEADERS};
use super::held::{Held, Home};
use super::{headers, lock};
use crate::cores::{CoreId, Cores};

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(60);

/// How long one that was just used gets to be ready for the next request, before another is taken.
const SETTLE: Duration = Duration::from_millis(100);

/// See the module.
pub(crate) struct Upstream {
    port: Port,
    cores: Cores,
    core: CoreId,
    most_idle: usize,
    idle: Mutex<Idle>,
    /// The host is about to end.
    ending: CancellationToken,
}

#[derive(Default)]
struct Idle {
    kept: Vec<Kept>,
    closed: bool,
}

/// A connection that no request is on.
struct Kept {
    sender: SendRequest<Held>,
    progress: Progress,
    since: Instant,
}

/// What a dyno said.
pub(super) enum Reply {
    /// A head, and the body as it comes.
    Answer(Response<Body>),
    /// 101: from here on the connection is a tunnel.
    Switched(Box<Parts>, OnUpgrade),
}

/// Why it said nothing.
pub(super) enum NoReply {
    /// It had nothing of the request, which is as it was, and takes no more.
    Unserved(Box<Request<Body>>),
    /// It took the request and ended the connection.
    Closed,
    /// What it said is not HTTP/1.1; why.
    Invalid(String),
}

impl Upstream {
    /// Of a dyno on `core` that takes `capacity` requests at once.
    pub(crate) fn new(port: Port, cores: Cores, core: CoreId, capacity: u32) -> Arc<Self> {
        let upstream = Arc::new(Self {
            port,
            core,
            most_idle: capacity as usize,
            idle: Mutex::default(),
            ending: CancellationToken::new(),
            cores,
        });
        let reaper = reap(Arc::downgrade(&upstream));
        upstream.cores.spawn(core, reaper);
        upstream
    }

    /// Its core.
    pub(crate) fn core(&self) -> CoreId {
        self.core
    }

    /// Whether it takes no more connections.
    pub(super) fn has_ended(&self) -> bool {
        self.port.is_closed()
    }

    /// Closes the idle connections, and those in use after their request: servers that stop wait for that.
    pub(crate) fn close(&self) {
        let mut idle = lock(&self.idle);
        idle.closed = true;
        let kept = std::mem::take(&mut idle.kept);
        drop((idle, kept));
    }

    /// Says that the host is about to end, though requests still come.
    pub(crate) fn announce_end(&self) {
        self.ending.cancel();
    }

    /// Resolves when the host is about to end.
    pub(crate) async fn host_ends(&self) {
        self.ending.cancelled().await;
    }

    /// Sends a request, and waits for its head. `upgrade` is the protocol that the client would rather speak.
    pub(super) async fn call(
        self: &Arc<Self>,
        request: Request<Body>,
        upgrade: Option<&HeaderValue>,
    ) -> Result<Reply, NoReply> {
        let (parts, body) = request.into_parts();
        let home = Home::new(body);
        let unserved = |home: &Home| {
            let body = home.take_back().unwrap_or_default();
            NoReply::Unserved(Box::new(Request::from_parts(parts.clone(), body)))
        };
        let mut kept = self.take_idle().await;
        loop {
            let reused = kept.is_some();
            let (mut sender, progress) = match kept.take() {
                Some(kept) => (kept.sender, kept.progress),
                None => match self.connect().await {
                    Some(connection) => connection,
                    None => return Err(unserved(&home)),
                },
            };
            let before = progress.taken();
            let expects = headers::expects_continue(&parts.headers);
            let (held, continued) = Held::new(&home, (progress.clone(), before), expects);
            let head = headers::to_server(&parts, upgrade);
            let mut sent = Request::from_parts(head, held);
            if expects {
                hyper::ext::on_informational(&mut sent, move |response| {
                    if response.status() == StatusCode::CONTINUE {
                        continued.give();
                    }
                });
            }
            let error = match sender.send_request(sent).await {
                Ok(response) => return self.reply(response, (sender, progress), home, upgrade),
                Err(error) => error,
            };
            let untouched = progress.taken() == before && home.is_whole();
            if untouched && reused {
                // The guest had closed it; a new one tells more.
                continue;
            }
            if untouched && self.port.is_closed() {
                return Err(unserved(&home));
            }
            return Err(if error.is_parse() {
                NoReply::Invalid(error.to_string())
            } else {
                NoReply::Closed
            });
        }
    }

    fn reply(
        self: &Arc<Self>,
        response: Response<Incoming>,
        (sender, progress): (SendRequest<Held>, Progress),
        home: Arc<Home>,
        upgrade: Option<&HeaderValue>,
    ) -> Result<Reply, NoReply> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            if upgrade.is_none() {
                let reason = "it switches protocols without having been asked".to_owned();
                return Err(NoReply::Invalid(reason));
            }
            let mut response = response;
            let tunnel = hyper::upgrade::on(&mut response);
            let (parts, _) = response.into_parts();
            return Ok(Reply::Switched(Box::new(parts), tunnel));
        }
        let (mut parts, incoming) = response.into_parts();
        if let Some(coding) = other_coding(&parts.headers) {
            let reason = format!(
                "its body has the transfer coding `{coding}`, and only `chunked` is decoded"
            );
            return Err(NoReply::Invalid(reason));
        }
        // The chunks say where it ends, whatever the length does (RFC 9112 6.3).
        if parts.headers.contains_key(TRANSFER_ENCODING) {
            parts.headers.remove(CONTENT_LENGTH);
        }
        let body = Answering {
            incoming,
            connection: Some((sender, progress)),
            upstream: self.clone(),
            home,
        };
        Ok(Reply::Answer(Response::from_parts(parts, Body::new(body))))
    }

    /// An idle connection that is still open.
    async fn take_idle(&self) -> Option<Kept> {
        loop {
            let mut kept = lock(&self.idle).kept.pop()?;
            if kept.sender.is_closed() || kept.since.elapsed() >= IDLE {
                continue;
            }
            if let Ok(Ok(())) = tokio::time::timeout(SETTLE, kept.sender.ready()).await {
                return Some(kept);
            }
        }
    }

    async fn connect(&self) -> Option<(SendRequest<Held>, Progress)> {
        let stream = self.port.connect().await.ok()?;
        let progress = stream.progress();
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEADER)
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .ok()?;
        // Its errors are those of its requests. It ends with its sender, or with the core.
        self.cores.spawn(self.core, connection.with_upgrades());
        Some((sender, progress))
    }

    fn keep(&self, sender: SendRequest<Held>, progress: Progress) {
        let mut idle = lock(&self.idle);
        let fits = !idle.closed && idle.kept.len() < self.most_idle && !sender.is_closed();
        if fits {
            idle.kept.push(Kept {
                sender,
                progress,
                since: Instant::now(),
            });
        }
    }

    /// Lets those go that nobody has used for long; they are in the order of their use.
    fn let_old_ones_go(&self) {
        let mut idle = lock(&self.idle);
        let old = idle
            .kept
            .iter()
            .take_while(|kept| kept.since.elapsed() >= IDLE)
            .count();
        let old: Vec<Kept> = idle.kept.drain(..old).collect();
        drop((idle, old));
    }
}

/// Until the dyno is gone.
async fn reap(upstream: Weak<Upstream>) {
    loop {
        tokio::time::sleep(IDLE / 4).await;
        match upstream.upgrade() {
            Some(upstream) => upstream.let_old_ones_go(),
            None => return,
        }
    }
}

/// A response's body; its connection is kept when it has ended, and closed when it is dropped before.
struct Answering {
    incoming: Incoming,
    connection: Option<(SendRequest<Held>, Progress)>,
    upstream: Arc<Upstream>,
    home: Arc<Home>,
}

impl Answering {
    fn ended(&mut self) {
        if let Some((sender, progress)) = self.connection.take() {
            if self.home.is_sent() {
                self.upstream.keep(sender, progress);
            } else {
                // The guest does not want the rest.
                self.home.cut();
            }
        }
    }
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
        let incoming = std::pin::Pin::new(&mut self.incoming);
        let frame = std::task::ready!(poll_content(incoming, context));
        if frame.is_none() || self.incoming.is_end_stream() {
            self.ended();
        }
        std::task::Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Hyper)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for Answering {
    /// A body of a known length may never be asked for its end.
    fn drop(&mut self) {
        if http_body::Body::is_end_stream(&self.incoming) {
            self.ended();
        } else {
            self.home.cut();
        }
    }
}
