//! From a component's bytes to a program. Compiling is dear: a bounded number at once, of all apps. What is in memory or in
//! the code cache does not wait for that, so that an app with a dear component keeps no other from starting.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;
use oarlock_sandbox::{LoadError, Origin, Program};
use oarlock_spec::manifest::Manifest;
use oarlock_spec::names::ProcessType;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::app::{HostShared, HostedApp};
use crate::apply::{ApplyError, Component, Slug};

/// The BLAKE3 digest of a component's bytes.
pub(super) type Digest = [u8; 32];

pub(super) struct Loaded {
    pub(super) digest: Digest,
    pub(super) program: Program,
    pub(super) compiled: bool,
}

/// Each component once, whatever number of process types name it.
pub(super) async fn load_all(
    manifest: &Manifest,
    slug: &Slug,
    app: &HostedApp,
    shared: &HostShared,
) -> Result<BTreeMap<String, Loaded>, ApplyError> {
    let mut first_use = BTreeMap::new();
    for (name, process) in &manifest.processes {
        first_use.entry(process.component.as_str()).or_insert(name);
    }
    let loads = first_use.into_iter().map(|(path, process)| async move {
        Ok::<_, ApplyError>((
            path.to_owned(),
            load(slug, process, path, app, shared).await?,
        ))
    });
    Ok(try_join_all(loads).await?.into_iter().collect())
}

/// What a look found.
enum Found {
    Loaded(Loaded),
    /// It is to be compiled.
    Unknown(Bytes, Digest),
}

/// Reads and loads a component on a blocking thread.
pub(super) async fn load(
    slug: &Slug,
    process: &ProcessType,
    path: &str,
    app: &HostedApp,
    shared: &HostShared,
) -> Result<Loaded, ApplyError> {
    let unreadable = |source| ApplyError::Unreadable {
        process: process.clone(),
        path: path.to_owned(),
        source,
    };
    let Some(component) = slug.components.get(path).cloned() else {
        return Err(unreadable(std::io::ErrorKind::NotFound.into()));
    };
    let known = app.current.load_full();
    let (engine, owner, name) = (shared.engine.clone(), app.name.clone(), path.to_owned());
    let program_of = move |bytes: &[u8], digest| {
        let program = engine.load_for(&owner, &name, bytes)?;
        Ok::<_, LoadError>(Loaded {
            digest,
            compiled: matches!(program.origin(), Origin::Compiled(_)),
            program,
        })
    };
    let (engine, look) = (shared.engine.clone(), program_of.clone());
    let turn_of_app = app.loading.acquire().await;
    let found = on_thread(path, &shared.loads, move || {
        let bytes = read(&component)?;
        let digest = *blake3::hash(&bytes).as_bytes();
        let known = known.as_ref();
        if let Some(program) = known.and_then(|release| release.programs.get(&digest)) {
            return Ok(Ok(Found::Loaded(Loaded {
                digest,
                program: program.clone(),
                compiled: false,
            })));
        }
        if engine.has_code_of(&bytes) {
            return Ok(look(&bytes, digest).map(Found::Loaded));
        }
        Ok(Ok(Found::Unknown(bytes, digest)))
    });
    let found = found.await?.map_err(unreadable)?;
    drop(turn_of_app);
    match found? {
        Found::Loaded(loaded) => Ok(loaded),
        Found::Unknown(bytes, digest) => {
            // One of each app: the next component of an app that has many waits behind those of the others.
            let _turn = app.compiling.lock().await;
            let compile = move || program_of(&bytes, digest);
            Ok(on_thread(path, &shared.compilers, compile).await??)
        }
    }
}

/// Does blocking work when there is a turn for it.
async fn on_thread<T: Send + 'static>(
    path: &str,
    turns: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApplyError> {
    let turn = Arc::clone(turns).acquire_owned().await;
    let turn: OwnedSemaphorePermit = turn.map_err(|_| ApplyError::ShuttingDown)?;
    let done = tokio::task::spawn_blocking(move || {
        // Goes with the thread: whoever waits for it may give up before it is done.
        let _turn = turn;
        work()
    });
    let failed = |error| ApplyError::Platform(format!("loading {path} failed: {error}"));
    done.await.map_err(failed)
}

fn read(component: &Component) -> std::io::Result<Bytes> {
    match component {
        Component::Bytes(bytes) => Ok(bytes.clone()),
        Component::File { dir, path } => dir.read(path).map(Bytes::from),
    }
}
