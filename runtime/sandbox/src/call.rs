//! Isolation `request`: a fresh instance for one call, on the caller's runtime.

use std::future::{pending, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use http::{Request, Response};
use oarlock_spec::codes::DynoCode;
use tokio::task::JoinHandle;
use tokio_util::task::task_tracker::TaskTrackerToken;
use wasmtime::{AsContextMut as _, Store};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::handler::{Prepared, Proxy, ProxyPre};

use crate::Body;
use crate::after::{self, AfterResponse, Hold};
use crate::exchange::{CallRecord, Caller, Ending, Head, Owner, with_authority};
use crate::instance::CallError;
use crate::place::{Full, Place};
use crate::program::{Entry, Wasi};
use crate::sandbox::{SandboxInner, StartError};
use crate::slow::Guest;
use crate::state::GuestState;
use crate::trap::Failure;
use crate::unwind::{Panicked, caught};

/// One call in an instance of its own.
pub(crate) async fn call(
    sandbox: &Arc<SandboxInner>,
    request: Request<Body>,
    hold: Hold,
) -> Result<Response<Body>, CallError> {
    let place = sandbox.place_for_call().await?;
    let wasi = handler(sandbox, &place)?.1;
    sandbox.count_request();
    let exchange = CallRecord::new(wasi);
    let (head, answer) = futures::channel::oneshot::channel();
    let method = request.method().clone();
    let guest = serve(
        sandbox.clone(),
        (place, sandbox.calls.enter(), hold),
        with_authority(request),
        head,
        exchange.clone(),
    );
    let owner = FreshTask {
        task: run_here_first(Guest::new(guest, sandbox.clone())).await,
    };
    Caller::new(exchange, &method, owner).response(answer).await
}

/// Runs a guest in the caller's task as long as it does not wait, and then in one of its own (`Some`): to be woken
/// costs more than most guests take, and many are done before they wait for anything.
pub(crate) async fn run_here_first(mut guest: Guest<()>) -> Option<JoinHandle<()>> {
    let first = poll_fn(|cx| {
        // A host function that panics ends its guest, as it would in a task of its own, and not its caller.
        let polled = AssertUnwindSafe(|| Pin::new(&mut guest).poll(cx));
        Poll::Ready(std::panic::catch_unwind(polled))
    })
    .await;
    match first {
        Ok(Poll::Pending) => Some(tokio::spawn(guest)),
        Ok(Poll::Ready(())) | Err(_) => None,
    }
}

/// The handler of the sandbox that has this place, and whose it is.
pub(crate) fn handler<'a>(
    sandbox: &SandboxInner,
    place: &'a Place,
) -> Result<(&'a ProxyPre<GuestState>, Wasi), StartError> {
    match &place.loaded.entry {
        Entry::Handler(pre @ ProxyPre::P2(_)) => Ok((pre, Wasi::P2)),
        Entry::Handler(pre @ ProxyPre::P3(_)) => Ok((pre, Wasi::P3)),
        Entry::CommandP2(_) | Entry::CommandP3(_) => Err(StartError::Platform(format!(
            "{} is a command, not a handler",
            sandbox.program.name()
        ))),
    }
}

/// The task of a fresh instance, held by its only caller; none, if it has ended already.
struct FreshTask {
    task: Option<JoinHandle<()>>,
}

impl Owner for FreshTask {
    /// The guest's own task sees it.
    fn completed(&mut self, _call: &CallRecord) {}

    fn abandoned(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// Says that the instance was killed, unless something else was said before. It must be dropped before
/// the store, which closes the response's body.
struct EndOnDrop<'a>(&'a CallRecord);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end(Ending::Killed);
    }
}

async fn serve(
    sandbox: Arc<SandboxInner>,
    // Live longer than the store: the place and the slot are free, and the call gone, only when the store is.
    (place, _token, _hold): (Place, TaskTrackerToken, Hold),
    request: Request<Body>,
    head: Head,
    exchange: Arc<CallRecord>,
) {
    let mut store = sandbox.handler_store(None);
    let end = EndOnDrop(&exchange);
    // Pinned where it is made, for the same reason.
    let guest = run(&sandbox, &place, &mut store, request, head, &exchange);
    let mut guest = std::pin::pin!(caught(guest));
    let mut after = AfterResponse::new(sandbox.limits.after_response);
    let in_time = poll_fn(|cx| {
        if let Poll::Ready(ended) = guest.as_mut().poll(cx) {
            let panicked = |panicked: Panicked| Ending::Trap(panicked.to_string());
            return Poll::Ready(ended.unwrap_or_else(panicked));
        }
        if exchange.closes(cx) {
            return after.poll(cx).map(|()| Ending::AfterResponse);
        }
        Poll::Pending
    });
    let ending = sandbox.calls.unless_ended(in_time).await;
    let ending = ending.unwrap_or(Ending::Killed);
    if !exchange.is_abandoned() {
        remark(&sandbox, &ending, exchange.is_closed());
    }
    exchange.end(ending);
    drop(end);
}

/// Starts the guest and gives it its call.
async fn run(
    sandbox: &SandboxInner,
    place: &Place,
    store: &mut Store<GuestState>,
    request: Request<Body>,
    head: Head,
    exchange: &CallRecord,
) -> Ending {
    let pre = match handler(sandbox, place) {
        Ok((pre, _)) => pre,
        Err(error) => return Ending::NotStarted(error),
    };
    let proxy = match pre.instantiate_async(&mut *store).await {
        Ok(proxy) => proxy,
        Err(error) => return Ending::NotStarted(sandbox.start_error(&error, store)),
    };
    match handle(store, &proxy, request, head, exchange).await {
        Ok(()) => Ending::Finished,
        Err(error) => ending(sandbox, &error, store),
    }
}

/// Says in the dyno's log how its guest failed; the client hears only that it did. A guest that fails
/// on every request says it at a bounded rate.
fn remark(sandbox: &SandboxInner, ending: &Ending, answered: bool) {
    let when = if answered { " after its response" } else { "" };
    let text = match ending {
        Ending::Trap(text) => format!("The component trapped{when}: {text}"),
        Ending::Memory { limit } => {
            let code = DynoCode::R14;
            format!(
                "Error {code} ({}) -> The component reached its limit of {limit} bytes{when}",
                code.description()
            )
        }
        Ending::NotStarted(error) => format!("The component could not be started: {error}"),
        Ending::AfterResponse => after::ended(sandbox.limits.after_response),
        Ending::Finished | Ending::Killed | Ending::Refused(_) => return,
    };
    sandbox.remark(&text);
}

/// Calls the guest, and stays until it needs the store no more.
async fn handle(
    store: &mut Store<GuestState>,
    proxy: &Proxy,
    request: Request<Body>,
    head: Head,
    exchange: &CallRecord,
) -> wasmtime::Result<()> {
    if let Proxy::P2(guest) = proxy {
        let (request, head) = crate::serial::prepare(store, request, head)?;
        let handler = guest.wasi_http_incoming_handler();
        handler.call_handle(store, request, head).await?;
        exchange.set_returned();
        return Ok(());
    }
    store
        .run_concurrent(async |accessor| {
            let prepared = accessor.with(|mut store| {
                Prepared::new(
                    store.as_context_mut(),
                    proxy,
                    request,
                    GuestState::http,
                    head,
                )
            })?;
            prepared.run(accessor, pending()).await?;
            exchange.set_returned();
            // The body may come straight from the host, through the store.
            exchange.until_closed().await;
            poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
            Ok(())
        })
        .await
        .flatten()
}

/// What an error that came out of a handler's store means for its calls.
pub(crate) fn ending(
    sandbox: &SandboxInner,
    error: &wasmtime::Error,
    store: &Store<GuestState>,
) -> Ending {
    match sandbox.failure(error, store) {
        Failure::Exit(code) => Ending::Trap(format!("it exited with code {code}")),
        Failure::Memory => Ending::Memory {
            limit: sandbox.limits.memory,
        },
        Failure::Full(text) => Ending::NotStarted(StartError::Full(Full::Machine(text))),
        Failure::Trap(text) => Ending::Trap(text),
    }
}
