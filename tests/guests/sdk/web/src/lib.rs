//! A route for each thing the SDK's handlers can do.
use std::time::{Duration, Instant};

use oarlock_sdk::http::{HeaderMap, StatusCode};
use oarlock_sdk::{
    Body, Request, Response, Result, config, fetch, sleep, spawn, status, text, timeout,
};

oarlock_sdk::handler!(serve);

async fn serve(request: Request) -> Result<Response> {
    match request.uri().path() {
        "/" => Ok(text("Hello, Oarlock")),
        "/echo" => Ok(Response::new(request.into_body())),
        "/length" => Ok(text(
            request.into_body().bytes(1 << 20).await?.len().to_string(),
        )),
        "/count" => Ok(Response::new(count())),
        "/cut" => Ok(Response::new(cut())),
        "/fail" => Err("the reason is for the log".into()),
        "/config" => Ok(text(format!("{}", config::var::<u16>("NUMBER")?))),
        "/fetch" => Ok(fetch(Request::get(config::var::<String>("TARGET")?).body(())?).await?),
        "/post" => {
            let target = Request::post(config::var::<String>("TARGET")?);
            Ok(fetch(target.body(request.into_body())?).await?)
        }
        "/sleep" => {
            let start = Instant::now();
            sleep(Duration::from_millis(50)).await;
            let in_time = timeout(Duration::from_millis(20), sleep(Duration::from_secs(60)))
                .await
                .is_ok();
            Ok(text(format!(
                "{} {in_time}",
                start.elapsed() >= Duration::from_millis(70)
            )))
        }
        _ => Ok(status(StatusCode::NOT_FOUND)),
    }
}

/// Three lines, a moment apart, and a trailer.
fn count() -> Body {
    let (mut sender, body) = Body::channel();
    spawn(async move {
        for n in 1..=3 {
            if sender.send(format!("{n}\n")).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-lines", 3.into());
        sender.finish(trailers);
    });
    body
}

/// A body that breaks off.
fn cut() -> Body {
    let (mut sender, body) = Body::channel();
    spawn(async move {
        if sender.send("half of ").await.is_ok() {
            sender.abort("lost the rest");
        }
    });
    body
}
