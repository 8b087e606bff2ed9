//! Answers a byte and then empty frames until nobody reads, at `/empty`; a byte everywhere else. WASI 0.2.
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct Handler;

impl wasip2::exports::http::incoming_handler::Guest for Handler {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let endless = request
            .path_with_query()
            .is_some_and(|path| path == "/empty");
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().unwrap();
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().unwrap();
        let _ = stream.blocking_write_and_flush(b"x");
        while endless {
            stream.subscribe().block();
            match stream.check_write() {
                Ok(0) => {}
                Ok(_) if stream.write(&[]).is_ok() => {}
                _ => break,
            }
        }
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}

wasip2::http::proxy::export!(Handler);
