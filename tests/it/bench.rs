//! Sandboxes without a host: one engine for all tests, and dynos with the binding of a manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use oarlock_host::addons::{AppAddons, Binding};
use oarlock_sandbox::{
    DynoLog, Egress, EgressRules, Engine, EngineConfig, Exit, Grant, HttpClient, Output,
    OutputStream, PrivateNetworks, Program, Sandbox, Stdin,
};
use oarlock_spec::limits::Limits;
use oarlock_spec::manifest::{Addon, Manifest, Process};

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let config = EngineConfig {
            instances: 16,
            max_memory: 256 << 20,
            tick: Duration::from_millis(1),
            code_cache: None,
            ..EngineConfig::default()
        };
        Engine::new(config).unwrap()
    })
}

/// A test guest, compiled once.
pub(crate) fn program(guest: &str) -> Program {
    program_at(&oarlock_tests::guest(guest))
}

/// Any component, compiled once.
pub(crate) fn program_at(path: &Path) -> Program {
    static PROGRAMS: Mutex<BTreeMap<PathBuf, Program>> = Mutex::new(BTreeMap::new());
    let mut programs = PROGRAMS.lock().unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let load = || engine().load(name, &std::fs::read(path).unwrap()).unwrap();
    programs.entry(path.to_owned()).or_insert_with(load).clone()
}

/// An add-on of a manifest.
pub(crate) fn addon(provider: &str) -> Addon {
    Addon {
        provider: provider.to_owned(),
        plan: None,
        processes: None,
        prefix: None,
        mount: None,
        size: None,
        url_from: None,
        line: 1,
    }
}

/// An app with the processes `web` and `worker` and these add-ons.
pub(crate) fn manifest(addons: &[(&str, Addon)]) -> Manifest {
    let process = Process {
        component: "x.wasm".into(),
        args: Vec::new(),
        singleton: false,
        schedule: None,
        line: 1,
    };
    Manifest {
        app: "test".parse().unwrap(),
        processes: ["web", "worker"]
            .map(|name| (name.parse().unwrap(), process.clone()))
            .into(),
        scale: BTreeMap::new(),
        addons: addons
            .iter()
            .map(|(name, addon)| (name.parse().unwrap(), addon.clone()))
            .collect(),
        config: BTreeMap::new(),
        allow: Vec::new(),
        limits: BTreeMap::new(),
        build: None,
        files: Vec::new(),
    }
}

/// The add-ons of an app, in this folder.
pub(crate) struct App(Arc<AppAddons>);

impl App {
    pub(crate) fn new(data: &Path) -> Self {
        Self(AppAddons::new(data))
    }

    /// A release: what `process` gets.
    pub(crate) async fn release(
        &self,
        addons: &[(&str, Addon)],
        config: &[(&str, &str)],
        process: &str,
    ) -> (Binding, BTreeMap<String, String>) {
        let config = config
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let binding = self
            .0
            .bind(&manifest(addons), &config)
            .await
            .unwrap()
            .remove(process)
            .unwrap();
        let env = binding.environment(&config);
        (binding, env)
    }
}

#[derive(Default)]
pub(crate) struct Log(Mutex<Vec<String>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

impl DynoLog for Log {
    fn line(&self, _: OutputStream, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
    fn remark(&self, text: &str) {
        self.0.lock().unwrap().push(format!("oarlock: {text}"));
    }
}

/// A sandbox of a guest with this binding, and its log.
pub(crate) fn sandbox(
    guest: &str,
    binding: &Binding,
    env: &BTreeMap<String, String>,
) -> (Sandbox, Arc<Log>) {
    sandbox_of(&program(guest), binding, env)
}

/// A sandbox of a program with this binding, and its log.
pub(crate) fn sandbox_of(
    program: &Program,
    binding: &Binding,
    env: &BTreeMap<String, String>,
) -> (Sandbox, Arc<Log>) {
    let log = Arc::new(Log::default());
    let rules = EgressRules {
        endpoints: binding.endpoints.clone(),
        // As in `up`: the tests' servers listen on loopback, and an app's own URL alone does not open that.
        private: PrivateNetworks {
            allowed: Vec::new(),
            local_development: true,
        },
        ..EgressRules::default()
    };
    let grant = Grant {
        app: "test".parse().unwrap(),
        dyno: "web.1".parse().unwrap(),
        env: env
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        args: vec![program.name().to_owned()],
        folders: Vec::new(),
        tmp_root: None,
        egress: Arc::new(Egress::new(rules)),
        http: HttpClient::new(&[]),
        listen: None,
        kv: binding.kv.clone(),
        log: log.clone(),
    };
    (
        Sandbox::new(program, grant, &Limits::default()).unwrap(),
        log,
    )
}

/// Runs a command to its end; its exit and its log.
pub(crate) async fn run(
    guest: &str,
    args: &[&str],
    binding: &Binding,
    env: &BTreeMap<String, String>,
) -> (Exit, String) {
    run_program(&program(guest), args, binding, env).await
}

/// The same of any program.
pub(crate) async fn run_program(
    program: &Program,
    args: &[&str],
    binding: &Binding,
    env: &BTreeMap<String, String>,
) -> (Exit, String) {
    let (sandbox, log) = sandbox_of(program, binding, env);
    let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let exit = sandbox.run(Stdin::Ended, Output::Log, &args).wait().await;
    (exit, log.text())
}
