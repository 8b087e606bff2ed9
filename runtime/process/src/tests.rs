//! Real processes, and every promise of the crate.

mod ends;
mod orphans;
mod output;
mod starts;
mod supervised;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::{Bubblewrap, Fence};

/// How long a loaded machine may take for what is done at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// The environment of a shell's commands.
const PATH: [(&str, &str); 1] = [("PATH", "/usr/local/bin:/usr/bin:/bin")];

/// Whether a process runs; a zombie has ended.
fn runs(id: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(id.trim()).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The ids that a child wrote to this file, one in a line.
fn ids(file: &Path, count: usize) -> Vec<String> {
    let read = || std::fs::read_to_string(file).unwrap_or_default();
    until("the child writes its ids", || {
        read().matches('\n').count() >= count
    });
    read().lines().map(str::to_owned).collect()
}

fn ended(ids: &[String]) {
    until(&format!("{ids:?} end"), || !ids.iter().any(|id| runs(id)));
}

/// A fence around the system, if this machine has them.
fn fence() -> Option<Fence> {
    let found = Bubblewrap::find("/usr/local/bin:/usr/bin:/bin").and_then(|bwrap| {
        let fence = Fence::new(&bwrap, "test");
        bwrap.try_out(fence.clone())?;
        Ok(fence)
    });
    match found {
        Ok(fence) => Some(fence),
        Err(error) => {
            println!("NOT TESTED: {error}");
            None
        }
    }
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}
