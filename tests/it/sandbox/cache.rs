//! The code cache: entries are used, and damaged ones never are.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oarlock_sandbox::{Engine, EngineConfig, EngineError, Exit, Origin, Output, Sandbox, Stdin};

use super::{Setup, engine_with, soon};

fn wasm() -> Vec<u8> {
    std::fs::read(oarlock_tests::guest("probe-p2")).unwrap()
}

/// Loads the probe on a new engine, as a new host would.
fn origin(folder: &Path) -> Origin {
    engine_with(Some(folder))
        .load("probe.wasm", &wasm())
        .unwrap()
        .origin()
}

fn entry(folder: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "cwasm")
        });
    let entry = entries.next().unwrap();
    assert!(entries.next().is_none());
    entry
}

fn refusal(folder: &Path) -> String {
    let config = EngineConfig {
        instances: 4,
        max_memory: 1 << 20,
        tick: Duration::from_millis(10),
        code_cache: Some(folder.to_owned()),
        ..EngineConfig::default()
    };
    match Engine::new(config) {
        Err(EngineError::CodeCache { path, reason }) if path == folder => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

#[tokio::test]
async fn a_second_host_compiles_nothing_and_the_code_runs() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("deep/cache");
    assert!(matches!(origin(&folder), Origin::Compiled(_)));
    for name in [folder.clone(), folder.join("key"), entry(&folder)] {
        assert_eq!(
            std::fs::metadata(name).unwrap().permissions().mode() & 0o077,
            0
        );
    }
    let engine = engine_with(Some(&folder));
    let program = engine.load("probe.wasm", &wasm()).unwrap();
    assert_eq!(program.origin(), Origin::Cached);
    let setup = Setup::new().args(&["args"]);
    let sandbox = Sandbox::new(&program, setup.grant.clone(), &setup.limits).unwrap();
    assert_eq!(
        soon(sandbox.run(Stdin::Ended, Output::Log, &[]).wait()).await,
        Exit::Code(0)
    );
    assert_eq!(setup.log.stdout(), ["guest|args"]);
}

#[test]
fn a_damaged_entry_is_compiled_again_and_replaced() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("cache");
    assert!(matches!(origin(&folder), Origin::Compiled(_)));
    let path = entry(&folder);
    let whole = std::fs::read(&path).unwrap();
    // The digest, wasmtime's header, and places all over the code to its last byte.
    let mut places = vec![0, 31, 32, 33, 64, 200];
    places.extend((1..4).map(|part| whole.len() * part / 4));
    places.push(whole.len() - 1);
    for place in places {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        assert!(
            matches!(origin(&folder), Origin::Compiled(_)),
            "byte {place}"
        );
        assert_eq!(origin(&folder), Origin::Cached, "byte {place}");
    }
    for length in [0, 31, 32, 1_000, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(
            matches!(origin(&folder), Origin::Compiled(_)),
            "{length} bytes"
        );
    }
    let mut longer = std::fs::read(&path).unwrap();
    longer.push(0);
    std::fs::write(&path, &longer).unwrap();
    assert!(matches!(origin(&folder), Origin::Compiled(_)));
    assert_eq!(origin(&folder), Origin::Cached);
}

#[test]
fn an_entry_of_another_component_or_another_key_is_not_loaded() {
    let temp = tempfile::tempdir().unwrap();
    let (folder, other) = (temp.path().join("cache"), temp.path().join("other"));
    assert!(matches!(origin(&folder), Origin::Compiled(_)));
    let hello = std::fs::read(oarlock_tests::guest("hello-p2")).unwrap();
    engine_with(Some(&other))
        .load("hello.wasm", &hello)
        .unwrap();
    // Whole, but under another's name; whole, but sealed with another folder's key.
    let mine = entry(&folder);
    std::fs::copy(entry(&other), other.join(mine.file_name().unwrap())).unwrap();
    std::fs::remove_file(&mine).unwrap();
    assert!(matches!(origin(&other), Origin::Compiled(_)));
    std::fs::copy(other.join(mine.file_name().unwrap()), &mine).unwrap();
    assert!(matches!(origin(&folder), Origin::Compiled(_)));
    assert_eq!(origin(&folder), Origin::Cached);
}

#[test]
fn a_folder_that_is_not_the_users_alone_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let open = temp.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(refusal(&open).contains("chmod 700"));
    let mine = temp.path().join("mine");
    std::fs::create_dir(&mine).unwrap();
    std::fs::set_permissions(&mine, std::fs::Permissions::from_mode(0o700)).unwrap();
    let link = temp.path().join("link");
    symlink(&mine, &link).unwrap();
    assert!(refusal(&link).contains("symlink"));
    let file = temp.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(refusal(&file).contains("not a folder"));
}

#[test]
fn a_damaged_key_is_replaced_at_the_next_start() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("cache");
    assert!(matches!(origin(&folder), Origin::Compiled(_)));
    std::fs::write(folder.join("key"), "short").unwrap();
    assert!(matches!(origin(&folder), Origin::Compiled(_)));
    assert_eq!(origin(&folder), Origin::Cached);
}
