//! The two kinds of component: a handler's request and a command's run, each with an executor of its
//! own around it. And the waits that the host offers to both.

use std::time::Duration;

use wasip2::clocks::monotonic_clock;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use super::bindings::oarlock::dyno::lifecycle;
use super::executor::{Stuck, drain};
use super::{executor, http, reactor};
use crate::app::command::report;
use crate::app::handler::IntoResponse;
use crate::{Request, status};

/// Waits for this long; more than 584 years count as that.
pub(crate) async fn wait_for(duration: Duration) {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    reactor::wait(monotonic_clock::subscribe_duration(nanoseconds)).await;
}

/// Returns when this dyno is to stop.
pub(crate) async fn stopping() {
    reactor::wait(lifecycle::stopping()).await;
}

/// Whether this dyno is to stop.
pub(crate) fn stopping_now() -> bool {
    lifecycle::stopping().ready()
}

/// Runs a handler for one request, and what it spawned after that.
pub fn handle<F, Fut, R>(request: IncomingRequest, out: ResponseOutparam, serve: F)
where
    F: FnOnce(Request) -> Fut,
    Fut: Future<Output = R>,
    R: IntoResponse,
{
    let answer = executor::run(async {
        let response = match http::incoming_request(request) {
            Ok(request) => serve(request).await.into_response(),
            Err(_) => status(::http::StatusCode::BAD_REQUEST),
        };
        http::respond(response, out).await;
    });
    // Without an answer, `out` has been dropped, and the host answers for it.
    for stuck in [answer, drain()].into_iter().filter_map(Result::err) {
        report(&stuck.into());
    }
}

/// Runs a command.
///
/// # Errors
/// Its own, which it has told already, or that it never would end.
#[expect(
    clippy::result_unit_err,
    reason = "what `wasi:cli/run` returns has no more to say"
)]
pub fn run(main: impl Future<Output = Result<(), ()>>) -> Result<(), ()> {
    executor::run(main).unwrap_or_else(|stuck: Stuck| {
        report(&stuck.into());
        Err(())
    })
}
