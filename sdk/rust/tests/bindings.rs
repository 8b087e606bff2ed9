//! The bindings of what Oarlock adds to WASI are generated from `sdk/wit`, the single source of our
//! interfaces. They are kept in the repository so that a guest's build needs neither the WIT nor its
//! generator. These tests fail when the two differ; `UPDATE_BINDINGS=1 cargo test` writes them anew.

use std::path::Path;

use wit_bindgen_core::{Files, wit_parser};

/// What a guest may import beyond WASI itself; what it does not call does not become an import. Each
/// world has a name of its own, because one guest may link both.
fn world(name: &str, lifecycle: &str) -> String {
    format!(
        "package oarlock:sdk;
        world {name} {{
            import oarlock:dyno/{lifecycle}@0.1.0;
            import wasi:keyvalue/store@0.2.0-draft2;
            import wasi:keyvalue/atomics@0.2.0-draft2;
            import wasi:keyvalue/batch@0.2.0-draft2;
        }}"
    )
}

#[test]
fn bindings_for_0_3_are_what_the_wit_says() {
    let options = wit_bindgen_rust::Opts {
        runtime_path: Some("wasip3::wit_bindgen::rt".to_owned()),
        ..Default::default()
    };
    compare(
        "src/p3/bindings.rs",
        &world("imports", "lifecycle-async"),
        options,
    );
}

#[test]
fn bindings_for_0_2_are_what_the_wit_says() {
    let pollable = wit_bindgen_rust::WithOption::Path("wasip2::io::poll".to_owned());
    let options = wit_bindgen_rust::Opts {
        with: vec![("wasi:io/poll@0.2.0".to_owned(), pollable)],
        ..Default::default()
    };
    compare(
        "src/p2/bindings.rs",
        &world("imports-p2", "lifecycle"),
        options,
    );
}

fn compare(path: &str, world: &str, options: wit_bindgen_rust::Opts) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let wit = root.join("../wit");
    if !wit.exists() {
        return; // A copy of this crate in someone's app has no WIT beside it.
    }
    let mut resolve = wit_parser::Resolve::default();
    resolve.push_dir(&wit).unwrap();
    let package = resolve.push_str("world.wit", world).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();

    let mut files = Files::default();
    let options = wit_bindgen_rust::Opts {
        format: true,
        generate_all: true,
        ..options
    };
    wit_bindgen_core::WorldGenerator::generate(
        &mut options.build(),
        &mut resolve,
        world,
        &mut files,
    )
    .unwrap();
    let (_, generated) = files.iter().next().unwrap();

    let path = root.join(path);
    if std::env::var_os("UPDATE_BINDINGS").is_some() {
        std::fs::write(&path, generated).unwrap();
    }
    let kept = std::fs::read(&path).unwrap();
    assert!(
        kept == generated,
        "{} is out of date: run `UPDATE_BINDINGS=1 cargo test`",
        path.display()
    );
}
