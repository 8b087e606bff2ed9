//! Says who it is; WASI 0.2.
//!
//! `/` answers `DYNO RELEASE COUNT`, where the count is of this instance's requests; `/env` all
//! variables, one a line; `/trap` traps; `/slow` answers after 300 ms.
use std::sync::atomic::{AtomicU32, Ordering};

use wstd::http::{Body, Error, Request, Response};
use wstd::time::Duration;

static COUNT: AtomicU32 = AtomicU32::new(0);

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    let var = |name| std::env::var(name).unwrap_or_default();
    let text = match request.uri().path() {
        "/trap" => panic!("asked to"),
        "/env" => std::env::vars()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect(),
        "/slow" => {
            wstd::task::sleep(Duration::from_millis(300)).await;
            var("DYNO")
        }
        _ => format!("{} {} {count}", var("DYNO"), var("OARLOCK_RELEASE")),
    };
    Ok(Response::new(text.into()))
}
