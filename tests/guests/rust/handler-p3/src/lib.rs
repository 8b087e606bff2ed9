//! A handler of WASI 0.3 whose paths behave well and badly.
use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use wasip3::clocks::monotonic_clock;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::http_compat::http_into_wasi_response;
use wasip3::{wit_bindgen, wit_future, wit_stream};

wasip3::http::service::export!(Handler);

struct Handler;

mod lifecycle {
    wasip3::wit_bindgen::generate!({
        path: "../../../../sdk/wit",
        world: "oarlock:dyno/imports-async",
        generate_all,
        runtime_path: "wasip3::wit_bindgen::rt",
    });
    pub use oarlock::dyno::lifecycle_async::stopping;
}

static COUNTER: AtomicU64 = AtomicU64::new(0);
/// Tests replace this in the component, for code of another release; long enough to be one piece of data.
static CODE: &str = "the-code-as-it-was-built-from-its-source";
const TURN: u64 = 20_000_000;

impl wasip3::exports::http::handler::Guest for Handler {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        let number = |prefix: &str| {
            path.strip_prefix(prefix)
                .and_then(|rest| rest.parse::<usize>().ok())
        };
        if let Some(mib) = number("/alloc/") {
            let mut memory = vec![0_u8; mib << 20];
            memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
            return text(&std::hint::black_box(memory).len().to_string());
        }
        if let Some(milliseconds) = number("/sleep/") {
            monotonic_clock::wait_for(milliseconds as u64 * 1_000_000).await;
            return text("slept");
        }
        // An answer, and then so many milliseconds of work.
        if let Some(milliseconds) = number("/after/") {
            wit_bindgen::spawn_local(async move {
                monotonic_clock::wait_for(milliseconds as u64 * 1_000_000).await;
            });
            return text("answered");
        }
        // So many chunks, one every 20 ms, and then who it was.
        if let Some(chunks) = number("/stream/") {
            return stream(move |turn| match (turn as usize).cmp(&chunks) {
                std::cmp::Ordering::Less => Turn::Chunk(format!("{turn}\n")),
                std::cmp::Ordering::Equal => Turn::Chunk(who()),
                std::cmp::Ordering::Greater => Turn::End,
            });
        }
        // An event every 20 ms until the dyno is to stop; after some of them, so many MiB more of memory.
        if let Some(mib) = number("/events/") {
            let stop = Rc::new(Cell::new(false));
            let told = stop.clone();
            wit_bindgen::spawn_local(async move {
                lifecycle::stopping().await;
                told.set(true);
            });
            let ended = Cell::new(false);
            return stream(move |turn| {
                if turn == 5 {
                    let mut memory = vec![0_u8; mib << 20];
                    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
                    std::hint::black_box(memory.leak());
                }
                match (ended.replace(stop.get()), stop.get()) {
                    (true, _) => Turn::End,
                    (false, true) => Turn::Chunk("bye\n".to_owned()),
                    (false, false) => Turn::Chunk(format!("event {turn}\n")),
                }
            });
        }
        match path.as_str() {
            "/" => text("hello"),
            "/counter" => text(&(COUNTER.fetch_add(1, Ordering::Relaxed) + 1).to_string()),
            "/who" => text(&who()),
            "/env" => text(
                &std::env::vars()
                    .map(|(n, v)| format!("{n}={v}\n"))
                    .collect::<String>(),
            ),
            "/log" => {
                println!("a line");
                eprintln!("an error");
                text("logged")
            }
            "/echo" => echo(request),
            "/length" => {
                let (result_tx, result_rx) = wit_future::new(|| Ok(()));
                let (body, _trailers) = Request::consume_body(request, result_rx);
                let length = body.collect().await.len();
                drop(result_tx);
                text(&length.to_string())
            }
            "/trap" => std::process::abort(),
            "/exit" => std::process::exit(3),
            "/error" => Err(ErrorCode::InternalError(Some("as asked".to_owned()))),
            "/spin" => loop {
                std::hint::black_box(0);
            },
            // Work that goes on after the response: without end, until the dyno is to stop, to a trap.
            "/after-spin" => {
                wit_bindgen::spawn_local(async {
                    monotonic_clock::wait_for(TURN * 5).await;
                    loop {
                        std::hint::black_box(0);
                    }
                });
                text("answered")
            }
            "/until-stop" => {
                wit_bindgen::spawn_local(async {
                    lifecycle::stopping().await;
                    println!("stopping");
                });
                text("answered")
            }
            "/trap-later" => {
                wit_bindgen::spawn_local(async {
                    monotonic_clock::wait_for(TURN * 5).await;
                    std::process::abort()
                });
                text("answered")
            }
            "/trap-after-head" => stream(|turn| match turn {
                3 => std::process::abort(),
                _ => Turn::Chunk(format!("{turn}\n")),
            }),
            // Until nobody reads.
            "/slow" => stream(|turn| Turn::Chunk(format!("{turn}\n"))),
            // A chunk, and then nothing for an hour.
            "/stall" => stream(|turn| match turn {
                0 => Turn::Chunk("chunk\n".to_owned()),
                _ => Turn::Stall,
            }),
            // A byte, and then writes of nothing until nobody reads.
            "/empty" => {
                let (mut chunks, body) = wit_stream::new();
                let (trailers_tx, trailers) = wit_future::new(|| Ok(None));
                let (response, _sent) = Response::new(Fields::new(), Some(body), trailers);
                wit_bindgen::spawn_local(async move {
                    let _trailers = trailers_tx;
                    chunks.write_all(b"x".to_vec()).await;
                    while let (wit_bindgen::StreamResult::Complete(_), _) =
                        chunks.write(Vec::new()).await
                    {}
                });
                Ok(response)
            }
            _ => text("not found"),
        }
    }
}

fn text(text: &str) -> Result<Response, ErrorCode> {
    http_into_wasi_response(http::Response::new(text.to_owned()))
}

/// Hands the request's body back, which never passes through this guest.
fn echo(request: Request) -> Result<Response, ErrorCode> {
    let (result_tx, result_rx) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, result_rx);
    let (response, _sent) = Response::new(Fields::new(), Some(body), trailers);
    drop(result_tx);
    Ok(response)
}

/// Which dyno of which release, which code, and how many have asked this instance.
fn who() -> String {
    let var = |name| std::env::var(name).unwrap_or_default();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed) + 1;
    format!("{} {} {CODE} {count}", var("DYNO"), var("OARLOCK_RELEASE"))
}

/// What a streamed answer does next.
enum Turn {
    Chunk(String),
    Stall,
    End,
}

/// An answer that does something every 20 ms, as long as somebody reads it.
fn stream(turns: impl Fn(u64) -> Turn + 'static) -> Result<Response, ErrorCode> {
    let (mut chunks, body) = wit_stream::new();
    let (trailers_tx, trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(body), trailers);
    wit_bindgen::spawn_local(async move {
        let _trailers = trailers_tx;
        for turn in 0_u64.. {
            monotonic_clock::wait_for(TURN).await;
            match turns(turn) {
                Turn::Chunk(text) => {
                    if !chunks.write_all(text.into_bytes()).await.is_empty() {
                        break;
                    }
                }
                Turn::Stall => monotonic_clock::wait_for(3_600_000_000_000).await,
                Turn::End => break,
            }
        }
    });
    Ok(response)
}
