//! What the unit tests share.

mod fake;

pub(crate) use fake::FakeRuntime;

use std::collections::BTreeMap;
use std::path::Path;

use oarlock_spec::manifest::{Manifest, Process};

/// A manifest of `guestbook` with these process types and components.
pub(crate) fn manifest(processes: &[(&str, &str)]) -> Manifest {
    let process = |(name, component): &(&str, &str)| {
        let process = Process {
            component: (*component).to_owned(),
            args: vec![],
            singleton: false,
            schedule: None,
            line: 1,
        };
        (name.parse().unwrap(), process)
    };
    Manifest {
        app: "guestbook".parse().unwrap(),
        processes: processes.iter().map(process).collect(),
        scale: BTreeMap::new(),
        addons: BTreeMap::new(),
        config: BTreeMap::new(),
        allow: vec![],
        limits: BTreeMap::new(),
        build: None,
        files: vec![],
    }
}

/// Writes a file, and the folders above it.
pub(crate) fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// An environment in which programs are found.
pub(crate) fn path_env() -> BTreeMap<String, String> {
    ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
        .collect()
}
