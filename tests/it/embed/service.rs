//! `Service::call`: from any runtime, with all that the router promises.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::uri::Scheme;
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use oarlock_host::AppService;
use oarlock_host::service::Client;
use oarlock_host::spec::codes::RouterCode;
use oarlock_tests::app::PATIENCE;
use tokio::sync::mpsc;

use super::{Answer, Embedded, ask, get, web};

fn post(path: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    Request::post(path).body(Full::new(body.into())).unwrap()
}

async fn send(service: &AppService, request: Request<Full<Bytes>>) -> Answer {
    Answer::of(service.call(request).await.unwrap()).await
}

#[test]
fn it_needs_no_runtime() {
    let embedded = Embedded::new();
    for guest in ["handler-p2", "handler-p3"] {
        futures::executor::block_on(async {
            let service = embedded.serving(web("shop", guest, "")).await;
            assert_eq!(ask(&service, "/").await.text(), "hello");
            let large = vec![b'x'; 1 << 20];
            let length = send(&service, post("/length", large.clone())).await;
            assert_eq!(length.text(), "1048576");
            let echo = send(&service, post("/echo", large.clone())).await;
            assert_eq!(echo.text().as_bytes(), large);
            let streamed = ask(&service, "/stream/3").await;
            assert!(
                streamed.text().starts_with("0\n1\n2\nweb.1 "),
                "{streamed:?}"
            );
        });
    }
    futures::executor::block_on(embedded.host.shutdown());
}

#[test]
fn a_guest_that_spins_holds_no_thread_of_the_embedders() {
    let embedded = Embedded::new();
    // One thread for everything: were it held, nothing here could go on.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (service, spinning) = runtime.block_on(async {
        let service = embedded
            .serving(web("shop", "handler-p2", "timeout = \"1s\""))
            .await;
        let spinning: Vec<_> = (0..8).map(|_| service.call(get("/spin"))).collect();
        (service, spinning)
    });
    let answers = runtime.block_on(async {
        let all = futures::future::join_all(spinning);
        let own_work = async {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(5)).await;
                assert_eq!(ask(&service, "/").await.text(), "hello");
            }
        };
        let (answers, ()) = futures::join!(all, own_work);
        answers
    });
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!(answer.headers()["oarlock-error"], "H12");
    }
    runtime.block_on(embedded.host.shutdown());
}

#[tokio::test]
async fn a_request_has_what_the_routers_have() {
    let embedded = Embedded::new();
    let service = embedded
        .serving(web("shop", "handler-p2", "request_body = \"1 KiB\""))
        .await;
    let id = "a-request-id-of-the-clients";
    let mut request = get("/who?x=1");
    request
        .headers_mut()
        .insert("x-request-id", id.parse().unwrap());
    request.extensions_mut().insert(Client {
        ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        scheme: Scheme::HTTPS,
        port: 443,
    });
    assert_eq!(send(&service, request).await.status, 200);
    let line = embedded.logged("shop", "router", id).await;
    for field in [
        "at=info method=GET path=\"/who?x=1\" host=shop.localhost ",
        " fwd=\"192.0.2.7\" dyno=web.1 ",
        " status=200 ",
    ] {
        assert!(line.contains(field), "{line}");
    }
    let large = send(&service, post("/length", vec![0; 2_000])).await;
    assert_eq!((large.status, &*large.error), (413, "body-too-large"));
    let trapped = ask(&service, "/trap").await;
    trapped.assert_refused("H13");
    embedded.logged("shop", "router", "code=H13").await;
    // Two names are one too many, as they are from a socket.
    let mut two = get("/");
    two.headers_mut().append("host", "a".parse().unwrap());
    two.headers_mut().append("host", "b".parse().unwrap());
    assert_eq!(send(&service, two).await.status, 400);
    embedded.host.shutdown().await;
}

#[tokio::test]
async fn heads_without_a_body_keep_their_length() {
    let embedded = Embedded::new();
    let service = embedded.serving(web("shop", "handler-p2", "")).await;
    let head = Request::head("/").body(Full::<Bytes>::default()).unwrap();
    let answer = send(&service, head).await;
    assert_eq!(answer.text(), "");
    embedded.host.shutdown().await;
}

#[tokio::test]
async fn who_drops_the_answer_has_gone_away() {
    let embedded = Embedded::new();
    let service = embedded
        .serving(web("shop", "handler-p2", "concurrency = 1\nqueue = 0"))
        .await;
    // Before the head: the call is dropped once its guest has the only slot.
    let waiting = service.call(get("/sleep/3600000"));
    super::until("the slot is taken", || {
        let other = futures::executor::block_on(ask(&service, "/"));
        other.error == "H11"
    })
    .await;
    drop(waiting);
    embedded.logged("shop", "router", "code=H27").await;
    // Within the body.
    let mut body = service.call(get("/slow")).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    super::until("both are in the log", || {
        let lines = embedded.log("shop", "router");
        lines
            .iter()
            .filter(|line| line.contains("code=H27"))
            .count()
            == 2
    })
    .await;
    // Their slot is free again.
    assert_eq!(ask(&service, "/").await.text(), "hello");
    embedded.host.shutdown().await;
}

#[tokio::test]
async fn a_body_that_is_cut_never_looks_whole() {
    let embedded = Embedded::new();
    let service = embedded.serving(web("shop", "handler-p2", "")).await;
    let answer = ask(&service, "/trap-after-head").await;
    assert_eq!(answer.body.unwrap_err().code, RouterCode::H18);
    embedded.host.shutdown().await;
}

#[tokio::test]
async fn a_caller_that_takes_nothing_is_cut_off() {
    let embedded = Embedded::new();
    let service = embedded
        .serving(web("shop", "handler-p2", "idle_timeout = \"300ms\""))
        .await;
    let mut body = service.call(get("/slow")).await.unwrap().into_body();
    embedded.logged("shop", "router", "code=H15").await;
    let cut = loop {
        match body.frame().await.expect("it does not look whole") {
            Ok(_) => {}
            Err(cut) => break cut,
        }
    };
    assert_eq!(cut.code, RouterCode::H15);
    embedded.host.shutdown().await;
}

#[tokio::test]
async fn a_request_body_is_taken_only_as_fast_as_the_guest_does() {
    let embedded = Embedded::new();
    let service = embedded.serving(web("shop", "handler-p2", "")).await;
    // A guest that reads nothing: of a large body only what buffers hold is asked for.
    let (sender, mut receiver) = mpsc::channel::<Bytes>(1);
    let chunks = futures::stream::poll_fn(move |context| {
        receiver
            .poll_recv(context)
            .map(|chunk| chunk.map(|bytes| Ok::<_, std::io::Error>(Frame::data(bytes))))
    });
    let request = Request::post("/sleep/3600000")
        .body(StreamBody::new(chunks))
        .unwrap();
    let answer = service.call(request);
    let piece = Bytes::from(vec![0; 1 << 20]);
    let mut sent = 0;
    while let Ok(Ok(())) =
        tokio::time::timeout(Duration::from_millis(500), sender.send(piece.clone())).await
    {
        sent += 1;
        assert!(sent < 64, "the host took {sent} MiB that no guest has read");
    }
    drop(answer);
    // Whoever sends hears that nobody reads any more.
    tokio::time::timeout(PATIENCE, sender.closed())
        .await
        .unwrap();
    embedded.host.shutdown().await;
}

#[tokio::test]
async fn a_body_of_the_embedders_that_fails_is_a_client_gone_away() {
    let embedded = Embedded::new();
    let service = embedded.serving(web("shop", "handler-p2", "")).await;
    let pieces = [
        Ok(Frame::data(Bytes::from_static(b"half"))),
        Err(std::io::Error::other("the disk is gone")),
    ];
    let body = StreamBody::new(futures::stream::iter(pieces));
    let request = Request::post("/length").body(body).unwrap();
    let answer = Answer::of(service.call(request).await.unwrap()).await;
    assert_eq!((answer.status, &*answer.error), (499, "H27"));
    embedded.host.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_finishes_what_is_under_way_and_takes_no_more() {
    let embedded = Embedded::new();
    let service = embedded.serving(web("shop", "handler-p2", "")).await;
    let mut events = embedded.host.events();
    let under_way = service.call(get("/stream/20")).await.unwrap();
    let shutdown = tokio::spawn({
        let host = embedded.host.clone();
        async move { host.shutdown().await }
    });
    assert_eq!(
        events.next().await,
        Some(oarlock_host::events::Event::Draining)
    );
    // The router hears of it a moment after it was told.
    super::until("no more is taken", || {
        let late = futures::executor::block_on(ask(&service, "/"));
        late.error == "H18"
    })
    .await;
    let answer = Answer::of(under_way).await;
    assert!(answer.text().contains("19\nweb.1 "), "{answer:?}");
    shutdown.await.unwrap();
    ask(&service, "/").await.assert_refused("H18");
}

#[tokio::test]
async fn who_outlasts_the_grace_is_cut_off() {
    let embedded = Embedded::new();
    let service = embedded
        .serving(web("shop", "handler-p2", "stop_grace = \"200ms\""))
        .await;
    let headless = service.call(get("/sleep/3600000"));
    let body = service.call(get("/slow")).await.unwrap();
    let (headless, body, ()) = futures::join!(headless, Answer::of(body), embedded.host.shutdown());
    assert_eq!(headless.unwrap().headers()["oarlock-error"], "H18");
    assert_eq!(body.body.unwrap_err().code, RouterCode::H18);
}
