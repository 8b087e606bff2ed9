//! Answers 14 bytes to every request, but for `/10k` and `/1m`, which are for the benchmark; WASI 0.2.
use wstd::http::{Body, Error, Request, Response};

/// What `/1m` sends at once.
static CHUNK: [u8; 64 << 10] = [b'o'; 64 << 10];

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let body = match request.uri().path() {
        "/10k" => CHUNK[..10 << 10].to_vec().into(),
        "/1m" => Body::from_stream(futures_lite::stream::iter([&CHUNK[..]; 16])),
        _ => "Hello, Oarlock".to_owned().into(),
    };
    Ok(Response::new(body))
}
