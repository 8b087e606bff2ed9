//! The task of an instance that serves many calls: it owns the store, takes calls from a bounded queue
//! and hands them to the guest, 0.3 up to its slots at once, 0.2 one after the other.

use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use futures::task::AtomicWaker;
use http::Request;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use wasmtime::component::Accessor;
use wasmtime::{AsContextMut as _, Store};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::handler::{Prepared, Proxy};

use crate::Body;
use crate::call::{ending, handler};
use crate::exchange::{Ending, Exchange, Head};
use crate::instance::InstanceEnd;
use crate::sandbox::{SandboxInner, StartError};
use crate::state::State;

/// What the instance's task and its callers share.
#[derive(Default)]
pub(crate) struct Shared {
    /// Calls that the guest has, until they need it no more.
    running: Mutex<Vec<Arc<Exchange>>>,
    /// Calls on their way to the guest.
    waiting: AtomicUsize,
    /// Wakes the task when a caller is done, or the instance is retired.
    wake: AtomicWaker,
    retired: AtomicBool,
    stopping: CancellationToken,
    end: OnceLock<InstanceEnd>,
    ended: CancellationToken,
}

impl Shared {
    /// Tells the guest to stop, and its task to take no further calls.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.stopping.cancel();
        self.wake.wake();
    }

    /// Tells the task that a caller is done.
    pub(crate) fn wake(&self) {
        self.wake.wake();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.get().is_some()
    }

    /// Waits for the instance's end.
    pub(crate) async fn ended(&self) -> InstanceEnd {
        self.ended.cancelled().await;
        self.end.get().cloned().unwrap_or(InstanceEnd::Killed)
    }

    /// Forgets calls that are done; how many are left.
    fn running(&self) -> usize {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|call| !call.is_done());
        running.len()
    }

    fn started(&self, call: &Arc<Exchange>) {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(call.clone());
    }

    /// Whether the guest has calls, all of them were abandoned, and no other call can come to it: it works
    /// for nobody. One that was abandoned beside others does not count any more when it is done.
    fn all_abandoned(&self, at_once: usize) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = running.len() >= at_once;
        let is_wanted = self.waiting.load(Ordering::Acquire) > 0 && !is_full;
        !running.is_empty() && !is_wanted && running.iter().all(|call| call.is_abandoned())
    }

    /// Says how the instance ended, to its calls first; before its store is dropped.
    fn finish(&self, ending: &Ending) {
        for call in self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            call.end(ending.clone());
        }
        let end = match ending {
            Ending::Finished | Ending::Refused(_) => InstanceEnd::Retired,
            Ending::Trap(text) => InstanceEnd::Trap(text.clone()),
            Ending::Memory { .. } => InstanceEnd::Memory,
            Ending::Killed | Ending::NotStarted(_) => InstanceEnd::Killed,
        };
        drop(self.end.set(end));
        self.ended.cancel();
    }
}

/// A call on its way to the guest.
pub(crate) struct Call {
    pub(crate) request: Request<Body>,
    pub(crate) head: Head,
    pub(crate) exchange: Arc<Exchange>,
}

/// A call that waits for the guest, and goes back to its caller if the guest never gets it.
pub(crate) struct Unserved {
    call: Option<Call>,
    shared: Arc<Shared>,
}

impl Unserved {
    pub(crate) fn new(call: Call, shared: &Arc<Shared>) -> Self {
        shared.waiting.fetch_add(1, Ordering::AcqRel);
        Self {
            call: Some(call),
            shared: shared.clone(),
        }
    }
}

impl Drop for Unserved {
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
        if let Some(Call {
            request, exchange, ..
        }) = self.call.take()
        {
            exchange.hand_back(request);
        }
    }
}

/// Says that the instance was killed, unless something else was said before.
struct EndOnDrop<'a>(&'a Shared);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.finish(&Ending::Killed);
    }
}

/// The task of an instance.
pub(crate) struct Worker {
    sandbox: Arc<SandboxInner>,
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Unserved>,
    at_once: usize,
}

impl Worker {
    pub(crate) fn new(
        sandbox: Arc<SandboxInner>,
        shared: Arc<Shared>,
        queue: mpsc::Receiver<Unserved>,
        at_once: usize,
    ) -> Self {
        Self {
            sandbox,
            shared,
            queue,
            at_once,
        }
    }

    pub(crate) async fn run(mut self, ready: oneshot::Sender<Result<(), StartError>>) {
        let (sandbox, shared) = (self.sandbox.clone(), self.shared.clone());
        // Lives longer than the store: the place is free only when the store is gone.
        let _place = match sandbox.place().await {
            Ok(place) => place,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let mut store = sandbox.handler_store(Some(shared.stopping.clone()));
        let end = EndOnDrop(&shared);
        let instantiated = match handler(&sandbox) {
            Ok((pre, _)) => pre.instantiate_async(&mut store).await,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let proxy = match instantiated {
            Ok(proxy) => proxy,
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
        shared.finish(&ending);
        drop(end);
    }

    /// Serves calls until the instance is retired, traps, or works for nobody (`None`). Watching for
    /// the last is done out here: inside of the store nothing runs while a guest computes or a host
    /// call blocks it.
    async fn serve(
        &mut self,
        store: &mut Store<State>,
        proxy: &Proxy,
    ) -> Option<wasmtime::Result<()>> {
        let (shared, at_once) = (self.shared.clone(), self.at_once);
        let guest = store.run_concurrent(async |accessor| self.accept(accessor, proxy).await);
        let mut guest = std::pin::pin!(guest);
        poll_fn(|cx| {
            shared.wake.register(cx.waker());
            // Before the guest's turn, in which it may return and the call be forgotten.
            if shared.all_abandoned(at_once) {
                return Poll::Ready(None);
            }
            guest.as_mut().poll(cx).map(|result| Some(result.flatten()))
        })
        .await
    }

    async fn accept(&mut self, accessor: &Accessor<State>, proxy: &Proxy) -> wasmtime::Result<()> {
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
                        answering.extend(answer(accessor, proxy, call, &self.shared))
                    }
                    Poll::Ready(None)
                        if answering.is_empty()
                            && self.shared.running() == 0
                            && accessor.poll_no_interesting_tasks(cx).is_ready() =>
                    {
                        return Poll::Ready(Ok(()));
                    }
                    Poll::Ready(None) | Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// The next call, if there is a slot for it; `None` when there will be no more.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Call>> {
        if self.shared.retired.load(Ordering::Acquire) {
            // What is in the queue was accepted, and is served.
            self.queue.close();
        }
        loop {
            if self.shared.running() >= self.at_once {
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
    accessor: &'a Accessor<State>,
    proxy: &'a Proxy,
    call: Call,
    shared: &Shared,
) -> Option<impl Future<Output = wasmtime::Result<()>> + use<'a>> {
    let Call {
        request,
        head,
        exchange,
    } = call;
    let prepared = accessor
        .with(|mut store| Prepared::new(store.as_context_mut(), proxy, request, State::http, head));
    match prepared {
        Ok(prepared) => {
            shared.started(&exchange);
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
