//! The edges between the crates only go down: `cli → platform → host → sandbox → process → spec`.

use std::collections::BTreeSet;

/// What each crate may depend on, of our own crates.
const ALLOWED: &[(&str, &[&str])] = &[
    ("spec", &[]),
    ("process", &[]),
    ("sandbox", &["oarlock-process", "oarlock-spec"]),
    (
        "host",
        &["oarlock-process", "oarlock-sandbox", "oarlock-spec"],
    ),
    (
        "platform",
        &["oarlock-host", "oarlock-process", "oarlock-spec"],
    ),
    (
        "cli",
        &[
            "oarlock-host",
            "oarlock-platform",
            "oarlock-process",
            "oarlock-spec",
        ],
    ),
];

fn manifest(krate: &str) -> toml::Table {
    let path = oarlock_tests::repository()
        .join("runtime")
        .join(krate)
        .join("Cargo.toml");
    std::fs::read_to_string(&path).unwrap().parse().unwrap()
}

fn dependencies(manifest: &toml::Table) -> BTreeSet<String> {
    let tables = ["dependencies", "build-dependencies"];
    tables
        .iter()
        .filter_map(|table| manifest.get(*table)?.as_table())
        .flat_map(|table| table.keys().cloned())
        .collect()
}

#[test]
fn every_crate_of_the_runtime_is_listed() {
    let folders: BTreeSet<String> = std::fs::read_dir(oarlock_tests::repository().join("runtime"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let listed: BTreeSet<String> = ALLOWED.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(folders, listed);
}

#[test]
fn edges_only_go_down() {
    for (krate, allowed) in ALLOWED {
        for dependency in dependencies(&manifest(krate)) {
            if dependency.starts_with("oarlock") {
                assert!(
                    allowed.contains(&dependency.as_str()),
                    "{krate} may not depend on {dependency}"
                );
            }
        }
    }
}

#[test]
fn only_the_sandbox_names_wasmtime() {
    for (krate, _) in ALLOWED.iter().filter(|(krate, _)| *krate != "sandbox") {
        let named: Vec<String> = dependencies(&manifest(krate))
            .into_iter()
            .filter(|name| name.starts_with("wasmtime"))
            .collect();
        assert!(named.is_empty(), "{krate} names {named:?}");
    }
}

/// `oarlock-host` passes the sandbox's wasmtime on, because host functions of an embedder's own are written with its types,
/// and a second wasmtime beside ours would not fit. That one line is all that says its name above the sandbox.
#[test]
fn wasmtime_is_passed_on_in_one_line_and_used_nowhere_above_the_sandbox() {
    let mut said = Vec::new();
    for krate in ["host", "platform", "cli"] {
        let folder = oarlock_tests::repository()
            .join("runtime")
            .join(krate)
            .join("src");
        for entry in walkdir::WalkDir::new(folder) {
            let path = entry.unwrap().into_path();
            if path.extension().is_none_or(|end| end != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.lines().map(|line| line.split("//").next().unwrap());
            said.extend(
                code.filter(|line| line.contains("wasmtime"))
                    .map(str::to_owned),
            );
        }
    }
    assert_eq!(said, ["pub use oarlock_sandbox::wasmtime;"]);
}

/// A child that is started otherwise has no guard, and outlives a host that is killed. Tests may start what they like.
#[test]
fn only_the_process_crate_starts_children() {
    let runtime = oarlock_tests::repository().join("runtime");
    let mut seen = 0;
    for entry in walkdir::WalkDir::new(&runtime) {
        let path = entry.unwrap().into_path();
        let inside = path.strip_prefix(&runtime).unwrap();
        let is_test = path.file_stem().is_some_and(|name| {
            let name = name.to_string_lossy();
            name == "tests" || name.ends_with("_tests")
        });
        let is_testing = inside
            .iter()
            .any(|folder| folder == "tests" || folder == "testing");
        if path.extension().is_none_or(|end| end != "rs")
            || inside.starts_with("process")
            || is_test
            || is_testing
        {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let starts = |line: &str| {
            line.contains("tokio::process")
                || line.contains("std::process::") && line.contains("Command")
                || line.contains("set_parent_process_death_signal")
        };
        assert!(
            !code.lines().any(starts),
            "{} starts a child of its own; use oarlock-process",
            path.display()
        );
        seen += 1;
    }
    assert!(seen > 100, "{seen} files were looked at");
}

/// One dependency is enough for an embedder.
#[test]
fn the_embedding_example_needs_only_the_host() {
    let path = oarlock_tests::repository().join("examples/embed-axum/Cargo.toml");
    let manifest: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
    let needed = dependencies(&manifest);
    let ours: Vec<&String> = needed
        .iter()
        .filter(|name| name.starts_with("oarlock") || name.starts_with("wasm"))
        .collect();
    assert_eq!(ours, ["oarlock-host"]);
}

#[test]
fn spec_knows_no_runtime() {
    let found = dependencies(&manifest("spec"));
    for banned in ["tokio", "hyper", "axum", "rusqlite"] {
        assert!(!found.contains(banned), "spec depends on {banned}");
    }
}
