//! Golden files: `tests/manifests/*.toml`, `*.Procfile` and `*.policy` are all wrong, and the `.txt`
//! beside each says how. `OARLOCK_WRITE_GOLDEN=1` writes the missing and changed ones, and fails
//! all the same, so that nothing is accepted unseen.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::limits::{Isolation, LimitKey, LimitSet, LimitValue, Limits};
use crate::mistakes::MAX_FILE_BYTES;
use crate::policy;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests")
}

fn good(name: &str) -> String {
    fs::read_to_string(folder().join("good").join(name)).unwrap()
}

/// The policy that golden manifests are checked against.
fn golden_policy() -> Policy {
    policy::parse(&good("small.policy")).unwrap()
}

/// What the parser says of a wrong file.
fn said_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let policy = golden_policy();
    let options = Options { policy: Some(&policy), providers: &["external", "kv", "postgres", "redis", "volume"] };
    let name = path.file_name().unwrap().to_str().unwrap();
    let errors = match path.extension().and_then(|e| e.to_str()) {
        Some("toml") => parse(&text, &options).err(),
        Some("Procfile") => parse_procfile(&text, "folder".parse().unwrap(), &options).err(),
        _ => policy::parse(&text).err(),
    };
    match errors {
        Some(errors) => format!("{}\n", errors.in_file(name)),
        None => "no mistake\n".to_owned(),
    }
}

fn wrong_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && path.extension().is_some_and(|e| e != "txt"))
        .collect();
    files.sort();
    files
}

#[test]
fn golden_files_say_what_is_wrong() {
    let write = std::env::var_os("OARLOCK_WRITE_GOLDEN").is_some();
    let mut differ = Vec::new();
    let files = wrong_files();
    for path in &files {
        let said = said_of(path);
        let golden = path.with_extension(format!("{}.txt", path.extension().unwrap().to_str().unwrap()));
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if said != expected {
            differ.push(format!("{}\n--- expected\n{expected}--- said\n{said}", path.display()));
            if write {
                fs::write(&golden, said).unwrap();
            }
        }
    }
    assert!(differ.is_empty(), "{} of {} differ:\n{}", differ.len(), files.len(), differ.join("\n"));
}

#[test]
fn the_contract_s_own_manifest_is_valid() {
    let manifest = parse(&good("contract.toml"), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(manifest.app.as_str(), "guestbook");
    let kinds: Vec<&str> = manifest.processes.keys().map(|kind| kind.as_str()).collect();
    assert_eq!(kinds, ["nightly", "release", "scheduler", "web", "worker"]);
    let worker = &manifest.processes["worker"];
    assert_eq!((worker.component.as_str(), worker.line), ("worker.wasm", 5));
    assert_eq!(worker.args, ["--queue", "default"]);
    assert!(manifest.processes["scheduler"].singleton);
    let schedule = manifest.processes["nightly"].schedule.as_ref().unwrap();
    assert_eq!((schedule.cron.as_str(), schedule.timezone.as_str()), ("17 3 * * *", "UTC"));
    let scale: BTreeMap<String, u32> =
        manifest.initial_scale().into_iter().map(|(kind, n)| (kind.to_string(), n)).collect();
    assert_eq!(scale, BTreeMap::from([("scheduler".into(), 1), ("web".into(), 2), ("worker".into(), 1)]));

    let addon = |name: &str| &manifest.addons[name];
    assert_eq!((addon("db").provider.as_str(), addon("db").plan.as_deref()), ("postgres", None));
    assert_eq!(addon("cache").processes.as_ref().unwrap()[0].as_str(), "worker");
    assert_eq!(addon("jobs").prefix.as_deref(), Some("JOBS_REDIS"));
    assert_eq!((addon("files").mount.as_deref(), addon("files").size), (Some("/data"), Some(1 << 30)));
    assert_eq!((addon("crm").provider.as_str(), addon("crm").url_from.as_deref()), ("external", Some("CRM_URL")));

    assert_eq!(manifest.config["GREETING"], "hello");
    let allow: Vec<(Option<&str>, u16)> = manifest.allow.iter().map(|e| (e.scheme.as_deref(), e.port)).collect();
    assert_eq!(allow, [(Some("https"), 443), (None, 587), (None, 443), (None, 5432)]);
    let web = manifest.limits_of(&"web".parse().unwrap());
    assert_eq!(web, Limits { isolation: Some(Isolation::Request), ..Limits::default() });
    assert_eq!(manifest.build.unwrap().command, "cargo build --release --target wasm32-wasip2");
    assert_eq!(manifest.files, ["static/**"]);
}
