//! The templates of `oarlock new`, as they are built into the binary.
//!
//! A new app must build on a machine that has this binary and crates.io, and nothing of this
//! repository. The guest crate is not on crates.io, so the Rust template brings it along, in
//! `vendor/oarlock-sdk`: it is a few small files, and always those that match the binary's host.

/// A file of a template: its path in the new app, and its text.
pub(crate) type File = (&'static str, &'static str);

/// The template `rust`: a web process and a worker.
const RUST: &[File] = &[
    ("Cargo.toml", include_str!("rust/Cargo.toml")),
    ("oarlock.toml", include_str!("rust/oarlock.toml")),
    ("README.md", include_str!("rust/README.md")),
    (".gitignore", include_str!("rust/gitignore")),
    ("web/Cargo.toml", include_str!("rust/web/Cargo.toml")),
    ("web/src/lib.rs", include_str!("rust/web/src/lib.rs")),
    ("worker/Cargo.toml", include_str!("rust/worker/Cargo.toml")),
    ("worker/src/lib.rs", include_str!("rust/worker/src/lib.rs")),
];

/// The guest crate, without its tests.
const RUST_SDK: &[File] = &[
    (
        "vendor/oarlock-sdk/Cargo.toml",
        include_str!("../rust/Cargo.toml"),
    ),
    (
        "vendor/oarlock-sdk/README.md",
        include_str!("../rust/README.md"),
    ),
    (
        "vendor/oarlock-sdk/src/lib.rs",
        include_str!("../rust/src/lib.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/body.rs",
        include_str!("../rust/src/body.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/body/tests.rs",
        include_str!("../rust/src/body/tests.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/command.rs",
        include_str!("../rust/src/command.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/config.rs",
        include_str!("../rust/src/config.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/config/de.rs",
        include_str!("../rust/src/config/de.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/config/tests.rs",
        include_str!("../rust/src/config/tests.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/handler.rs",
        include_str!("../rust/src/handler.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/kv.rs",
        include_str!("../rust/src/kv.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/p3/mod.rs",
        include_str!("../rust/src/p3/mod.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/p3/bindings.rs",
        include_str!("../rust/src/p3/bindings.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/p3/http.rs",
        include_str!("../rust/src/p3/http.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/stopping.rs",
        include_str!("../rust/src/stopping.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/time.rs",
        include_str!("../rust/src/time.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/tokio.rs",
        include_str!("../rust/src/tokio.rs"),
    ),
];

/// The names of the templates.
pub(crate) const NAMES: &[&str] = &["rust"];

/// The files of a new app called `name`: their paths and texts. `None`: there is no such template.
pub(crate) fn files(template: &str, name: &str) -> Option<Vec<(&'static str, String)>> {
    if template != "rust" {
        return None;
    }
    let own = RUST
        .iter()
        .map(|&(path, text)| (path, text.replace("{{name}}", name)));
    let sdk = RUST_SDK.iter().map(|&(path, text)| (path, text.to_owned()));
    Some(own.chain(sdk).collect())
}
