//! A WASI 0.3 handler on the bare bindings: echoes a request's body as it comes, or says hello.
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response};
use wasip3::{wit_future, wit_stream};

wasip3::http::service::export!(Component);

struct Component;

impl wasip3::exports::http::handler::Guest for Component {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let headers = Fields::new();
        if matches!(request.get_method(), Method::Post) {
            let (_, done) = wit_future::new(|| Ok(()));
            let (body, trailers) = Request::consume_body(request, done);
            return Ok(Response::new(headers, Some(body), trailers).0);
        }
        let (mut writer, body) = wit_stream::new();
        let (_, trailers) = wit_future::new(|| Ok(None));
        wasip3::spawn_local(async move {
            writer.write_all(b"Hello, Oarlock".to_vec()).await;
        });
        Ok(Response::new(headers, Some(body), trailers).0)
    }
}
