//! Requests of an embedder's, without a connection: the same way through the router, but for the socket.
//!
//! A request is served on one of the host's cores; its caller, on whatever thread, waits for the head, and takes the
//! body from a bounded pipe. Bounds: such a request holds one of the router's connection permits (H11 when there is
//! none), [`PIECES`] pieces of its response wait in its pipe, and a caller that takes none of them for
//! `idle_timeout` is cut off (H15). A caller that drops what it waits for has gone away (H27), and its guest's call ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use oarlock_sandbox::BodyError;
use oarlock_spec::codes::RouterCode;
use oarlock_spec::names::AppName;
use tokio::sync::{mpsc, oneshot};

use super::body::{Cut, ResponseBody, Streaming};
use super::connection::{self, Busy, Connection};
use super::exchange::Exchange;
use super::headers;
use super::rescue::{Failure, rescue};
use super::service::{self, Answered, Payload};
use super::upload::Incomes;
use super::{Inner, Router, accept};
use crate::cores::CoreId;
use crate::service::{BoxError, Client};
use crate::web::WebPool;

/// Frames of a response that wait for a slow caller.
const PIECES: usize = 4;

/// An embedder's body of a request.
pub(crate) type EmbedderBody = UnsyncBoxBody<Bytes, BoxError>;

impl Incomes for EmbedderBody {
    fn is_malformed(_error: &BoxError) -> bool {
        false
    }

    fn into_error(error: BoxError) -> BodyError {
        BodyError::InternalError(Some(error.to_string()))
    }
}

/// A head to come. Closed without one: the host has stopped.
pub(crate) type Head = oneshot::Receiver<Response<PipedBody>>;

/// What the router says where there is nobody to ask.
pub(crate) fn refusal(code: RouterCode) -> Response<PipedBody> {
    rescue(code.into()).0.map(PipedBody::own)
}

impl Router {
    /// Serves a request to an app's web dynos, whatever host it names. Goes on until the head's receiver, or the body, is
    /// dropped.
    pub(crate) fn call(&self, app: &AppName, request: Request<EmbedderBody>) -> Head {
        let (head, answer) = oneshot::channel();
        let inner = Arc::clone(&self.inner);
        let core = CoreId(rand::random_range(0..inner.cores.count()));
        let cores = inner.cores.clone();
        cores.spawn(core, serve(inner, core, (app.clone(), request), head));
        answer
    }
}

async fn serve(
    router: Arc<Inner>,
    core: CoreId,
    (app, request): (AppName, Request<EmbedderBody>),
    head: oneshot::Sender<Response<PipedBody>>,
) {
    let refused = match accept::permit_soon(&router).await {
        // Who drains waits for all permits: it has those that are free, and gets those of the calls that came before.
        _ if router.stop.is_cancelled() => RouterCode::H18,
        None => RouterCode::H11,
        Some(permit) => {
            let pool = router.table.of(&app);
            match (pool, router.registries.get(core.0).cloned()) {
                (Some(pool), Some(registry)) => {
                    let (parts, body) = request.into_parts();
                    let connection = connection(&router, core, &app, &parts);
                    let registered = registry.enter(&connection);
                    let request = Request::from_parts(parts, body);
                    tokio::select! {
                        biased;
                        () = connection.aborted() => {}
                        () = exchange(&connection, pool, request, head) => {}
                    }
                    drop((registered, permit));
                    return;
                }
                _ => RouterCode::H14,
            }
        }
    };
    // Whoever asked may have gone.
    drop(head.send(refusal(refused)));
}

fn connection(router: &Arc<Inner>, core: CoreId, app: &AppName, parts: &Parts) -> Arc<Connection> {
    let client = parts.extensions.get::<Client>();
    let proto = client.and_then(|client| HeaderValue::from_str(client.scheme.as_str()).ok());
    let name = router.table.host(app);
    let from = connection::From {
        client: client.map_or(HeaderValue::from_static("unknown"), |client| {
            connection::address(client.ip)
        }),
        proto: proto.unwrap_or(HeaderValue::from_static("http")),
        port: HeaderValue::from(client.map_or(80, |client| client.port)),
        local: Authority::try_from(name).unwrap_or(Authority::from_static("localhost")),
    };
    Arc::new(Connection::of(Arc::clone(router), core, from))
}

/// Where the request is addressed to; one that names no host, to the app's own name.
fn authority(connection: &Connection, parts: &Parts) -> Result<Authority, Failure> {
    if parts.uri.authority().is_none() && !parts.headers.contains_key(HOST) {
        return Ok(connection.local.clone());
    }
    headers::authority(parts, &connection.local)
}

async fn exchange(
    connection: &Arc<Connection>,
    pool: Arc<WebPool>,
    request: Request<EmbedderBody>,
    mut head: oneshot::Sender<Response<PipedBody>>,
) {
    let (parts, body) = request.into_parts();
    let authority = match authority(connection, &parts) {
        Ok(authority) => authority,
        // Its line would have nothing to say.
        Err(failure) => return drop(head.send(rescue(failure).0.map(PipedBody::own))),
    };
    let busy = Busy::new(Arc::clone(connection));
    let mut exchange = Exchange::new(busy, pool, &parts, authority.clone());
    let answered = tokio::select! {
        biased;
        // The exchange is dropped, and says so in the log.
        () = head.closed() => return,
        answered = service::answer(&mut exchange, (parts, body), authority, None) => answered,
    };
    let answered = match answered {
        Ok(Answered::Whole(answer)) => Ok(answer),
        // It was not asked to, and is refused where it comes in.
        Ok(Answered::Switched(_)) => Err(Failure::Code(RouterCode::H13)),
        Err(failure) => Err(failure),
    };
    match answered {
        Ok(answer) => match service::stream(exchange, answer) {
            (parts, Payload::Left(body)) => {
                let body = PipedBody::own(ResponseBody::left(body));
                drop(head.send(Response::from_parts(parts, body)));
            }
            (parts, Payload::Sent(body)) => {
                let (pipe, piped) = pipe(body.size_hint());
                if head.send(Response::from_parts(parts, piped)).is_ok() {
                    pump(body, pipe, connection).await;
                }
            }
        },
        Err(failure) => {
            let (response, length) = rescue(failure);
            let is_head = exchange.method() == Method::HEAD;
            exchange.rescued(failure, if is_head { 0 } else { length });
            // Its line is in the log when its answer is with the caller.
            drop(exchange);
            drop(head.send(response.map(PipedBody::own)));
        }
    }
}

/// What goes through a response's pipe.
enum Piece {
    Frame(Frame<Bytes>),
    /// All was sent; a pipe that is closed without it was cut.
    End,
    Cut(RouterCode),
}

struct Pipe {
    pieces: mpsc::Sender<Piece>,
    stalled: Arc<AtomicBool>,
}

fn pipe(hint: SizeHint) -> (Pipe, PipedBody) {
    let (send, pieces) = mpsc::channel(PIECES);
    let stalled = Arc::new(AtomicBool::new(false));
    let pipe = Pipe {
        pieces: send,
        stalled: Arc::clone(&stalled),
    };
    let piped = Piped {
        pieces,
        stalled,
        hint,
        is_over: false,
    };
    (pipe, PipedBody(Source::Piped(piped)))
}

/// Moves a guest's body into its pipe, as fast as the caller takes it.
async fn pump(mut body: Streaming, pipe: Pipe, connection: &Connection) {
    loop {
        let room = match pipe.pieces.try_reserve() {
            Ok(room) => room,
            Err(mpsc::error::TrySendError::Closed(())) => return,
            Err(mpsc::error::TrySendError::Full(())) => {
                let patience: Duration = connection.idle_timeout();
                match tokio::time::timeout(patience, pipe.pieces.reserve()).await {
                    Ok(Ok(room)) => room,
                    Ok(Err(_closed)) => return,
                    Err(_elapsed) => {
                        pipe.stalled.store(true, Ordering::SeqCst);
                        return connection.stalled();
                    }
                }
            }
        };
        let frame = tokio::select! {
            biased;
            () = pipe.pieces.closed() => return,
            frame = std::future::poll_fn(|context| body.poll_frame(context)) => frame,
        };
        match frame {
            Some(Ok(frame)) => room.send(Piece::Frame(frame)),
            Some(Err(Cut(code))) => return room.send(Piece::Cut(code)),
            None => return room.send(Piece::End),
        }
    }
}

/// A response's body on its caller's side: needs no runtime.
pub(crate) struct PipedBody(Source);

enum Source {
    /// The router's own, or none.
    Own(ResponseBody),
    /// A guest's.
    Piped(Piped),
}

struct Piped {
    pieces: mpsc::Receiver<Piece>,
    stalled: Arc<AtomicBool>,
    hint: SizeHint,
    is_over: bool,
}

impl PipedBody {
    fn own(body: ResponseBody) -> Self {
        Self(Source::Own(body))
    }

    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RouterCode>>> {
        match &mut self.0 {
            Source::Own(body) => {
                let frame = ready!(http_body::Body::poll_frame(Pin::new(body), context));
                Poll::Ready(frame.map(|frame| frame.map_err(|Cut(code)| code)))
            }
            Source::Piped(piped) => piped.poll(context),
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        match &self.0 {
            Source::Own(body) => http_body::Body::is_end_stream(body),
            Source::Piped(piped) => piped.is_over,
        }
    }

    pub(crate) fn hint(&self) -> SizeHint {
        match &self.0 {
            Source::Own(body) => http_body::Body::size_hint(body),
            Source::Piped(piped) => piped.hint,
        }
    }
}

impl Piped {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RouterCode>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let code = match ready!(self.pieces.poll_recv(context)) {
            Some(Piece::Frame(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.hint = match self.hint.exact() {
                    Some(left) => SizeHint::with_exact(left.saturating_sub(length)),
                    None => SizeHint::new(),
                };
                return Poll::Ready(Some(Ok(frame)));
            }
            Some(Piece::End) => None,
            Some(Piece::Cut(code)) => Some(code),
            None if self.stalled.load(Ordering::SeqCst) => Some(RouterCode::H15),
            None => Some(RouterCode::H18),
        };
        self.is_over = true;
        Poll::Ready(code.map(Err))
    }
}
