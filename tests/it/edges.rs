//! The edges between the crates only go down: `cli → platform → host → sandbox → spec`.

use std::collections::BTreeSet;

/// What each crate may depend on, of our own crates.
const ALLOWED: &[(&str, &[&str])] = &[
    ("spec", &[]),
    ("sandbox", &["oarlock-spec"]),
    ("host", &["oarlock-sandbox", "oarlock-spec"]),
    ("platform", &["oarlock-host", "oarlock-spec"]),
    ("cli", &["oarlock-host", "oarlock-platform", "oarlock-spec"]),
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

#[test]
fn spec_knows_no_runtime() {
    let found = dependencies(&manifest("spec"));
    for banned in ["tokio", "hyper", "axum", "rusqlite"] {
        assert!(!found.contains(banned), "spec depends on {banned}");
    }
}
