//! A host's answer to `scale`, and what the router knows when it is given.

use std::pin::pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use oarlock_spec::codes::RouterCode;

use crate::web::WebPool;
use crate::{App, Host, HostConfig};

/// Looks at the pool in the moment in which the answer is there: wakers are called by whoever answers.
struct AtAnswer {
    pool: Arc<WebPool>,
    /// What a request met then: a code, or `None` if it was let in.
    seen: Mutex<Option<Option<RouterCode>>>,
}

impl Wake for AtAnswer {
    fn wake(self: Arc<Self>) {
        let mut lease = pin!(self.pool.lease(None));
        let met = match lease.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(code)) => Some(code),
            Poll::Ready(Ok(_)) | Poll::Pending => None,
        };
        self.seen.lock().unwrap().get_or_insert(met);
    }
}

#[test]
fn scale_is_answered_when_the_router_knows_of_it() {
    let data = tempfile::tempdir().unwrap();
    let hello = wat::parse_str(include_str!("../../doc/hello.wat")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let host = Host::start(HostConfig::new(data.path())).unwrap();
    let app = App::from_manifest("app = \"hello\"\n[processes]\nweb = \"web.wasm\"");
    let app = runtime.block_on(host.add(app.component("web.wasm", hello)));
    let app = app.unwrap().app;
    let pool = host.inner.find(&app).unwrap().pool.clone();
    for (count, expected) in [
        (0, Some(RouterCode::H14)),
        (1, None),
        (0, Some(RouterCode::H14)),
    ] {
        // The dispatcher answers when the gate is open, and not before we wait for it.
        let (entered, at_gate) = mpsc::channel();
        let (open, gate) = mpsc::channel::<()>();
        host.inner.shared.control.spawn(async move {
            entered.send(()).unwrap();
            gate.recv().unwrap();
        });
        at_gate.recv().unwrap();
        let at = Arc::new(AtAnswer {
            pool: pool.clone(),
            seen: Mutex::default(),
        });
        let waker = Waker::from(at.clone());
        let formation = [("web".parse().unwrap(), count)].into();
        let mut scale = pin!(host.scale(&app, formation));
        let asked = scale.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(asked.is_pending());
        open.send(()).unwrap();
        let limit = Instant::now() + Duration::from_secs(20);
        while at.seen.lock().unwrap().is_none() {
            assert!(Instant::now() < limit, "no answer");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(*at.seen.lock().unwrap(), Some(expected), "web={count}");
        assert!(runtime.block_on(scale).is_ok());
    }
    runtime.block_on(host.shutdown());
}
