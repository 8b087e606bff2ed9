//! Add-ons: what a provider gives a process. The shape that all providers share; `kv` and `external` so far.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use oarlock_sandbox::{Endpoint, KvBucket};
use oarlock_spec::manifest::Manifest;
use oarlock_spec::names::ProcessType;

use crate::apply::ApplyError;

/// What the add-ons of an app give to one process type.
#[derive(Clone, Default)]
pub(crate) struct Binding {
    /// Variables (`DATABASE_URL`, …).
    pub(crate) env: BTreeMap<String, String>,
    /// Sockets it opens.
    pub(crate) endpoints: Vec<Endpoint>,
    /// kv buckets by add-on name.
    pub(crate) kv: BTreeMap<String, Arc<dyn KvBucket>>,
}

/// The add-ons of one app; open databases live as long as this (across releases).
pub(crate) struct AppAddons {}

impl AppAddons {
    /// `data`: the app's own folder for embedded add-ons. Nothing is opened yet.
    pub(crate) fn new(_data: &Path) -> Arc<Self> {
        unimplemented!()
    }
    /// What each process type gets. Unknown providers, bad URLs and clashes (with `config`, or with each other) are errors.
    pub(crate) fn bind(
        &self,
        _manifest: &Manifest,
        _config: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<ProcessType, Binding>, ApplyError> {
        unimplemented!()
    }
    /// Flushes and closes.
    pub(crate) async fn close(&self) {
        unimplemented!()
    }
}

/// Checks the manifest's providers, plans and keys without provisioning anything (for `check`): messages with lines.
pub fn check(_manifest: &Manifest) -> Vec<(u32, String)> {
    unimplemented!()
}
