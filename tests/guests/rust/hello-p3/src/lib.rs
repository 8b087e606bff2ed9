//! Answers 14 bytes to every request, but for `/10k` and `/1m`, which are for the benchmark; WASI 0.3.
use std::convert::Infallible;

use http_body_util::{Full, StreamBody};
use wasip3::http::types::{ErrorCode, Request, Response};
use wasip3::http_compat::http_into_wasi_response;

/// What `/1m` sends at once.
static CHUNK: [u8; 64 << 10] = [b'o'; 64 << 10];

wasip3::http::service::export!(Hello);

struct Hello;

impl wasip3::exports::http::handler::Guest for Hello {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        match request.get_path_with_query().as_deref() {
            Some("/10k") => http_into_wasi_response(http::Response::new(Full::new(
                bytes::Bytes::from_static(&CHUNK[..10 << 10]),
            ))),
            Some("/1m") => {
                let chunk = || http_body::Frame::data(bytes::Bytes::from_static(&CHUNK));
                let chunks = std::iter::repeat_with(move || Ok::<_, Infallible>(chunk())).take(16);
                let body = StreamBody::new(futures_lite::stream::iter(chunks));
                http_into_wasi_response(http::Response::new(body))
            }
            _ => http_into_wasi_response(http::Response::new("Hello, Oarlock".to_owned())),
        }
    }
}
