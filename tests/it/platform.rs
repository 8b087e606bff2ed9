//! The platform over a real host and a real guest: an app's folder becomes a release that answers.

use std::collections::BTreeMap;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use oarlock_host::Compiler;
use oarlock_platform::control::Client;
use oarlock_platform::{Builds, Event, Platform, PlatformConfig, Source, StartError};
use oarlock_spec::api::Formation;
use oarlock_spec::codes::exit;
use oarlock_spec::policy::Policy;
use tokio::sync::mpsc;

fn config(dir: &std::path::Path) -> PlatformConfig {
    PlatformConfig {
        source: Source::App {
            dir: dir.to_owned(),
            scale: Formation::new(),
            watch: false,
        },
        listen: "127.0.0.1:0".parse().unwrap(),
        domain: "localhost".to_owned(),
        build: Builds::No,
        policy: Policy::default(),
        code_cache: None,
        compiler: Compiler::InProcess,
        relay: None,
        build_env: BTreeMap::new(),
    }
}

async fn start(
    config: PlatformConfig,
) -> (Result<Platform, StartError>, mpsc::UnboundedReceiver<Event>) {
    let (tell, events) = mpsc::unbounded_channel();
    let mut platform = match Platform::start(config, tell).await {
        Ok(platform) => platform,
        Err(error) => return (Err(error), events),
    };
    let started = platform.started().await;
    if let Err(error) = started {
        platform.shutdown().await;
        return (Err(error), events);
    }
    (Ok(platform), events)
}

async fn get(address: std::net::SocketAddr) -> (u16, String) {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("/")
        .header("host", "hello.localhost")
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_becomes_an_app_that_answers() {
    let app = tempfile::tempdir().unwrap();
    std::fs::copy(
        oarlock_tests::guest("hello-p2"),
        app.path().join("web.wasm"),
    )
    .unwrap();
    std::fs::write(
        app.path().join("oarlock.toml"),
        "app = \"hello\"\n[processes]\nweb = \"web.wasm\"\n",
    )
    .unwrap();
    let (platform, mut events) = start(config(app.path())).await;
    let platform = platform.unwrap();
    let (status, first) = get(platform.address()).await;
    assert_eq!(status, 200, "{first}");
    let mut ready = None;
    while let Ok(event) = events.try_recv() {
        if let Event::Ready { url, .. } = event {
            ready = url;
        }
    }
    assert_eq!(ready, Some(format!("http://{}", platform.address())));

    // The second says who runs, and a taken address is said before anything is built.
    let (second, _) = start(config(app.path())).await;
    let error = second.err().unwrap();
    assert_eq!(error.exit_code, exit::ALREADY_RUNNING, "{error}");
    assert!(
        error.message.contains(&std::process::id().to_string()),
        "{error}"
    );
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("Procfile"), "web: web.wasm\n").unwrap();
    let (taken, _) = start(PlatformConfig {
        listen: platform.address(),
        ..config(other.path())
    })
    .await;
    assert_eq!(taken.err().unwrap().exit_code, exit::ADDRESS_IN_USE);

    let client = Client::new(app.path().join(".oarlock"));
    let name = "hello".parse().unwrap();
    let change = BTreeMap::from([("GREETING".to_owned(), Some("hi".to_owned()))]);
    let row = client.change_config(&name, &change).await.unwrap();
    assert_eq!(row.release.to_string(), "v2");
    assert_eq!(get(platform.address()).await.0, 200);
    let dynos = client.dynos(&name).await.unwrap();
    assert_eq!(
        (dynos.len(), dynos[0].release.to_string().as_str()),
        (1, "v2")
    );
    tokio::time::timeout(Duration::from_secs(60), platform.shutdown())
        .await
        .unwrap();
    assert_eq!(client.apps().await.unwrap_err().exit_code(), exit::NO_HOST);

    // A restart of all of it starts the current release; a broken component ends it with its code.
    let (again, _) = start(config(app.path())).await;
    again.unwrap().shutdown().await;
    assert_eq!(client.apps().await.unwrap_err().exit_code(), exit::NO_HOST);
    std::fs::write(app.path().join("web.wasm"), "not wasm").unwrap();
    let (broken, _) = start(config(app.path())).await;
    let error = broken.err().unwrap();
    assert_eq!(error.exit_code, exit::BUILD, "{error}");
}
