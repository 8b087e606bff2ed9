//! Answers 14 bytes to every request; WASI 0.2.
use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(_request: Request<Body>) -> Result<Response<Body>, Error> {
    Ok(Response::new("Hello, Oarlock".to_owned().into()))
}
