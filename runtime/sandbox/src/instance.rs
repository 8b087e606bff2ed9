//! Isolation `dyno`: an instance that serves many calls: a task on the runtime it was started on, which
//! owns the store, and handles that send it calls.

use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use futures::task::AtomicWaker;
use http::{Request, Response};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Accessor;
use wasmtime::{AsContextMut as _, Store};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::handler::{Prepared, Proxy};

use crate::Body;
use crate::call::{ending, handler};
use crate::exchange::{Caller, Ending, Exchange, Head, Owner, with_authority};
use crate::meter::Metered;
use crate::program::Wasi;
use crate::sandbox::{SandboxInner, StartError};
use crate::state::State;

/// Calls at once in a 0.3 instance whose limits name no `concurrency`.
const CONCURRENCY: u32 = 16;

/// Why a call brought no response. Each says whose fault it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The guest trapped before it answered.
    #[error("the component trapped: {0}")]
    Trap(String),
    /// The guest reached its memory limit (R14) and trapped for it.
    #[error("the component reached its memory limit of {limit} bytes")]
    Memory {
        /// The limit.
        limit: u64,
    },
    /// The guest returned without a response, or answered with an error code.
    #[error("the component gave no response: {0}")]
    NoResponse(String),
    /// The instance ended before this call was answered (another call trapped, or it was stopped).
    #[error("the instance ended before it answered: {0}")]
    Ended(String),
    /// The instance could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// How an instance came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceEnd {
    /// It was retired and all its calls were answered.
    Retired,
    /// The guest trapped.
    Trap(String),
    /// The guest reached its memory limit.
    Memory,
    /// It was dropped or ended by the host.
    Killed,
}

/// A live instance. May be called from any thread; its guest stays on the runtime it was started on.
/// Cheap to clone; the instance is killed when the last clone is dropped.
#[derive(Clone)]
pub struct Instance {
    inner: Arc<Handle>,
}

struct Handle {
    sandbox: Arc<SandboxInner>,
    wasi: Wasi,
    calls: mpsc::Sender<Unserved>,
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the instance's task and its callers share.
struct Shared {
    /// Calls that the guest has, until they need it no more.
    running: Mutex<Vec<Arc<Exchange>>>,
    /// Wakes the task when a caller is done, or the instance is retired.
    wake: AtomicWaker,
    retired: AtomicBool,
    stopping: CancellationToken,
    end: OnceLock<InstanceEnd>,
    ended: CancellationToken,
}

impl Shared {
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

    /// Whether the guest has calls, and all of them were abandoned: it works for nobody. One that was
    /// abandoned beside others does not count any more when it is done.
    fn all_abandoned(&self) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        !running.is_empty() && running.iter().all(|call| call.is_abandoned())
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
struct Call {
    request: Request<Body>,
    head: Head,
    exchange: Arc<Exchange>,
}

/// Settles a call that the guest never got.
struct Unserved(Option<Call>);

impl Drop for Unserved {
    fn drop(&mut self) {
        if let Some(call) = &self.0 {
            call.exchange.end(Ending::Killed);
        }
    }
}

/// A caller of a shared instance.
struct Guest(Arc<Shared>);

impl Owner for Guest {
    fn completed(&mut self) {
        self.0.wake.wake();
    }

    fn abandoned(&mut self) {
        self.0.wake.wake();
    }
}

impl Instance {
    /// One call. WASI 0.3 serves up to `concurrency` at once, 0.2 one after the other: the host's
    /// leases see to it. Dropping the future abandons the call: an instance that serves no other
    /// call is ended; otherwise the call's bodies are closed and `call` counts as running until the
    /// guest returns.
    ///
    /// # Errors
    ///
    /// If the instance takes no more calls, or ends without a response; see [`CallError`].
    pub async fn call(&self, request: Request<Body>) -> Result<Response<Body>, CallError> {
        let handle = &self.inner;
        let exchange = Exchange::new(handle.wasi);
        let (head, answer) = futures::channel::oneshot::channel();
        let caller = Caller::new(
            exchange.clone(),
            request.method(),
            Guest(handle.shared.clone()),
        );
        let request = exchange.clone().guard(with_authority(request));
        handle.sandbox.count_request();
        let call = Unserved(Some(Call {
            request,
            head,
            exchange,
        }));
        if handle.calls.send(call).await.is_err() {
            return Err(CallError::Ended("it takes no further calls".to_owned()));
        }
        caller.response(answer).await
    }

    /// Tells the guest that it is to stop (the WIT event) and takes no further call; ends when the
    /// calls under way are done.
    pub fn retire(&self) {
        let shared = &self.inner.shared;
        shared.retired.store(true, Ordering::Release);
        shared.stopping.cancel();
        shared.wake.wake();
    }

    /// Ends it now: at its next tick, if it is computing.
    pub fn kill(&self) {
        self.inner.task.abort();
    }

    /// Waits for its end. May be asked any number of times.
    pub async fn ended(&self) -> InstanceEnd {
        self.inner.shared.ended.cancelled().await;
        self.inner
            .shared
            .end
            .get()
            .cloned()
            .unwrap_or(InstanceEnd::Killed)
    }
}

/// Starts an instance: it is instantiated when this returns.
pub(crate) async fn start(sandbox: &Arc<SandboxInner>) -> Result<Instance, StartError> {
    let (_, wasi) = handler(sandbox)?;
    let at_once = match wasi {
        Wasi::P2 => 1,
        Wasi::P3 => sandbox.limits.concurrency.unwrap_or(CONCURRENCY).max(1) as usize,
    };
    let shared = Arc::new(Shared {
        running: Mutex::default(),
        wake: AtomicWaker::new(),
        retired: AtomicBool::new(false),
        stopping: CancellationToken::new(),
        end: OnceLock::new(),
        ended: CancellationToken::new(),
    });
    let (calls, queue) = mpsc::channel(at_once);
    let (ready, started) = oneshot::channel();
    let worker = Worker {
        sandbox: sandbox.clone(),
        shared: shared.clone(),
        queue,
        at_once,
    };
    let task = tokio::spawn(Metered::new(worker.run(ready), sandbox.meter.clone()));
    // Dropping this handle, as when the caller goes away, ends the task.
    let inner = Arc::new(Handle {
        sandbox: sandbox.clone(),
        wasi,
        calls,
        shared,
        task: task.abort_handle(),
    });
    match started.await {
        Ok(Ok(())) => Ok(Instance { inner }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(StartError::Platform(
            "the host failed while it started".to_owned(),
        )),
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
struct Worker {
    sandbox: Arc<SandboxInner>,
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Unserved>,
    at_once: usize,
}

impl Worker {
    async fn run(mut self, ready: oneshot::Sender<Result<(), StartError>>) {
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
        let shared = self.shared.clone();
        let guest = store.run_concurrent(async |accessor| self.accept(accessor, proxy).await);
        let mut guest = std::pin::pin!(guest);
        poll_fn(|cx| {
            shared.wake.register(cx.waker());
            if let Poll::Ready(result) = guest.as_mut().poll(cx) {
                return Poll::Ready(Some(result.flatten()));
            }
            if shared.all_abandoned() {
                Poll::Ready(None)
            } else {
                Poll::Pending
            }
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
                Some(mut call) => match call.0.take() {
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
