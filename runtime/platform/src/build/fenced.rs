//! Builds a stranger's folder in a [`Fence`], in two steps.
//!
//! **Fetch** downloads what the app's files ask for, one tool after the other (`fetch/`). It runs these tools alone and none
//! of the app's code, so it may have the network: by way of `proxy.rs`, and so by the host's egress rules. What it fetched
//! lies in a folder that no build of the app can write to.
//!
//! **Build** runs the app's code, and has no network at all.
//!
//! Both together have the time that the policy gives to a build.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use oarlock_host::Tunnels;
use oarlock_host::folder::AppFolder;
use oarlock_process::Command;
use oarlock_spec::manifest::Manifest;
use oarlock_spec::names::AppName;
use tokio::time::Instant;

use super::bounds::{self, Bounds, Counted};
use super::command::run_bounded;
use super::fence::Cache;
use super::fetch::{self, Fetcher};
use super::proxy::Proxy;
use super::{BuildError, CommandError, Fence, Plan, Progress, all_there, plan};

/// What a fetch needs beside the fence.
#[derive(Debug, Clone)]
pub(crate) struct Fetch {
    /// The way out.
    pub(crate) tunnels: Tunnels,
    /// The `oarlock` command, which carries a fence's connections to the proxy's socket (`fetch-relay`).
    pub(crate) relay: PathBuf,
    /// A folder of the host's own, for the socket.
    pub(crate) sockets: PathBuf,
}

/// Fetches what the app in `root` needs and builds it in a fence, and checks that its components are there then.
/// Dropping the future ends all that it started.
pub async fn build_fenced(
    fence: &Fence,
    root: &Path,
    manifest: &Manifest,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<(), BuildError> {
    let Plan::Run { command, rust: _ } = plan(root, manifest)? else {
        return all_there(root, manifest, None);
    };
    // The operator may have linked it; the fence gets the folder itself.
    let root = root.canonicalize().map_err(|error| failed(root, &error))?;
    let build = Build {
        fence,
        cache: fence.cache(&manifest.app)?,
        app: &manifest.app,
        until: Instant::now() + fence.limits.timeout,
        root,
    };
    build.fetch_all(&mut progress).await?;
    let process = fence.command(&build.root, &build.cache, &command);
    build.run((&command, process), &mut progress).await?;
    all_there(&build.root, manifest, Some(command))
}

/// One build of an app.
struct Build<'a> {
    fence: &'a Fence,
    root: PathBuf,
    cache: Cache,
    app: &'a AppName,
    /// When it is ended.
    until: Instant,
}

impl Build<'_> {
    /// A fetch that fails, or whose tool is missing, is told and no more: the app may have all that it needs, and else its
    /// build says what is missing.
    async fn fetch_all(
        &self,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<(), BuildError> {
        let Some(fetch) = &self.fence.fetch else {
            return Ok(());
        };
        let app = AppFolder::open(&self.root).map_err(|error| failed(&self.root, &error))?;
        let asked = fetch::ALL
            .into_iter()
            .filter(|fetcher| app.check(fetcher.file).is_ok());
        for fetcher in asked {
            if self.fence.has_program(fetcher.tool) {
                self.fetch(fetch, fetcher, progress).await?;
            } else {
                progress(Progress::Output(format!(
                    "what {} asks for is not fetched, because there is no program `{}` on this host ({}); the build \
                     goes on with what is there",
                    fetcher.file, fetcher.tool, fetcher.tool_from
                )));
            }
        }
        Ok(())
    }

    async fn fetch(
        &self,
        fetch: &Fetch,
        fetcher: &Fetcher,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<(), BuildError> {
        // bubblewrap is not started in this folder, and a socket's path is short.
        let sockets = fetch
            .sockets
            .canonicalize()
            .map_err(|error| failed(&fetch.sockets, &error))?;
        let place = tempfile::Builder::new()
            .prefix("fetch-")
            .tempdir_in(&sockets)
            .map_err(|error| failed(&fetch.sockets, &error))?;
        let socket = place.path().join("socket");
        let mut proxy = match Proxy::start(&socket, fetch.tunnels.clone()) {
            Ok(proxy) => proxy,
            Err(error) => {
                let text = format!(
                    "nothing is fetched, because the socket {} cannot be made: {error}; choose a shorter `--data`",
                    socket.display()
                );
                progress(Progress::Output(text));
                return Ok(());
            }
        };
        let way_out = (fetch.relay.as_path(), socket.as_path());
        let process = self
            .fence
            .fetch_command(&self.root, &self.cache, way_out, fetcher);
        let fetched = self.run((fetcher.shown, process), progress).await;
        let mut refusals = BTreeSet::new();
        while let Ok(refusal) = proxy.refusals.try_recv() {
            refusals.insert(refusal);
        }
        for refusal in refusals {
            progress(Progress::Output(refusal));
        }
        match fetched {
            Err(BuildError::Command(CommandError::Failed { .. })) => {
                let text = format!(
                    "the fetch failed (`{}`); the build goes on with what is there",
                    fetcher.shown
                );
                progress(Progress::Output(text));
                Ok(())
            }
            other => other,
        }
    }

    async fn run(
        &self,
        (command, mut process): (&str, Command),
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<(), BuildError> {
        let cache = &self.cache;
        // Of this command, so that nothing of a fetch is left in a build, nor what it was refused.
        let group = self.fence.group(self.app)?;
        let counted = match &group {
            Some(group) => {
                process = process.control_group(group);
                Counted::ByTheKernel
            }
            None => Counted::Here,
        };
        let folders = vec![self.root.clone(), cache.home.clone(), cache.sources.clone()];
        let bounds = Bounds {
            limits: self.fence.limits.clone(),
            until: self.until,
            folders,
            counted,
        };
        let limits = &self.fence.limits;
        let ran = run_bounded((command, process), progress, |pid| bounds.exceeded(pid)).await;
        match (ran, &group) {
            // The kernel ended it, or let it start nothing more, and it said something else or nothing about that.
            (Err(CommandError::Failed { command, exit }), Some(group)) => {
                Err(match bounds::refused(group.exceeded(), limits) {
                    Some(what) => CommandError::Exceeded { command, what }.into(),
                    None => CommandError::Failed { command, exit }.into(),
                })
            }
            (ran, _) => Ok(ran?),
        }
    }
}

fn failed(path: &Path, error: &std::io::Error) -> BuildError {
    BuildError::Folder {
        path: path.to_owned(),
        reason: crate::folder::explain_io(error),
    }
}
