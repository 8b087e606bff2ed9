//! What a Rust app needs before cargo can build it: the guests' target.

use std::collections::BTreeMap;
use std::path::Path;

use super::command::{query, run};
use super::{BuildError, Progress};

/// The target of guests.
pub(super) const TARGET: &str = "wasm32-wasip2";

/// The buildpack of an app with a `Cargo.toml`.
pub(super) const COMMAND: &str = "cargo build --release --target wasm32-wasip2";

/// Installs the target for the toolchain that the app's folder selects, if it is missing.
pub(super) async fn ensure_target(
    root: &Path,
    env: &BTreeMap<String, String>,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<(), BuildError> {
    let failed = |reason: String| BuildError::Folder {
        path: root.to_owned(),
        reason,
    };
    let rustc = query(
        root,
        "rustc",
        &["--print", "target-libdir", "--target", TARGET],
        env,
    )
    .await
    .map_err(failed)?;
    match rustc {
        None => {
            return Err(BuildError::ToolMissing {
                tool: "rustc",
                help: "install Rust from https://rustup.rs, or start with `--no-build`",
            });
        }
        Some((true, libdir)) if Path::new(&libdir).is_dir() => return Ok(()),
        // A compiler too old to know the target, or one that lacks it.
        Some(_) => {}
    }
    if query(root, "rustup", &["--version"], env)
        .await
        .map_err(failed)?
        .is_none()
    {
        return Err(BuildError::ToolMissing {
            tool: "rustup",
            help: "the Rust target `wasm32-wasip2` is not installed, and only rustup can add it: \
                   see https://rustup.rs, or install the target with your system's packages",
        });
    }
    run(root, &format!("rustup target add {TARGET}"), env, progress).await?;
    Ok(())
}
