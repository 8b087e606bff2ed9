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
        "vendor/oarlock-sdk/build.rs",
        include_str!("../rust/build.rs"),
    ),
    (
        "vendor/oarlock-sdk/README.md",
        include_str!("../rust/README.md"),
    ),
    (
        "vendor/oarlock-sdk/src/app/body.rs",
        include_str!("../rust/src/app/body.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/app/body/tests.rs",
        include_str!("../rust/src/app/body/tests.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/app/command.rs",
        include_str!("../rust/src/app/command.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/app/handler.rs",
        include_str!("../rust/src/app/handler.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/app/message.rs",
        include_str!("../rust/src/app/message.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/app/mod.rs",
        include_str!("../rust/src/app/mod.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/app/stopping.rs",
        include_str!("../rust/src/app/stopping.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/app/time.rs",
        include_str!("../rust/src/app/time.rs"),
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
        "vendor/oarlock-sdk/src/kv.rs",
        include_str!("../rust/src/kv.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/lib.rs",
        include_str!("../rust/src/lib.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/p2/bindings.rs",
        include_str!("../rust/src/p2/bindings.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/p2/body.rs",
        include_str!("../rust/src/p2/body.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/p2/executor.rs",
        include_str!("../rust/src/p2/executor.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/p2/export.rs",
        include_str!("../rust/src/p2/export.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/p2/guest.rs",
        include_str!("../rust/src/p2/guest.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/p2/http.rs",
        include_str!("../rust/src/p2/http.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/p2/mod.rs",
        include_str!("../rust/src/p2/mod.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/p2/reactor.rs",
        include_str!("../rust/src/p2/reactor.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/p3/bindings.rs",
        include_str!("../rust/src/p3/bindings.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/p3/export.rs",
        include_str!("../rust/src/p3/export.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/p3/http.rs",
        include_str!("../rust/src/p3/http.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/p3/mod.rs",
        include_str!("../rust/src/p3/mod.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/tokio/fcntl.rs",
        include_str!("../rust/src/tokio/fcntl.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/tokio/mod.rs",
        include_str!("../rust/src/tokio/mod.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/tokio/names.rs",
        include_str!("../rust/src/tokio/names.rs"),
    ),
    (
        "vendor/oarlock-sdk/src/tokio/stop.rs",
        include_str!("../rust/src/tokio/stop.rs"),
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
