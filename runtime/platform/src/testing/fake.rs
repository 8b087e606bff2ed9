//! A host without guests: it remembers what it was told, and fails as it is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use oarlock_host::apply::{Applied, ApplyError, Desired, ReleasePhase};
use oarlock_host::dynos::{OneOffError, OneOffExit, OneOffRequest};
use oarlock_host::logs::LogFilter;
use oarlock_spec::api::{ConfigVars, DynoRow, DynoState, Formation, LogLine, LogSource};
use oarlock_spec::limits::Limits;
use oarlock_spec::names::{AppName, DynoName, ReleaseId};
use tokio::io::AsyncReadExt;
use tokio::sync::{broadcast, watch};

use crate::runtime::{OneOffDyno, Runtime};

/// What one apply was told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) app: AppName,
    pub(crate) release: ReleaseId,
    pub(crate) phase: ReleasePhase,
    pub(crate) config: ConfigVars,
    pub(crate) formation: Formation,
}

#[derive(Default)]
struct State {
    told: Vec<Told>,
    /// What runs.
    apps: BTreeMap<AppName, (ReleaseId, Formation)>,
    failures: VecDeque<ApplyError>,
    lines: Vec<(AppName, LogLine)>,
    /// The apps that are known, and whether requests still wait for them.
    expected: BTreeMap<AppName, bool>,
}

pub(crate) struct FakeRuntime {
    state: Mutex<State>,
    /// Apps whose applies do not come to an end.
    hanging: watch::Sender<BTreeSet<AppName>>,
    lines: broadcast::Sender<(AppName, LogLine)>,
    /// One-off dynos alive.
    pub(crate) one_offs: watch::Sender<usize>,
}

impl FakeRuntime {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            hanging: watch::Sender::default(),
            lines: broadcast::Sender::new(1000),
            one_offs: watch::Sender::new(0),
        })
    }

    /// The next applies fail.
    pub(crate) fn fail(&self, failures: impl IntoIterator<Item = ApplyError>) {
        self.state.lock().unwrap().failures.extend(failures);
    }

    /// The applies of these apps hang until this is called without them.
    pub(crate) fn hang(&self, apps: &[&str]) {
        let apps = apps.iter().map(|app| app.parse().unwrap()).collect();
        self.hanging.send_replace(apps);
    }

    /// Whether requests wait for an app; `None`: it is not known.
    pub(crate) fn expects(&self, app: &str) -> Option<bool> {
        let app: AppName = app.parse().unwrap();
        self.state.lock().unwrap().expected.get(&app).copied()
    }

    pub(crate) fn told(&self) -> Vec<Told> {
        self.state.lock().unwrap().told.clone()
    }

    pub(crate) fn last(&self) -> Told {
        self.told().pop().expect("something was applied")
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn expect(&self, app: &AppName, _limits: &Limits) {
        let mut state = self.state.lock().unwrap();
        state.expected.insert(app.clone(), true);
    }

    fn give_up(&self, app: &AppName) {
        let mut state = self.state.lock().unwrap();
        state.expected.insert(app.clone(), false);
    }

    async fn apply(&self, desired: Desired) -> Result<Applied, ApplyError> {
        // Long enough for a kill or a second request to fall into it.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let mut hanging = self.hanging.subscribe();
        let free = hanging.wait_for(|apps| !apps.contains(&desired.manifest.app));
        drop(free.await);
        let mut state = self.state.lock().unwrap();
        let app = desired.manifest.app.clone();
        state.told.push(Told {
            app: app.clone(),
            release: desired.release,
            phase: desired.release_phase,
            config: desired.config,
            formation: desired.formation.clone(),
        });
        if let Some(failure) = state.failures.pop_front() {
            return Err(failure);
        }
        state
            .apps
            .insert(app.clone(), (desired.release, desired.formation));
        Ok(Applied {
            app,
            release: desired.release,
            compiled: desired.slug.components.len(),
            cached: 0,
        })
    }

    async fn scale(&self, app: &AppName, change: Formation) -> Option<Result<Formation, String>> {
        let mut state = self.state.lock().unwrap();
        let (_, formation) = state.apps.get_mut(app)?;
        if let Some(unknown) = change
            .keys()
            .find(|process| !formation.contains_key(*process))
        {
            return Some(Err(format!("no process type `{unknown}`")));
        }
        formation.extend(change);
        Some(Ok(formation.clone()))
    }

    async fn formation(&self, app: &AppName) -> Option<Formation> {
        self.state
            .lock()
            .unwrap()
            .apps
            .get(app)
            .map(|(_, formation)| formation.clone())
    }

    async fn restart(
        &self,
        app: &AppName,
        target: Option<&str>,
    ) -> Option<Result<Vec<DynoName>, String>> {
        let dynos = self.dynos(app).await?;
        let wanted = |row: &DynoRow| target.is_none_or(|target| target == row.process.as_str());
        let names: Vec<DynoName> = dynos
            .into_iter()
            .filter(wanted)
            .map(|row| row.dyno)
            .collect();
        Some(if names.is_empty() {
            Err("no such dyno".to_owned())
        } else {
            Ok(names)
        })
    }

    async fn dynos(&self, app: &AppName) -> Option<Vec<DynoRow>> {
        let state = self.state.lock().unwrap();
        let (release, formation) = state.apps.get(app)?;
        let rows = formation.iter().flat_map(|(process, count)| {
            (1..=*count).map(|index| DynoRow {
                dyno: DynoName {
                    process: process.clone(),
                    index,
                },
                process: process.clone(),
                state: DynoState::Up,
                release: *release,
                since: jiff::Timestamp::UNIX_EPOCH,
                restarts: 0,
                cpu_ms: 0,
                memory_bytes: 0,
                requests: 0,
            })
        });
        Some(rows.collect())
    }

    async fn run(
        &self,
        _app: &AppName,
        request: OneOffRequest,
    ) -> Result<Box<dyn OneOffDyno>, OneOffError> {
        if request.command != "cat" {
            return Err(OneOffError::UnknownCommand {
                command: request.command,
                known: vec!["cat".to_owned()],
            });
        }
        let (stop, stopped) = watch::channel(false);
        let guest = tokio::spawn(cat(request, stopped));
        self.one_offs.send_modify(|count| *count += 1);
        Ok(Box::new(Cat {
            name: "run.1234".parse().unwrap(),
            stop,
            guest,
            alive: self.one_offs.clone(),
        }))
    }

    fn log(&self, app: &AppName, dyno: &str, message: &str) {
        let line = LogLine {
            time: jiff::Timestamp::now(),
            source: LogSource::Oarlock,
            dyno: dyno.to_owned(),
            message: message.to_owned(),
        };
        self.state
            .lock()
            .unwrap()
            .lines
            .push((app.clone(), line.clone()));
        let _ = self.lines.send((app.clone(), line));
    }

    fn tail(&self, app: &AppName, n: usize, filter: &LogFilter) -> Vec<LogLine> {
        let state = self.state.lock().unwrap();
        let wanted = |line: &LogLine| filter.dyno.as_ref().is_none_or(|dyno| *dyno == line.dyno);
        let all: Vec<LogLine> = state
            .lines
            .iter()
            .filter(|(of, line)| of == app && wanted(line))
            .map(|(_, line)| line.clone())
            .collect();
        all[all.len().saturating_sub(n)..].to_vec()
    }

    fn follow(&self, app: &AppName, n: usize, filter: LogFilter) -> BoxStream<'static, LogLine> {
        let to_come = self.lines.subscribe();
        let before = futures::stream::iter(self.tail(app, n, &filter));
        let app = app.clone();
        let after = futures::stream::unfold((to_come, app), async |(mut to_come, app)| {
            loop {
                let (of, line) = to_come.recv().await.ok()?;
                if of == app {
                    return Some((line, (to_come, app)));
                }
            }
        });
        before.chain(after).boxed()
    }
}

/// Copies stdin to stdout, tells its size on stderr, exits with 3; `exit 126` when it is stopped. With the
/// argument `deaf` it reads nothing.
async fn cat(mut request: OneOffRequest, mut stopped: watch::Receiver<bool>) -> OneOffExit {
    let copy = async {
        if request.args.iter().any(|arg| arg == "deaf") {
            std::future::pending::<()>().await;
        }
        let mut total = 0;
        let mut buffer = vec![0; 100_000];
        while let Ok(read @ 1..) = request.stdin.read(&mut buffer).await {
            total += read;
            let _ = request
                .stdout
                .send(Bytes::copy_from_slice(&buffer[..read]))
                .await;
        }
        let _ = request.stderr.send(format!("{total} bytes").into()).await;
        OneOffExit {
            code: 3,
            message: String::new(),
        }
    };
    tokio::select! {
        exit = copy => exit,
        _ = stopped.wait_for(|stop| *stop) => OneOffExit { code: 126, message: "stopped".to_owned() },
    }
}

struct Cat {
    name: DynoName,
    stop: watch::Sender<bool>,
    guest: tokio::task::JoinHandle<OneOffExit>,
    alive: watch::Sender<usize>,
}

#[async_trait]
impl OneOffDyno for Cat {
    fn name(&self) -> &DynoName {
        &self.name
    }

    fn stop(&self) {
        self.stop.send_replace(true);
    }

    async fn wait(&mut self) -> OneOffExit {
        (&mut self.guest).await.unwrap()
    }
}

impl Drop for Cat {
    fn drop(&mut self) {
        self.guest.abort();
        self.alive.send_modify(|count| *count -= 1);
    }
}
