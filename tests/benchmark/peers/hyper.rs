//! No guest: hyper alone on one current-thread runtime per core, the limit of what a host built on it can reach.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::shared_listener;
use crate::server::own_address;

/// What `/1m` sends at once.
static CHUNK: [u8; 64 << 10] = [b'o'; 64 << 10];

/// Serves until the process is ended.
pub(crate) fn serve() -> anyhow::Result<()> {
    let addr = own_address()?;
    let cores = std::thread::available_parallelism()?.get();
    let threads: Vec<_> = (0..cores)
        .map(|_| std::thread::spawn(move || core(addr)))
        .collect();
    for thread in threads {
        if let Ok(served) = thread.join() {
            served?;
        }
    }
    Ok(())
}

fn core(addr: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = shared_listener(addr)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            drop(tokio::spawn(async move {
                // A client that goes away is no news.
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                drop(served.await);
            }));
        }
    })
}

async fn answer(
    request: Request<hyper::body::Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let body = match request.uri().path() {
        "/10k" => Full::new(Bytes::from_static(CHUNK.split_at(10 << 10).0)).boxed_unsync(),
        "/1m" => {
            let chunk = || Ok(Frame::data(Bytes::from_static(&CHUNK)));
            StreamBody::new(futures::stream::iter(
                std::iter::repeat_with(chunk).take(16),
            ))
            .boxed_unsync()
        }
        _ => Full::new(Bytes::from_static(b"Hello, Oarlock")).boxed_unsync(),
    };
    Ok(Response::new(body))
}
