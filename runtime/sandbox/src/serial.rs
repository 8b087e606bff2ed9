//! An instance of WASI 0.2 that serves many calls, one after the other.
//!
//! Between calls its store lies still, in a place of its own, and belongs to no task. A call takes it out, and runs the
//! guest in the caller's own task for as long as the guest does not wait: most calls are answered before anybody would
//! have been woken for them. A guest that waits goes on in a task of its own, on the runtime of the caller. So an
//! instance runs where it is called, never at two places at once, and costs nothing while it is idle.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use futures::channel::oneshot;
use futures::task::AtomicWaker;
use http::{Request, Response};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;
use wasmtime::Store;
use wasmtime::component::Resource;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types as bindings;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};

use crate::Body;
use crate::after::{self, AfterResponse, Hold};
use crate::call::{ending, run_here_first};
use crate::exchange::{CallRecord, Caller, Ending, Head, Owner, with_authority};
use crate::instance::{InstanceEnd, LiveCallError};
use crate::place::Place;
use crate::program::Wasi;
use crate::sandbox::{SandboxInner, StartError};
use crate::slow;
use crate::state::GuestState;
use crate::unwind::{caught, drop_quietly};

/// What an instance's callers share.
pub(crate) struct Serial {
    sandbox: Arc<SandboxInner>,
    /// `None`: it has ended, or is about to.
    place: Arc<Mutex<Option<Box<Live>>>>,
    /// Calls that wait for the place.
    waiting: AtomicUsize,
    retired: AtomicBool,
    killed: AtomicBool,
    /// Wakes a guest that waits, when its caller is gone or the instance was killed.
    wake: AtomicWaker,
    stopping: CancellationToken,
    end: OnceLock<InstanceEnd>,
    ended: CancellationToken,
}

/// An instance that can be called. Its parts are dropped in this order: the store before its place in the pool.
struct Live {
    store: Store<GuestState>,
    guest: Proxy,
    _place: Place,
}

/// Starts an instance: it is instantiated when this returns.
pub(crate) async fn start(
    sandbox: &Arc<SandboxInner>,
    pre: &ProxyPre<GuestState>,
    place: Place,
) -> Result<Arc<Serial>, StartError> {
    let stopping = CancellationToken::new();
    let mut store = sandbox.handler_store(Some(stopping.clone()));
    let pre = pre.clone();
    let starting = async move {
        let guest = caught(pre.instantiate_async(&mut store)).await;
        (store, guest.map_err(wasmtime::Error::from).flatten())
    };
    let (store, guest) = slow::Guest::new(starting, sandbox.clone()).await;
    let guest = match guest {
        Ok(guest) => guest,
        Err(error) => return Err(sandbox.start_error(&error, &store)),
    };
    let live = Live {
        store,
        guest,
        _place: place,
    };
    Ok(Arc::new(Serial {
        sandbox: sandbox.clone(),
        place: Arc::new(Mutex::new(Some(Box::new(live)))),
        waiting: AtomicUsize::new(0),
        retired: AtomicBool::new(false),
        killed: AtomicBool::new(false),
        wake: AtomicWaker::new(),
        stopping,
        end: OnceLock::new(),
        ended: CancellationToken::new(),
    }))
}

impl Serial {
    /// One call; in its turn, if there are others.
    pub(crate) async fn call(
        self: &Arc<Self>,
        request: Request<Body>,
        hold: Hold,
    ) -> Result<Response<Body>, LiveCallError> {
        let exchange = CallRecord::new(Wasi::P2);
        let Some(turn) = self.turn(&exchange, hold).await else {
            return Err(LiveCallError::Unserved(Box::new(request)));
        };
        self.sandbox.count_request();
        let (head, answer) = oneshot::channel();
        let caller = Caller::new(exchange.clone(), request.method(), Guest(self.clone()));
        let request = exchange.guard(with_authority(request));
        let guest = slow::Guest::new(turn.run(request, head), self.sandbox.clone());
        // Nobody needs its handle: the guest sees for itself when its caller is gone.
        drop(run_here_first(guest).await);
        Ok(caller.response(answer).await?)
    }

    /// Waits for the instance; `None`: it takes no more calls.
    async fn turn(self: &Arc<Self>, exchange: &Arc<CallRecord>, hold: Hold) -> Option<Turn> {
        if self.retired.load(Ordering::SeqCst) {
            return None;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let waiting = Waiting(self);
        let mut place = self.place.clone().lock_owned().await;
        if self.killed.load(Ordering::SeqCst) {
            // Whoever is the last to leave the line ends it.
            drop(place);
            return None;
        }
        let live = place.take();
        drop(waiting);
        Some(Turn {
            live: Some(live?),
            place,
            serial: self.clone(),
            exchange: exchange.clone(),
            _hold: hold,
        })
    }

    /// Tells the guest that it is to stop.
    pub(crate) fn announce_stop(&self) {
        self.stopping.cancel();
    }

    /// Takes no further call; what waits for it is served.
    pub(crate) fn retire(&self) {
        self.announce_stop();
        self.retired.store(true, Ordering::SeqCst);
        self.settle();
    }

    /// Ends it now; a guest that is computing, at its next tick.
    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        self.wake.wake();
        self.settle();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.get().is_some()
    }

    /// Waits for the instance's end.
    pub(crate) async fn ended(&self) -> InstanceEnd {
        self.ended.cancelled().await;
        self.end.get().cloned().unwrap_or(InstanceEnd::Killed)
    }

    /// Ends the instance if it is idle and is to end. To be called whenever that may have come true.
    fn settle(&self) {
        // Whoever frees the place must see the flag, or whoever sets the flag the free place.
        fence(Ordering::SeqCst);
        let killed = self.killed.load(Ordering::SeqCst);
        let retired =
            self.retired.load(Ordering::SeqCst) && self.waiting.load(Ordering::SeqCst) == 0;
        if !killed && !retired {
            return;
        }
        // Whoever has it comes here when it is back.
        let Ok(mut place) = self.place.try_lock() else {
            return;
        };
        if let Some(live) = place.take() {
            self.finish(if killed {
                InstanceEnd::Killed
            } else {
                InstanceEnd::Retired
            });
            drop_quietly(live);
        }
    }

    /// Says how the instance ended; before its store is dropped. The first word counts.
    fn finish(&self, end: InstanceEnd) {
        drop(self.end.set(end));
        self.ended.cancel();
    }
}

/// A call in the queue; the last that leaves it may be what a retired instance waited for.
struct Waiting<'a>(&'a Serial);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        self.0.settle();
    }
}

/// The instance in the hands of one call. Dropped before its guest has returned, it ends the instance.
struct Turn {
    live: Option<Box<Live>>,
    /// Whoever waits comes to it when this is dropped.
    place: OwnedMutexGuard<Option<Box<Live>>>,
    serial: Arc<Serial>,
    exchange: Arc<CallRecord>,
    /// The last to be dropped: whoever comes for what it holds finds the place free.
    _hold: Hold,
}

/// What came of a guest's turn.
enum Outcome {
    Returned(wasmtime::Result<()>),
    /// Nobody wants its answer, or the instance was killed.
    Unwanted,
    /// It went on for too long after its answer.
    AfterResponse,
}

impl Turn {
    /// Runs the guest until its function has returned, its caller has gone, or the instance is killed; when its caller
    /// has all it wanted, for `after_response`.
    async fn run(mut self, request: Request<Body>, head: Head) {
        let Some(live) = &mut self.live else { return };
        let (serial, exchange) = (&self.serial, &self.exchange);
        let prepared = prepare(&mut live.store, request, head);
        let (request, head) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                exchange.end(Ending::Refused(crate::trap::describe(&error)));
                return self.give_back();
            }
        };
        let out = head.rep();
        let mut after = AfterResponse::new(serial.sandbox.limits.after_response);
        let outcome = {
            let handler = live.guest.wasi_http_incoming_handler();
            let called = handler.call_handle(&mut live.store, request, head);
            let mut guest = std::pin::pin!(caught(called));
            let unwanted = || exchange.is_abandoned() || serial.killed.load(Ordering::SeqCst);
            poll_fn(|cx| {
                // Before the guest's turn, in which it may fail because nobody takes its answer.
                if unwanted() {
                    return Poll::Ready(Outcome::Unwanted);
                }
                if let Poll::Ready(result) = guest.as_mut().poll(cx) {
                    let result = result.map_err(wasmtime::Error::from).flatten();
                    return Poll::Ready(Outcome::Returned(result));
                }
                // First registered, then asked: nobody is missed who goes away in between.
                serial.wake.register(cx.waker());
                if unwanted() {
                    return Poll::Ready(Outcome::Unwanted);
                }
                if exchange.is_closed() {
                    return after.poll(cx).map(|()| Outcome::AfterResponse);
                }
                Poll::Pending
            })
            .await
        };
        match outcome {
            Outcome::Returned(Ok(())) => {
                exchange.set_returned();
                close(&mut live.store, out);
                self.give_back();
            }
            Outcome::Returned(Err(error)) => {
                let ending = ending(&serial.sandbox, &error, &live.store);
                exchange.end(ending.clone());
                serial.finish(ending.into());
            }
            Outcome::Unwanted => {}
            Outcome::AfterResponse => {
                let limit = serial.sandbox.limits.after_response;
                serial.sandbox.remark(&after::ended(limit));
            }
        }
    }

    fn give_back(mut self) {
        *self.place = self.live.take();
        let serial = self.serial.clone();
        drop(self);
        serial.settle();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            self.exchange.end(Ending::Killed);
            self.serial.finish(InstanceEnd::Killed);
            drop_quietly(live);
        }
    }
}

/// The caller of a call under way.
struct Guest(Arc<Serial>);

impl Owner for Guest {
    fn completed(&mut self, call: &CallRecord) {
        // The guest of the next call may have the instance by now.
        if !call.has_returned() {
            self.0.wake.wake();
        }
    }

    fn abandoned(&mut self) {
        self.0.wake.wake();
    }
}

type Prepared = (
    Resource<bindings::IncomingRequest>,
    Resource<bindings::ResponseOutparam>,
);

/// The end of a call whose guest has returned: if it has given no response, it will give none, though it may have kept
/// what it would give it by.
fn close(store: &mut Store<GuestState>, out: u32) {
    let table = &mut store.data_mut().table;
    let out = Resource::<bindings::ResponseOutparam>::new_own(out);
    // The number may be another resource's by now.
    if table.get(&out).is_ok() {
        drop(table.delete(out));
    }
}

/// What a guest of 0.2 is called with.
pub(crate) fn prepare(
    store: &mut Store<GuestState>,
    request: Request<Body>,
    head: Head,
) -> wasmtime::Result<Prepared> {
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(bindings::Scheme::Http, request)?;
    let answered = move |response: Result<_, bindings::ErrorCode>| {
        // Its caller may be gone.
        drop(head.send(response.map_err(Into::into)));
    };
    let head = http.new_response_outparam_from_callback(answered)?;
    Ok((request, head))
}
