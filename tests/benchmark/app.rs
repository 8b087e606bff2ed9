//! Our side: an app's folder.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use tempfile::TempDir;

use crate::plan::{Load, Row};

/// A folder with a manifest and one component, and a code cache of its own.
pub(crate) struct App {
    folder: TempDir,
    cache: TempDir,
}

/// DESIGN's: the defaults, but for `isolation` and `concurrency`; and for a queue that holds the connections of a load
/// that has more of them than there are slots and places by default.
pub(crate) fn manifest(row: Row, load: Load) -> String {
    let queue = if load.connections() > 100 {
        format!("queue = {}\n", load.connections())
    } else {
        String::new()
    };
    format!(
        "app = \"hello\"\n\n[processes]\nweb = \"web.wasm\"\n\n[scale]\nweb = {}\n\n[limits.web]\n{}\n{queue}",
        row.dynos(),
        row.limits(),
    )
}

impl App {
    pub(crate) fn new(manifest: &str, component: &Path) -> anyhow::Result<Self> {
        let make = || {
            tempfile::Builder::new()
                .prefix("oarlock-benchmark-")
                .tempdir()
        };
        let app = Self {
            folder: make()?,
            cache: make()?,
        };
        std::fs::write(app.folder.path().join("oarlock.toml"), manifest)?;
        let web = app.folder.path().join("web.wasm");
        std::fs::copy(component, web).context("the guest cannot be copied")?;
        Ok(app)
    }

    /// `oarlock up` of it.
    pub(crate) fn up(&self, binary: &Path, addr: SocketAddr) -> Command {
        let mut command = Command::new(binary);
        command
            .arg("up")
            .arg(self.folder.path())
            .args(["--no-build", "--listen", &addr.to_string()])
            .env("XDG_CACHE_HOME", self.cache.path())
            .stderr(Stdio::null());
        command
    }
}
