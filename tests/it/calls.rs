//! Calls to a handler's instance, without a router.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use oarlock_sandbox::{Body, BodyError, Instance};

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) trailers: Option<HeaderMap>,
    /// The body, or how it was cut short.
    pub(crate) body: Result<Bytes, BodyError>,
}

impl Answer {
    pub(crate) async fn read(response: http::Response<Body>) -> Self {
        let (head, body) = response.into_parts();
        let (trailers, body) = match body.collect().await {
            Ok(body) => (body.trailers().cloned(), Ok(body.to_bytes())),
            Err(error) => (None, Err(error)),
        };
        Self {
            status: head.status.as_u16(),
            headers: head.headers,
            trailers,
            body,
        }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_ref().expect("a whole body")).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.text()).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(format!("http://app.localhost{path}"))
        .body(body(""))
        .unwrap()
}

pub(crate) fn post(path: &str, text: &str) -> Request<Body> {
    Request::post(format!("http://app.localhost{path}"))
        .body(body(text))
        .unwrap()
}

fn body(text: &str) -> Body {
    Full::new(Bytes::copy_from_slice(text.as_bytes()))
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// The answer of an instance that serves many.
pub(crate) async fn call(instance: &Instance, request: Request<Body>) -> Answer {
    Answer::read(instance.call(request).await.unwrap()).await
}
