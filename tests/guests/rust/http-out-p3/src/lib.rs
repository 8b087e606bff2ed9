//! Passes each request on to the URL in its header `x-url`, and the answer back; WASI 0.3.
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, RequestOptions, Response, Scheme};
use wasip3::{wit_bindgen, wit_future, wit_stream};

wasip3::http::service::export!(Forward);

struct Forward;

impl wasip3::exports::http::handler::Guest for Forward {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let url = request.get_headers().get("x-url").remove(0);
        let url: http::Uri = String::from_utf8(url).unwrap().parse().unwrap();
        let first_byte = request.get_headers().get("x-first-byte-ms").pop();
        let first_byte: Option<u64> =
            first_byte.map(|millis| String::from_utf8(millis).unwrap().parse().unwrap());
        let method = request.get_method();
        let (_, processed) = wit_future::new(|| Ok(()));
        let (body, trailers) = Request::consume_body(request, processed);
        let options = first_byte.map(|millis| {
            let options = RequestOptions::new();
            options
                .set_first_byte_timeout(Some(millis * 1_000_000))
                .unwrap();
            options
        });
        let (onward, _sent) = Request::new(Fields::new(), Some(body), trailers, options);
        onward.set_method(&method).unwrap();
        let scheme = if url.scheme_str() == Some("https") {
            Scheme::Https
        } else {
            Scheme::Http
        };
        onward.set_scheme(Some(&scheme)).unwrap();
        onward
            .set_authority(url.authority().map(|authority| authority.as_str()))
            .unwrap();
        onward
            .set_path_with_query(url.path_and_query().map(|path| path.as_str()))
            .unwrap();
        match client::send(onward).await {
            Ok(response) => Ok(response),
            Err(error) => Ok(failed(&error)),
        }
    }
}

fn failed(error: &ErrorCode) -> Response {
    let (mut body, stream) = wit_stream::new();
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (response, _) = Response::new(Fields::new(), Some(stream), trailers);
    response.set_status_code(502).unwrap();
    let text = format!("{error:?}");
    wit_bindgen::spawn_local(async move {
        body.write_all(text.into_bytes()).await;
    });
    response
}
