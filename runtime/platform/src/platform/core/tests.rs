use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use oarlock_host::apply::{ApplyError, ReleasePhase};
use oarlock_spec::api::{ReleaseRow, ReleaseStatus, RunFrame, RunRequest};
use oarlock_spec::names::{AppName, ReleaseId};
use oarlock_spec::policy::Policy;
use tokio::sync::mpsc;

use super::super::Source;
use super::*;
use crate::apps::{Building, ScaleLasts, Turns, Urls};
use crate::control::{Client, ClientError, LogQuery, words};
use crate::folder::DataDir;
use crate::runtime::Runtime;
use crate::slug::SlugStore;
use crate::store::{MemStore, SqliteOptions, SqliteStore, Store};
use crate::testing::{FakeRuntime, path_env, write};

mod api;
mod killed;
mod serve;
mod starts;
mod watch;

/// The longest that a test waits for anything.
const LIMIT: Duration = Duration::from_secs(60);

/// A folder with apps, and what outlives a host.
struct Place {
    root: tempfile::TempDir,
    /// `None`: in the data folder, as in life.
    store: Option<MemStore>,
}

/// A running platform with a fake host.
struct Running {
    core: Core,
    runtime: Arc<FakeRuntime>,
    events: mpsc::UnboundedReceiver<Event>,
    client: Client,
    _data: DataDir,
}

impl Place {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            store: Some(MemStore::new(1000)),
        }
    }

    /// One app in the root, with its component there.
    fn app() -> Self {
        let place = Self::new();
        place.write("oarlock.toml", "app = \"guestbook\"\n[processes]\nweb = \"web.wasm\"\nworker = \"web.wasm\"\n[config]\nA = \"manifest\"\nB = \"manifest\"\n");
        place.write(".env", "B=env\n");
        place.write("web.wasm", "1");
        place
    }

    fn write(&self, path: &str, text: &str) {
        write(self.root.path(), path, text);
    }

    fn source(&self, watch: bool) -> Source {
        Source::App {
            dir: self.root.path().to_owned(),
            scale: Formation::new(),
            watch,
        }
    }

    fn open_store(&self, data: &DataDir) -> Arc<dyn Store> {
        match &self.store {
            Some(store) => Arc::new(store.clone()),
            None => Arc::new(SqliteStore::open(&data.store(), &SqliteOptions::default()).unwrap()),
        }
    }

    async fn up(&self, runtime: &Arc<FakeRuntime>) -> Result<Running, StartError> {
        self.start(runtime, self.source(false), Building::No).await
    }

    async fn start(
        &self,
        runtime: &Arc<FakeRuntime>,
        source: Source,
        building: Building,
    ) -> Result<Running, StartError> {
        self.start_in(self.root.path(), runtime, source, building)
            .await
    }

    /// Waits until it is up.
    async fn start_in(
        &self,
        root: &Path,
        runtime: &Arc<FakeRuntime>,
        source: Source,
        building: Building,
    ) -> Result<Running, StartError> {
        let mut running = self.begin_in(root, runtime, source, building).await?;
        match running.core.started().await {
            Ok(()) => Ok(running),
            Err(error) => {
                running.stop().await;
                Err(error)
            }
        }
    }

    /// Does not wait for the apps.
    async fn begin_in(
        &self,
        root: &Path,
        runtime: &Arc<FakeRuntime>,
        source: Source,
        building: Building,
    ) -> Result<Running, StartError> {
        let found = Found::of(&source, &Policy::default())?;
        let data = DataDir::open(&root.join(".oarlock")).unwrap();
        let (tell, events) = mpsc::unbounded_channel();
        let serve = matches!(source, Source::Apps { .. });
        let address = "127.0.0.1:8080".parse().unwrap();
        let store = self.open_store(&data);
        let found = found.checked(&data)?.bounded(&*store).await;
        let shared = PlatformShared {
            runtime: runtime.clone() as Arc<dyn Runtime>,
            store,
            turns: Turns::default(),
            is_starting: AtomicBool::new(true),
            slugs: SlugStore::new(data.path()),
            workers: TaskTracker::new(),
            events: tell,
            policy: Policy::default(),
            build_env: path_env(),
            building,
            fence: None,
            scale_lasts: if serve {
                ScaleLasts::Forever
            } else {
                ScaleLasts::UntilTheEnd
            },
            urls: if serve {
                Urls::Domain("localhost".to_owned(), 8080)
            } else {
                Urls::Address(address)
            },
        };
        found.expect(&**runtime, &shared.policy);
        let core = Core::start(found, &Arc::new(shared), data.path())?;
        let client = Client::new(data.path());
        Ok(Running {
            core,
            runtime: runtime.clone(),
            events,
            client,
            _data: data,
        })
    }
}

impl Running {
    /// The next event but those that only say that something begins.
    async fn event(&mut self) -> Event {
        loop {
            let event = tokio::time::timeout(LIMIT, self.events.recv())
                .await
                .expect("an event comes")
                .unwrap();
            if !matches!(event, Event::Opened { .. } | Event::Loading { .. }) {
                return event;
            }
        }
    }

    /// The next release that is ready; what comes before it is skipped.
    async fn ready(&mut self) -> ReleaseId {
        loop {
            if let Event::Ready { release, .. } = self.event().await {
                return release;
            }
        }
    }

    async fn failed(&mut self) -> (String, String) {
        loop {
            if let Event::Failed { app, message } = self.event().await {
                return (app.to_string(), message);
            }
        }
    }

    async fn rows(&self) -> Vec<(u64, ReleaseStatus, String)> {
        let rows = self.client.releases(&name()).await.unwrap();
        rows.into_iter()
            .map(|row: ReleaseRow| (row.release.0, row.status, row.description))
            .collect()
    }

    async fn stop(mut self) {
        self.core.stop_changing();
        self.core.shutdown().await;
    }
}

fn name() -> AppName {
    "guestbook".parse().unwrap()
}

fn vars(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn change(pairs: &[(&str, Option<&str>)]) -> BTreeMap<String, Option<String>> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)))
        .collect()
}

fn word(error: &ClientError) -> &str {
    error.word().unwrap_or_else(|| panic!("{error}"))
}

fn phase_failure(code: Option<u8>) -> ApplyError {
    ApplyError::ReleasePhase {
        code,
        reason: "migrate.wasm failed".to_owned(),
    }
}

#[tokio::test]
async fn up_makes_a_release_and_the_next_up_starts_it() {
    let place = Place::app();
    let runtime = FakeRuntime::new();
    let mut first = place.up(&runtime).await.unwrap();
    assert!(matches!(
        first.event().await,
        Event::Loaded { compiled: 1, .. }
    ));
    let Event::Ready { release, url, .. } = first.event().await else {
        panic!()
    };
    assert_eq!(
        (release, url.as_deref()),
        (ReleaseId(1), Some("http://127.0.0.1:8080"))
    );
    let told = runtime.last();
    assert_eq!(told.phase, ReleasePhase::Run);
    assert_eq!(told.config, vars(&[("A", "manifest"), ("B", "env")]));
    assert_eq!(told.formation.values().copied().collect::<Vec<_>>(), [1, 1]);
    first.stop().await;

    let mut second = place.up(&runtime).await.unwrap();
    assert_eq!(second.ready().await, ReleaseId(1));
    assert_eq!(
        runtime.last().phase,
        ReleasePhase::Done,
        "the release phase runs once"
    );
    second.stop().await;

    place.write("web.wasm", "2");
    let mut third = place.up(&runtime).await.unwrap();
    assert_eq!(third.ready().await, ReleaseId(2));
    assert_eq!(runtime.last().phase, ReleasePhase::Run);
    let rows = third.rows().await;
    assert_eq!(
        rows.iter().map(|row| row.1).collect::<Vec<_>>(),
        [ReleaseStatus::Current, ReleaseStatus::Superseded]
    );
    third.stop().await;
}

#[tokio::test]
async fn config_and_rollback_are_releases() {
    let place = Place::app();
    let runtime = FakeRuntime::new();
    let running = place.up(&runtime).await.unwrap();
    let client = running.client.clone();
    let set = client
        .change_config(&name(), &change(&[("B", Some("set")), ("C", Some("set"))]))
        .await
        .unwrap();
    assert_eq!(
        (set.release, set.status, set.description.as_str()),
        (ReleaseId(2), ReleaseStatus::Current, "Set B, C config vars")
    );
    assert_eq!(
        client.config(&name()).await.unwrap(),
        vars(&[("A", "manifest"), ("B", "set"), ("C", "set")])
    );
    assert_eq!(runtime.last().config["B"], "set");
    let unset = client
        .change_config(&name(), &change(&[("B", None)]))
        .await
        .unwrap();
    assert_eq!(unset.release, ReleaseId(3));
    assert_eq!(
        client.config(&name()).await.unwrap()["B"],
        "env",
        "the default shows again"
    );
    // What changes nothing is no release.
    let same = client
        .change_config(&name(), &change(&[("C", Some("set")), ("X", None)]))
        .await
        .unwrap();
    assert_eq!(same.release, ReleaseId(3));
    let error = client
        .change_config(&name(), &change(&[("A", None)]))
        .await
        .unwrap_err();
    assert_eq!(word(&error), words::INVALID_CONFIG);
    assert!(error.to_string().contains("[config]"), "{error}");
    for bad in ["PORT", "OARLOCK_X", "1A", ""] {
        let error = client
            .change_config(&name(), &change(&[(bad, Some("x"))]))
            .await
            .unwrap_err();
        assert_eq!(word(&error), words::INVALID_CONFIG);
    }

    let back = client.rollback(&name(), None).await.unwrap();
    assert_eq!(
        (back.release, back.description.as_str()),
        (ReleaseId(4), "Rollback to v2")
    );
    assert_eq!(client.config(&name()).await.unwrap()["B"], "set");
    let first = client.rollback(&name(), Some(ReleaseId(1))).await.unwrap();
    assert_eq!(first.release, ReleaseId(5));
    assert_eq!(
        client.config(&name()).await.unwrap(),
        vars(&[("A", "manifest"), ("B", "env")])
    );
    let error = client
        .rollback(&name(), Some(ReleaseId(9)))
        .await
        .unwrap_err();
    assert_eq!(word(&error), words::UNKNOWN_RELEASE);
    let error = client
        .rollback(&name(), Some(ReleaseId(5)))
        .await
        .unwrap_err();
    assert_eq!(word(&error), words::CANNOT_ROLL_BACK);
    assert!(
        runtime
            .told()
            .iter()
            .all(|told| told.phase == ReleasePhase::Run),
        "each is a new release"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_failed_change_keeps_the_old_release() {
    let place = Place::app();
    let runtime = FakeRuntime::new();
    let mut running = place.up(&runtime).await.unwrap();
    runtime.fail([phase_failure(Some(4))]);
    let error = running
        .client
        .change_config(&name(), &change(&[("C", Some("x"))]))
        .await
        .unwrap_err();
    // Whoever runs the host hears of it as well as who asked.
    let (_, message) = running.failed().await;
    assert!(message.starts_with("release v2 failed: "), "{message}");
    assert_eq!(word(&error), words::RELEASE_FAILED);
    assert!(error.to_string().contains("migrate.wasm failed"), "{error}");
    assert!(
        !running
            .client
            .config(&name())
            .await
            .unwrap()
            .contains_key("C")
    );
    let rows = running.rows().await;
    assert_eq!((rows[0].0, rows[0].1), (2, ReleaseStatus::Failed));
    assert_eq!((rows[1].0, rows[1].1), (1, ReleaseStatus::Current));
    let error = running
        .client
        .rollback(&name(), Some(ReleaseId(2)))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("never ran"), "{error}");
    let error = running.client.rollback(&name(), None).await.unwrap_err();
    assert!(
        error.to_string().contains("no release before v1"),
        "{error}"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_release_that_cannot_be_written_down_never_serves() {
    let place = Place::app();
    let runtime = FakeRuntime::new();
    let running = place.up(&runtime).await.unwrap();
    let client = running.client.clone();
    // The pending record and the phase's pass; the commit that makes it current does not.
    let store = place.store.as_ref().unwrap();
    store.inject([None, None, Some(crate::store::Fault::Conflict)]);
    let set = change(&[("B", Some("set"))]);
    let error = client.change_config(&name(), &set).await.unwrap_err();
    assert_eq!(word(&error), words::BUSY);
    assert_eq!(runtime.last().release, ReleaseId(2));
    assert_eq!(runtime.serves(&name()), Some(ReleaseId(1)));
    let states: Vec<_> = running.rows().await.iter().map(|row| row.1).collect();
    assert_eq!(states, [ReleaseStatus::Failed, ReleaseStatus::Current]);
    assert_eq!(client.config(&name()).await.unwrap()["B"], "env");
    // The same again is another release; its phase has succeeded for that slug and that config.
    let again = client.change_config(&name(), &set).await.unwrap();
    assert_eq!(again.release, ReleaseId(3));
    assert_eq!(runtime.last().phase, ReleasePhase::Done);
    assert_eq!(runtime.serves(&name()), Some(ReleaseId(3)));
    // From then on each release runs it.
    client
        .change_config(&name(), &change(&[("B", None)]))
        .await
        .unwrap();
    client.change_config(&name(), &set).await.unwrap();
    assert_eq!(runtime.last().phase, ReleasePhase::Run);
    running.stop().await;
}

#[tokio::test]
async fn a_first_start_ends_with_the_release_phases_code() {
    let place = Place::app();
    let runtime = FakeRuntime::new();
    for (code, exit_code) in [
        (Some(7), 7),
        (None, exit::RELEASE_PHASE),
        (Some(0), exit::RELEASE_PHASE),
    ] {
        runtime.fail([phase_failure(code)]);
        let error = place.up(&runtime).await.err().unwrap();
        assert_eq!(error.exit_code, exit_code);
        assert_eq!(
            runtime.last().phase,
            ReleasePhase::Run,
            "it is run again, as it never exited 0"
        );
    }
    let boot = || ApplyError::Boot {
        dyno: "web.1".to_owned(),
        release: ReleaseId(1),
        reason: "R10".to_owned(),
    };
    runtime.fail([boot()]);
    assert_eq!(
        place.up(&runtime).await.err().unwrap().exit_code,
        exit::FAILURE
    );
    let mut running = place.up(&runtime).await.unwrap();
    assert_eq!(
        running.ready().await,
        ReleaseId(1),
        "one release for all attempts"
    );
    assert_eq!(
        runtime.last().phase,
        ReleasePhase::Done,
        "it only had not booted"
    );
    running.stop().await;
}

#[tokio::test]
async fn mistakes_have_their_exit_codes() {
    let place = Place::app();
    let runtime = FakeRuntime::new();
    place.write(
        "oarlock.toml",
        "app = \"guestbook\"\n[procesess]\nweb = \"web.wasm\"\n",
    );
    let error = place.up(&runtime).await.err().unwrap();
    assert_eq!(error.exit_code, exit::MANIFEST, "{error}");
    assert!(
        error.message.contains("procesess") && error.message.contains("oarlock.toml"),
        "{error}"
    );
    let place = Place::app();
    place.write(".env", "oops\n");
    let error = place.up(&runtime).await.err().unwrap();
    assert_eq!(error.exit_code, exit::MANIFEST, "{error}");
    assert!(error.message.contains(".env:1: "), "{error}");
    let place = Place::app();
    std::fs::remove_file(place.root.path().join("web.wasm")).unwrap();
    let error = place.up(&runtime).await.err().unwrap();
    assert_eq!(error.exit_code, exit::BUILD, "{error}");
    let place = Place::app();
    place.write("oarlock.toml", "app = \"guestbook\"\n[processes]\nweb = \"web.wasm\"\n[build]\ncommand = \"echo no; exit 3\"\n");
    let error = place
        .start(&runtime, place.source(false), Building::Yes)
        .await
        .err()
        .unwrap();
    assert_eq!(error.exit_code, exit::BUILD, "{error}");
    let place = Place::app();
    let scale = Formation::from([("wroker".parse().unwrap(), 1)]);
    let source = Source::App {
        dir: place.root.path().to_owned(),
        scale,
        watch: false,
    };
    let error = place
        .start(&runtime, source, Building::No)
        .await
        .err()
        .unwrap();
    assert!(
        error.message.contains("`wroker`") && error.message.contains("web, worker"),
        "{error}"
    );
    assert!(runtime.told().is_empty());
}

#[tokio::test]
async fn a_path_of_400_characters_works() {
    let mut place = Place::app();
    let deep = place
        .root
        .path()
        .join("a".repeat(200))
        .join("b".repeat(200));
    std::fs::create_dir_all(&deep).unwrap();
    for file in ["oarlock.toml", "web.wasm"] {
        std::fs::copy(place.root.path().join(file), deep.join(file)).unwrap();
    }
    // The folder is what the place is asked for; the rest of it stays as it is.
    let data = DataDir::open(&deep.join(".oarlock")).unwrap();
    drop(data);
    let old = std::mem::replace(
        &mut place.root,
        tempfile::Builder::new().tempdir_in(&deep).unwrap(),
    );
    for file in ["oarlock.toml", "web.wasm"] {
        std::fs::copy(deep.join(file), place.root.path().join(file)).unwrap();
    }
    let running = place.up(&FakeRuntime::new()).await.unwrap();
    assert_eq!(running.client.apps().await.unwrap().len(), 1);
    running.stop().await;
    drop(place);
    drop(old);
}
