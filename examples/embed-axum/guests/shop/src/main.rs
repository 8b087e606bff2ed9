//! Tells prices, which it asks the server that it runs in for; WASI 0.2.
use wstd::http::{Body, Error, Request, Response, StatusCode};

wit_bindgen::generate!({
    path: "../../wit",
    world: "shop",
});

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let item = request.uri().path().trim_start_matches('/');
    let Some(cents) = shop::stock::prices::price(item) else {
        let mut response = Response::new(format!("There is no {item}.\n").into());
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    };
    let text = format!("A {item} is {}.{:02} EUR.\n", cents / 100, cents % 100);
    Ok(Response::new(text.into()))
}
