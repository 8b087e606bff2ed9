//! From a [`Desired`] to a release that can be started: components loaded and checked, add-ons
//! bound, and for each process type everything that its dynos' grants have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use oarlock_sandbox::{
    DynoLog, Egress, EgressRules, Endpoint, Folder, Grant, KvBucket, OutputStream, Port,
    PrivateNetworks, Program, ProgramKind, Sandbox, StartError, Wasi,
};
use oarlock_spec::api::{Formation, LogSource};
use oarlock_spec::limits::{Isolation, Limits};
use oarlock_spec::manifest::{Argument, Manifest, Process};
use oarlock_spec::names::{DynoName, ProcessType, ReleaseId};
use oarlock_spec::policy::Policy;

use super::app::{HostShared, HostedApp};
use super::load::{Digest, load, load_all};
use super::table::{Generation, Plan, Role};
use crate::addons::Binding;
use crate::apply::{ApplyError, Desired, Slug};
use crate::logs::AppLog;

/// The default number of requests at once of a dyno with an instance per request.
const FRESH_CONCURRENCY: u32 = 50;
/// The default number of requests at once of a WASI 0.3 instance.
const LIVE_CONCURRENCY: u32 = 16;
/// The default number of requests at once of a listening dyno.
const LISTENING_CONCURRENCY: u32 = 50;
/// Connections of a listening dyno for each request at once that it takes: a guest may be late in letting go of those
/// that have ended.
const PLACES: u32 = 2;
/// No instance serves less than one request, or WASI 0.2 more.
const ONE_AT_A_TIME: u32 = 1;

/// How a process type's dynos are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Web, an instance per request.
    WebFresh { capacity: u32 },
    /// Web, one instance.
    WebLive { capacity: u32 },
    /// Web, a command that listens on its port.
    WebListening { capacity: u32 },
    /// Kept running.
    Command(Role),
    /// Started by the clock, or in the release phase.
    Job,
}

/// A release ready to be started.
pub(crate) struct Prepared {
    pub(crate) release: ReleaseId,
    pub(crate) manifest: Manifest,
    pub(crate) processes: BTreeMap<ProcessType, PreparedProcess>,
    pub(crate) compiled: usize,
    pub(crate) cached: usize,
    pub(crate) slug: Slug,
    config: BTreeMap<String, String>,
    /// The dynos that are wanted of it.
    dynos: BTreeSet<DynoName>,
    pub(super) programs: BTreeMap<Digest, Program>,
}

/// One process type of a release, ready to be started any number of times.
#[derive(Clone)]
pub(crate) struct PreparedProcess {
    name: ProcessType,
    pub(crate) kind: Kind,
    pub(crate) limits: Limits,
    /// As the log shows it.
    pub(crate) command: String,
    pub(crate) program: Program,
    /// The first is the component.
    args: Vec<Argument>,
    env: BTreeMap<String, String>,
    folders: Vec<Folder>,
    egress: Arc<Egress>,
    /// What its add-ons open.
    endpoints: Vec<Endpoint>,
    kv: BTreeMap<String, Arc<dyn KvBucket>>,
}

/// Bytes of a process's arguments, its variables expanded.
const MOST_ARGUMENTS: usize = 1 << 20;

/// Why a dyno gets no sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// As it says.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The app's own doing.
    #[error(
        "the arguments are longer than {MOST_ARGUMENTS} bytes when the variables in the process line are expanded; name \
         fewer of them in the line, or let the component read them from its environment"
    )]
    Arguments,
}

struct LogOf {
    log: AppLog,
    dyno: String,
}

impl DynoLog for LogOf {
    fn line(&self, _stream: OutputStream, line: &str) {
        self.log.write(LogSource::App, &self.dyno, line);
    }
    fn remark(&self, text: &str) {
        self.log.write(LogSource::Oarlock, &self.dyno, text);
    }
}

impl Prepared {
    /// Loads, checks and binds; nothing is started.
    pub(crate) async fn new(
        mut desired: Desired,
        slug: Slug,
        app: &HostedApp,
        shared: &HostShared,
    ) -> Result<Self, ApplyError> {
        // A slug keeps the limits of its day; the operator's caps are today's.
        let policy = &shared.config.policy;
        policy.hold_below(&mut desired.manifest);
        lower_dynos(&mut desired.formation, policy, app);
        let loaded = load_all(&desired.manifest, &slug, app, shared).await?;
        let bindings = app.addons.bind(&desired.manifest, &desired.config).await?;
        let mut prepared = Self {
            release: desired.release,
            config: desired.config,
            dynos: desired.formation,
            processes: BTreeMap::new(),
            compiled: loaded.values().filter(|loaded| loaded.compiled).count(),
            cached: loaded.values().filter(|loaded| !loaded.compiled).count(),
            programs: loaded
                .values()
                .map(|loaded| (loaded.digest, loaded.program.clone()))
                .collect(),
            slug,
            manifest: desired.manifest,
        };
        for (name, process) in &prepared.manifest.processes {
            let Some(loaded) = loaded.get(&process.component) else {
                continue;
            };
            let binding = bindings.get(name).cloned().unwrap_or_default();
            let kind = kind_of(
                name,
                process,
                &loaded.program,
                &prepared.manifest.limits_of(name),
            )?;
            let ready = prepared.process(
                name,
                process,
                kind,
                (loaded.program.clone(), binding),
                shared,
            );
            prepared.processes.insert(name.clone(), ready);
        }
        Ok(prepared)
    }

    fn process(
        &self,
        name: &ProcessType,
        process: &Process,
        kind: Kind,
        (program, binding): (Program, Binding),
        shared: &HostShared,
    ) -> PreparedProcess {
        let mut env = binding.environment(&self.config);
        env.insert("OARLOCK_APP".into(), self.manifest.app.to_string());
        env.insert("OARLOCK_RELEASE".into(), self.release.to_string());
        let rules = EgressRules {
            endpoints: binding.endpoints.clone(),
            allow: self.manifest.allow.clone(),
            private: PrivateNetworks {
                allowed: shared.config.policy.private_networks.clone(),
                local_development: shared.config.local_development,
            },
            never: shared.router.addresses(),
            never_ips: metadata_addresses(),
        };
        let app_folder = self.slug.files.as_ref().map(|dir| Folder {
            guest_path: "/app".into(),
            dir: Arc::clone(dir),
            writable: false,
        });
        let mut args = vec![Argument::Plain(process.component.clone())];
        args.extend(process.args.iter().cloned());
        let shown: Vec<String> = args.iter().map(Argument::to_string).collect();
        PreparedProcess {
            name: name.clone(),
            kind,
            limits: self.manifest.limits_of(name),
            command: shown.join(" "),
            program,
            args,
            env,
            folders: app_folder.into_iter().collect(),
            egress: Arc::new(Egress::new(rules)),
            endpoints: binding.endpoints,
            kv: binding.kv,
        }
    }

    /// What it wants of the formation.
    pub(crate) fn plan(&self, generation: Generation) -> Plan {
        let types = self.processes.iter().filter_map(|(name, process)| {
            let role = match process.kind {
                Kind::WebFresh { .. } | Kind::WebLive { .. } | Kind::WebListening { .. } => {
                    Role::Web
                }
                Kind::Command(role) => role,
                Kind::Job => return None,
            };
            let most = if role == Role::Singleton {
                1
            } else {
                MOST_DYNOS as usize
            };
            let numbers = numbers_of(&self.dynos, name).take(most).collect();
            Some((name.clone(), (role, numbers)))
        });
        Plan {
            generation,
            release: self.release,
            types: types.collect(),
        }
    }

    /// Whether this release opens this endpoint to this process type, or to a component that is none.
    fn opens(&self, name: &ProcessType, endpoint: &Endpoint) -> bool {
        let opens = |process: &PreparedProcess| process.endpoints.contains(endpoint);
        match self.processes.get(name) {
            Some(process) => opens(process),
            // A component that is no process type has the add-ons that every process has.
            None => self.processes.values().all(opens),
        }
    }

    /// A component that is no process type, for a one-off dyno: with the config vars and the
    /// add-ons that every process has.
    pub(crate) async fn other(
        &self,
        path: &str,
        app: &HostedApp,
        shared: &HostShared,
    ) -> Result<PreparedProcess, ApplyError> {
        let name = one_off_type()?;
        let loaded = load(&self.slug, &name, path, app, shared).await?;
        let process = Process {
            component: path.to_owned(),
            args: Vec::new(),
            singleton: false,
            schedule: None,
            line: 0,
        };
        let mut manifest = self.manifest.clone();
        manifest.processes.insert(name.clone(), process.clone());
        let binding = app
            .addons
            .bind(&manifest, &self.config)
            .await?
            .remove(&name)
            .unwrap_or_default();
        Ok(self.process(
            &name,
            &process,
            Kind::Job,
            (loaded.program, binding),
            shared,
        ))
    }
}

/// The numbers of one process type's dynos, upwards.
fn numbers_of<'a>(
    dynos: &'a BTreeSet<DynoName>,
    process: &'a ProcessType,
) -> impl Iterator<Item = u32> + 'a {
    let first = DynoName {
        process: process.clone(),
        index: 0,
    };
    dynos
        .range(first..)
        .take_while(move |dyno| dyno.process == *process)
        .map(|dyno| dyno.index)
}

/// Leaves out dynos above what the operator's policy allows by now, the highest numbers first, and says so.
fn lower_dynos(dynos: &mut BTreeSet<DynoName>, policy: &Policy, app: &HostedApp) {
    let mut formation = Formation::new();
    for dyno in dynos.iter() {
        *formation.entry(dyno.process.clone()).or_insert(0) += 1;
    }
    if !policy.app_caps.lower_dynos(&mut formation) {
        return;
    }
    let mut left = formation.clone();
    dynos.retain(|dyno| match left.get_mut(&dyno.process) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        Some(_) | None => false,
    });
    let list: Vec<String> = formation
        .iter()
        .map(|(name, count)| format!("{name}={count}"))
        .collect();
    let message = format!(
        "It was scaled above what this host's policy allows by now (`dynos` in [caps]); it starts with {}",
        list.join(" ")
    );
    app.log.write(LogSource::Oarlock, "api", &message);
}

/// The process type that one-off dynos are named after.
pub(crate) fn one_off_type() -> Result<ProcessType, ApplyError> {
    "run"
        .parse()
        .map_err(|error: oarlock_spec::names::NameError| ApplyError::Platform(error.to_string()))
}

/// Dynos of one process type: what a manifest's `[scale]` may say.
pub(crate) const MOST_DYNOS: u32 = oarlock_spec::manifest::MAX_SCALE;

impl PreparedProcess {
    /// Cuts what its add-ons opened and `current`, a later release, opens no more.
    pub(crate) fn revoke_detached(&self, current: &Prepared) {
        for endpoint in &self.endpoints {
            if !current.opens(&self.name, endpoint) {
                self.egress.revoke(&endpoint.addon);
            }
        }
    }

    /// The sandbox of a dyno of this name.
    pub(crate) fn sandbox(
        &self,
        dyno: &DynoName,
        app: &HostedApp,
    ) -> Result<Sandbox, SandboxError> {
        let mut env = self.env.clone();
        env.insert("DYNO".into(), dyno.to_string());
        let listen = self.port_of(dyno)?;
        if let Some(port) = &listen {
            env.insert("PORT".into(), port.number().to_string());
        }
        let value = |name: &str| env.get(name).map(String::as_str);
        // A line may name a large variable a hundred thousand times.
        let lengths = self.args.iter().map(|it| it.length(value));
        if lengths.fold(0, usize::saturating_add) > MOST_ARGUMENTS {
            return Err(SandboxError::Arguments);
        }
        let args = self.args.iter().flat_map(|it| it.expand(value)).collect();
        let grant = Grant {
            app: app.name.clone(),
            dyno: dyno.clone(),
            env: env.into_iter().collect(),
            args,
            folders: self.folders.clone(),
            tmp_root: Some(Arc::clone(&app.tmp_root)),
            egress: Arc::clone(&self.egress),
            http: app.http.clone(),
            listen,
            kv: self.kv.clone(),
            log: Arc::new(LogOf {
                log: app.log.clone(),
                dyno: dyno.to_string(),
            }),
        };
        let sandbox = Sandbox::new(&self.program, grant, &self.limits)?;
        app.usage.count(&self.name, sandbox.meter());
        Ok(sandbox)
    }

    /// A listening web dyno has a port; a one-off dyno of the same command has none.
    fn port_of(&self, dyno: &DynoName) -> Result<Option<Port>, StartError> {
        match self.kind {
            Kind::WebListening { capacity } if dyno.process == self.name => {
                Port::open(capacity.saturating_mul(PLACES))
                    .map(Some)
                    .map_err(|error| StartError::Platform(error.to_string()))
            }
            _ => Ok(None),
        }
    }
}

/// Where clouds hand out credentials: never granted, whatever the manifest or the policy says.
pub(crate) fn metadata_addresses() -> Vec<IpAddr> {
    vec![
        IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
        IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
        IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
        IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    ]
}

/// Whether a component can be what its process type needs, and how it is then run.
fn kind_of(
    name: &ProcessType,
    process: &Process,
    program: &Program,
    limits: &Limits,
) -> Result<Kind, ApplyError> {
    let wrong = |reason: String| ApplyError::WrongKind {
        process: name.clone(),
        reason,
    };
    let path = &process.component;
    match program.kind() {
        ProgramKind::Handler(wasi) if name.is_web() => {
            let default = match wasi {
                Wasi::P2 => Isolation::Request,
                Wasi::P3 => Isolation::Dyno,
            };
            Ok(match (limits.isolation.unwrap_or(default), wasi) {
                (Isolation::Request, _) => Kind::WebFresh {
                    capacity: limits
                        .concurrency
                        .unwrap_or(FRESH_CONCURRENCY)
                        .max(ONE_AT_A_TIME),
                },
                (Isolation::Dyno, Wasi::P3) => Kind::WebLive {
                    capacity: limits
                        .concurrency
                        .unwrap_or(LIVE_CONCURRENCY)
                        .max(ONE_AT_A_TIME),
                },
                (Isolation::Dyno, Wasi::P2) => Kind::WebLive {
                    capacity: ONE_AT_A_TIME,
                },
            })
        }
        ProgramKind::Command(_) if name.is_web() => Ok(Kind::WebListening {
            capacity: limits
                .concurrency
                .unwrap_or(LISTENING_CONCURRENCY)
                .max(ONE_AT_A_TIME),
        }),
        ProgramKind::Command(_) if name.is_release() || process.schedule.is_some() => Ok(Kind::Job),
        ProgramKind::Command(_) if process.singleton => Ok(Kind::Command(Role::Singleton)),
        ProgramKind::Command(_) => Ok(Kind::Command(Role::Worker)),
        ProgramKind::Handler(_) => Err(wrong(format!(
            "{path} is an HTTP handler, which only `web` can be; a `{name}` process needs a component that exports \
             `wasi:cli/run`"
        ))),
    }
}

/// How long the release phase may take where the policy does not say.
const RELEASE_PHASE_LIMIT: Duration = Duration::from_secs(60 * 60);

/// How long a release phase may take: the policy's `release_phase`, or an hour.
pub(crate) fn release_phase_limit(policy: &Policy) -> Duration {
    policy.app_caps.release_phase.unwrap_or(RELEASE_PHASE_LIMIT)
}
