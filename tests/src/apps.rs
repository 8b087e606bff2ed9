//! Several apps below one folder, and the real binary that serves them all.
//!
//! ```no_run
//! # async fn example(binary: &std::path::Path) {
//! use oarlock_tests::apps::{Apps, get};
//! let apps = Apps::new();
//! apps.add("ada", "[processes]\nweb = \"web.wasm\"");
//! apps.put_guest("ada/web.wasm", "hello-p2");
//! let running = apps.start(binary, &["ada"]).await;
//! assert_eq!(get(&running, "ada", "/").await.status, 200);
//! # }
//! ```

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::TempDir;

use crate::app::{Answer, Launch, Running, fetch};

/// A folder of apps.
pub struct Apps {
    folder: TempDir,
}

impl Default for Apps {
    fn default() -> Self {
        Self::new()
    }
}

impl Apps {
    /// Without any.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("oarlock-apps-")
            .tempdir()
            .unwrap();
        Self { folder }
    }

    /// The folder of an app, or of all with an empty name.
    pub fn path(&self, app: &str) -> PathBuf {
        self.folder.path().join(app)
    }

    /// Makes an app's folder with this manifest; the app is named as the folder.
    pub fn add(&self, app: &str, manifest: &str) {
        let manifest = format!("app = \"{app}\"\n{manifest}");
        self.write(&format!("{app}/oarlock.toml"), &manifest);
    }

    /// Writes a file, `app/path`.
    pub fn write(&self, path: &str, content: &str) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Puts a test guest's component at `app/path`.
    pub fn put_guest(&self, path: &str, guest: &str) {
        self.put(path, &crate::guest(guest));
    }

    /// Puts a component at `app/path`.
    pub fn put(&self, path: &str, component: &Path) {
        std::fs::copy(component, self.folder.path().join(path)).unwrap();
    }

    /// `oarlock serve` of them, on a free port, without a build.
    pub fn serve(&self, binary: &Path) -> Launch {
        self.serve_at(binary, "127.0.0.1:0")
    }

    /// The same on this address.
    pub fn serve_at(&self, binary: &Path, listen: &str) -> Launch {
        let mut launch = Launch::new(binary, self.folder.path());
        launch
            .command
            .args(["serve", "--listen", listen, "--apps"])
            .arg(self.folder.path());
        launch
    }

    /// Starts it and waits until these apps run.
    pub async fn start(&self, binary: &Path, apps: &[&str]) -> Running {
        running(self.serve(binary), apps).await
    }
}

/// Starts it and waits until these apps run.
pub async fn running(launch: Launch, apps: &[&str]) -> Running {
    let running = launch.start().await;
    for app in apps {
        running
            .output
            .wait_for(&format!("at http://{app}.localhost:"))
            .await;
    }
    running
}

/// `GET` from an app by its host name, on a connection of its own.
pub async fn get(running: &Running, app: &str, path: &str) -> Answer {
    let url = format!("http://{}{path}", running.address());
    let host = format!("{app}.localhost:{}", running.address().port());
    fetch("GET", &url, &[("host", &host)], Bytes::new())
        .await
        .unwrap()
}
