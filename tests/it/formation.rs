//! Formation over the in-process host and real guests.

use std::collections::{BTreeMap, BTreeSet};
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use oarlock_host::apply::{Applied, ApplyError, Component, Desired, ReleasePhase, Slug, dynos_of};
use oarlock_host::dynos::{OneOffError, OneOffExit, OneOffRequest};
use oarlock_host::logs::LogFilter;
use oarlock_host::{ChangeError, Host, HostConfig, HostError};
use oarlock_spec::api::{DynoState, Formation, LogSource};
use oarlock_spec::manifest;
use oarlock_spec::names::{AppName, ReleaseId};

/// What takes longer than this has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// Stages a release and commits it.
async fn apply(host: &Host, desired: Desired) -> Result<Applied, ApplyError> {
    host.stage(desired, slug()).await?.commit().await
}

struct TestHost {
    host: Host,
    url: String,
    app: AppName,
    manifest: String,
    release: u64,
    config: BTreeMap<String, String>,
    formation: Formation,
    _data: tempfile::TempDir,
}

impl TestHost {
    /// A host that listens, with nothing on it.
    async fn empty(processes: &str) -> Self {
        Self::empty_with(processes, |_| {}).await
    }

    async fn empty_with(processes: &str, configure: impl FnOnce(&mut HostConfig)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut config = config_in(data.path());
        configure(&mut config);
        let host = Host::start(config).unwrap();
        let address = host.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        Self {
            host,
            url: format!("http://{address}"),
            app: "shop".parse().unwrap(),
            manifest: format!("app = \"shop\"\n{processes}"),
            release: 0,
            config: BTreeMap::new(),
            formation: Formation::new(),
            _data: data,
        }
    }

    /// With the first release up.
    async fn new(processes: &str) -> Self {
        let mut test = Self::empty(processes).await;
        test.release().await.unwrap();
        test
    }

    async fn release(&mut self) -> Result<Applied, ApplyError> {
        self.release += 1;
        let desired = self.desired();
        let applied = apply(&self.host, desired).await;
        if applied.is_ok() {
            self.formation = self.host.formation(&self.app).await.unwrap();
        }
        applied
    }

    fn desired(&self) -> Desired {
        let manifest = manifest::parse(&self.manifest, &manifest::Options::default()).unwrap();
        let mut formation = manifest.initial_scale();
        formation.extend(self.formation.clone());
        Desired {
            release: ReleaseId(self.release),
            slug: slug().id,
            config: self.config.clone(),
            formation: dynos_of(&formation),
            release_phase: ReleasePhase::Run,
            manifest,
        }
    }

    async fn scale(&mut self, process: &str, count: u32) {
        let change = Formation::from([(process.parse().unwrap(), count)]);
        self.formation = self.host.scale(&self.app, change).await.unwrap();
    }

    async fn get(&self, path: &str) -> (u16, Option<String>, String) {
        get(&format!("{}{path}", self.url), &self.app).await
    }

    /// The dynos that are up, as `web.1`.
    async fn up(&self) -> Vec<String> {
        let rows = self.host.dynos(&self.app).await.unwrap();
        rows.iter()
            .filter(|row| row.state == DynoState::Up)
            .map(|row| row.dyno.to_string())
            .collect()
    }

    async fn until_up(&self, dynos: &[&str]) {
        self.until(&format!("{dynos:?} are all dynos"), async || {
            let rows = self.host.dynos(&self.app).await.unwrap();
            rows.len() == dynos.len() && self.up().await == dynos
        })
        .await;
    }

    async fn until_up_of_release(&self, release: u64, dynos: &[&str]) {
        self.until(
            &format!("{dynos:?} of v{release} are all dynos"),
            async || {
                let rows = self.host.dynos(&self.app).await.unwrap();
                let of = rows
                    .iter()
                    .filter(|row| row.release == ReleaseId(release) && row.state == DynoState::Up);
                of.map(|row| row.dyno.to_string()).eq(dynos.iter().copied())
            },
        )
        .await;
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let start = Instant::now();
        while !holds().await {
            assert!(
                start.elapsed() < LIMIT,
                "{what}: not within {LIMIT:?}\n{}",
                self.log_text()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lines of a source about a dyno or type.
    fn lines(&self, source: LogSource, dyno: &str) -> Vec<String> {
        let filter = LogFilter {
            dyno: Some(dyno.into()),
            source: Some(source),
        };
        self.host
            .log(&self.app)
            .tail(10_000, &filter)
            .into_iter()
            .map(|line| line.message)
            .collect()
    }

    fn log_text(&self) -> String {
        let lines = self.host.log(&self.app).tail(200, &LogFilter::default());
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    async fn run(
        &self,
        command: &str,
        args: &[&str],
        stdin: &'static [u8],
    ) -> Result<(OneOffExit, String, String), OneOffError> {
        let (stdout, mut out) = tokio::sync::mpsc::channel::<Bytes>(16);
        let (stderr, mut err) = tokio::sync::mpsc::channel::<Bytes>(16);
        let args = args.iter().map(ToString::to_string).collect();
        let request = OneOffRequest {
            command: command.into(),
            args,
            stdin: Box::pin(stdin),
            stdout,
            stderr,
        };
        let mut one_off = self.host.run(&self.app, request).await?;
        assert_eq!(one_off.dyno.process.as_str(), "run");
        let collect = async |from: &mut tokio::sync::mpsc::Receiver<Bytes>| {
            let mut text = Vec::new();
            while let Some(bytes) = from.recv().await {
                text.extend_from_slice(&bytes);
            }
            String::from_utf8(text).unwrap()
        };
        let all = async { tokio::join!(one_off.wait(), collect(&mut out), collect(&mut err)) };
        Ok(tokio::time::timeout(LIMIT, all).await.unwrap())
    }
}

fn config_in(data: &std::path::Path) -> HostConfig {
    HostConfig {
        cores: Some(2),
        instances: Some(100),
        ..HostConfig::new(data)
    }
}

fn slug() -> Slug {
    let component =
        |name: &str| Component::Bytes(std::fs::read(oarlock_tests::guest(name)).unwrap().into());
    let components = BTreeMap::from([
        ("web.wasm".to_owned(), component("formation-web")),
        ("worker.wasm".to_owned(), component("formation-worker")),
    ]);
    Slug {
        id: "0".repeat(64).parse().unwrap(),
        components,
        files: None,
    }
}

async fn get(url: &str, app: &AppName) -> (u16, Option<String>, String) {
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<Empty<Bytes>>();
    let request = http::Request::get(url).header("host", format!("{app}.localhost"));
    let request = request.body(Empty::new()).unwrap();
    let answer = tokio::time::timeout(LIMIT, client.request(request))
        .await
        .unwrap()
        .unwrap();
    let status = answer.status().as_u16();
    let code = answer
        .headers()
        .get("oarlock-error")
        .map(|code| code.to_str().unwrap().to_owned());
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, code, String::from_utf8(body.to_vec()).unwrap())
}

const WEB: &str = "[processes]\nweb = \"web.wasm\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_web_dynos_answer_as_three_and_scale_ends_exactly_one() {
    let mut t = TestHost::new(&format!(
        "{WEB}[scale]\nweb = 3\n[limits.web]\nisolation = \"dyno\"\n"
    ))
    .await;
    t.until_up(&["web.1", "web.2", "web.3"]).await;
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..200 {
        let (status, _, text) = t.get("/").await;
        assert_eq!(status, 200);
        let words: Vec<&str> = text.split(' ').collect();
        // Each keeps its own counter in memory.
        let count = seen.entry(words[0].to_owned()).or_default();
        *count += 1;
        assert_eq!((words[1], words[2]), ("v1", count.to_string().as_str()));
    }
    assert_eq!(
        seen.keys().map(String::as_str).collect::<Vec<_>>(),
        ["web.1", "web.2", "web.3"]
    );
    t.scale("web", 2).await;
    t.until_up(&["web.1", "web.2"]).await;
    t.scale("web", 4).await;
    t.until_up(&["web.1", "web.2", "web.3", "web.4"]).await;
    // The first ones are still those that were there.
    let mut counts = BTreeSet::new();
    for _ in 0..8 {
        counts.insert(t.get("/").await.2);
    }
    assert!(
        counts
            .iter()
            .any(|text| text.split(' ').next_back().unwrap().parse::<u32>().unwrap() > 20),
        "{counts:?}"
    );
    t.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_0_answers_h14_and_web_1_serves_again() {
    let mut t = TestHost::new(WEB).await;
    assert_eq!(t.get("/").await.2, "web.1 v1 1");
    assert_eq!(
        t.get("/").await.2,
        "web.1 v1 1",
        "a fresh instance per request"
    );
    t.scale("web", 0).await;
    let (status, code, _) = t.get("/").await;
    assert_eq!((status, code.as_deref()), (503, Some("H14")));
    t.scale("web", 1).await;
    assert_eq!(t.get("/").await.0, 200);
    let wrong = t
        .host
        .scale(&t.app, Formation::from([("nothing".parse().unwrap(), 1)]))
        .await
        .unwrap_err();
    assert!(wrong.to_string().contains("it has: web"), "{wrong}");
    let nobody: AppName = "nobody".parse().unwrap();
    let wrong = t.host.scale(&nobody, Formation::new()).await.unwrap_err();
    assert_eq!(wrong, ChangeError::UnknownApp(nobody));
    let wrong = t.host.restart(&t.app, Some("wep.1")).await.unwrap_err();
    assert!(
        matches!(wrong, ChangeError::UnknownTarget { .. }),
        "{wrong}"
    );
    t.host.shutdown().await;
    t.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_is_what_was_given_and_nothing_else() {
    let mut t = TestHost::empty(WEB).await;
    t.config.insert("GREETING".into(), "hello".into());
    t.release().await.unwrap();
    let (_, _, text) = t.get("/env").await;
    let vars: BTreeSet<&str> = text.lines().collect();
    assert_eq!(
        vars,
        BTreeSet::from([
            "DYNO=web.1",
            "GREETING=hello",
            "OARLOCK_APP=shop",
            "OARLOCK_RELEASE=v1"
        ])
    );
    t.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trapped_instance_is_replaced_at_once() {
    let t = TestHost::new(&format!("{WEB}[limits.web]\nisolation = \"dyno\"\n")).await;
    let (status, code, _) = t.get("/trap").await;
    assert_eq!((status, code.as_deref()), (503, Some("H13")));
    assert_eq!(t.get("/").await, (200, None, "web.1 v1 1".into()));
    let log = t.lines(LogSource::Oarlock, "web.1");
    assert!(
        log.contains(&"State changed from up to crashed".to_owned()),
        "{log:?}"
    );
    assert!(
        log.contains(&"Process exited with status 134".to_owned()),
        "{log:?}"
    );
    t.host.shutdown().await;
}

const WORKERS: &str = "[processes]\nweb = \"web.wasm\"\nworker = \"worker.wasm\"\n\
    clock = { run = \"worker.wasm\", singleton = true }\n";

/// `begin` and `end` lines of the singleton, in the order of their own clocks: none overlaps.
fn assert_no_overlap(lines: &[String]) -> usize {
    let mut events: Vec<(u128, bool)> = lines
        .iter()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            (words[1].parse().unwrap(), words[0] == "begin")
        })
        .collect();
    events.sort_unstable();
    for pair in events.windows(2) {
        assert_ne!(
            pair[0].1, pair[1].1,
            "two at once, or one without an end: {events:?}"
        );
    }
    events.iter().filter(|(_, begin)| *begin).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_singleton_never_overlaps_across_restarts_and_releases() {
    let mut t = TestHost::new(WORKERS).await;
    for round in 0..20 {
        if round % 2 == 0 {
            let restarted = t.host.restart(&t.app, Some("clock")).await.unwrap();
            assert_eq!(
                restarted
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>(),
                ["clock.1"]
            );
        } else {
            t.release().await.unwrap();
        }
    }
    t.until_up(&["clock.1", "web.1", "worker.1"]).await;
    let lines = t.lines(LogSource::App, "clock.1");
    assert_eq!(assert_no_overlap(&lines), 21, "{lines:?}");
    // The worker went on beside its successor: it was told to stop, and ended well.
    assert!(
        t.lines(LogSource::App, "worker.1")
            .iter()
            .filter(|line| line.starts_with("end"))
            .count()
            >= 10
    );
    t.host.shutdown().await;
    assert!(!t.log_text().contains("R12"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_ignores_stopping_is_ended_with_r12() {
    let mut t = TestHost::new(
        "[processes]\nworker = \"worker.wasm ignore\"\n[limits.default]\nstop_grace = \"200ms\"\n",
    )
    .await;
    t.until_up(&["worker.1"]).await;
    let start = Instant::now();
    t.scale("worker", 0).await;
    t.until_up(&[]).await;
    assert!(start.elapsed() < Duration::from_secs(2));
    let log = t.lines(LogSource::Oarlock, "worker.1");
    assert!(
        log.iter()
            .any(|line| line.starts_with("Error R12 (Exit timeout)")),
        "{log:?}"
    );
    t.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_exits_is_started_again() {
    let t = TestHost::new("[processes]\nworker = \"worker.wasm later 1\"\n").await;
    t.until("it was restarted twice", async || {
        let rows = t.host.dynos(&t.app).await.unwrap();
        rows.iter().any(|row| row.restarts >= 2)
    })
    .await;
    t.until("it waits in state crashed", async || {
        let rows = t.host.dynos(&t.app).await.unwrap();
        rows.iter().any(|row| row.state == DynoState::Crashed)
    })
    .await;
    let log = t.lines(LogSource::Oarlock, "worker.1");
    assert!(
        log.contains(&"Starting process with command `worker.wasm later 1`".to_owned()),
        "{log:?}"
    );
    assert!(
        log.contains(&"State changed from starting to up".to_owned()),
        "{log:?}"
    );
    assert!(
        log.contains(&"Process exited with status 1".to_owned()),
        "{log:?}"
    );
    t.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_phase_that_fails_keeps_the_old_release() {
    let mut t =
        TestHost::new("[processes]\nweb = \"web.wasm\"\nrelease = \"worker.wasm args migrated\"\n")
            .await;
    assert!(
        t.lines(LogSource::App, "release")
            .contains(&"migrated".to_owned())
    );
    t.manifest = t.manifest.replace("args migrated", "exit 1");
    let failed = t.release().await.unwrap_err();
    assert!(
        matches!(&failed, ApplyError::ReleasePhase { code: Some(1), .. }),
        "{failed}"
    );
    assert_eq!(t.get("/").await.2, "web.1 v1 1");
    t.manifest = t.manifest.replace("exit 1", "trap");
    let failed = t.release().await.unwrap_err();
    assert!(
        matches!(&failed, ApplyError::ReleasePhase { code: None, .. }),
        "{failed}"
    );
    t.manifest = t.manifest.replace("trap", "args again");
    t.release().await.unwrap();
    assert_eq!(t.get("/").await.2, "web.1 v4 1");
    t.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_does_not_boot_keeps_the_old_one_singletons_included() {
    let mut t = TestHost::new(WORKERS).await;
    let good = t.manifest.clone();
    for process in ["run = \"worker.wasm", "worker = \"worker.wasm"] {
        t.manifest = good.replace(process, &format!("{process} trap"));
        let failed = t.release().await.unwrap_err();
        assert!(matches!(&failed, ApplyError::Boot { .. }), "{failed}");
        t.until_up(&["clock.1", "web.1", "worker.1"]).await;
        let rows = t.host.dynos(&t.app).await.unwrap();
        assert!(
            rows.iter().all(|row| row.release == ReleaseId(1)),
            "{rows:?}"
        );
        assert_eq!(t.get("/").await.2, "web.1 v1 1");
    }
    t.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_kind_of_component_is_refused() {
    let mut t = TestHost::empty("[processes]\nworker = \"web.wasm\"\n").await;
    assert!(
        matches!(t.release().await.unwrap_err(), ApplyError::WrongKind { process, .. } if process.as_str() == "worker")
    );
    t.manifest = "app = \"shop\"\n[processes]\nworker = \"none.wasm\"\n".into();
    assert!(matches!(
        t.release().await.unwrap_err(),
        ApplyError::Unreadable { .. }
    ));
    t.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_are_loaded_once() {
    let mut t = TestHost::empty(WORKERS).await;
    let first = t.release().await.unwrap();
    assert_eq!((first.compiled, first.cached), (2, 0));
    let second = t.release().await.unwrap();
    assert_eq!(
        (second.release, second.compiled, second.cached),
        (ReleaseId(2), 0, 2)
    );
    t.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_off_dynos_have_streams_and_codes_of_their_own() {
    let t = TestHost::new(WORKERS).await;
    let exit = |code| OneOffExit {
        code,
        message: String::new(),
    };
    let (end, out, err) = t.run("worker.wasm", &["cat"], b"one two").await.unwrap();
    assert_eq!(
        (end, out.as_str(), err.as_str()),
        (exit(0), "one two", "7 bytes\n")
    );
    let (end, out, _) = t.run("worker", &["args", "a", "b"], b"").await.unwrap();
    assert_eq!((end, out.as_str()), (exit(0), "a,b\n"));
    assert_eq!(
        t.run("worker", &["exit", "1"], b"").await.unwrap().0,
        exit(1)
    );
    let (end, ..) = t.run("worker", &["trap"], b"").await.unwrap();
    assert_eq!(end.code, 134);
    assert!(matches!(
        t.run("web", &[], b"").await,
        Err(OneOffError::NotACommand { .. })
    ));
    assert!(
        matches!(t.run("nothing", &[], b"").await, Err(OneOffError::UnknownCommand { known, .. }) if known.len() == 5)
    );
    t.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_one_off_ends() {
    let t = TestHost::new(
        "[processes]\nworker = \"worker.wasm ignore\"\n[limits.default]\nstop_grace = \"100ms\"\n",
    )
    .await;
    let (stdout, _out) = tokio::sync::mpsc::channel(16);
    let (stderr, _err) = tokio::sync::mpsc::channel(16);
    let stdin = Box::pin(tokio::io::empty());
    let request = OneOffRequest {
        command: "worker".into(),
        args: vec![],
        stdin,
        stdout,
        stderr,
    };
    let one_off = t.host.run(&t.app, request).await.unwrap();
    let name = one_off.dyno.to_string();
    t.until("it is shown", async || t.up().await.contains(&name))
        .await;
    drop(one_off);
    t.until("it is gone", async || t.up().await == ["worker.1"])
        .await;
    t.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_applies_at_once_run_one_after_the_other() {
    let mut t = TestHost::new(WORKERS).await;
    t.release = 2;
    let second = t.desired();
    t.release = 3;
    let third = t.desired();
    let (a, b) = tokio::join!(apply(&t.host, second), apply(&t.host, third));
    assert_eq!(
        (a.unwrap().release, b.unwrap().release),
        (ReleaseId(2), ReleaseId(3))
    );
    t.until_up(&["clock.1", "web.1", "worker.1"]).await;
    assert_no_overlap(&t.lines(LogSource::App, "clock.1"));
    t.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_staged_release_serves_once_it_is_committed_and_a_dropped_one_never() {
    let mut t = TestHost::new(WORKERS).await;
    t.release = 2;
    let staged = t.host.stage(t.desired(), slug()).await.unwrap();
    assert_eq!(staged.applied().release, ReleaseId(2));
    assert_eq!(t.get("/").await.2, "web.1 v1 1");
    // Its singleton runs already, in the place of the old one.
    t.until("the singleton was exchanged", async || {
        let rows = t.host.dynos(&t.app).await.unwrap();
        rows.iter().any(|row| {
            row.dyno.to_string() == "clock.1"
                && row.release == ReleaseId(2)
                && row.state == DynoState::Up
        })
    })
    .await;
    drop(staged);
    t.until_up(&["clock.1", "web.1", "worker.1"]).await;
    let rows = t.host.dynos(&t.app).await.unwrap();
    assert!(
        rows.iter().all(|row| row.release == ReleaseId(1)),
        "{rows:?}"
    );
    assert_eq!(t.get("/").await.2, "web.1 v1 1");
    // The next one is staged after it, and what is scaled while it is staged holds for it.
    t.release = 3;
    let staged = t.host.stage(t.desired(), slug()).await.unwrap();
    let (host, app) = (t.host.clone(), t.app.clone());
    let two = Formation::from([("worker".parse().unwrap(), 2)]);
    let scaling = tokio::spawn(async move { host.scale(&app, two).await });
    assert_eq!(staged.commit().await.unwrap().release, ReleaseId(3));
    scaling.await.unwrap().unwrap();
    t.until_up(&["clock.1", "web.1", "worker.1", "worker.2"])
        .await;
    assert_eq!(t.get("/").await.2, "web.1 v3 1");
    t.formation = t.host.formation(&t.app).await.unwrap();
    // A future that is dropped at any moment leaves what served.
    for millis in [0, 1, 5, 20, 60, 200] {
        t.release += 1;
        let stage = t.host.stage(t.desired(), slug()).into_future();
        let dropped = tokio::time::timeout(Duration::from_millis(millis), stage).await;
        drop(dropped);
        t.until_up(&["clock.1", "web.1", "worker.1", "worker.2"])
            .await;
        assert_eq!(t.get("/").await.2, "web.1 v3 1");
        let rows = t.host.dynos(&t.app).await.unwrap();
        assert!(
            rows.iter().all(|row| row.release == ReleaseId(3)),
            "{rows:?}"
        );
    }
    assert_no_overlap(&t.lines(LogSource::App, "clock.1"));
    // What is staged when the host ends, ends with it.
    t.release += 1;
    let staged = t.host.stage(t.desired(), slug()).await.unwrap();
    t.host.shutdown().await;
    let late = staged.commit().await.unwrap_err();
    assert!(matches!(late, ApplyError::ShuttingDown), "{late}");
    let late = t.host.restart(&t.app, None).await.unwrap_err();
    assert_eq!(late, ChangeError::ShuttingDown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_scaled_during_a_release_phase_holds_for_the_release() {
    let processes = "[processes]\nweb = \"web.wasm\"\nworker = \"worker.wasm ignore\"\nrelease = \"worker.wasm ignore\"\n\
                     [limits.default]\nstop_grace = \"100ms\"\n";
    let mut t = TestHost::empty(processes).await;
    let mut first = t.desired();
    first.release_phase = ReleasePhase::Done;
    first.release = ReleaseId(1);
    apply(&t.host, first).await.unwrap();
    t.release = 2;
    let noted = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let note = noted.clone();
    let stage = t
        .host
        .stage(t.desired(), slug())
        .after_release_phase(async move {
            note.store(true, std::sync::atomic::Ordering::SeqCst);
            Ok(())
        });
    let staging = tokio::spawn(stage.into_future());
    let running = async || {
        let rows = t.host.dynos(&t.app).await.unwrap();
        rows.iter()
            .any(|row| row.process.as_str() == "release" && row.state == DynoState::Up)
    };
    t.until("the release phase runs", running).await;
    let two = Formation::from([("worker".parse().unwrap(), 2)]);
    let answered = t.host.scale(&t.app, two.clone()).await.unwrap();
    assert_eq!(answered["worker"], 2);
    // Its end: it ignores the stop signal, and the phase has failed.
    assert!(!staging.is_finished());
    staging.abort();
    t.until_up_of_release(1, &["web.1", "worker.1", "worker.2"])
        .await;
    assert!(!noted.load(std::sync::atomic::Ordering::SeqCst));
    t.host.shutdown().await;
}

/// It was checked beside the release that ran: the new one has other process types.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_scaled_during_a_release_phase_stays_below_the_operators_cap() {
    let only = |config: &mut HostConfig| config.policy.app_caps.dynos = Some(3);
    let mut t = TestHost::empty_with("[processes]\nweb = \"web.wasm\"\n", only).await;
    t.release().await.unwrap();
    t.manifest = "app = \"shop\"\n[processes]\nweb = \"web.wasm\"\nworker = \"worker.wasm ignore\"\n\
                  release = \"worker.wasm later 0\"\n[scale]\nworker = 2\n[limits.default]\nstop_grace = \"100ms\"\n"
        .to_owned();
    let web = |count| Formation::from([("web".parse().unwrap(), count)]);
    // The phase takes 300 ms: on a busy machine it may be over before the scale comes.
    for attempt in 2.. {
        assert!(attempt < 12, "no scale came during a release phase");
        t.release = attempt;
        t.host.scale(&t.app, web(1)).await.unwrap();
        let mut staging = tokio::spawn(t.host.stage(t.desired(), slug()).into_future());
        t.until("the release phase runs", async || {
            let rows = t.host.dynos(&t.app).await.unwrap();
            staging.is_finished() || rows.iter().any(|row| row.process.as_str() == "release")
        })
        .await;
        let scaled = tokio::time::timeout(Duration::from_millis(200), t.host.scale(&t.app, web(3)));
        // Staged already: the scale waits, and is dropped with it.
        if !scaled.await.is_ok_and(|scaled| scaled.is_ok()) {
            drop((&mut staging).await.unwrap());
            continue;
        }
        match staging.await.unwrap() {
            Err(ApplyError::Cap(refused)) => {
                assert!(refused.to_string().contains("dynos"), "{refused}");
                break;
            }
            Err(other) => panic!("{other}"),
            Ok(_staged) => {}
        }
    }
    t.until_up(&["web.1", "web.2", "web.3"]).await;
    // Asked for by two at once, the end is one and whole.
    tokio::join!(t.host.shutdown(), t.host.shutdown());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slug_of_another_name_and_a_folder_of_another_host_are_refused() {
    let t = TestHost::new(WORKERS).await;
    let other = Slug {
        id: "1".repeat(64).parse().unwrap(),
        ..slug()
    };
    let refused = t.host.stage(t.desired(), other).await.err().unwrap();
    assert!(matches!(refused, ApplyError::WrongSlug { .. }), "{refused}");
    // Desired is a value.
    let text = serde_json::to_string(&t.desired()).unwrap();
    assert!(serde_json::from_str::<Desired>(&text).unwrap() == t.desired());

    let second = Host::start(config_in(t._data.path())).err().unwrap();
    assert!(matches!(second, HostError::InUse { .. }), "{second}");
    assert!(second.to_string().contains("in use by another host"));
    t.host.shutdown().await;
    let after = Host::start(config_in(t._data.path())).unwrap();
    after.shutdown().await;
}

/// A name that is removed and added at once never has two apps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_is_added_while_it_is_removed_comes_after_it() {
    let mut t = TestHost::new(
        "[processes]\nweb = \"web.wasm\"\nclock = { run = \"worker.wasm ignore\", singleton = true }\n\
         [limits.clock]\nstop_grace = \"300ms\"\n",
    )
    .await;
    for _ in 0..5 {
        t.release += 1;
        let desired = t.desired();
        let mut events = t.host.events();
        let (_, added) = tokio::join!(t.host.remove(&t.app), async {
            tokio::task::yield_now().await;
            apply(&t.host, desired).await
        });
        added.unwrap();
        // Either it was added after the other one had gone, or it was the next release of the one that went.
        if t.host.dynos(&t.app).await.is_none() {
            t.release += 1;
            apply(&t.host, t.desired()).await.unwrap();
        }
        let answer = format!("web.1 v{} 1", t.release);
        assert_eq!(t.get("/").await.2, answer);
        t.until("the request's line is in the log", async || {
            !t.lines(LogSource::Oarlock, "router").is_empty()
        })
        .await;
        let mut clocks = 0_i32;
        while let Ok(Some(event)) =
            tokio::time::timeout(Duration::from_millis(20), events.next()).await
        {
            if let oarlock_host::events::Event::Dyno(dyno) = event
                && dyno.dyno.to_string() == "clock.1"
            {
                match dyno.to {
                    DynoState::Starting => clocks += 1,
                    DynoState::Finished | DynoState::Crashed => clocks -= 1,
                    _ => {}
                }
                // One from before the first event.
                assert!(clocks <= 0, "two singletons at once");
            }
        }
    }
    t.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_turn_of_an_app_that_is_removed_opens_the_next_one() {
    let mut t = TestHost::new(WORKERS).await;
    let mut events = t.host.events();
    t.release = 2;
    let staged = t.host.stage(t.desired(), slug()).await.unwrap();
    t.release = 3;
    let (host, desired) = (t.host.clone(), t.desired());
    let waiting = tokio::spawn(async move { apply(&host, desired).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    t.host.remove(&t.app).await;
    assert!(!waiting.is_finished());
    let late = staged.commit().await.unwrap_err();
    assert!(matches!(late, ApplyError::ShuttingDown), "{late}");
    assert_eq!(waiting.await.unwrap().unwrap().release, ReleaseId(3));
    assert_eq!(t.get("/").await.2, "web.1 v3 1");
    // A staged release that is dropped is told of once.
    t.release = 4;
    drop(t.host.stage(t.desired(), slug()).await.unwrap());
    t.release = 5;
    apply(&t.host, t.desired()).await.unwrap();
    t.host.shutdown().await;
    let mut told = Vec::new();
    while let Some(event) = events.next().await {
        use oarlock_host::events::Event;
        told.push(match event {
            Event::AppAdded { release, .. } => format!("added {release}"),
            Event::AppReleased { release, .. } => format!("released {release}"),
            Event::ReleaseFailed { release, .. } => format!("failed {release}"),
            Event::AppRemoved { .. } => "removed".to_owned(),
            _ => continue,
        });
    }
    assert_eq!(told, ["removed", "added v3", "failed v4", "released v5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_of_changes_is_busy() {
    let mut t = TestHost::new(
        "[processes]\nworker = \"worker.wasm ignore\"\n[limits.default]\nstop_grace = \"10s\"\n",
    )
    .await;
    t.release = 2;
    // The staged release holds all other changes back.
    let staged = t.host.stage(t.desired(), slug()).await.unwrap();
    let restarts: Vec<_> = (0..40)
        .map(|_| {
            let (host, app) = (t.host.clone(), t.app.clone());
            tokio::spawn(async move { host.restart(&app, Some("none")).await })
        })
        .collect();
    t.until("some were refused", async || {
        restarts
            .iter()
            .filter(|restart| restart.is_finished())
            .count()
            >= 8
    })
    .await;
    staged.commit().await.unwrap();
    let mut busy = 0;
    for restart in restarts {
        match restart.await.unwrap().unwrap_err() {
            ChangeError::Busy { waiting } => busy += usize::from(waiting == 32),
            ChangeError::UnknownTarget { target, .. } => assert_eq!(target, "none"),
            other => panic!("{other}"),
        }
    }
    assert_eq!(busy, 8);
    t.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_app_is_gone_and_may_come_back() {
    let mut t = TestHost::new(WORKERS).await;
    t.host.remove(&t.app).await;
    assert!(t.host.dynos(&t.app).await.is_none());
    t.release().await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(t.get("/").await.2, "web.1 v2 1");
    t.host.shutdown().await;
}

/// A clock that stands still until a test moves it.
struct StoppedClock {
    now: tokio::sync::watch::Sender<jiff::Timestamp>,
}

impl oarlock_host::dynos::Clock for StoppedClock {
    fn now(&self) -> jiff::Timestamp {
        *self.now.borrow()
    }
    fn sleep_until(
        &self,
        deadline: jiff::Timestamp,
    ) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let mut now = self.now.subscribe();
        Box::pin(async move {
            now.wait_for(|now| *now >= deadline).await.unwrap();
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scheduled_processes_go_by_the_clock_across_a_daylight_saving_change() {
    let data = tempfile::tempdir().unwrap();
    // Berlin skips 02:00 to 03:00 on 28 March 2027, at 01:00 UTC.
    let start: jiff::Timestamp = "2027-03-28T00:00:00Z".parse().unwrap();
    let clock = Arc::new(StoppedClock {
        now: tokio::sync::watch::Sender::new(start),
    });
    let host = Host::start_with_clock(config_in(data.path()), clock.clone()).unwrap();
    let app: AppName = "shop".parse().unwrap();
    let manifest = manifest::parse(
        "app = \"shop\"\n[processes]\n\
         nightly = { run = \"worker.wasm args ran\", schedule = \"30 2 * * *\", timezone = \"Europe/Berlin\" }\n\
         slow = { run = \"worker.wasm ignore\", schedule = \"*/20 3 * * *\", timezone = \"Europe/Berlin\" }\n\
         [limits.slow]\nstop_grace = \"100ms\"\n",
        &manifest::Options::default(),
    )
    .unwrap();
    let desired = Desired {
        release: ReleaseId(1),
        slug: slug().id,
        config: BTreeMap::new(),
        formation: BTreeSet::new(),
        release_phase: ReleasePhase::Done,
        manifest,
    };
    apply(&host, desired.clone()).await.unwrap();
    let log = host.log(&app);
    // Lines that begin so: the one that says which command is started does not.
    let lines = |dyno: &str, text: &str| {
        let filter = LogFilter {
            dyno: Some(dyno.into()),
            source: None,
        };
        let lines = log.tail(10_000, &filter);
        lines
            .iter()
            .filter(|line| line.message.starts_with(text))
            .count()
    };
    let until = async |what: &str, dyno: &str, text: &str, count: usize| {
        let start = Instant::now();
        while lines(dyno, text) != count {
            assert!(
                start.elapsed() < LIMIT,
                "{what}: {:?}",
                log.tail(100, &LogFilter::default())
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let at = |text: &str| {
        clock.now.send_replace(text.parse().unwrap());
    };
    at("2027-03-28T00:59:59Z");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(lines("nightly", "ran"), 0);
    at("2027-03-28T01:00:00Z");
    until("the skipped hour runs right after it", "nightly", "ran", 1).await;
    until("and so does 03:00", "slow", "begin", 1).await;
    at("2027-03-28T01:20:00Z");
    until(
        "a run still going makes the next be skipped",
        "scheduler",
        "The run of `slow`",
        1,
    )
    .await;
    assert_eq!(lines("slow", "begin"), 1);
    host.shutdown().await;
    assert_eq!(lines("slow", "Error R12"), 1);
    // A later host tells what was missed, and does not run it.
    at("2027-03-30T12:00:00Z");
    let host = Host::start_with_clock(config_in(data.path()), clock.clone()).unwrap();
    apply(&host, desired).await.unwrap();
    let log = host.log(&app);
    let start = Instant::now();
    while !log
        .tail(100, &LogFilter::default())
        .iter()
        .any(|line| line.message.starts_with("2 runs of `nightly` were missed"))
    {
        assert!(
            start.elapsed() < LIMIT,
            "{:?}",
            log.tail(100, &LogFilter::default())
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    host.shutdown().await;
}
