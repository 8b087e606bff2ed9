//! A handler of WASI 0.2 whose paths behave well and badly.
use std::sync::atomic::{AtomicU64, Ordering};

use wstd::http::{Body, BodyExt as _, Error, Request, Response, StatusCode};
use wstd::time::Duration;

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Tests replace this in the component, for code of another release; long enough to be one piece of data.
static CODE: &str = "the-code-as-it-was-built-from-its-source";

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let path = request.uri().path().to_owned();
    let number = |prefix: &str| {
        path.strip_prefix(prefix)
            .and_then(|rest| rest.parse::<usize>().ok())
    };
    if let Some(mib) = number("/alloc/") {
        let mut memory = vec![0_u8; mib << 20];
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        return Ok(text(format!("{}", std::hint::black_box(memory).len())));
    }
    if let Some(milliseconds) = number("/sleep/") {
        wstd::task::sleep(Duration::from_millis(milliseconds as u64)).await;
        return Ok(text("slept".to_owned()));
    }
    // So many chunks, one every 20 ms, and then who it was.
    if let Some(chunks) = number("/stream/") {
        return Ok(stream(move |turn| async move {
            wstd::task::sleep(Duration::from_millis(20)).await;
            match (turn as usize).cmp(&chunks) {
                std::cmp::Ordering::Less => Some(format!("{turn}\n")),
                std::cmp::Ordering::Equal => Some(who()),
                std::cmp::Ordering::Greater => None,
            }
        }));
    }
    // A whole answer, and then so many milliseconds of sleep; or computing without end.
    if let Some(milliseconds) = number("/after/") {
        return Ok(after(move || async move {
            wstd::task::sleep(Duration::from_millis(milliseconds as u64)).await;
        }));
    }
    match path.as_str() {
        "/after-spin" => Ok(after(spin)),
        "/" => Ok(text("hello".to_owned())),
        "/counter" => Ok(text(
            (COUNTER.fetch_add(1, Ordering::Relaxed) + 1).to_string(),
        )),
        "/who" => Ok(text(who())),
        "/env" => Ok(text(
            std::env::vars()
                .map(|(n, v)| format!("{n}={v}\n"))
                .collect(),
        )),
        "/log" => {
            println!("a line");
            eprintln!("an error");
            Ok(text("logged".to_owned()))
        }
        "/echo" => Ok(Response::new(request.into_body())),
        "/trap" => std::process::abort(),
        "/exit" => std::process::exit(3),
        "/error" => Err(Error::msg("as asked")),
        "/spin" => loop {
            std::hint::black_box(0);
        },
        // A head, some of the body, then a trap.
        "/trap-after-head" => Ok(stream(|turn| async move {
            wstd::task::sleep(Duration::from_millis(20)).await;
            if turn == 3 {
                std::process::abort()
            } else {
                Some("chunk\n".to_owned())
            }
        })),
        // A chunk every 20 ms, until nobody reads.
        "/slow" => Ok(stream(|turn| async move {
            wstd::task::sleep(Duration::from_millis(20)).await;
            Some(format!("{turn}\n"))
        })),
        // A chunk, and then nothing for an hour.
        "/stall" => Ok(stream(|turn| async move {
            wstd::task::sleep(Duration::from_millis(20)).await;
            if turn > 0 {
                wstd::task::sleep(Duration::from_secs(3_600)).await;
            }
            Some("chunk\n".to_owned())
        })),
        "/length" => {
            let bytes = request
                .into_body()
                .into_boxed_body()
                .collect()
                .await?
                .to_bytes()
                .len();
            Ok(text(bytes.to_string()))
        }
        _ => {
            let mut response = text("not found".to_owned());
            *response.status_mut() = StatusCode::NOT_FOUND;
            Ok(response)
        }
    }
}

/// Which dyno of which release, which code, and how many have asked this instance.
fn who() -> String {
    let var = |name| std::env::var(name).unwrap_or_default();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed) + 1;
    format!("{} {} {CODE} {count}", var("DYNO"), var("OARLOCK_RELEASE"))
}

fn text(text: String) -> Response<Body> {
    Response::new(text.into())
}

async fn spin() {
    loop {
        std::hint::black_box(0);
    }
}

/// An answer that is complete before its guest is done: it has said how long it is.
fn after<F>(work: impl Fn() -> F + Send + Sync + 'static) -> Response<Body>
where
    F: Future<Output = ()> + Send + 'static,
{
    let work = std::sync::Arc::new(work);
    let mut response = stream(move |turn| {
        let work = work.clone();
        async move {
            if turn == 0 {
                return Some("answered".to_owned());
            }
            work().await;
            None
        }
    });
    let length = "answered".len().into();
    response.headers_mut().insert("content-length", length);
    response
}

/// A body made by asking for each of its chunks in turn.
fn stream<F>(chunk: impl Fn(u64) -> F + Send + 'static) -> Response<Body>
where
    F: Future<Output = Option<String>> + Send + 'static,
{
    let chunks = futures_lite::stream::unfold((0, chunk), |(turn, chunk)| async move {
        let text = chunk(turn).await?;
        Some((text, (turn + 1, chunk)))
    });
    Response::new(Body::from_stream(chunks))
}
