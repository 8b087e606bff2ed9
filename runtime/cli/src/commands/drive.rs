//! What `up` and `serve` share: start the platform, print what it says, drain at the first signal and
//! end at once at the second.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oarlock_host::capacity::{Bound, Capacity, Most};
use oarlock_host::logs::LogFilter;
use oarlock_host::{Compiler, Host};
use oarlock_platform::{Event, Platform, PlatformConfig, Source, Told};
use oarlock_spec::api::{LogLine, LogSource};
use oarlock_spec::codes::exit;
use oarlock_spec::policy::Policy;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::output::{Failure, Outcome};
use crate::print;
use crate::signals::Signals;
use crate::{address, descriptors};

/// What takes longer than this is shown as work under way.
const LONG: Duration = Duration::from_secs(1);

/// How often it is looked whether work takes long.
const TURN: Duration = Duration::from_millis(200);

/// Fewer connections of clients than these are said at the start: a busy site has more.
const FEW_CONNECTIONS: u32 = 4_096;

/// What the first signal means.
const STOPPING: &str = "requests under way are finished; Ctrl-C again ends at once";

/// What a host of several apps says when its log cannot be printed.
const UNPRINTED: &str = "The apps go on, and `oarlock logs` has their log.";

/// How long the last log lines may take to reach the terminal.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The policy of a file, or the defaults.
pub(super) fn policy(file: Option<&Path>) -> Result<Policy, Failure> {
    let Some(file) = file else {
        return Ok(Policy::default());
    };
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::new(
            exit::FAILURE,
            format!("the policy file {} cannot be read: {error}", file.display()),
        )
    })?;
    let mut policy = oarlock_spec::policy::parse(&text).map_err(|errors| {
        Failure::new(exit::MANIFEST, format!("in {}:\n{errors}", file.display()))
    })?;
    // Wherever the command is typed.
    let folder = file.parent().unwrap_or(Path::new("."));
    policy.tls_ca = policy.tls_ca.map(|ca| folder.join(ca));
    Ok(policy)
}

/// Where machine code is kept between runs: the user's cache folder, never an app's.
pub(super) fn user_code_cache() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let cache =
        absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("oarlock").join("code"))
}

/// What is said at the start where there are few files.
fn low_limits(connections: u32) -> String {
    format!(
        "{} open files at most, so {connections} connections of clients at once; a higher hard limit (`ulimit -Hn`) allows \
         up to {}",
        descriptors::limit(),
        Host::MOST_CONNECTIONS
    )
}

/// This program, which compiles in a process of its own. By the kernel's name for it, so that a newer version on the disk
/// does not take the place of the one that runs.
pub(super) fn compiler() -> Compiler {
    let own = Path::new("/proc/self/exe");
    if own.exists() {
        return Compiler::Child(own.to_owned());
    }
    std::env::current_exe().map_or(Compiler::InProcess, Compiler::Child)
}

/// Runs a platform until a signal ends it. `interrupted`: the exit code if that comes before an app runs.
pub(super) fn until_stopped(config: PlatformConfig, interrupted: u8) -> Outcome {
    // Before the host looks at it.
    descriptors::raise();
    print::behind();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("oarlock-control")
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::FAILURE, format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(drive(config, interrupted));
    // What still blocks (a compilation that a second Ctrl-C gave up on) must not hold the exit.
    runtime.shutdown_background();
    outcome
}

async fn drive(config: PlatformConfig, interrupted: u8) -> Outcome {
    let mut signals = Signals::install().map_err(|error| {
        Failure::new(exit::FAILURE, format!("cannot listen for signals: {error}"))
    })?;
    let (events, mut told) = mpsc::unbounded_channel();
    let mut screen = Screen::default();
    // What somebody started to look at ends when he has seen enough; what serves others' apps does not.
    let needs_reader = matches!(config.source, Source::App { .. });
    let listen = config.listen;
    let domain = (!needs_reader).then(|| config.domain.clone());
    screen.many = domain.is_some();
    let started = tokio::select! {
        biased;
        // Nothing of an app was begun.
        () = signals.next() => return Ok(interrupted),
        started = Platform::start(config, events) => started,
    };
    let mut platform = match started {
        Ok(platform) => platform,
        Err(error) => {
            screen.finish(&mut told).await;
            let message = if error.exit_code == exit::ADDRESS_IN_USE {
                let typed = std::env::args_os().skip(1);
                let typed: Vec<String> = typed.filter_map(|word| word.into_string().ok()).collect();
                address::taken(listen, &typed)
            } else {
                error.message
            };
            return Err(Failure::new(error.exit_code, message));
        }
    };
    if let Some(domain) = domain {
        let address = platform.address();
        let text = format!("on {address}, for <app>.{domain}");
        print::note("Listening", &text);
    }
    let mut turn = tokio::time::interval(TURN);
    let mut is_started = false;
    let mut unread = None;
    loop {
        tokio::select! {
            biased;
            () = signals.next() => break,
            Some(Ok(Err(failure))) = screen.logs.join_next() => match failure {
                failure if needs_reader => {
                    unread = Some(failure);
                    break;
                }
                failure => screen.unprinted(failure),
            },
            Some(event) = told.recv() => screen.show(event),
            started = platform.started(), if !is_started => match started {
                Ok(()) => is_started = true,
                Err(error) => {
                    platform.shutdown().await;
                    screen.finish(&mut told).await;
                    return Err(Failure::new(error.exit_code, error.message));
                }
            },
            _ = turn.tick(), if !is_started => screen.turn(),
        }
    }
    print::worked();
    print::note("Stopping", STOPPING);
    let done = if screen.serves { exit::OK } else { interrupted };
    let ended = tokio::select! {
        () = platform.shutdown() => done,
        () = signals.next() => exit::INTERRUPTED,
    };
    screen.finish(&mut told).await;
    unread.map_or(Ok(ended), Err)
}

/// Whether the terminal has it already: a build's output as it is, by `BuildOutput`; why something failed, as an error.
fn is_shown_elsewhere(line: &LogLine, told: &Told) -> bool {
    line.source == LogSource::Oarlock
        && (line.dyno == "build" || (line.dyno == "api" && told.take(&line.message)))
}

/// What a host should have room for: below it, its operator is told.
const AMPLE: u32 = 1_000;

/// Says what there is little room for, and what raises it.
fn print_capacity(capacity: &Capacity) {
    let Capacity {
        instances,
        programs,
        ..
    } = capacity;
    if instances.count < AMPLE && instances.bound != Bound::Configured {
        let Most { count, bound } = instances;
        let text = format!("room for {count} instances at once; {bound} raises it");
        print::note("Limits", &text);
    }
    if programs.count < AMPLE {
        let Most { count, bound } = programs;
        let text = format!("room for the code of {count} components at once; {bound} raises it");
        print::note("Limits", &text);
    }
}

/// What the terminal shows: events as notes on stderr, the apps' logs on stdout.
#[derive(Default)]
struct Screen {
    host: Option<Host>,
    logs: JoinSet<Result<(), Failure>>,
    /// Whether it was said that they are not printed.
    said_unprinted: bool,
    /// Whether an app was said to run.
    serves: bool,
    /// Whether there may be several apps.
    many: bool,
    /// What was begun and has not ended, and when.
    work: Option<(String, Instant)>,
}

impl Screen {
    /// Shows the work under way, if it takes long.
    fn turn(&self) {
        if let Some((what, since)) = &self.work
            && since.elapsed() > LONG
        {
            print::working(what);
        }
    }

    /// Says once that stdout takes no more.
    fn unprinted(&mut self, failure: Failure) {
        if !std::mem::replace(&mut self.said_unprinted, true) {
            let why = failure.message.as_deref();
            let why = why.unwrap_or("stdout is read no more");
            print::error(&format!("{why}.\n{UNPRINTED}"));
        }
    }

    fn begun(&mut self, what: String) {
        self.work = Some((what, Instant::now()));
    }

    fn ended(&mut self) {
        self.work = None;
        print::worked();
    }

    fn show(&mut self, event: Event) {
        match event {
            Event::Fencing { groups } => print::note("Fencing", &fencing(&groups)),
            Event::Hosting(host) => {
                print_capacity(&host.capacity());
                if host.connections() < FEW_CONNECTIONS {
                    print::note("Limits", &low_limits(host.connections()));
                }
                self.host = Some(host);
            }
            Event::Opened { app, told } => {
                let Some(host) = &self.host else { return };
                let mut lines = host.log(&app).follow(0, LogFilter::default());
                self.logs.spawn(async move {
                    while let Some(first) = lines.next().await {
                        let more = std::iter::from_fn(|| lines.ready());
                        let shown: Vec<LogLine> = std::iter::once(first)
                            .chain(more)
                            .filter(|line| !is_shown_elsewhere(line, &told))
                            .collect();
                        // Who reads stdout may stop reading: that must hold up nothing but this.
                        let printed = tokio::task::spawn_blocking(|| print::logs(shown));
                        printed.await.unwrap_or(Ok(()))?;
                    }
                    Ok(())
                });
            }
            Event::Building { app, command } => {
                print::note("Building", &format!("{app}: {command}"));
                self.begun(format!("building {app}"));
            }
            Event::BuildOutput { app, line } if self.many => {
                print::foreign(&format!("{app}: {line}"));
            }
            Event::BuildOutput { app: _, line } => print::foreign(&line),
            Event::Loading { app, release } => {
                self.ended();
                self.begun(format!(
                    "starting {app} {release}; new components are compiled first"
                ));
            }
            Event::Loaded {
                app,
                compiled,
                cached,
                millis,
            } => print::note(
                "Loaded",
                &format!(
                    "{app}: {compiled} compiled, {cached} from the cache in {:.1}s",
                    millis as f64 / 1000.0
                ),
            ),
            Event::Ready { app, release, url } => {
                self.ended();
                self.serves = true;
                print::note(
                    "Running",
                    &match url {
                        Some(url) => format!("{app} {release} at {url}"),
                        None => format!("{app} {release}"),
                    },
                );
            }
            Event::Refused { folder, message } => {
                print::error(&format!("{}: {message}", folder.display()));
            }
            Event::Failed { app, message } => {
                self.ended();
                print::error(&format!("{app}: {message}"));
            }
        }
    }

    /// Shows what is still to be shown; the logs end with the host, so the wait is short.
    async fn finish(&mut self, told: &mut mpsc::UnboundedReceiver<Event>) {
        while let Ok(event) = told.try_recv() {
            self.show(event);
        }
        self.ended();
        let rest = async { while self.logs.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_LINES, rest).await;
    }
}

/// How builds are held to what they may use.
fn fencing(groups: &Result<PathBuf, String>) -> String {
    match groups {
        Ok(place) => format!(
            "each build, in a control group of its own below {}",
            place.display()
        ),
        Err(why) => format!(
            "each build; no control group is delegated: {why}; rlimits hold for each process alone, and what a build's \
             processes use together is counted a few times a second"
        ),
    }
}
