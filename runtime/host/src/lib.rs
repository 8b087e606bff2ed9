//! The dyno runtime to embed: formation, router, add-ons and logs.
//!
//! A [`Host`] keeps apps running. An [`App`] is a manifest with its components; [`Host::add`] makes it run, or makes
//! another release of it take the place of the one that runs, and [`Host::service`] is its way in for requests.
//!
//! ```
//! use oarlock_host::{App, Host, HostConfig};
//!
//! # let data = tempfile::tempdir()?;
//! # let hello = wat::parse_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/hello.wat")))?;
//! # futures::executor::block_on(async {
//! let host = Host::start(HostConfig::new(data.path()))?;
//! let manifest = "app = \"hello\"\n[processes]\nweb = \"web.wasm\"";
//! let app = App::from_manifest(manifest).component("web.wasm", hello);
//! let added = host.add(app).await?;
//!
//! // Requests, on whatever runtime this is: here it is none at all.
//! let service = host.service(&added.app);
//! let response = service.call(http::Request::new(String::new())).await?;
//! assert_eq!(response.status(), 200);
//!
//! // The formation, and what happens to it.
//! let mut events = host.events();
//! let two = [("web".parse()?, 2)].into();
//! host.scale(&added.app, two).await?;
//! println!("{:?}", events.next().await);
//!
//! // The end: what is under way is finished first.
//! host.shutdown().await;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! **What a host never does:** end the process, handle signals that are sent to it, set up logging, read the environment,
//! or start its embedder's program. Two hosts in one process share what is of no host: the table of time zones, the numbers
//! of ports and temporary folders, the thread pool of wasmtime's compiler, and wasmtime's handlers of the faults by which
//! guests meet the end of their memory, which pass on all that is not a guest's. Its diagnostics are [`tracing`] events; what
//! apps say is in their [`logs`].
//!
//! **Threads.** Guests run on threads of the host's own. Every future here may be awaited on any runtime, and a guest
//! that spins never holds the thread that waits for it. What blocks on the disk says so.
//!
//! **Not here:** accounts, a database of releases, builds, git. `oarlock` puts these on top of this crate.
//!
//! | module | what is in it |
//! |---|---|
//! | [`folder`] | reading an app's folder, which is hostile input |
//! | [`events`] | what happens to apps and dynos, as a subscription |
//! | [`logs`] | the log of an app |
//! | [`usage`] | what apps used, and meters of one's own |
//! | [`apply`] | the one path below [`Host::add`], for who keeps releases of his own |
//! | [`service`] | what an app's service gives and takes |
//! | [`compile`] | compiling in a child, and why a component is refused |
//! | [`dynos`] | one-off dynos, and the clock of scheduled ones |
//! | [`addons`] | what manifests may ask for, and what that opens |
//! | [`spec`], [`wasmtime`] | the words that all this is said in |

#![forbid(unsafe_code)]

pub mod addons;
mod app;
pub mod apply;
mod change;
mod config;
mod cores;
pub mod events;
mod expected;
pub mod folder;
mod formation;
mod host;
pub mod logs;
mod one_off;
mod registry;
mod router;
pub mod service;
mod stage;
mod tunnels;
pub mod usage;
mod web;

/// Compiling in a child, and why a component is refused.
pub mod compile {
    pub use oarlock_sandbox::{EngineError, LoadError, compile_component};
}

/// How much a host has room for.
pub mod capacity {
    pub use crate::formation::NoRoom;
    pub use oarlock_sandbox::{Bound, Capacity, Most};
}

/// Dynos outside of the formation, and the clock.
pub mod dynos {
    pub use crate::formation::{Clock, SystemClock};
    pub use crate::one_off::{OneOff, OneOffError, OneOffExit, OneOffRequest};
    pub use oarlock_sandbox::StdinSource;
}

pub use app::{AddError, App};
pub use change::ChangeError;
pub use config::HostConfig;
pub use host::{Host, HostError, ListenError};
/// What guests may import beside WASI.
///
/// ```
/// use oarlock_host::{Guest, Host, HostConfig, HostFunctions};
/// use oarlock_host::wasmtime::StoreContextMut;
///
/// # let data = tempfile::tempdir()?;
/// /// What the function works on; each guest finds it.
/// struct Prices(std::collections::BTreeMap<String, u32>);
///
/// fn price(store: StoreContextMut<'_, Guest>, (item,): (String,)) -> oarlock_host::wasmtime::Result<(Option<u32>,)> {
///     let guest = store.data();
///     println!("{} of {} asks for {item}", guest.dyno(), guest.app());
///     let prices = guest.data::<Prices>();
///     Ok((prices.and_then(|prices| prices.0.get(&item).copied()),))
/// }
///
/// let functions = HostFunctions::new()
///     .with_data(Prices([("pear".to_owned(), 40)].into()))
///     // By hand, as here, or as `wasmtime::component::bindgen!` generates it from the WIT.
///     .link(|linker| linker.instance("shop:stock/prices@0.1.0")?.func_wrap("price", price));
/// let host = Host::start(HostConfig { functions, ..HostConfig::new(data.path()) })?;
/// # futures::executor::block_on(host.shutdown());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub use oarlock_sandbox::HostFunctions;
pub use oarlock_sandbox::{Compiler, Guest};
pub use oarlock_spec::names::AppName;
pub use oarlock_spec::policy::Policy;
pub use service::AppService;
pub use tunnels::Tunnels;

/// wasmtime, for [`HostFunctions`]: `wasmtime::component::bindgen!` with `wasmtime_crate: oarlock_host::wasmtime`
/// generates what fits.
///
/// **Stability.** All else here follows this crate's version; these types follow wasmtime's, which is pinned to one
/// long-term release. An embedder that has host functions has to expect that they must be compiled against
/// another wasmtime with a minor version of this crate; one that has none does not see wasmtime at all.
pub use oarlock_sandbox::wasmtime;
/// Names, the manifest, limits, the policy, rows of `ps` and lines of logs, and the promised codes.
pub use oarlock_spec as spec;
