//! The life of `oarlock up`, and what it says of mistakes: over the real binary.

mod commands;
mod help;
mod life;
mod mistakes;
mod phases;
mod spellings;
mod stdout;
mod terminal;
mod words;

use std::path::Path;
use std::time::{Duration, Instant};

use oarlock_tests::app::{App, Finished, Launch, PATIENCE, Running, oarlock};

/// The environment variable that marks an `up` and all that it starts.
const MARK: &str = "OARLOCK_TEST_MARK";

/// `oarlock up` with a build, on a free port.
fn up_and_build(app: &App) -> Launch {
    Launch::new(crate::binary(), app.path()).args(&["up", "--listen", "127.0.0.1:0"])
}

/// A command of the binary in this app's folder.
async fn command(app: &App, args: &[&str]) -> Finished {
    oarlock(crate::binary(), app.path(), args).await
}

/// `oarlock up --no-build` of something that does not start.
async fn refused(app: &App) -> Finished {
    command(app, &["up", "--no-build", "--listen", "127.0.0.1:0"]).await
}

/// Processes that were started with this mark; those that ended and wait for their parent do not count.
fn marked(mark: &str) -> Vec<String> {
    let wanted = format!("{MARK}={mark}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        if environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == wanted.as_bytes())
        {
            let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
            found.push(format!(
                "{} {}",
                path.display(),
                String::from_utf8_lossy(&line).replace('\0', " ")
            ));
        }
    }
    found
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// No process of this mark is left.
async fn none_left(mark: &str) {
    until("all processes have ended", || marked(mark).is_empty()).await;
}

/// What is in a folder, by name.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Starts an app as it lies there, asks it, ends it, and looks that nothing half-written stayed.
async fn starts_and_serves(app: &App) {
    let running: Running = app.up(crate::binary()).start().await;
    assert_eq!(running.get("/").await.status, 200);
    assert_eq!(names_in(&app.path().join(".oarlock/tmp")), [""; 0]);
    assert_eq!(running.interrupt().await, Some(0));
}
