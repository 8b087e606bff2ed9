//! The examples, process by process: what each component does in a sandbox with its add-on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oarlock_host::addons::Binding;
use oarlock_sandbox::{Exit, Instance, Output, RunHandle, Stdin};

use crate::bench::{App, Log, addon, program_at, sandbox_of};
use crate::calls::{Answer, call, get, post};

#[path = "../../sdk/templates/mod.rs"]
mod templates;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// The guestbook with its add-on, without a host.
struct Guestbook {
    _data: tempfile::TempDir,
    binding: Binding,
    env: BTreeMap<String, String>,
}

impl Guestbook {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(config: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let app = App::new(data.path());
        let (binding, mut env) = app.release(&[("db", addon("kv"))], config, "web").await;
        env.insert("DYNO".to_owned(), "web.1".to_owned());
        env.insert("OARLOCK_RELEASE".to_owned(), "v1".to_owned());
        Self {
            _data: data,
            binding,
            env,
        }
    }

    async fn set(&self, key: &str, value: &str) {
        self.binding.kv["db"]
            .set(vec![(key.to_owned(), value.as_bytes().to_vec())])
            .await
            .unwrap();
    }

    /// Runs a command to its end.
    async fn job(&self, component: &str) -> (Exit, String) {
        let (running, log) = self.start(component, Stdin::Ended);
        let exit = tokio::time::timeout(LONG, running.1)
            .await
            .expect("it ends")
            .unwrap();
        (exit, log.text())
    }

    fn start(&self, component: &str, stdin: Stdin) -> (Running, Arc<Log>) {
        let program = program_at(&oarlock_tests::example("guestbook", component));
        let (sandbox, log) = sandbox_of(&program, &self.binding, &self.env);
        let run = sandbox.run(stdin, Output::Log, &[]);
        let handle = run.handle();
        (Running(handle, tokio::spawn(run.wait())), log)
    }

    async fn web(&self) -> (Instance, Arc<Log>) {
        let program = program_at(&oarlock_tests::example("guestbook", "web"));
        let (sandbox, log) = sandbox_of(&program, &self.binding, &self.env);
        (sandbox.start().await.unwrap(), log)
    }
}

/// A command under way.
struct Running(RunHandle, tokio::task::JoinHandle<Exit>);

impl Running {
    /// Tells it to stop; how it ended.
    async fn stop(self) -> Exit {
        self.0.stop();
        tokio::time::timeout(LONG, self.1)
            .await
            .expect("it stops when told to")
            .unwrap()
    }
}

async fn until(log: &Log, text: &str) {
    let start = Instant::now();
    while !log.text().contains(text) {
        assert!(start.elapsed() < LONG, "no `{text}` in:\n{}", log.text());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn form(body: &str) -> http::Request<oarlock_sandbox::Body> {
    let mut request = post("/entries", body);
    let kind = "application/x-www-form-urlencoded".parse().unwrap();
    request.headers_mut().insert("content-type", kind);
    request
}

#[tokio::test]
async fn the_release_phase_may_run_again_and_never_goes_backwards() {
    let book = Guestbook::new().await;
    assert_eq!(
        book.job("release").await,
        (Exit::Code(0), "a new book, schema 2".to_owned())
    );
    assert_eq!(
        book.job("release").await,
        (Exit::Code(0), "schema 2 is current".to_owned())
    );
    book.set("schema", "1").await;
    assert_eq!(
        book.job("release").await,
        (Exit::Code(0), "schema 2\nschema 2 is current".to_owned())
    );
    book.set("schema", "3").await;
    let (exit, log) = book.job("release").await;
    assert_eq!(exit, Exit::Code(1), "{log}");
    assert!(
        log.contains("the data has schema 3 and this release knows 2 at most"),
        "{log}"
    );
}

#[tokio::test]
async fn visitors_sign_and_read() {
    let book = Guestbook::with(&[("GREETING", "Hi & welcome")]).await;
    let (web, _) = book.web().await;
    let page = call(&web, get("/")).await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, "text/html; charset=utf-8")
    );
    assert!(
        page.text().contains("Hi &amp; welcome") && page.text().contains("Nobody has signed yet.")
    );
    assert!(page.text().contains("served by web.1 of release v1"));

    let signed = call(
        &web,
        form("name=Ada&text=%3Cscript%3Ealert(1)%3C%2Fscript%3E"),
    )
    .await;
    assert_eq!((signed.status, signed.header("location")), (303, "/"));
    let page = call(&web, get("/")).await;
    assert!(
        page.text()
            .contains("&lt;script&gt;alert(1)&lt;/script&gt;"),
        "{}",
        page.text()
    );

    let refused = call(&web, form("name=%22Bob%22&text=+")).await;
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("Please fill in your message."));
    assert!(
        refused.text().contains("value=\"&quot;Bob&quot;\""),
        "the visitor can correct it"
    );
}

#[tokio::test]
async fn programs_use_the_api() {
    let book = Guestbook::new().await;
    let (web, _) = book.web().await;
    let created = call(
        &web,
        post("/api/entries", r#"{"name":"Ada","text":"Hello"}"#),
    )
    .await;
    assert_eq!(
        (created.status, created.json()["number"].as_u64()),
        (201, Some(1))
    );
    let second = call(&web, post("/api/entries", r#"{"name":"Bob","text":"Hi"}"#)).await;
    assert_eq!(second.json()["number"], 2);

    let list = call(&web, get("/api/entries")).await;
    assert_eq!(list.header("content-type"), "application/json");
    let names: Vec<_> = list.json()["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["name"].clone())
        .collect();
    assert_eq!(names, ["Bob", "Ada"], "newest first");

    for (body, status) in [("not json", 400), (r#"{"name":"","text":"x"}"#, 422)] {
        let refused = call(&web, post("/api/entries", body)).await;
        assert_eq!(
            (refused.status, refused.json()["error"].is_string()),
            (status, true)
        );
    }
    assert_eq!(call(&web, post("/api/digest", "")).await.status, 405);
    assert_eq!(call(&web, get("/elsewhere")).await.status, 404);
}

#[tokio::test]
async fn no_entry_is_lost_when_many_sign_at_once() {
    let book = Guestbook::new().await;
    let (webs, mut signing) = (
        [book.web().await.0, book.web().await.0],
        tokio::task::JoinSet::new(),
    );
    let webs = webs.map(Arc::new);
    for n in 0..20 {
        let web = Arc::clone(&webs[n % 2]);
        signing.spawn(async move {
            let body = format!(r#"{{"name":"visitor {n}","text":"hello"}}"#);
            call(&web, post("/api/entries", &body)).await.json()["number"]
                .as_u64()
                .unwrap()
        });
    }
    let mut numbers = signing.join_all().await;
    numbers.sort_unstable();
    assert_eq!(
        numbers,
        (1..=20).collect::<Vec<_>>(),
        "each has a number of its own, without gaps"
    );
    let list: Answer = call(&webs[0], get("/api/entries")).await;
    assert_eq!(list.json()["entries"].as_array().unwrap().len(), 20);
}

#[tokio::test]
async fn the_worker_indexes_and_stops_when_told_to() {
    let book = Guestbook::new().await;
    let (web, _) = book.web().await;
    call(
        &web,
        post("/api/entries", r#"{"name":"Ada","text":"A rare Word"}"#),
    )
    .await;
    let (worker, log) = book.start("worker", Stdin::OpenUntilStop);
    until(&log, "1 entry indexed").await;

    // While it sleeps between two looks.
    call(
        &web,
        post("/api/entries", r#"{"name":"Bob","text":"nothing"}"#),
    )
    .await;
    until(&log, "1 entry indexed\n1 entry indexed").await;
    let found = call(&web, get("/api/entries?q=word")).await.json();
    assert_eq!(found["entries"].as_array().unwrap().len(), 1);
    assert_eq!(found["entries"][0]["name"], "Ada");

    assert_eq!(worker.stop().await, Exit::Code(0));
    assert!(log.text().ends_with("stopped"), "{}", log.text());
}

#[tokio::test]
async fn the_scheduler_writes_a_digest_and_stops_between_two() {
    let book = Guestbook::new().await;
    let (web, _) = book.web().await;
    call(
        &web,
        post("/api/entries", r#"{"name":"Ada","text":"Hello"}"#),
    )
    .await;
    let (scheduler, log) = book.start("scheduler", Stdin::OpenUntilStop);
    until(&log, "digest: 1 entries, 1 new, 0 indexed").await;
    let start = Instant::now();
    assert_eq!(scheduler.stop().await, Exit::Code(0));
    assert!(
        start.elapsed() < Duration::from_secs(50),
        "it did not wait for the next minute"
    );
    assert_eq!(call(&web, get("/api/digest")).await.json()["written"], 1);
}

#[tokio::test]
async fn the_nightly_job_removes_what_is_too_old() {
    let book = Guestbook::with(&[("KEEP_DAYS", "30")]).await;
    book.set(
        "entry/00000001",
        r#"{"name":"Old","text":"x","at":"2001-01-01T00:00:00Z"}"#,
    )
    .await;
    book.set("last", "1").await;
    let (web, _) = book.web().await;
    call(
        &web,
        post("/api/entries", r#"{"name":"New","text":"Hello"}"#),
    )
    .await;
    let report = "2 entries written so far, 1 older than 30 days removed".to_owned();
    assert_eq!(book.job("nightly").await, (Exit::Code(0), report));
    let left = call(&web, get("/api/entries")).await.json();
    assert_eq!(left["entries"].as_array().unwrap().len(), 1);
    assert_eq!(left["entries"][0]["number"], 2);
}

#[tokio::test]
async fn a_wrong_setting_is_named() {
    let book = Guestbook::with(&[("KEEP_DAYS", "soon")]).await;
    let (exit, log) = book.job("nightly").await;
    assert_eq!(
        (exit, log.as_str()),
        (
            Exit::Code(1),
            "error: config var KEEP_DAYS: invalid digit found in string"
        )
    );
}

#[tokio::test]
async fn the_rust_template_builds_outside_this_repository_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in templates::files(templates::NAMES[0], "my-app").unwrap() {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    assert!(templates::files("cobol", "my-app").is_none());
    // The versions that the guestbook is locked to: what is built is what was tested.
    let lock = oarlock_tests::repository().join("examples/guestbook/Cargo.lock");
    std::fs::copy(lock, folder.path().join("Cargo.lock")).unwrap();
    let components = oarlock_tests::build_components(folder.path());

    let book = Guestbook::with(&[("GREETING", "Hello")]).await;
    let (web, _) = sandbox_of(
        &program_at(&components.join("web.wasm")),
        &book.binding,
        &book.env,
    );
    let web = web.start().await.unwrap();
    assert_eq!(
        call(&web, get("/")).await.text(),
        "Hello from my-app, visitor 1\n"
    );
    let (worker, log) = sandbox_of(
        &program_at(&components.join("worker.wasm")),
        &book.binding,
        &book.env,
    );
    let run = worker.run(Stdin::OpenUntilStop, Output::Log, &[]);
    let running = Running(run.handle(), tokio::spawn(run.wait()));
    until(&log, "1 visits").await;
    assert_eq!(running.stop().await, Exit::Code(0));
}

/// Whoever adds a file to the SDK must add it to the template's list, or new apps do not build.
#[test]
fn the_template_brings_the_whole_sdk() {
    let files = templates::files("rust", "x").unwrap();
    let source = oarlock_tests::repository().join("sdk/rust/src");
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let wanted = format!(
                "vendor/oarlock-sdk/src/{}",
                path.strip_prefix(&source).unwrap().display()
            );
            assert!(
                files.iter().any(|(path, _)| *path == wanted),
                "{wanted} is missing in sdk/templates/mod.rs"
            );
        }
    }
}
