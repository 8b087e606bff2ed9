//! Host functions of the embedder's own: WIT interfaces that components may import beside WASI.
//!
//! They are linked when a component is loaded, for all apps or for those that are named, and a component that
//! imports one its app was not given is refused like any other missing import. Bounds: a host function runs on a
//! guest's core and holds it as long as it does not return, so it must not block (an `async` one may wait);
//! resources that it puts into [`Guest::table`] count against the guest's `resources`. Their interfaces are the
//! embedder's promise: what wasmtime's types look like changes with wasmtime's version, see the crate's `wasmtime`.

use std::any::{Any, TypeId};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use oarlock_spec::names::{AppName, DynoName};
use wasmtime::component::{Linker, ResourceTable};

use crate::state::GuestState as Guest;

type Link = dyn Fn(&mut Linker<Guest>) -> wasmtime::Result<()> + Send + Sync;

/// What an embedder links into guests. Cheap to clone.
///
/// `link` is given wasmtime's own linker, so that what `wasmtime::component::bindgen!` generates fits: its
/// `add_to_linker` with [`Guest`] as the store's data. A host function finds out who calls it by
/// [`Guest::app`] and [`Guest::dyno`], and what it works on by [`Guest::data`].
#[derive(Clone, Default)]
pub struct HostFunctions {
    links: Vec<Linked>,
    data: Arc<Data>,
}

/// Interfaces, and who may import them.
#[derive(Clone)]
struct Linked {
    /// `None`: all.
    apps: Option<Arc<BTreeSet<AppName>>>,
    link: Arc<Link>,
}

impl Linked {
    fn is_for(&self, app: Option<&AppName>) -> bool {
        match (&self.apps, app) {
            (None, _) => true,
            (Some(apps), Some(app)) => apps.contains(app),
            (Some(_), None) => false,
        }
    }
}

/// Values by their type.
#[derive(Clone, Default)]
pub(crate) struct Data(HashMap<TypeId, Arc<dyn Any + Send + Sync>>);

impl Data {
    fn get<T: Any>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>())?.downcast_ref()
    }
}

impl fmt::Debug for HostFunctions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostFunctions")
            .field("links", &self.links.len())
            .finish_non_exhaustive()
    }
}

impl HostFunctions {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value that host functions find with [`Guest::data`]: one of each type, shared by all guests.
    #[must_use]
    pub fn with_data<T: Any + Send + Sync>(mut self, value: T) -> Self {
        Arc::make_mut(&mut self.data)
            .0
            .insert(TypeId::of::<T>(), Arc::new(value));
        self
    }

    /// Adds interfaces that every app may import. `link` is called at each load of a component.
    #[must_use]
    pub fn link(
        mut self,
        link: impl Fn(&mut Linker<Guest>) -> wasmtime::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.links.push(Linked {
            apps: None,
            link: Arc::new(link),
        });
        self
    }

    /// Adds interfaces that only these apps may import; for the others they do not exist.
    #[must_use]
    pub fn link_for(
        mut self,
        apps: impl IntoIterator<Item = AppName>,
        link: impl Fn(&mut Linker<Guest>) -> wasmtime::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.links.push(Linked {
            apps: Some(Arc::new(apps.into_iter().collect())),
            link: Arc::new(link),
        });
        self
    }

    pub(crate) fn data(&self) -> Arc<Data> {
        Arc::clone(&self.data)
    }

    /// The linker with what this app may import beside WASI; `None`: nothing.
    pub(crate) fn linked(
        &self,
        wasi: &Linker<Guest>,
        app: Option<&AppName>,
    ) -> wasmtime::Result<Option<Linker<Guest>>> {
        let theirs = self.links.iter().filter(|linked| linked.is_for(app));
        let mut links = theirs.peekable();
        if links.peek().is_none() {
            return Ok(None);
        }
        let mut linker = wasi.clone();
        for linked in links {
            (linked.link)(&mut linker)?;
        }
        Ok(Some(linker))
    }

    /// Links everything once: a mistake is said at the start, not by the first app.
    pub(crate) fn check(&self, wasi: &Linker<Guest>) -> wasmtime::Result<()> {
        self.links
            .iter()
            .try_for_each(|linked| (linked.link)(&mut wasi.clone()))
    }
}

/// What a host function sees of the guest that calls it.
impl Guest {
    /// Whose guest it is.
    pub fn app(&self) -> &AppName {
        &self.who.0
    }

    /// Which of its dynos.
    pub fn dyno(&self) -> &DynoName {
        &self.who.1
    }

    /// The value of this type that was given to [`HostFunctions::with_data`]; `None`: there is none.
    pub fn data<T: Any>(&self) -> Option<&T> {
        self.data.get()
    }

    /// The guest's resources, for interfaces that have such.
    pub fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}
