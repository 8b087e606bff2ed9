//! Builds a stranger's folder in a [`Fence`], in two steps.
//!
//! **Fetch** downloads what `Cargo.toml` asks for. It runs cargo alone and none of the app's code, so it may have the
//! network: by way of `proxy.rs`, and so by the host's egress rules. cargo reads `.cargo/config.toml` of the folder that
//! it is started in and of those above it (it can name programs that cargo runs): that is never the app's. What it
//! fetched lies in a folder that no build of the app can write to.
//!
//! **Build** runs the app's code, and has no network at all.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use oarlock_host::Tunnels;
use oarlock_host::folder::AppFolder;
use oarlock_process::Command;
use oarlock_spec::manifest::Manifest;

use super::command::run_bounded;
use super::fence::Cache;
use super::proxy::Proxy;
use super::{BuildError, Fence, Plan, Progress, all_there, bounds, plan};

/// As it is shown. The manifest is named, so that cargo can be started elsewhere.
const FETCH: &str = "cargo fetch --manifest-path /build/Cargo.toml";

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
    let cache = fence.cache(&manifest.app)?;
    fetch(fence, &root, &cache, &mut progress).await?;
    let process = fence.command(&root, &cache, &command);
    run(fence, &root, &cache, (&command, process), &mut progress).await?;
    all_there(&root, manifest, Some(command))
}

/// Does nothing for an app without `Cargo.toml`. A fetch that fails is told and no more: the app may have all that it
/// needs, and else its build says what is missing.
async fn fetch(
    fence: &Fence,
    root: &Path,
    cache: &Cache,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<(), BuildError> {
    let app = AppFolder::open(root).map_err(|error| failed(root, &error))?;
    let (Some(fetch), Ok(())) = (&fence.fetch, app.check("Cargo.toml")) else {
        return Ok(());
    };
    // As above, and a socket's path is short.
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
    let process = fence.fetch_command(root, cache, &fetch.relay, &socket, FETCH);
    let fetched = run(fence, root, cache, (FETCH, process), progress).await;
    let mut refusals = BTreeSet::new();
    while let Ok(refusal) = proxy.refusals.try_recv() {
        refusals.insert(refusal);
    }
    for refusal in refusals {
        progress(Progress::Output(refusal));
    }
    match fetched {
        Err(BuildError::Command(super::CommandError::Failed { .. })) => {
            let text = "the fetch failed; the build goes on with what is there";
            progress(Progress::Output(text.to_owned()));
            Ok(())
        }
        other => other,
    }
}

async fn run(
    fence: &Fence,
    root: &Path,
    cache: &Cache,
    job: (&str, Command),
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<(), BuildError> {
    let folders = vec![root.to_owned(), cache.home.clone(), cache.sources.clone()];
    let limits = fence.limits.clone();
    run_bounded(job, progress, |pid| bounds::exceeded(limits, pid, folders)).await?;
    Ok(())
}

fn failed(path: &Path, error: &std::io::Error) -> BuildError {
    BuildError::Folder {
        path: path.to_owned(),
        reason: crate::folder::explain_io(error),
    }
}
