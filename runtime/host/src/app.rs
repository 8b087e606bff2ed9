//! An app as an embedder gives it: a manifest and components, from a folder or from memory.
//!
//! An [`App`] is only a description; [`Host::add`] checks it as a whole and makes it run. What `oarlock up` does beyond
//! that is not done here: nothing is built, `.env` is not read, and `[files] include` is not gathered (a folder for
//! `/app` is given with [`App::files`]). Bounds: a component has at most 256 MiB.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cap_std::fs::Dir;
use oarlock_spec::api::Formation;
use oarlock_spec::manifest::{
    self, MANIFEST_FILE, MAX_SCALE, Manifest, ManifestErrors, Options, PROCFILE,
    config_name_mistake,
};
use oarlock_spec::names::{AppName, NameError, SlugId};
use oarlock_spec::policy::Policy;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::Host;
use crate::apply::{Applied, ApplyError, Component, Desired, ReleasePhase, Slug, dynos_of};
use crate::folder::{AppFolder, FileError, MAX_COMPONENT};
use crate::host::Inner;

/// An app to be run: [`Host::add`] takes it.
///
/// ```
/// use oarlock_host::{AddError, App, Host, HostConfig};
///
/// # let data = tempfile::tempdir()?;
/// # futures::executor::block_on(async {
/// let host = Host::start(HostConfig::new(data.path()))?;
/// let app = App::from_manifest("app = \"shop\"\n[proceses]\nweb = \"web.wasm\"\n[limits.web]\nmemry = \"1 MiB\"");
/// match host.add(app).await {
///     // Every mistake at once, with its line and what to write instead.
///     Err(AddError::Manifest(mistakes)) => assert!(mistakes.to_string().contains("did you mean `processes`?")),
///     other => panic!("{other:?}"),
/// }
/// # host.shutdown().await;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct App {
    source: Source,
    components: BTreeMap<String, Bytes>,
    files: Option<Arc<Dir>>,
    config: BTreeMap<String, String>,
    scale: BTreeMap<String, u32>,
}

#[derive(Clone)]
enum Source {
    Toml(String),
    /// A Procfile names no app.
    Procfile(String, AppName),
}

/// Why an app was not added. What ran under its name before goes on.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// A file of its folder.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder's name is no app name, and its Procfile gives none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// All mistakes of the manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestErrors),
    /// All other mistakes of the app: what the manifest names is missing, or the reverse.
    #[error("{}", .0.join("\n"))]
    Mistakes(Vec<String>),
    /// It was refused, or did not start.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl App {
    /// An app with this manifest (the text of an `oarlock.toml`) and nothing else yet. It is checked when it is added.
    #[must_use]
    pub fn from_manifest(toml: impl Into<String>) -> Self {
        Self::new(Source::Toml(toml.into()))
    }

    /// The app in a folder: its `oarlock.toml` or `Procfile`, and the components that this names, all read now.
    /// Nothing is built. The folder is read as hostile input, see [`folder`](crate::folder). Blocks on the disk.
    ///
    /// # Errors
    /// If the manifest has mistakes, or a file is missing or too large.
    pub fn from_dir(path: impl AsRef<Path>) -> Result<Self, AddError> {
        let path = path.as_ref();
        let failed = |file: &str| {
            let path = path.join(file);
            move |source| AddError::Read { path, source }
        };
        let folder = AppFolder::open(path).map_err(failed(""))?;
        let text = |file: &str| {
            let found = folder
                .read_text(file)
                .and_then(|text| text.ok_or(FileError::Missing));
            found.map_err(|error| failed(file)(error.into()))
        };
        let source = if !folder.has(MANIFEST_FILE) && folder.has(PROCFILE) {
            let absolute = path.canonicalize().map_err(failed(""))?;
            let name = absolute.file_name().unwrap_or_default().to_string_lossy();
            Source::Procfile(text(PROCFILE)?, name.parse()?)
        } else {
            Source::Toml(text(MANIFEST_FILE)?)
        };
        let mut app = Self::new(source);
        for process in app.manifest(&Policy::default())?.processes.into_values() {
            let file = process.component;
            if let Entry::Vacant(place) = app.components.entry(file) {
                let file = place.key();
                let bytes = folder
                    .read(file, MAX_COMPONENT)
                    .map_err(|error| failed(file)(error.into()))?;
                place.insert(bytes.into());
            }
        }
        Ok(app)
    }

    fn new(source: Source) -> Self {
        Self {
            source,
            components: BTreeMap::new(),
            files: None,
            config: BTreeMap::new(),
            scale: BTreeMap::new(),
        }
    }

    /// Adds a component under the path that the manifest names it with.
    #[must_use]
    pub fn component(mut self, path: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        self.components.insert(path.into(), bytes.into());
        self
    }

    /// Sets a config var, over what `[config]` says.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.insert(name.into(), value.into());
        self
    }

    /// Sets how many dynos of a process type run, over what `[scale]` says and over how it was scaled before.
    #[must_use]
    pub fn scale(mut self, process: impl Into<String>, count: u32) -> Self {
        self.scale.insert(process.into(), count);
        self
    }

    /// What the app sees at `/app`, read-only: this folder, as it is whenever the app looks.
    #[must_use]
    pub fn files(mut self, folder: Dir) -> Self {
        self.files = Some(Arc::new(folder));
        self
    }

    fn manifest(&self, policy: &Policy) -> Result<Manifest, ManifestErrors> {
        let options = Options {
            policy: Some(policy),
            providers: &[],
        };
        match &self.source {
            Source::Toml(text) => manifest::parse(text, &options),
            Source::Procfile(text, app) => manifest::parse_procfile(text, app.clone(), &options),
        }
    }

    /// Everything that is wrong with it beyond its manifest.
    fn mistakes(&self, manifest: &Manifest, policy: &Policy) -> Vec<String> {
        let mut mistakes = Vec::new();
        for (name, process) in &manifest.processes {
            let path = &process.component;
            if !self.components.contains_key(path) {
                mistakes.push(format!(
                    "process `{name}` is `{path}`, and there is no such component; give it with `App::component`"
                ));
            }
        }
        let one_off = |path: &str| path.ends_with(".wasm");
        for (path, bytes) in &self.components {
            if bytes.len() as u64 > MAX_COMPONENT {
                mistakes.push(format!(
                    "the component `{path}` has more than {MAX_COMPONENT} bytes"
                ));
            }
            let named = manifest.processes.values().any(|p| p.component == *path);
            if !named && !one_off(path) {
                mistakes.push(format!(
                    "no process is `{path}`; a component for one-off dynos needs a name that ends with `.wasm`"
                ));
            }
        }
        for name in self.config.keys() {
            if let Some((wrong, help)) = config_name_mistake(name) {
                let help = help.map(|help| format!("; {help}")).unwrap_or_default();
                mistakes.push(format!("{wrong}{help}"));
            }
        }
        let zero = self.config.iter().filter(|(_, value)| value.contains('\0'));
        mistakes.extend(zero.map(|(name, _)| format!("`{name}` holds a zero byte")));
        mistakes.extend(self.scale_mistakes(manifest));
        mistakes.extend(self.too_many_dynos(manifest, policy));
        if !manifest.files.is_empty() && self.files.is_none() {
            mistakes.push(
                "`[files] include` is gathered by `oarlock` only; give the folder with `App::files`".to_owned(),
            );
        }
        let addons = crate::addons::check(manifest).into_iter();
        mistakes
            .extend(addons.map(|(line, wrong)| format!("line {line} of the manifest: {wrong}")));
        mistakes
    }

    fn too_many_dynos(&self, manifest: &Manifest, policy: &Policy) -> Option<String> {
        if self.scale.is_empty() {
            return None;
        }
        let mut formation = manifest.initial_scale();
        for (name, count) in &mut formation {
            *count = self.scale.get(name.as_str()).copied().unwrap_or(*count);
        }
        let refused = policy.app_caps.check_dynos(formation.values()).err()?;
        Some(refused.to_string())
    }

    fn scale_mistakes(&self, manifest: &Manifest) -> impl Iterator<Item = String> {
        let scalable = manifest.initial_scale();
        self.scale.iter().filter_map(move |(name, count)| {
            let Some(process) = manifest.processes.get(name.as_str()) else {
                return Some(format!(
                    "`{name}` cannot be scaled: the manifest has no such process type"
                ));
            };
            let most = if process.singleton { 1 } else { MAX_SCALE };
            if !scalable.contains_key(name.as_str()) {
                Some(format!(
                    "`{name}` has no scale: it is started by the clock or by a release"
                ))
            } else if *count > most {
                Some(format!("`{name}` can have up to {most} dynos, not {count}"))
            } else {
                None
            }
        })
    }

    /// A process type keeps what it had before, unless this says otherwise.
    fn formation(&self, manifest: &Manifest, before: &Formation) -> Formation {
        let mut formation = manifest.initial_scale();
        for (process, count) in &mut formation {
            let wanted = self.scale.get(process.as_str()).or(before.get(process));
            *count = wanted.copied().unwrap_or(*count);
        }
        formation
    }

    /// Named by its contents. The folder of `files` is not part of it: it is the embedder's, and may change.
    fn slug(&self, manifest: &Manifest) -> Result<SlugId, ApplyError> {
        let platform = |error: &dyn std::fmt::Display| ApplyError::Platform(error.to_string());
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        field(b"oarlock embedded slug 1");
        field(&serde_json::to_vec(manifest).map_err(|error| platform(&error))?);
        for (path, bytes) in &self.components {
            field(path.as_bytes());
            field(bytes);
        }
        let digest = hash.finalize();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        hex.parse().map_err(|error: NameError| platform(&error))
    }
}

impl Host {
    /// Adds an app, or another release of one that runs: it is checked, loaded, its release phase is run, its dynos
    /// are started, and then those of the release before are stopped. Releases are counted from `v1` up.
    ///
    /// From now on a request for it waits for it, within the limits of its `web`; if its first release fails, nobody has
    /// its host name again.
    ///
    /// A process type that ran before keeps its scale; a new one has that of the manifest; [`App::scale`] is above both.
    ///
    /// # Errors
    /// All mistakes of the app at once, or why it did not start. What ran before goes on.
    pub async fn add(&self, app: App) -> Result<Applied, AddError> {
        let manifest = app.manifest(&self.inner.shared.config.policy)?;
        let mistakes = app.mistakes(&manifest, &self.inner.shared.config.policy);
        if !mistakes.is_empty() {
            return Err(AddError::Mistakes(mistakes));
        }
        let inner = Arc::clone(&self.inner);
        // On the control thread, so that it comes to its end though the caller may not wait.
        let added = self.on_control(async move { inner.add(app, manifest).await });
        added
            .await
            .unwrap_or_else(|| Err(ApplyError::ShuttingDown.into()))
    }
}

impl Inner {
    async fn add(self: Arc<Self>, app: App, manifest: Manifest) -> Result<Applied, AddError> {
        let name = manifest.app.clone();
        let web = manifest.processes.keys().find(|process| process.is_web());
        let expected = web.is_some_and(|web| self.expect(&name, &manifest.limits_of(web)));
        let added = self.apply(app, manifest).await;
        if expected && added.is_err() {
            self.apps.forget(&name, &*self);
        }
        added
    }

    async fn apply(self: &Arc<Self>, app: App, manifest: Manifest) -> Result<Applied, AddError> {
        let to_the_end = CancellationToken::new();
        let turn = self.turn(&manifest.app, &to_the_end).await?;
        let mut config = manifest.config.clone();
        config.extend(app.config.clone());
        let desired = Desired {
            release: turn.app.next_release(),
            formation: dynos_of(&app.formation(&manifest, &turn.formation)),
            slug: app.slug(&manifest)?,
            config,
            manifest,
            release_phase: ReleasePhase::Run,
        };
        let components = app.components.into_iter();
        let slug = Slug {
            id: desired.slug.clone(),
            components: components
                .map(|(path, bytes)| (path, Component::Bytes(bytes)))
                .collect(),
            files: app.files,
        };
        let after_phase = Box::pin(std::future::ready(Ok(())));
        let staged = self.stage(turn, desired, slug, after_phase, to_the_end);
        Ok(staged.await?.commit().await?)
    }
}
