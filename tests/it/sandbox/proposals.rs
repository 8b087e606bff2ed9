//! WebAssembly proposals that are off unless they are allowed.

use oarlock_sandbox::{Engine, EngineConfig};
use oarlock_spec::policy::Proposal;

use super::engine_with;

/// A command that has a structure of the engine's garbage collector.
fn collected() -> Vec<u8> {
    wat::parse_str(
        r#"(component
            (core module $m
                (type $pair (struct (field i32) (field i32)))
                (func (export "run") (result i32)
                    (struct.get $pair 0 (struct.new $pair (i32.const 0) (i32.const 1)))))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $command (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $command)))"#,
    )
    .unwrap()
}

fn allowing(proposals: &[Proposal], code_cache: Option<&std::path::Path>) -> Engine {
    Engine::new(EngineConfig {
        instances: 4,
        proposals: proposals.iter().copied().collect(),
        code_cache: code_cache.map(std::path::Path::to_owned),
        ..EngineConfig::default()
    })
    .unwrap()
}

#[test]
fn garbage_collection_is_off_and_the_refusal_says_how_it_is_allowed() {
    let refused = engine_with(None).load("worker.wasm", &collected());
    let refused = refused.map(drop).unwrap_err().to_string();
    assert!(
        refused.starts_with("worker.wasm")
            && refused.contains("proposal `gc`")
            && refused.contains("wasm = [\"gc\"]"),
        "{refused}"
    );
    allowing(&[Proposal::Gc], None)
        .load("worker.wasm", &collected())
        .unwrap();
}

#[test]
fn code_of_a_host_that_allows_more_is_nothing_to_one_that_does_not() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("code");
    allowing(&[Proposal::Gc], Some(&folder))
        .load("worker.wasm", &collected())
        .unwrap();
    let refused = allowing(&[], Some(&folder)).load("worker.wasm", &collected());
    assert!(refused.is_err());
}
