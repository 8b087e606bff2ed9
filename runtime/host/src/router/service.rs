//! One request, from its head to the head of its answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use http::request::Parts;
use http::response::Parts as ResponseParts;
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use oarlock_sandbox::{Body, CallError, Hold, LiveCallError, StartError};
use oarlock_spec::api::LogSource;
use oarlock_spec::codes::RouterCode;
use tokio::time::Instant;

use super::body::{ResponseBody, Streaming, Watched};
use super::connection::{Busy, Connection};
use super::exchange::Exchange;
use super::rescue::{Failure, rescue};
use super::timer::Timer;
use super::tunnel::{Tunnel, TunnelSlot};
use super::upload::{self, Incomes, Upload};
use super::upstream::{NoReply, Reply};
use super::{headers, lock};
use crate::web::{Backend, Lease, RequestLimits, WebPool};

/// Never fails: what goes wrong is answered by [`rescue`].
pub(super) async fn handle(
    mut busy: Busy,
    tunnel: TunnelSlot,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (mut parts, incoming) = request.into_parts();
    let upgrade = Upgrade::of(&mut parts);
    let (authority, pool) = match route(busy.connection(), &parts) {
        Ok(routed) => routed,
        // Nobody's log is theirs.
        Err(failure) => return Ok(rescue(failure).0),
    };
    let counted = busy.count(&parts.headers);
    let mut exchange = Exchange::new(busy, pool, &parts, authority.clone());
    let asked = upgrade.as_ref().map(|upgrade| &upgrade.protocol);
    let answered = match counted {
        Ok(()) => answer(&mut exchange, (parts, incoming), authority, asked).await,
        Err(failure) => Err(failure),
    };
    let failure = match (answered, upgrade) {
        (Ok(Answered::Whole(answer)), _) => return Ok(respond(exchange, answer)),
        (Ok(Answered::Switched(switched)), Some(upgrade)) => {
            return Ok(switch(exchange, *switched, upgrade, &tunnel));
        }
        // It is refused where it comes in.
        (Ok(Answered::Switched(_)), None) => Failure::Code(RouterCode::H13),
        (Err(failure), _) => failure,
    };
    let (response, length) = rescue(failure);
    let bytes = if exchange.method() == Method::HEAD {
        0
    } else {
        length
    };
    exchange.rescued(failure, bytes);
    Ok(response)
}

/// What a client would rather have than an answer.
struct Upgrade {
    protocol: HeaderValue,
    client: OnUpgrade,
}

impl Upgrade {
    fn of(parts: &mut Parts) -> Option<Self> {
        let client = parts.extensions.remove::<OnUpgrade>()?;
        headers::upgrade(parts).map(|protocol| Self { protocol, client })
    }
}

fn route(connection: &Connection, parts: &Parts) -> Result<(Authority, Arc<WebPool>), Failure> {
    let authority = headers::authority(parts, &connection.local)?;
    let table = &connection.router.table;
    let pool = table.route(authority.host()).ok_or(Failure::UnknownHost)?;
    Ok((authority, pool.clone()))
}

/// How a request was answered.
pub(super) enum Answered {
    Whole(Answer),
    Switched(Box<Switched>),
}

/// A dyno's 101, and its side of the tunnel.
pub(super) struct Switched {
    head: ResponseParts,
    dyno: OnUpgrade,
    limits: Arc<RequestLimits>,
}

/// What a guest said, and what is still to be watched.
pub(super) struct Answer {
    response: Response<Body>,
    upload: Option<Arc<Upload>>,
    limits: Arc<RequestLimits>,
}

pub(super) async fn answer(
    exchange: &mut Exchange,
    (mut parts, incoming): (Parts, impl Incomes),
    authority: Authority,
    upgrade: Option<&HeaderValue>,
) -> Result<Answered, Failure> {
    let limits = exchange.pool().limits();
    let connection = exchange.connection().clone();
    connection.set_idle_timeout(limits.idle_timeout);
    connection.unread.begin(!incoming.is_end_stream());
    let checked = headers::check(&parts, limits.header, limits.request_body);
    let forwarded = headers::Forwarded {
        client: connection.client().clone(),
        proto: connection.proto.clone(),
        port: connection.port.clone(),
        start: milliseconds_since_1970(),
        is_trusted: connection.is_trusted_proxy(),
    };
    // Refused requests have an id in the log as well.
    let identity = headers::to_guest(&mut parts, authority, &forwarded);
    if let Ok(identity) = identity.as_ref() {
        exchange.identified(identity.clone());
    }
    checked?;
    identity?;
    headers::forward(&mut parts)?;
    let (body, upload) = upload::request(incoming, limits.request_body, &connection.unread);
    let request = Request::from_parts(parts, body);
    let waiting = (upload.as_deref(), limits.timeout);
    match lease_and_call(exchange, request, upgrade, waiting).await? {
        Reply::Answer(mut response) => {
            check_response(&mut response, &limits)?;
            Ok(Answered::Whole(Answer {
                response,
                upload,
                limits,
            }))
        }
        Reply::Switched(head, dyno) => {
            let mut head = *head;
            head.version = Version::HTTP_11;
            if length(&head.headers) as u64 > limits.header {
                return Err(Failure::Code(RouterCode::H13));
            }
            headers::to_switched(&mut head.headers);
            Ok(Answered::Switched(Box::new(Switched {
                head,
                dyno,
                limits,
            })))
        }
    }
}

/// Dynos that a request may be sent to, one after the other, because each ended before it took it.
const MAX_DYNOS: u32 = 10;

/// Sends the request to a dyno; to another if that one ended before it had anything of it.
async fn lease_and_call(
    exchange: &mut Exchange,
    mut request: Request<Body>,
    upgrade: Option<&HeaderValue>,
    waiting: (Option<&Upload>, Duration),
) -> Result<Reply, Failure> {
    let connection = exchange.connection().clone();
    for _ in 0..MAX_DYNOS {
        let lease = Arc::new(lease(exchange.pool(), &connection).await?);
        let dyno = lease.dyno().clone();
        exchange.leased(lease.clone());
        match call((lease, &connection), request, upgrade, waiting).await {
            Ok(reply) => return Ok(reply),
            Err(Failed::Answer(failure)) => return Err(failure),
            Err(Failed::Platform(reason)) => {
                tracing::error!(dyno = %dyno.label, reason, "an instance could not be started");
                break;
            }
            Err(Failed::Invalid(reason)) => {
                let text = format!("The process's answer is not valid HTTP/1.1: {reason}");
                let log = &exchange.pool().log;
                log.write(LogSource::Oarlock, &dyno.label, &text);
                break;
            }
            // Formation hears of it too, but the next request may be quicker.
            Err(Failed::DynoEnded) => {
                dyno.close();
                break;
            }
            Err(Failed::Unserved(back)) => {
                dyno.close();
                exchange.unserved();
                request = *back;
            }
        }
    }
    Err(Failure::Code(RouterCode::H13))
}

/// A slot of a dyno whose instance is alive, as far as can be seen.
async fn lease(pool: &Arc<WebPool>, connection: &Connection) -> Result<Lease, RouterCode> {
    loop {
        let lease = pool.lease(Some(connection.core)).await?;
        if !has_ended(&lease.dyno().backend) {
            return Ok(lease);
        }
        // Each turn closes a dyno, so this ends.
        lease.dyno().close();
    }
}

fn has_ended(backend: &Backend) -> bool {
    match backend {
        Backend::Fresh(_) => false,
        Backend::Live { instance, .. } => instance.has_ended(),
        Backend::Listening(upstream) => upstream.has_ended(),
        #[cfg(test)]
        Backend::Fake { .. } => false,
    }
}

/// Why a dyno's call brought no head.
#[derive(Debug)]
enum Failed {
    /// As it says.
    Answer(Failure),
    /// H13, and its instance takes no more calls.
    DynoEnded,
    /// The same, and it had nothing of the request.
    Unserved(Box<Request<Body>>),
    /// H13, and it is the host's fault: for the operator.
    Platform(String),
    /// H13, and what the guest said makes no sense: for its developer.
    Invalid(String),
}

async fn call(
    (lease, connection): (Arc<Lease>, &Arc<Connection>),
    request: Request<Body>,
    upgrade: Option<&HeaderValue>,
    (upload, timeout): (Option<&Upload>, Duration),
) -> Result<Reply, Failed> {
    let dyno = lease.dyno().clone();
    let called = async {
        match &dyno.backend {
            Backend::Fresh(sandbox) => {
                match sandbox.call_holding(request, Hold::new(lease)).await {
                    Ok(response) => Ok(Reply::Answer(response)),
                    Err(error) => Err(failure_of(&error, false)),
                }
            }
            Backend::Live { instance, .. } => {
                let called = instance.try_call(request, Hold::new(lease.clone()));
                match called.await {
                    Ok(response) => Ok(Reply::Answer(response)),
                    Err(LiveCallError::Unserved(request)) => Err(Failed::Unserved(request)),
                    Err(LiveCallError::Failed(error)) => {
                        if matches!(error, CallError::NoResponse(_)) {
                            // A guest that has lost its way may never answer again.
                            instance.retire();
                            dyno.close();
                            let text =
                                "Replacing the process: it ended a request without a response";
                            lease.log().write(LogSource::Oarlock, &dyno.label, text);
                        }
                        Err(failure_of(&error, true))
                    }
                }
            }
            Backend::Listening(upstream) => {
                upstream
                    .call(request, upgrade)
                    .await
                    .map_err(|error| match error {
                        NoReply::Unserved(request) => Failed::Unserved(request),
                        NoReply::Closed => Failed::Answer(Failure::Code(RouterCode::H13)),
                        NoReply::Invalid(reason) => Failed::Invalid(reason),
                    })
            }
            #[cfg(test)]
            Backend::Fake { answer, .. } => match answer(request).await {
                Ok(response) => Ok(Reply::Answer(response)),
                Err(error) => Err(failure_of(&error, true)),
            },
        }
    };
    let result = within(called, upload, (Timer::of(connection), timeout)).await;
    let result = result.map_err(Failed::Answer)?;
    // A guest that got half a body may have said anything; the truth is what happened to the body.
    if let Some(failure) = upload.and_then(Upload::failure) {
        return Err(Failed::Answer(failure));
    }
    result
}

/// Waits for the head. The time for it begins anew with each piece of the body that the guest
/// takes: an upload may take longer than an answer. A drop of `called` ends the guest's call.
async fn within<T>(
    called: impl Future<Output = T>,
    upload: Option<&Upload>,
    (mut timer, timeout): (Timer, Duration),
) -> Result<T, Failure> {
    let mut called = std::pin::pin!(called);
    let began = Instant::now();
    std::future::poll_fn(|context| {
        if let Some(Poll::Ready(failure)) = upload.map(|upload| upload.poll_failed(context)) {
            return Poll::Ready(Err(failure));
        }
        if let Poll::Ready(result) = called.as_mut().poll(context) {
            return Poll::Ready(Ok(result));
        }
        let last = upload.map_or(began, |upload| upload.last().max(began));
        timer
            .poll_until(last + timeout, context)
            .map(|()| Err(Failure::Code(RouterCode::H12)))
    })
    .await
}

fn failure_of(error: &CallError, live: bool) -> Failed {
    match error {
        CallError::Trap(_) | CallError::Memory { .. } | CallError::Ended(_) if live => {
            Failed::DynoEnded
        }
        // All places of the host's are taken: it is the host that is too busy.
        CallError::Start(StartError::Full(_)) => Failed::Answer(Failure::Code(RouterCode::H11)),
        CallError::Start(StartError::Platform(reason)) => Failed::Platform(reason.clone()),
        CallError::Trap(_)
        | CallError::Memory { .. }
        | CallError::Ended(_)
        | CallError::NoResponse(_)
        | CallError::ErrorCode(_)
        | CallError::Start(StartError::Trap(_) | StartError::Memory { .. }) => {
            Failed::Answer(Failure::Code(RouterCode::H13))
        }
    }
}

/// Makes a guest's head one that may be sent.
fn check_response(response: &mut Response<Body>, limits: &RequestLimits) -> Result<(), Failure> {
    let status = response.status();
    let length = length(response.headers());
    // 1xx is not an answer, and above 599 nothing is defined.
    if status.is_informational() || status.as_u16() > 599 || length as u64 > limits.header {
        return Err(Failure::Code(RouterCode::H13));
    }
    // How it is framed for the client is decided by what the client speaks, not by what the dyno does.
    *response.version_mut() = Version::HTTP_11;
    let headers = response.headers_mut();
    headers::remove_hop_by_hop(headers);
    match status {
        StatusCode::NO_CONTENT => drop(headers.remove(CONTENT_LENGTH)),
        // Its length is that of a body which it never has (RFC 9110 15.3.6).
        StatusCode::RESET_CONTENT => {
            drop(headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0")));
        }
        _ => {}
    }
    Ok(())
}

fn length(headers: &HeaderMap) -> usize {
    let lengths = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    lengths.sum()
}

/// Answers with the dyno's 101, and leaves the tunnel to the connection's task, which is free for it then.
fn switch(
    mut exchange: Box<Exchange>,
    switched: Switched,
    upgrade: Upgrade,
    slot: &TunnelSlot,
) -> Response<ResponseBody> {
    exchange.answered(switched.head.status);
    // The server hands the connection over without what it has not written.
    exchange.connection().write_at_once();
    let tunnel = Tunnel {
        client: upgrade.client,
        dyno: switched.dyno,
        exchange,
        idle_timeout: switched.limits.idle_timeout,
    };
    *lock(slot) = Some(tunnel);
    Response::from_parts(switched.head, ResponseBody::empty())
}

fn respond(exchange: Box<Exchange>, answer: Answer) -> Response<ResponseBody> {
    let http2 = exchange.version() == Version::HTTP_2;
    let (parts, body) = match stream(exchange, answer) {
        (parts, Payload::Left(body)) if parts.status == StatusCode::RESET_CONTENT => {
            body.finish_unseen();
            (parts, ResponseBody::empty())
        }
        (parts, Payload::Left(body)) => (parts, ResponseBody::left(body)),
        (parts, Payload::Sent(body)) if http2 => (parts, ResponseBody::Watched(Watched::new(body))),
        (parts, Payload::Sent(body)) => (parts, ResponseBody::Guest(body)),
    };
    Response::from_parts(parts, body)
}

/// A guest's body.
pub(super) enum Payload {
    /// To be sent.
    Sent(Streaming),
    /// To be left: the answer has none, as to HEAD.
    Left(Streaming),
}

/// The answer's head, and its body with all that it must hold on to.
pub(super) fn stream(
    mut exchange: Box<Exchange>,
    answer: Answer,
) -> (http::response::Parts, Payload) {
    let Answer {
        response,
        upload,
        limits,
    } = answer;
    let (parts, body) = response.into_parts();
    exchange.answered(parts.status);
    let bodiless = exchange.method() == Method::HEAD
        || matches!(
            parts.status,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
        );
    let declared = headers::declared_length(&parts.headers);
    let streaming = Streaming::new(
        body,
        exchange,
        declared,
        upload,
        (limits.idle_timeout, limits.after_response),
    );
    let payload = if bodiless {
        Payload::Left(streaming)
    } else {
        Payload::Sent(streaming)
    };
    (parts, payload)
}

fn milliseconds_since_1970() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
