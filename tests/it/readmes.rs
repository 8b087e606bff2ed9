//! What the documents say. The commands of the examples' READMEs are run word for word, in the shells that people have, and
//! print what is shown. Links lead somewhere.
//!
//! In such a README a block of `sh` is run. A block of `text` after it is what it prints; times may differ. The first block starts
//! the example: the test does that itself, on a port of its own, which takes the place of `127.0.0.1:8080` in the other blocks.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oarlock_tests::app::{App, PATIENCE, Running, cache_home};
use oarlock_tests::{build_components, need_program, repository};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::oneshot;

/// zsh takes `?` and `*` in words for patterns, and fails where a file matches none.
const SHELLS: [(&str, &[&str]); 2] = [("sh", &["-e", "-c"]), ("zsh", &["-f", "-e", "-c"])];

/// How long a command that does not end by itself has to fail.
const A_MOMENT: Duration = Duration::from_secs(2);

/// A block of commands, and what they print, if the README shows it.
struct Step {
    commands: String,
    shows: Option<String>,
}

impl Step {
    /// It goes on until its reader has seen enough.
    fn follows(&self) -> bool {
        self.commands.starts_with("curl -N ")
    }

    /// It waits for something that takes longer on a busy machine. It may be run again.
    fn waits(&self) -> bool {
        self.commands.starts_with("sleep ")
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The fenced blocks of a page: their languages and texts.
fn blocks(page: &str) -> Vec<(&str, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((language, block.join("\n")));
        }
    }
    blocks
}

/// How the example is started, and the steps after that.
fn steps(example: &str) -> (String, Vec<Step>) {
    let readme = read(
        &repository()
            .join("examples")
            .join(example)
            .join("README.md"),
    );
    let mut steps: Vec<Step> = Vec::new();
    for (language, text) in blocks(&readme) {
        match language {
            "sh" => steps.push(Step {
                commands: text,
                shows: None,
            }),
            "text" => {
                let step = steps.last_mut().expect("what prints this comes before it");
                assert!(step.shows.is_none(), "two outputs of:\n{}", step.commands);
                step.shows = Some(text);
            }
            other => panic!("{example}: a block of `{other}` is neither run nor compared"),
        }
    }
    for step in &steps {
        // In a terminal zsh passes them on as arguments.
        let has_comment = step.commands.contains('#');
        assert!(!has_comment, "a comment in:\n{}", step.commands);
    }
    let start = steps.remove(0);
    assert!(!steps.is_empty(), "{example}: nothing is tried");
    (start.commands, steps)
}

/// The text without its times, which have to be times.
fn masked(text: &str) -> String {
    let mut parts = text.trim_end().split("\"at\":\"");
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (time, rest) = part.split_once('"').expect("the time ends");
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "no time: {time}");
        masked.push_str("\"at\":\"TIME\"");
        masked.push_str(rest);
    }
    masked
}

fn shell((name, options): (&str, &[&str]), commands: &str, folder: &Path) -> Command {
    let binary = crate::binary().parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(binary).chain(std::env::split_paths(&path)));
    let mut command = Command::new(name);
    command
        .args(options)
        .arg(commands)
        .current_dir(folder)
        .env("PATH", path.unwrap())
        .env("RUST_BACKTRACE", "0")
        .env("XDG_CACHE_HOME", cache_home())
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs the steps in a shell.
async fn try_out(steps: &[Step], with: (&str, &[&str]), (folder, address): (&Path, SocketAddr)) {
    for step in steps {
        let commands = step
            .commands
            .replace("127.0.0.1:8080", &address.to_string());
        let began = Instant::now();
        loop {
            let mut command = shell(with, &commands, folder);
            let output = command.output();
            if step.follows() {
                let ended = tokio::time::timeout(A_MOMENT, output).await;
                assert!(ended.is_err(), "{}: {commands}\n{ended:?}", with.0);
                break;
            }
            let output = tokio::time::timeout(PATIENCE, output).await;
            let output = output.expect("the commands end in time").unwrap();
            let (printed, errors) = (
                String::from_utf8(output.stdout).unwrap(),
                String::from_utf8_lossy(&output.stderr),
            );
            let said = format!("{}: {commands}\n{printed}\n{errors}", with.0);
            if let Some(shown) = &step.shows {
                let is_shown = masked(&printed) == masked(shown);
                if !is_shown && step.waits() && began.elapsed() < PATIENCE {
                    continue;
                }
                assert!(is_shown, "the README shows:\n{shown}\nand not\n{said}");
            }
            assert!(output.status.success(), "{said}");
            break;
        }
    }
}

fn need_shells() {
    need_program("curl", "curl");
    need_program("zsh", "zsh");
}

/// An example of `oarlock up`, built, in a folder of the test's own.
async fn up(example: &str, components: &[&str]) -> (App, Running) {
    let manifest = repository()
        .join("examples")
        .join(example)
        .join("oarlock.toml");
    let app = App::new(&read(&manifest));
    let folder = app.path().join("target/wasm32-wasip2/release");
    std::fs::create_dir_all(&folder).unwrap();
    for component in components {
        let built = oarlock_tests::example(example, component);
        std::fs::copy(built, folder.join(format!("{component}.wasm"))).unwrap();
    }
    let running = app.up(crate::binary()).start().await;
    (app, running)
}

async fn try_out_app(example: &str, components: &[&str]) {
    need_shells();
    let (start, steps) = steps(example);
    assert_eq!(
        start,
        format!("cargo run --release -- up examples/{example}")
    );
    for with in SHELLS {
        let (app, running) = up(example, components).await;
        try_out(&steps, with, (app.path(), running.address())).await;
        assert_eq!(running.interrupt().await, Some(0));
    }
}

#[tokio::test]
async fn the_guestbook_does_what_its_readme_shows() {
    let components = ["web", "worker", "scheduler", "nightly", "release"];
    try_out_app("guestbook", &components).await;
}

#[tokio::test]
async fn the_listener_does_what_its_readme_shows() {
    try_out_app("listener", &["listener"]).await;
}

#[tokio::test]
async fn the_embedding_server_does_what_its_readme_shows() {
    need_shells();
    let (start, steps) = steps("embed-axum");
    assert_eq!(
        start,
        "(cd examples/embed-axum/guests && cargo build --release --target wasm32-wasip2)\n\
         cargo run --release -p embed-axum"
    );
    let guests = repository().join("examples/embed-axum/guests");
    let build = {
        let guests = guests.clone();
        move || build_components(&guests)
    };
    tokio::task::spawn_blocking(build).await.unwrap();
    for with in SHELLS {
        let data = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (guests, path) = (guests.clone(), data.path().to_owned());
        let server = tokio::spawn(async move {
            let stop = async { drop(stopped.await) };
            embed_axum::serve(listener, (&guests, &path), stop).await
        });
        try_out(&steps, with, (data.path(), address)).await;
        drop(stop);
        server.await.unwrap().unwrap();
    }
}

#[test]
fn every_example_has_a_readme_that_is_run() {
    let folders = std::fs::read_dir(repository().join("examples")).unwrap();
    let names = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<String> = names.collect();
    let run = ["embed-axum", "guestbook", "listener"].map(str::to_owned);
    assert_eq!(names, BTreeSet::from(run));
}

#[test]
fn the_readme_begins_with_the_two_commands_and_is_read_in_five_minutes() {
    let readme = read(&repository().join("README.md"));
    let blocks = blocks(&readme);
    let first: Vec<&str> = blocks
        .iter()
        .take(2)
        .map(|(_, text)| text.as_str())
        .collect();
    assert_eq!(
        first,
        [
            "cargo run --release -- up examples/guestbook",
            "cargo test --release --workspace"
        ]
    );
    let lines = readme.lines().count();
    assert!(lines <= 150, "the README has {lines} lines");
}

fn pages_in(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repository().join(folder)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect()
}

/// What is linked to in a page, code left out.
fn links(page: &str) -> Vec<&str> {
    let mut in_code = false;
    let text = page.lines().filter(|line| {
        let is_fence = line.starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    });
    let targets = text.flat_map(|line| line.split("](").skip(1));
    targets
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        .filter(|target| !target.contains("://"))
        .collect()
}

/// The anchors of a page's headings, as GitHub and mdBook make them, and those that it names itself.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let slug = |line: &str| -> String {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    let named = page.split("<a id=\"").skip(1);
    let named = named.filter_map(|rest| rest.split_once('"').map(|(id, _)| id.to_owned()));
    headings.map(slug).chain(named).collect()
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let mut pages = [
        pages_in(""),
        pages_in("runtime/docs"),
        pages_in("runtime/docs/src"),
    ]
    .concat();
    for example in ["embed-axum", "guestbook", "listener"] {
        pages.extend(pages_in(&format!("examples/{example}")));
    }
    let mut checked = 0;
    for path in &pages {
        let page = read(path);
        for link in links(&page) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                path.clone()
            } else {
                path.with_file_name(file)
            };
            assert!(target.exists(), "{}: no {link}", path.display());
            if !anchor.is_empty() {
                let known = anchors(&read(&target));
                assert!(known.contains(anchor), "{}: no {link}", path.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 50, "the pages were read: {checked} links");
}

#[test]
fn every_page_of_the_guide_is_in_its_summary() {
    let folder = repository().join("runtime/docs/src");
    let summary = read(&folder.join("SUMMARY.md"));
    let listed: BTreeSet<&str> = links(&summary).into_iter().collect();
    for path in pages_in("runtime/docs/src") {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name == "SUMMARY.md" || listed.contains(name), "{name}");
    }
    // These two stay where their readers look for them, and are in the book all the same.
    for (page, source) in [
        ("security.md", "SECURITY.md"),
        ("performance.md", "PERFORMANCE.md"),
    ] {
        let include = format!("{{{{#include ../{source}}}}}");
        assert!(read(&folder.join(page)).contains(&include), "{page}");
    }
}
