//! The kv add-on: a small durable store of keys and values, one for the whole app.
//!
//! Its place in the manifest is a line below `[addons]`, as in `db = "kv"`. A write that has been
//! answered survives the host's death. The calls are async so that they stay as they are when
//! `wasi:keyvalue` becomes so; today a call holds the instance until it is answered.
//!
//! ```no_run
//! # async fn example() -> oarlock_sdk::Result<()> {
//! let bucket = oarlock_sdk::kv::open("default")?;
//! bucket.set("greeting", "hello").await?;
//! let visits = bucket.increment("visits", 1).await?;
//! # Ok(()) }
//! ```

use crate::backend::kv::{atomics, batch, store};

/// Why a kv call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// There is no kv add-on of that name for this process.
    AccessDenied(String),
    /// Anything else, such as a store that is full.
    Other(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::AccessDenied(name) => write!(
                f,
                "this process has no kv add-on `{name}`; add one to the manifest's `[addons]`, as in `{} = \"kv\"`",
                if name == "default" { "db" } else { name }
            ),
            Error::Other(reason) => write!(f, "kv: {reason}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Error {
        match error {
            store::Error::NoSuchStore => Error::Other("the store is gone".to_owned()),
            store::Error::AccessDenied => Error::Other("access denied".to_owned()),
            store::Error::Other(reason) => Error::Other(reason),
        }
    }
}

/// Opens a kv add-on: the app's only one as `default`, any by its name in the manifest.
///
/// # Errors
/// If this process was not given it.
pub fn open(name: &str) -> Result<Bucket, Error> {
    match store::open(name) {
        Ok(bucket) => Ok(Bucket(bucket)),
        Err(store::Error::Other(reason)) => Err(Error::Other(reason)),
        Err(store::Error::NoSuchStore | store::Error::AccessDenied) => {
            Err(Error::AccessDenied(name.to_owned()))
        }
    }
}

/// An open kv add-on.
#[derive(Debug)]
pub struct Bucket(store::Bucket);

/// A page of keys; see [`Bucket::list`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys, in order.
    pub keys: Vec<String>,
    /// Where the next page starts; `None`: this was the last one.
    pub next: Option<String>,
}

/// Another writer was first; see [`Bucket::compare_and_swap`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The value as it is now.
    pub current: Option<Vec<u8>>,
}

impl Bucket {
    /// The value of a key, if there is one.
    ///
    /// # Errors
    /// If the store failed.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.get(key)?)
    }

    /// Sets a key's value.
    ///
    /// # Errors
    /// If the store is full, the value too large, or the store failed; nothing has changed then.
    pub async fn set(&self, key: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
        Ok(self.0.set(key, value.as_ref())?)
    }

    /// Removes a key; one that is not there is no error.
    ///
    /// # Errors
    /// If the store failed.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        Ok(self.0.delete(key)?)
    }

    /// Whether a key is there.
    ///
    /// # Errors
    /// If the store failed.
    pub async fn exists(&self, key: &str) -> Result<bool, Error> {
        Ok(self.0.exists(key)?)
    }

    /// A page of keys, from the start or from an earlier page's `next` on.
    ///
    /// # Errors
    /// If the store failed.
    pub async fn list(&self, from: Option<&str>) -> Result<Page, Error> {
        let page = self.0.list_keys(from)?;
        Ok(Page {
            keys: page.keys,
            next: page.cursor,
        })
    }

    /// All keys that start with `prefix`, in order. It reads every page: for stores of modest size.
    ///
    /// # Errors
    /// If the store failed.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let mut keys = Vec::new();
        let mut from = None;
        loop {
            let page = self.list(from.as_deref()).await?;
            keys.extend(page.keys.into_iter().filter(|key| key.starts_with(prefix)));
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok(keys),
            }
        }
    }

    /// Adds to a decimal integer, atomically; an absent key counts as 0. Returns the new value.
    ///
    /// # Errors
    /// If the value is no integer, or the store failed.
    pub async fn increment(&self, key: &str, by: i64) -> Result<i64, Error> {
        Ok(atomics::increment(&self.0, key, by)?)
    }

    /// Sets `key` to `new` if its value still is `old` (`None`: if it is not there); otherwise says what
    /// it is now.
    ///
    /// # Errors
    /// If the store failed.
    pub async fn compare_and_swap(
        &self,
        key: &str,
        old: Option<&[u8]>,
        new: impl AsRef<[u8]>,
    ) -> Result<Result<(), Changed>, Error> {
        let cas = atomics::Cas::new(&self.0, key)?;
        let current = cas.current()?;
        if current.as_deref() != old {
            return Ok(Err(Changed { current }));
        }
        match atomics::swap(cas, new.as_ref()) {
            Ok(()) => Ok(Ok(())),
            Err(atomics::CasError::StoreError(error)) => Err(error.into()),
            Err(atomics::CasError::CasFailed(cas)) => Ok(Err(Changed {
                current: cas.current()?,
            })),
        }
    }

    /// Changes a value by a function of what it was, however many others change it too: the function
    /// runs again until nobody was in between. Returns what it set.
    ///
    /// # Errors
    /// If the store failed.
    pub async fn update(
        &self,
        key: &str,
        mut change: impl FnMut(Option<&[u8]>) -> Vec<u8>,
    ) -> Result<Vec<u8>, Error> {
        let mut cas = atomics::Cas::new(&self.0, key)?;
        loop {
            let new = change(cas.current()?.as_deref());
            match atomics::swap(cas, &new) {
                Ok(()) => return Ok(new),
                Err(atomics::CasError::StoreError(error)) => return Err(error.into()),
                Err(atomics::CasError::CasFailed(newer)) => cas = newer,
            }
        }
    }

    /// The values of several keys, in their order, all from one moment.
    ///
    /// # Errors
    /// If the store failed.
    pub async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        Ok(batch::get_many(&self.0, keys)?
            .into_iter()
            .map(|(_, value)| value)
            .collect())
    }

    /// Sets several keys: all of them, or none.
    ///
    /// # Errors
    /// If the store is full or failed.
    pub async fn set_many(&self, pairs: &[(String, Vec<u8>)]) -> Result<(), Error> {
        Ok(batch::set_many(&self.0, pairs)?)
    }

    /// Removes several keys: all of them, or none.
    ///
    /// # Errors
    /// If the store failed.
    pub async fn delete_many(&self, keys: &[String]) -> Result<(), Error> {
        Ok(batch::delete_many(&self.0, keys)?)
    }

    /// A value read as JSON.
    ///
    /// # Errors
    /// If the store failed or the value is not the JSON of a `T`.
    #[cfg(feature = "json")]
    pub async fn get_json<T: serde::de::DeserializeOwned>(
        &self,
        key: &str,
    ) -> crate::Result<Option<T>> {
        let Some(value) = self.get(key).await? else {
            return Ok(None);
        };
        Ok(Some(serde_json::from_slice(&value).map_err(|error| {
            format!("kv: the value of `{key}`: {error}")
        })?))
    }

    /// Sets a value as JSON.
    ///
    /// # Errors
    /// As [`Bucket::set`], or if `value` has no JSON form.
    #[cfg(feature = "json")]
    pub async fn set_json(&self, key: &str, value: &impl serde::Serialize) -> crate::Result<()> {
        Ok(self.set(key, serde_json::to_vec(value)?).await?)
    }
}
