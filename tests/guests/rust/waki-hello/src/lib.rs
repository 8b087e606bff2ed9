//! A WASI 0.2 handler made with waki.
use waki::{ErrorCode, Request, Response, handler};

#[handler]
fn hello(request: Request) -> Result<Response, ErrorCode> {
    let path = request.path().to_owned();
    Response::builder()
        .header("x-path", path)
        .body(b"Hello, Oarlock")
        .build()
}
