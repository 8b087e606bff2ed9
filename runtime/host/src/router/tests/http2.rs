use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

type Client = hyper::client::conn::http2::SendRequest<Body>;

async fn client(bench: &Bench) -> Client {
    let io = TokioIo::new(bench.connect().await);
    let (client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

fn get(path: &str) -> Request<Body> {
    Request::get(format!("http://app.localhost{path}"))
        .body(body(""))
        .unwrap()
}

#[tokio::test]
async fn http2_by_prior_knowledge_with_trailers() {
    let bench = Bench::new(|request: Request<Body>| async move {
        if request.method() == http::Method::GET {
            return echo(request).await;
        }
        let (mut frames, body) = channel();
        tokio::spawn(async move {
            send(&mut frames, "text").await;
            let trailers = [("x-sum".parse().unwrap(), "7".parse().unwrap())]
                .into_iter()
                .collect();
            frames.send(Ok(Frame::trailers(trailers))).await.unwrap();
        });
        Ok(Response::new(body))
    })
    .await;
    let mut client = client(&bench).await;
    let text = client
        .send_request(get("/x"))
        .await
        .unwrap()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(
        text.starts_with("GET http://app.localhost/x HTTP/2.0\n"),
        "{text}"
    );
    assert!(
        text.contains("\nhost: app.localhost\n") && text.contains("\nvia: 2.0 oarlock\n"),
        "{text}"
    );
    let post = Request::post("http://app.localhost/")
        .body(body("a"))
        .unwrap();
    let answer = client
        .send_request(post)
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    assert_eq!(answer.trailers().unwrap()["x-sum"], "7");
    let head = Request::head("http://app.localhost/")
        .body(body(""))
        .unwrap();
    let answer = client.send_request(head).await.unwrap();
    assert!(answer.collect().await.unwrap().to_bytes().is_empty());
    let lines = bench.lines(3).await;
    assert!(
        lines
            .iter()
            .all(|line| line.contains("at=info") && line.ends_with(" protocol=http2")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn many_streams_share_a_connection() {
    let bench = Bench::with(limits(), vec![fake::dyno("web.1", 3, None, echo)]).await;
    let client = client(&bench).await;
    let requests = (0..50).map(|n| {
        let mut client = client.clone();
        async move {
            let answer = client.send_request(get(&format!("/{n}"))).await.unwrap();
            let text = answer.collect().await.unwrap().to_bytes();
            assert!(text.starts_with(format!("GET http://app.localhost/{n} ").as_bytes()));
        }
    });
    tokio::time::timeout(SOON, futures::future::join_all(requests))
        .await
        .unwrap();
    assert_eq!(bench.lines(50).await.len(), 50);
}

#[tokio::test]
async fn a_cut_body_resets_its_stream_only() {
    let bench = Bench::new(|request: Request<Body>| async move {
        if request.uri().path() == "/whole" {
            return hello();
        }
        let (mut frames, body) = channel();
        tokio::spawn(async move {
            send(&mut frames, "half").await;
            frames
                .send(Err(BodyError::ConnectionTerminated))
                .await
                .unwrap();
        });
        Ok(Response::new(body))
    })
    .await;
    let mut client = client(&bench).await;
    let cut = client
        .send_request(get("/cut"))
        .await
        .unwrap()
        .collect()
        .await;
    assert!(cut.is_err());
    let whole = client
        .send_request(get("/whole"))
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    assert_eq!(whole.to_bytes(), "hello");
    let lines = bench.lines(2).await;
    assert!(
        lines[0].starts_with("at=error code=H18") && lines[1].starts_with("at=info"),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_stream_that_is_not_read_gives_its_slot_back() {
    let limits = RequestLimits {
        idle_timeout: Duration::from_millis(200),
        ..limits()
    };
    let dyno = fake::dyno("web.1", 1, None, |_| async {
        let piece = Bytes::from(vec![b'x'; 65_536]);
        let endless = futures::stream::repeat_with(move || Ok(Frame::data(piece.clone())));
        Ok(Response::new(Body::new(StreamBody::new(endless))))
    });
    let bench = Bench::with(limits, vec![dyno.clone()]).await;
    let mut client = client(&bench).await;
    let answer = client.send_request(get("/")).await.unwrap();
    let line = bench.line().await;
    assert!(line.starts_with("at=error code=H15"), "{line}");
    tokio::time::timeout(SOON, dyno.drained()).await.unwrap();
    let read = tokio::time::timeout(SOON, answer.collect())
        .await
        .expect("the stream stays open");
    assert!(read.is_err());
}

#[tokio::test]
async fn a_stream_that_its_client_resets_is_h27() {
    let dyno = fake::dyno("web.1", 1, None, |_| std::future::pending());
    let bench = Bench::with(limits(), vec![dyno.clone()]).await;
    let mut client = client(&bench).await;
    let asked =
        tokio::time::timeout(Duration::from_millis(50), client.send_request(get("/"))).await;
    assert!(asked.is_err());
    let line = bench.line().await;
    assert!(
        line.starts_with("at=error code=H27") && line.contains("status=499"),
        "{line}"
    );
    tokio::time::timeout(SOON, dyno.drained()).await.unwrap();
}

#[tokio::test]
async fn an_extended_connect_is_answered_and_not_reset() {
    let bench = Bench::new(|_| async { hello() }).await;
    let mut client = client(&bench).await;
    // With its answer the server's settings have come.
    client.send_request(get("/")).await.unwrap();
    let mut request = Request::builder()
        .method(http::Method::CONNECT)
        .uri("http://app.localhost/ws")
        .body(body(""))
        .unwrap();
    let protocol = hyper::ext::Protocol::from_static("websocket");
    request.extensions_mut().insert(protocol);
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 501);
    assert_eq!(response.headers()["oarlock-error"], "connect-unsupported");
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert!(text.starts_with(b"CONNECT is not supported here."));
    // The connection goes on.
    let response = client.send_request(get("/")).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn empty_frames_are_no_progress_on_a_stream() {
    let limits = RequestLimits {
        idle_timeout: Duration::from_millis(300),
        ..limits()
    };
    let polled = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counting = polled.clone();
    let dynos = vec![fake::dyno("web.1", 10, None, move |_: Request<Body>| {
        let polled = counting.clone();
        let frames = std::iter::repeat_with(move || {
            polled.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(Frame::data(Bytes::new()))
        });
        let body = Body::new(StreamBody::new(futures::stream::iter(frames)));
        async { Ok(Response::new(body)) }
    })];
    let bench = Bench::with(limits, dynos).await;
    let mut client = client(&bench).await;
    let answer = client.send_request(get("/")).await.unwrap();
    let cut = tokio::time::timeout(SOON, answer.collect()).await.unwrap();
    cut.unwrap_err();
    assert!(bench.line().await.contains("code=H15"));
    assert!(polled.load(std::sync::atomic::Ordering::Relaxed) > 0);
}
