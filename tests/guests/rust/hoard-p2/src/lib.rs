//! A handler of WASI 0.2 that makes its host hold things for it, or keeps its core for long.
use std::hint::black_box;
use std::time::{Duration, Instant};

use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam,
};

wasip2::http::proxy::export!(Handler);

struct Handler;

/// As much as one write may have.
const PIECE: usize = 128 << 10;

/// So much that one instruction takes long on any machine.
const FILLED: usize = 200 << 20;

impl wasip2::exports::http::incoming_handler::Guest for Handler {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let (what, number) = path[1..].split_once('/').unwrap_or((&path[1..], "0"));
        let number: usize = number.parse().unwrap_or(0);
        match what {
            "bodies" => answer(out, bodies(number).to_string().as_bytes()),
            "fields" => answer(out, fields(number).to_string().as_bytes()),
            // A response of so many MiB.
            "write" => answer(out, &vec![b'w'; number << 20]),
            // Fills much memory again and again for so many milliseconds.
            "fill" => {
                let mut memory = vec![0_u8; FILLED];
                let begun = Instant::now();
                let mut times = 0_u32;
                while begun.elapsed() < Duration::from_millis(number as u64) {
                    black_box(&mut memory[..]).fill(black_box(times as u8));
                    times += 1;
                }
                answer(out, b"filled");
            }
            _ => answer(out, b"hello"),
        }
    }
}

fn answer(out: ResponseOutparam, text: &[u8]) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().unwrap();
    let ready = stream.subscribe();
    let mut rest = text;
    while !rest.is_empty() {
        ready.block();
        let permitted = stream.check_write().unwrap() as usize;
        let (piece, more) = rest.split_at(permitted.min(rest.len()));
        stream.write(piece).unwrap();
        rest = more;
    }
    drop((ready, stream));
    OutgoingBody::finish(body, None).unwrap();
}

/// Fills this many bodies of requests that are never sent, as far as it may; how many bytes that were.
fn bodies(number: usize) -> usize {
    let piece = vec![b'b'; PIECE];
    let (mut kept, mut bytes) = (Vec::new(), 0);
    for _ in 0..number {
        let request = OutgoingRequest::new(Fields::new());
        let body = request.body().unwrap();
        let stream = body.write().unwrap();
        loop {
            match stream.check_write().unwrap() as usize {
                0 => break,
                permitted => {
                    let piece = &piece[..permitted.min(PIECE)];
                    stream.write(piece).unwrap();
                    bytes += piece.len();
                }
            }
        }
        kept.push((stream, body, request));
    }
    // In this order: a child before its parent.
    drop(kept);
    bytes
}

/// Fills this many header sets; how many bytes that were.
fn fields(number: usize) -> usize {
    let value = vec![b'f'; 4_000];
    let mut bytes = 0;
    let kept: Vec<_> = (0..number)
        .map(|_| {
            let fields = Fields::new();
            for _ in 0..25 {
                fields.append("x-filled", &value).unwrap();
                bytes += value.len();
            }
            fields
        })
        .collect();
    black_box(kept);
    bytes
}
