//! A backend for tests: a function in the place of a guest.

use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;
use http::{Request, Response};
use oarlock_sandbox::{Body, CallError};

use crate::cores::CoreId;
use crate::web::{Backend, WebDyno};

/// Answers a request as a guest would.
pub(crate) type Answer = Arc<
    dyn Fn(Request<Body>) -> BoxFuture<'static, Result<Response<Body>, CallError>> + Send + Sync,
>;

/// A dyno that answers with `answer`.
pub(crate) fn dyno<F, R>(name: &str, capacity: u32, core: Option<CoreId>, answer: F) -> Arc<WebDyno>
where
    F: Fn(Request<Body>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Response<Body>, CallError>> + Send + 'static,
{
    let answer: Answer = Arc::new(move |request| Box::pin(answer(request)));
    WebDyno::new(
        &name.parse().unwrap(),
        Backend::Fake { answer, core },
        capacity,
    )
}
