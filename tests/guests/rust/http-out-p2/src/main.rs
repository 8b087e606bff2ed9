//! Passes each request on to the URL in its header `x-url`, and the answer back; WASI 0.2.
use wstd::http::{Body, Client, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let (head, body) = request.into_parts();
    let url = head.headers["x-url"].to_str()?.to_owned();
    let mut client = Client::new();
    if let Some(millis) = head.headers.get("x-timeout-ms") {
        let timeout = std::time::Duration::from_millis(millis.to_str()?.parse()?);
        client.set_connect_timeout(timeout);
        client.set_first_byte_timeout(timeout);
    }
    if let Some(millis) = head.headers.get("x-first-byte-ms") {
        client.set_first_byte_timeout(std::time::Duration::from_millis(millis.to_str()?.parse()?));
    }
    let onward = Request::builder().method(head.method).uri(url).body(body)?;
    match client.send(onward).await {
        Ok(response) => Ok(response),
        Err(error) => Ok(Response::builder()
            .status(502)
            .body(format!("{error:?}").into())?),
    }
}
