//! Answers 14 bytes to every request, on the bare bindings.

#[cfg(feature = "p2")]
mod p2 {
    use wasip2::http::types::{
        Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
    };

    wasip2::http::proxy::export!(Component);

    struct Component;

    impl wasip2::exports::http::incoming_handler::Guest for Component {
        fn handle(_request: IncomingRequest, out: ResponseOutparam) {
            let headers = Fields::new();
            headers.set("content-length", &[b"14".to_vec()]).unwrap();
            let response = OutgoingResponse::new(headers);
            let body = response.body().unwrap();
            ResponseOutparam::set(out, Ok(response));
            let stream = body.write().unwrap();
            stream.blocking_write_and_flush(b"Hello, Oarlock").unwrap();
            drop(stream);
            OutgoingBody::finish(body, None).unwrap();
        }
    }
}

#[cfg(feature = "p3")]
mod p3 {
    use wasip3::http::types::{ErrorCode, Fields, Request, Response};
    use wasip3::{wit_future, wit_stream};

    wasip3::http::service::export!(Component);

    struct Component;

    impl wasip3::exports::http::handler::Guest for Component {
        async fn handle(_request: Request) -> Result<Response, ErrorCode> {
            let headers = Fields::new();
            headers.set("content-length", &[b"14".to_vec()]).unwrap();
            let (mut writer, body) = wit_stream::new();
            let (_, trailers) = wit_future::new(|| Ok(None));
            wasip3::spawn_local(async move {
                writer.write_all(b"Hello, Oarlock".to_vec()).await;
            });
            Ok(Response::new(headers, Some(body), trailers).0)
        }
    }
}
