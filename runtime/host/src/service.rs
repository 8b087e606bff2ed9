//! An app as a `tower` service, to be mounted in a server of the embedder's own.
//!
//! A request goes the way of those that come by [`Host::listen`]: request id, forwarded headers, a lease of a web dyno, the
//! app's limits, a line in its log, the router's codes; only the listening socket and the host name are missing. The
//! guest runs on the host's own threads, so that whoever awaits the answer is never held up, on whatever runtime it
//! does. Not here: upgrades, and a path prefix. What is mounted below `/shop` has to take `/shop` off the request's path
//! first, as axum's `nest_service` does.

use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use oarlock_spec::codes::RouterCode;
use oarlock_spec::names::AppName;
use tower_service::Service;

use crate::Host;
use crate::router::Router;
use crate::router::embed::{Head, PipedBody, refusal};

/// The error of a request's body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An app's web dynos as a [`tower::Service`](Service). Cheap to clone, always ready, and it never fails: what goes
/// wrong is an answer with the router's code in the header `oarlock-error`, as it is for a client of [`Host::listen`].
///
/// It outlives releases of the app, and a removal: then the answer is H14 until the app is added again. It does not keep
/// the host alive: when that has been shut down the answer is H18.
///
/// ```
/// use http_body_util::BodyExt;
/// use oarlock_host::service::Client;
/// use oarlock_host::{App, Host, HostConfig};
///
/// # let data = tempfile::tempdir()?;
/// # let hello = wat::parse_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/hello.wat")))?;
/// # futures::executor::block_on(async {
/// let host = Host::start(HostConfig::new(data.path()))?;
/// let app = App::from_manifest("app = \"hello\"\n[processes]\nweb = \"web.wasm\"");
/// let added = host.add(app.component("web.wasm", hello)).await?;
///
/// // With axum: `router.nest_service("/hello", host.service(&added.app))`.
/// let service = host.service(&added.app);
/// let mut request = http::Request::post("/greet").body("a body".to_owned())?;
/// request.extensions_mut().insert(Client { ip: [192, 0, 2, 7].into(), scheme: http::uri::Scheme::HTTPS, port: 443 });
/// let response = service.call(request).await?;
/// assert_eq!(response.into_body().collect().await?.to_bytes(), "Hello from WebAssembly");
/// # host.shutdown().await;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct AppService {
    router: Router,
    app: AppName,
}

/// Who sent a request, for `X-Forwarded-For`, `-Proto` and `-Port`: put it into the request's extensions. Without it the
/// client is `unknown`, and the request `http` on port 80; what the client itself says is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its address.
    pub ip: IpAddr,
    /// How it asked the embedder's server.
    pub scheme: Scheme,
    /// The port that it asked at.
    pub port: u16,
}

impl Host {
    /// An app's web dynos as a service; the app may be added later.
    pub fn service(&self, app: &AppName) -> AppService {
        AppService {
            router: self.inner.shared.router.clone(),
            app: app.clone(),
        }
    }
}

impl AppService {
    /// The answer to a request, as the [`Service`]'s `call` gives it, for whoever has no `tower` at hand. The request is
    /// on its way when this returns.
    pub fn call<B>(&self, request: Request<B>) -> AppResponse
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        AppResponse(self.router.call(&self.app, request))
    }
}

impl fmt::Debug for AppService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AppService").field(&self.app).finish()
    }
}

impl<B> Service<Request<B>> for AppService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<AppBody>;
    type Error = Infallible;
    type Future = AppResponse;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    /// The request's body is read on one of the host's cores, as fast as the guest takes it.
    fn call(&mut self, request: Request<B>) -> AppResponse {
        Self::call(self, request)
    }
}

/// The head to come. Dropping it ends the guest's call (H27).
pub struct AppResponse(Head);

impl fmt::Debug for AppResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppResponse").finish_non_exhaustive()
    }
}

impl Future for AppResponse {
    type Output = Result<Response<AppBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let head = std::task::ready!(Pin::new(&mut self.0).poll(context));
        let response = head.unwrap_or_else(|_stopped| refusal(RouterCode::H18));
        Poll::Ready(Ok(response.map(AppBody)))
    }
}

/// The body of an app's response. Dropping it before its end ends the guest's call (H27).
pub struct AppBody(PipedBody);

/// A response's body was cut: what came of it is not all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response was cut: {code} ({})", code.description())]
pub struct BodyCut {
    /// Why: H15, H18 or H27.
    pub code: RouterCode,
}

impl fmt::Debug for AppBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppBody").finish_non_exhaustive()
    }
}

impl http_body::Body for AppBody {
    type Data = Bytes;
    type Error = BodyCut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyCut>>> {
        let frame = self.0.poll(context);
        frame.map(|frame| frame.map(|frame| frame.map_err(|code| BodyCut { code })))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.hint()
    }
}
