//! `src/p3/bindings.rs` is generated from `sdk/wit`, the single source of our interfaces. It is kept in
//! the repository so that a guest's build needs neither the WIT nor its generator. This test fails
//! when the two differ; `UPDATE_BINDINGS=1 cargo test` writes it anew.

use std::path::Path;

use wit_bindgen_core::{Files, wit_parser};

/// What a guest may import beyond WASI itself; what it does not call does not become an import.
const WORLD: &str = "
package oarlock:sdk;
world imports {
    import oarlock:dyno/lifecycle-async@0.1.0;
    import wasi:keyvalue/store@0.2.0-draft2;
    import wasi:keyvalue/atomics@0.2.0-draft2;
    import wasi:keyvalue/batch@0.2.0-draft2;
}";

#[test]
fn bindings_are_what_the_wit_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let wit = root.join("../wit");
    if !wit.exists() {
        return; // A copy of this crate in someone's app has no WIT beside it.
    }
    let mut resolve = wit_parser::Resolve::default();
    resolve.push_dir(&wit).unwrap();
    let package = resolve.push_str("world.wit", WORLD).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();

    let mut files = Files::default();
    let options = wit_bindgen_rust::Opts {
        format: true,
        generate_all: true,
        runtime_path: Some("wasip3::wit_bindgen::rt".to_owned()),
        ..Default::default()
    };
    wit_bindgen_core::WorldGenerator::generate(
        &mut options.build(),
        &mut resolve,
        world,
        &mut files,
    )
    .unwrap();
    let (_, generated) = files.iter().next().unwrap();

    let path = root.join("src/p3/bindings.rs");
    if std::env::var_os("UPDATE_BINDINGS").is_some() {
        std::fs::write(&path, generated).unwrap();
    }
    let kept = std::fs::read(&path).unwrap();
    assert!(
        kept == generated,
        "src/p3/bindings.rs is out of date: run `UPDATE_BINDINGS=1 cargo test`"
    );
}
