//! Handlers: the guest `sdk-web`, which has a route for each thing that they can do.

use http_body_util::BodyExt as _;
use oarlock_sandbox::{ChosenBy, Endpoint};
use oarlock_tests::Wasi;

use super::program;
use crate::bench::{App, sandbox_of};
use crate::calls::{Answer, call, get, post};

super::on_both!(
    whole_bodies_say_their_length,
    bodies_stream_both_ways,
    a_body_over_the_readers_limit_is_an_error_of_the_handler,
    an_aborted_body_is_cut_and_never_ends_cleanly,
    an_error_goes_to_the_log_and_not_to_the_client,
    config_is_typed_and_time_passes,
    fetch_says_when_it_is_not_permitted,
    fetch_sends_and_receives_and_a_get_announces_no_body
);

/// A server that says what it was asked, each request on a connection of its own; its port.
async fn server() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(
                |request: http::Request<hyper::body::Incoming>| async move {
                    let framing = ["content-length", "transfer-encoding"].map(|name| {
                        request
                            .headers()
                            .get(name)
                            .map_or("-", |value| value.to_str().unwrap())
                            .to_owned()
                    });
                    let (method, path) =
                        (request.method().clone(), request.uri().path().to_owned());
                    let length = request.into_body().collect().await?.to_bytes().len();
                    let text = format!("{method} {path} {} {length}", framing.join(" "));
                    Ok::<_, hyper::Error>(http::Response::new(text))
                },
            );
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    port
}

/// An instance of the guest `sdk-web`, what it logs, and its configuration.
async fn web(
    wasi: Wasi,
    config: &[(&str, &str)],
) -> (oarlock_sandbox::Instance, std::sync::Arc<crate::bench::Log>) {
    let data = tempfile::tempdir().unwrap();
    let (binding, env) = App::new(data.path()).release(&[], config, "web").await;
    let (sandbox, log) = sandbox_of(&program(wasi, "web"), &binding, &env);
    (sandbox.start().await.unwrap(), log)
}

async fn whole_bodies_say_their_length(wasi: Wasi) {
    let (web, _) = web(wasi, &[]).await;
    let answer = call(&web, get("/")).await;
    assert_eq!(
        (answer.text(), answer.header("content-length")),
        ("Hello, Oarlock", "14")
    );
}

async fn bodies_stream_both_ways(wasi: Wasi) {
    let (web, _) = web(wasi, &[]).await;
    let text = "x".repeat(300_000);
    assert_eq!(call(&web, post("/echo", &text)).await.text(), text);
    assert_eq!(call(&web, post("/length", &text)).await.text(), "300000");
    let lines: Answer = call(&web, get("/count")).await;
    assert_eq!(lines.text(), "1\n2\n3\n");
    assert_eq!(lines.trailers.expect("a trailer")["x-lines"], "3");
}

async fn a_body_over_the_readers_limit_is_an_error_of_the_handler(wasi: Wasi) {
    let (web, log) = web(wasi, &[]).await;
    assert_eq!(
        call(&web, post("/length", &"x".repeat((1 << 20) + 1)))
            .await
            .status,
        500
    );
    assert_eq!(
        log.text(),
        "error: the body is longer than the 1048576 bytes allowed"
    );
}

async fn an_aborted_body_is_cut_and_never_ends_cleanly(wasi: Wasi) {
    let (web, _) = web(wasi, &[]).await;
    let answer = call(&web, get("/cut")).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.is_err());
}

async fn an_error_goes_to_the_log_and_not_to_the_client(wasi: Wasi) {
    let (web, log) = web(wasi, &[]).await;
    let answer = call(&web, get("/fail")).await;
    assert_eq!(
        (answer.status, answer.text()),
        (500, "500 Internal Server Error\n")
    );
    assert_eq!(log.text(), "error: the reason is for the log");
}

async fn config_is_typed_and_time_passes(wasi: Wasi) {
    let (configured, _) = web(wasi, &[("NUMBER", "42")]).await;
    assert_eq!(call(&configured, get("/config")).await.text(), "42");
    assert_eq!(call(&configured, get("/sleep")).await.text(), "true false");
    let (bare, log) = web(wasi, &[]).await;
    assert_eq!(call(&bare, get("/config")).await.status, 500);
    assert!(
        log.text().contains("config var NUMBER is not set"),
        "{}",
        log.text()
    );
}

async fn fetch_says_when_it_is_not_permitted(wasi: Wasi) {
    let (web, log) = web(wasi, &[("TARGET", "http://203.0.113.1/")]).await;
    assert_eq!(call(&web, get("/fetch")).await.status, 500);
    assert!(log.text().contains("not permitted"), "{}", log.text());
}

async fn fetch_sends_and_receives_and_a_get_announces_no_body(wasi: Wasi) {
    let (data, port) = (tempfile::tempdir().unwrap(), server().await);
    let target = format!("http://127.0.0.1:{port}/path");
    let (mut binding, env) = App::new(data.path())
        .release(&[], &[("TARGET", &target)], "web")
        .await;
    binding.endpoints.push(Endpoint {
        addon: "api".to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        chosen_by: ChosenBy::Operator,
    });
    let (sandbox, log) = sandbox_of(&program(wasi, "web"), &binding, &env);
    let web = sandbox.start().await.unwrap();
    let got = call(&web, get("/fetch")).await;
    assert_eq!(
        (got.status, got.text()),
        (200, "GET /path - - 0"),
        "{}",
        log.text()
    );
    // What streams through has no known length.
    assert_eq!(
        call(&web, post("/post", &"x".repeat(100_000))).await.text(),
        "POST /path - chunked 100000"
    );
}
