//! A handler of WASI 0.3 whose paths behave well and badly.
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
        match path.as_str() {
            "/" => text("hello"),
            "/counter" => text(&(COUNTER.fetch_add(1, Ordering::Relaxed) + 1).to_string()),
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
            "/after" => {
                wit_bindgen::spawn_local(async {
                    monotonic_clock::wait_for(3_600_000_000_000).await
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
            "/trap-after-head" => stream(Some(3)),
            "/slow" => stream(None),
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

/// A chunk every 20 ms, until nobody reads or the guest traps.
fn stream(trap_at: Option<u64>) -> Result<Response, ErrorCode> {
    let (mut chunks, body) = wit_stream::new();
    let (trailers_tx, trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(body), trailers);
    wit_bindgen::spawn_local(async move {
        let _trailers = trailers_tx;
        for turn in 0_u64.. {
            monotonic_clock::wait_for(TURN).await;
            if trap_at == Some(turn) {
                std::process::abort();
            }
            if !chunks
                .write_all(format!("{turn}\n").into_bytes())
                .await
                .is_empty()
            {
                break;
            }
        }
    });
    Ok(response)
}
