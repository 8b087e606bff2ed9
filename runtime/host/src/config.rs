//! How a host is made.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oarlock_sandbox::{COMPILE_DEADLINE, Compiler, HostFunctions};
use oarlock_spec::policy::Policy;

use crate::usage::Meters;

/// How a host is made. More fields may come: begin with [`HostConfig::new`] and change what shall be otherwise.
///
/// ```
/// use oarlock_host::{App, Compiler, Host, HostConfig, spec::policy};
///
/// # let data = tempfile::tempdir()?;
/// # let hello = wat::parse_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/hello.wat")))?;
/// # futures::executor::block_on(async {
/// let mut config = HostConfig::new(data.path());
/// config.policy = policy::parse("[caps]\nmemory = \"16 MiB\"\n[defaults]\nmemory = \"8 MiB\"").expect("it is valid");
/// // Components would be compiled in children of this program; its absence is said when one is to be.
/// config.compiler = Compiler::Child("/nowhere/oarlock".into());
/// let host = Host::start(config)?;
///
/// let manifest = "app = \"hello\"\n[processes]\nweb = \"web.wasm\"\n[limits.web]\nmemory = \"1 GiB\"";
/// let greedy = App::from_manifest(manifest).component("web.wasm", hello.clone());
/// let refused = host.add(greedy).await.expect_err("it asks for more than the policy allows");
/// assert!(refused.to_string().contains("16 MiB"), "{refused}");
///
/// let manifest = "app = \"hello\"\n[processes]\nweb = \"web.wasm\"";
/// let modest = App::from_manifest(manifest).component("web.wasm", hello);
/// let refused = host.add(modest).await.expect_err("nobody compiles it");
/// assert!(refused.to_string().contains("/nowhere/oarlock"), "{refused}");
/// # host.shutdown().await;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct HostConfig {
    /// Threads that run guests; `None`: one per core of the machine.
    pub cores: Option<usize>,
    /// The host's own folder: embedded add-ons, `/tmp`s and log files, below `apps/<app>/`. Two hosts must not share
    /// one.
    pub data: PathBuf,
    /// The code cache's folder (0700); `None`: nothing is cached. Hosts may share one.
    pub code_cache: Option<PathBuf>,
    /// The operator's policy.
    pub policy: Policy,
    /// `up` alone: loopback and private ranges are allowed to guests, and every host name is the only app's.
    pub local_development: bool,
    /// Instances alive at once over all apps; `None`: from the machine.
    pub instances: Option<u32>,
    /// The domain below which apps are served (`localhost`).
    pub domain: String,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// How long a [`Compiler::Child`] may take for one component, unless the policy's `[compile] deadline` says so.
    pub compile_deadline: Duration,
    /// What components may import beside WASI.
    pub functions: HostFunctions,
    /// Who is told what apps use; `None`: nobody, and nothing is spent on it.
    pub meters: Option<Arc<dyn Meters>>,
}

impl HostConfig {
    /// A host with this folder of its own, one thread per core, components compiled in this process, no code cache,
    /// no host functions, and a policy that allows no private network.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            cores: None,
            data: data.into(),
            code_cache: None,
            policy: Policy::default(),
            local_development: false,
            instances: None,
            domain: "localhost".to_owned(),
            compiler: Compiler::InProcess,
            compile_deadline: COMPILE_DEADLINE,
            functions: HostFunctions::new(),
            meters: None,
        }
    }
}

impl fmt::Debug for HostConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostConfig")
            .field("cores", &self.cores)
            .field("data", &self.data)
            .field("code_cache", &self.code_cache)
            .field("policy", &self.policy)
            .field("local_development", &self.local_development)
            .field("instances", &self.instances)
            .field("domain", &self.domain)
            .field("compiler", &self.compiler)
            .field("compile_deadline", &self.compile_deadline)
            .field("functions", &self.functions)
            .field("meters", &self.meters.is_some())
            .finish()
    }
}
