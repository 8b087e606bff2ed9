//! An axum server that runs two sandboxed apps beside a route of its own, and lends them one function.
//!
//! `/hello` is a WASI 0.3 handler, given from memory; `/shop` is a WASI 0.2 handler from a folder, which asks the server
//! for its prices by the interface in `wit/prices.wit`; `/asked` is the server's own and says how often it was asked.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::map_request;
use axum::routing::get;
use oarlock_host::service::Client;
use oarlock_host::wasmtime::component::HasSelf;
use oarlock_host::{App, Guest, Host, HostConfig, HostFunctions};
use tokio::net::TcpListener;

mod bindings {
    #![allow(missing_docs, reason = "generated from wit/prices.wit")]
    oarlock_host::wasmtime::component::bindgen!({
        path: "wit",
        wasmtime_crate: oarlock_host::wasmtime,
    });
}
use bindings::shop::stock::prices;

/// The server's own: how often each app asked for a price.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<BTreeMap<String, u64>>>);

async fn asked(State(Asked(asked)): State<Asked>) -> String {
    let asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
    asked
        .iter()
        .map(|(app, n)| format!("{app}: {n}\n"))
        .collect()
}

// The glue begins here.

impl prices::Host for Guest {
    fn price(&mut self, item: String) -> Option<u32> {
        let app = self.app().to_string();
        let asked = &self.data::<Asked>()?.0;
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        *asked.entry(app).or_default() += 1;
        match item.as_str() {
            "pear" => Some(40),
            "plum" => Some(25),
            _ => None,
        }
    }
}

fn host(data: &Path, asked: &Asked) -> anyhow::Result<Host> {
    let functions = HostFunctions::new()
        .with_data(asked.clone())
        .link(|linker| prices::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest));
    Ok(Host::start(HostConfig {
        functions,
        ..HostConfig::new(data)
    })?)
}

async fn mount(router: Router, host: &Host, guests: &Path) -> anyhow::Result<Router> {
    let hello = guests.join("target/wasm32-wasip2/release/hello.wasm");
    let hello = std::fs::read(hello).context("build the guests first, see the README")?;
    let manifest = "app = \"hello\"\n[processes]\nweb = \"hello.wasm\"\n";
    let hello = App::from_manifest(manifest).component("hello.wasm", hello);
    let hello = host.add(hello).await?.app;
    let shop = host.add(App::from_dir(guests)?).await?.app;
    Ok(router
        .nest_service("/hello", host.service(&hello))
        .nest_service("/shop", host.service(&shop))
        .layer(map_request(client)))
}

/// Says who asks, which only the server knows.
async fn client(ConnectInfo(peer): ConnectInfo<SocketAddr>, mut request: Request) -> Request {
    let (ip, scheme, port) = (peer.ip(), http::uri::Scheme::HTTP, 80);
    request.extensions_mut().insert(Client { ip, scheme, port });
    request
}

// The glue ends here.

/// Serves until `stop` is ready, and then finishes what is under way.
///
/// # Errors
/// If the guests are not built, or do not start.
pub async fn serve(
    listener: TcpListener,
    (guests, data): (&Path, &Path),
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let asked_for = Asked::default();
    let host = host(data, &asked_for)?;
    let native = Router::new()
        .route("/asked", get(asked))
        .with_state(asked_for);
    let router = mount(native, &host, guests).await?;
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service)
        .with_graceful_shutdown(stop)
        .await?;
    host.shutdown().await;
    Ok(())
}
