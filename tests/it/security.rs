//! The page of promises names tests that exist.

use std::collections::BTreeSet;
use std::path::Path;

/// The names of all test functions below these folders.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for folder in ["runtime", "tests/it"] {
        for entry in walkdir::WalkDir::new(oarlock_tests::repository().join(folder)) {
            let path = entry.unwrap().into_path();
            if path.extension().is_some_and(|end| end == "rs") {
                names.extend(tests_in(&std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    names
}

/// The functions behind an attribute that ends with `test` or begins with `tokio::test`.
fn tests_in(text: &str) -> Vec<String> {
    let mut is_test = false;
    let mut names = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(rest) = line
            .strip_prefix("fn ")
            .or_else(|| line.strip_prefix("async fn "))
            && std::mem::take(&mut is_test)
        {
            names.extend(rest.split('(').next().map(str::to_owned));
        }
    }
    names
}

/// What a page writes as code in the last column of its tables.
fn named(page: &str) -> BTreeSet<&str> {
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let cells = rows.filter_map(|row| row.trim_end_matches('|').rsplit('|').next());
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect()
}

#[test]
fn every_test_that_the_page_of_promises_names_exists() {
    let path: &Path = &oarlock_tests::repository().join("runtime/docs/SECURITY.md");
    let page = std::fs::read_to_string(path).unwrap();
    let named = named(&page);
    assert!(named.len() > 30, "the page's tables were read: {named:?}");
    let tests = tests();
    let missing: Vec<&&str> = named
        .iter()
        .filter(|name| !tests.contains(**name))
        .collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}
