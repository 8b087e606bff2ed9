//! A host without guests: it remembers what it was told, and fails as it is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use oarlock_host::ChangeError;
use oarlock_host::apply::{Applied, ApplyError, Desired, ReleasePhase, Slug};
use oarlock_host::dynos::{OneOffError, OneOffExit, OneOffRequest};
use oarlock_host::logs::LogFilter;
use oarlock_spec::api::{ConfigVars, DynoRow, DynoState, Formation, LogLine, LogSource};
use oarlock_spec::limits::Limits;
use oarlock_spec::names::{AppName, DynoName, ReleaseId};
use tokio::io::AsyncReadExt;
use tokio::sync::{broadcast, watch};

use crate::runtime::{OneOffDyno, Runtime, StagedRelease};

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
    state: Arc<Mutex<State>>,
    /// Apps whose applies do not come to an end.
    hanging: watch::Sender<BTreeSet<AppName>>,
    lines: broadcast::Sender<(AppName, LogLine)>,
    /// One-off dynos alive.
    pub(crate) one_offs: watch::Sender<usize>,
}

impl FakeRuntime {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Arc::default(),
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

    /// The release of an app that serves.
    pub(crate) fn serves(&self, app: &AppName) -> Option<ReleaseId> {
        let state = self.state.lock().unwrap();
        state.apps.get(app).map(|(release, _)| *release)
    }

    pub(crate) fn last(&self) -> Told {
        self.told().pop().expect("something was applied")
    }
}

struct FakeStaged {
    state: Arc<Mutex<State>>,
    applied: Applied,
    formation: Formation,
}

#[async_trait]
impl StagedRelease for FakeStaged {
    fn applied(&self) -> &Applied {
        &self.applied
    }

    async fn commit(self: Box<Self>) -> Result<Applied, ApplyError> {
        let mut state = self.state.lock().unwrap();
        let (app, release) = (self.applied.app.clone(), self.applied.release);
        state.apps.insert(app, (release, self.formation.clone()));
        Ok(self.applied.clone())
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

    async fn stage(
        &self,
        desired: Desired,
        slug: Slug,
        after_phase: BoxFuture<'static, Result<(), String>>,
    ) -> Result<Box<dyn StagedRelease>, ApplyError> {
        assert_eq!(desired.slug, slug.id);
        // Long enough for a kill or a second request to fall into it.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let app = desired.manifest.app.clone();
        let mut hanging = self.hanging.subscribe();
        let free = hanging.wait_for(|apps| !apps.contains(&app));
        drop(free.await);
        let mut formation = Formation::new();
        for dyno in &desired.formation {
            *formation.entry(dyno.process.clone()).or_insert(0) += 1;
        }
        let failure = {
            let mut state = self.state.lock().unwrap();
            state.told.push(Told {
                app: app.clone(),
                release: desired.release,
                phase: desired.release_phase,
                config: desired.config,
                formation: formation.clone(),
            });
            state.failures.pop_front()
        };
        // Every app of this host has a release phase.
        let phase_failed = matches!(failure, Some(ApplyError::ReleasePhase { .. }));
        if desired.release_phase == ReleasePhase::Run && !phase_failed {
            after_phase.await.map_err(ApplyError::Platform)?;
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        let applied = Applied {
            app,
            release: desired.release,
            compiled: slug.components.len(),
            cached: 0,
        };
        Ok(Box::new(FakeStaged {
            state: Arc::clone(&self.state),
            applied,
            formation,
        }))
    }

    async fn scale(&self, app: &AppName, change: Formation) -> Result<Formation, ChangeError> {
        let mut state = self.state.lock().unwrap();
        let Some((_, formation)) = state.apps.get_mut(app) else {
            return Err(ChangeError::UnknownApp(app.clone()));
        };
        if let Some(process) = change
            .keys()
            .find(|process| !formation.contains_key(*process))
        {
            return Err(ChangeError::UnknownProcess {
                process: process.clone(),
                known: formation.keys().cloned().collect(),
            });
        }
        formation.extend(change);
        Ok(formation.clone())
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
    ) -> Result<Vec<DynoName>, ChangeError> {
        let unknown = || ChangeError::UnknownApp(app.clone());
        let dynos = self.dynos(app).await.ok_or_else(unknown)?;
        let wanted = |row: &DynoRow| target.is_none_or(|target| target == row.process.as_str());
        let names: Vec<DynoName> = dynos
            .into_iter()
            .filter(wanted)
            .map(|row| row.dyno)
            .collect();
        if names.is_empty() {
            return Err(ChangeError::UnknownTarget {
                target: target.unwrap_or_default().to_owned(),
                known: Vec::new(),
            });
        }
        Ok(names)
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
