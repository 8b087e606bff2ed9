//! The host as a library: what an embedder can do with it, and what it never does to its embedder.

mod apps;
mod compile;
mod events;
mod example;
mod functions;
mod hosts;
mod laws;
mod names;
mod service;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use oarlock_host::apply::Applied;
use oarlock_host::service::{AppBody, BodyCut};
use oarlock_host::{App, AppName, AppService, Host, HostConfig};
use oarlock_tests::app::PATIENCE;

/// A host with a folder of its own.
struct Embedded {
    host: Host,
    _data: tempfile::TempDir,
}

impl Embedded {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut HostConfig)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut config = HostConfig {
            cores: Some(2),
            instances: Some(100),
            ..HostConfig::new(data.path())
        };
        change(&mut config);
        Self {
            host: Host::start(config).unwrap(),
            _data: data,
        }
    }

    async fn add(&self, app: App) -> Applied {
        self.host.add(app).await.unwrap()
    }

    /// A service of an app that was just added.
    async fn serving(&self, app: App) -> AppService {
        let added = self.add(app).await;
        self.host.service(&added.app)
    }

    /// The messages of a dyno's log so far.
    fn log(&self, app: &str, dyno: &str) -> Vec<String> {
        let filter = oarlock_host::logs::LogFilter {
            dyno: Some(dyno.to_owned()),
            ..Default::default()
        };
        let lines = self.host.log(&name(app)).tail(1000, &filter);
        lines.into_iter().map(|line| line.message).collect()
    }

    /// The first message of a dyno that holds `text`, once there is one.
    async fn logged(&self, app: &str, dyno: &str, text: &str) -> String {
        let mut found = None;
        until(text, || {
            let mut messages = self.log(app, dyno).into_iter();
            found = messages.find(|message| message.contains(text));
            found.is_some()
        })
        .await;
        found.unwrap()
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it does not come to: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn name(name: &str) -> AppName {
    name.parse().unwrap()
}

fn guest(name: &str) -> Vec<u8> {
    std::fs::read(oarlock_tests::guest(name)).unwrap()
}

/// An app whose only process is a web guest.
fn web(app: &str, component: &str, limits: &str) -> App {
    App::from_manifest(format!(
        "app = \"{app}\"\n[processes]\nweb = \"web.wasm\"\n[limits.web]\n{limits}\n"
    ))
    .component("web.wasm", guest(component))
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).body(Full::default()).unwrap()
}

/// A whole answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    error: String,
    body: Result<String, BodyCut>,
}

impl Answer {
    async fn of(response: http::Response<AppBody>) -> Self {
        let error = response.headers().get("oarlock-error");
        Self {
            status: response.status().as_u16(),
            error: error.map_or_else(String::new, |code| code.to_str().unwrap().to_owned()),
            body: response
                .into_body()
                .collect()
                .await
                .map(|body| String::from_utf8(body.to_bytes().to_vec()).unwrap()),
        }
    }

    fn text(&self) -> &str {
        assert_eq!(self.status, 200, "{self:?}");
        self.body.as_ref().unwrap()
    }

    fn assert_refused(&self, code: &str) {
        assert_eq!((self.status, &*self.error), (503, code), "{self:?}");
    }
}

async fn ask(service: &AppService, path: &str) -> Answer {
    Answer::of(service.call(get(path)).await.unwrap()).await
}
