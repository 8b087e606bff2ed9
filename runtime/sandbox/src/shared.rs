//! An instance of WASI 0.3 that serves many calls at once. A task owns its store, takes calls from a bounded queue and
//! hands them to the guest, up to its slots at once; the handle sends it calls.

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http::{Request, Response};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use wasmtime::component::Accessor;
use wasmtime::{AsContextMut as _, Store};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::handler::{Prepared, Proxy};
use wasmtime_wasi_http::p3::bindings::ServicePre;

use crate::Body;
use crate::after::Hold;
use crate::call::ending;
use crate::exchange::{CallRecord, Caller, Ending, Head, Owner, with_authority};
use crate::instance::{InstanceEnd, LiveCallError};
use crate::place::Place;
use crate::program::Wasi;
use crate::sandbox::{SandboxInner, StartError};
use crate::slow;
use crate::state::GuestState;
use crate::unwind::caught;

mod known;
mod watch;

use known::{EndOnDrop, Known, Release};
use watch::Watch;

/// Calls at once in an instance whose limits name no `concurrency`.
const CONCURRENCY: u32 = 16;

/// A handle to an instance; the task ends with it.
pub(crate) struct SharedInstance {
    sandbox: Arc<SandboxInner>,
    calls: mpsc::Sender<Unserved>,
    known: Arc<Known>,
    task: AbortHandle,
}

/// Starts an instance: it is instantiated when this returns.
pub(crate) async fn start(
    sandbox: &Arc<SandboxInner>,
    pre: &ServicePre<GuestState>,
    place: Place,
) -> Result<SharedInstance, StartError> {
    let at_once = sandbox.limits.concurrency.unwrap_or(CONCURRENCY).max(1) as usize;
    let known = Arc::<Known>::default();
    let (calls, queue) = mpsc::channel(at_once);
    let (ready, started) = oneshot::channel();
    let worker = Worker {
        sandbox: sandbox.clone(),
        pre: pre.clone(),
        place: Some(place),
        known: known.clone(),
        queue,
        at_once,
    };
    let task = tokio::spawn(slow::Guest::new(worker.run(ready), sandbox.clone()));
    // Dropping this handle, as when the caller goes away, ends the task.
    let instance = SharedInstance {
        sandbox: sandbox.clone(),
        calls,
        known,
        task: task.abort_handle(),
    };
    match started.await {
        Ok(Ok(())) => Ok(instance),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(StartError::Platform(
            "the host failed while it started".to_owned(),
        )),
    }
}

impl SharedInstance {
    /// One call.
    pub(crate) async fn call(
        &self,
        request: Request<Body>,
        hold: Hold,
    ) -> Result<Response<Body>, LiveCallError> {
        let exchange = CallRecord::new(Wasi::P3);
        let (head, answer) = futures::channel::oneshot::channel();
        let caller = Caller::new(
            exchange.clone(),
            request.method(),
            Guest(self.known.clone()),
        );
        let request = exchange.clone().guard(with_authority(request));
        self.sandbox.count_request();
        let call = Call {
            request,
            head,
            exchange: exchange.clone(),
            hold,
        };
        // If it takes no more, the call comes back like those that it had not come to.
        drop(self.calls.send(Unserved::new(call, &self.known)).await);
        caller.response(answer).await.map_err(|error| {
            exchange
                .unserved()
                .map_or(LiveCallError::Failed(error), LiveCallError::Unserved)
        })
    }

    /// Tells the guest that it is to stop.
    pub(crate) fn announce_stop(&self) {
        self.known.stopping.cancel();
    }

    /// Tells the task to take no further calls.
    pub(crate) fn retire(&self) {
        self.announce_stop();
        self.known.retired.store(true, Ordering::Release);
        self.known.wake.wake();
    }

    /// Ends it now: at its next tick, if it is computing.
    pub(crate) fn kill(&self) {
        self.task.abort();
    }

    /// Resolves when it takes no more calls because of work that goes on after an answer.
    pub(crate) async fn to_be_replaced(&self) {
        self.known.to_be_replaced.cancelled().await;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.known.end.get().is_some()
    }

    /// Waits for the instance's end.
    pub(crate) async fn ended(&self) -> InstanceEnd {
        self.known.ended.cancelled().await;
        self.known.end.get().cloned().unwrap_or(InstanceEnd::Killed)
    }
}

/// A caller of an instance.
struct Guest(Arc<Known>);

impl Owner for Guest {
    fn completed(&mut self, _call: &CallRecord) {
        // Here, and not when the task comes to it: its slot is wanted.
        self.0.sweep();
        self.0.wake.wake();
    }

    fn abandoned(&mut self) {
        self.0.wake.wake();
    }
}

/// A call on its way to the guest.
struct Call {
    request: Request<Body>,
    head: Head,
    exchange: Arc<CallRecord>,
    hold: Hold,
}

/// A call that waits for the guest, and goes back to its caller if the guest never gets it.
struct Unserved {
    call: Option<Call>,
    known: Arc<Known>,
}

impl Unserved {
    fn new(call: Call, known: &Arc<Known>) -> Self {
        known.waiting.fetch_add(1, Ordering::AcqRel);
        Self {
            call: Some(call),
            known: known.clone(),
        }
    }
}

impl Drop for Unserved {
    fn drop(&mut self) {
        self.known.waiting.fetch_sub(1, Ordering::AcqRel);
        if let Some(Call {
            request, exchange, ..
        }) = self.call.take()
        {
            exchange.hand_back(request);
        }
    }
}

/// The task of an instance.
struct Worker {
    sandbox: Arc<SandboxInner>,
    pre: ServicePre<GuestState>,
    place: Option<Place>,
    known: Arc<Known>,
    queue: mpsc::Receiver<Unserved>,
    at_once: usize,
}

impl Worker {
    async fn run(mut self, ready: oneshot::Sender<Result<(), StartError>>) {
        let (sandbox, known) = (self.sandbox.clone(), self.known.clone());
        // Live longer than the store: the place and the slots are free only when the store is gone.
        let _release = Release(&known);
        let _place = self.place.take();
        let mut store = sandbox.handler_store(Some(known.stopping.clone()));
        let end = EndOnDrop(&known);
        let started = caught(self.pre.instantiate_async(&mut store)).await;
        let proxy = match started.map_err(wasmtime::Error::from).flatten() {
            Ok(guest) => Proxy::P3(guest),
            Err(error) => return drop(ready.send(Err(sandbox.start_error(&error, &store)))),
        };
        if ready.send(Ok(())).is_err() {
            return;
        }
        let ending = match self.serve(&mut store, &proxy).await {
            Some(Ok(())) => Ending::Finished,
            Some(Err(error)) => ending(&sandbox, &error, &store),
            None => Ending::Killed,
        };
        known.finish(&ending);
        drop(end);
    }

    /// Serves calls until the instance is retired, traps, works for nobody, or for too long after its answers (`None`).
    /// Watching for the last two is done out here: inside of the store nothing runs while a guest computes or a host
    /// call blocks it.
    async fn serve(
        &mut self,
        store: &mut Store<GuestState>,
        proxy: &Proxy,
    ) -> Option<wasmtime::Result<()>> {
        let (known, at_once) = (self.known.clone(), self.at_once);
        let mut watch = Watch::new(self.sandbox.clone(), known.clone());
        let guest = store.run_concurrent(async |accessor| self.accept(accessor, proxy).await);
        let mut guest = std::pin::pin!(caught(guest));
        poll_fn(|cx| {
            known.wake.register(cx.waker());
            // Before the guest's turn, in which it may return and the call be forgotten.
            let (load, all_abandoned) = known.load(at_once);
            if all_abandoned {
                return Poll::Ready(None);
            }
            if watch.poll(load, cx).is_ready() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(result) = guest.as_mut().poll(cx) {
                let result = result.map_err(wasmtime::Error::from).flatten();
                return Poll::Ready(Some(result.flatten()));
            }
            watch.after_turn(cx);
            Poll::Pending
        })
        .await
    }

    async fn accept(
        &mut self,
        accessor: &Accessor<GuestState>,
        proxy: &Proxy,
    ) -> wasmtime::Result<()> {
        let mut answering = FuturesUnordered::new();
        poll_fn(|cx| {
            loop {
                while let Poll::Ready(Some(result)) = answering.poll_next_unpin(cx) {
                    if let Err(error) = result {
                        return Poll::Ready(Err(error));
                    }
                }
                match self.next(cx) {
                    Poll::Ready(Some(call)) => {
                        answering.extend(answer(accessor, proxy, call, &self.known))
                    }
                    next => {
                        if !self.known.is_idle()
                            && answering.is_empty()
                            && self.known.under_way() == 0
                            && accessor.poll_no_interesting_tasks(cx).is_ready()
                        {
                            self.known.set_idle();
                            // There may be a slot now.
                            continue;
                        }
                        if next.is_ready() && self.known.is_idle() {
                            return Poll::Ready(Ok(()));
                        }
                        return Poll::Pending;
                    }
                }
            }
        })
        .await
    }

    /// The next call, if there is a slot for it; `None` when there will be no more.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Call>> {
        if self.known.to_be_replaced.is_cancelled() {
            // What is in the queue goes back: there it is served sooner.
            self.queue.close();
            while self.queue.try_recv().is_ok() {}
            self.known.sweep();
            return Poll::Ready(None);
        }
        if self.known.retired.load(Ordering::Acquire) {
            // What is in the queue was accepted, and is served.
            self.queue.close();
        }
        loop {
            if self.known.sweep() >= self.at_once || self.known.paused.load(Ordering::Acquire) {
                return Poll::Pending;
            }
            match std::task::ready!(self.queue.poll_recv(cx)) {
                None => return Poll::Ready(None),
                Some(mut call) => match call.call.take() {
                    // Its caller left while it waited.
                    Some(call) if call.exchange.is_closed() => {}
                    Some(call) => return Poll::Ready(Some(call)),
                    None => {}
                },
            }
        }
    }
}

/// Hands a call to the guest; the future ends when the guest's function has returned.
fn answer<'a>(
    accessor: &'a Accessor<GuestState>,
    proxy: &'a Proxy,
    call: Call,
    known: &Known,
) -> Option<impl Future<Output = wasmtime::Result<()>> + use<'a>> {
    let Call {
        request,
        head,
        exchange,
        hold,
    } = call;
    let prepared = accessor.with(|mut store| {
        Prepared::new(
            store.as_context_mut(),
            proxy,
            request,
            GuestState::http,
            head,
        )
    });
    match prepared {
        Ok(prepared) => {
            known.started(&exchange, hold);
            Some(async move {
                prepared.run(accessor, pending()).await?;
                exchange.set_returned();
                Ok(())
            })
        }
        Err(error) => {
            exchange.end(Ending::Refused(crate::trap::describe(&error)));
            None
        }
    }
}
