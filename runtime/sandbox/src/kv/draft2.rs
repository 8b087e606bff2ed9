//! `wasi:keyvalue@0.2.0-draft2`: cursors are text, counters are signed, and there is compare-and-swap.

use std::sync::Arc;

use wasmtime::component::{Linker, Resource};

use super::{Bucket, Error, HasKv, KvBucket, KvCtxView, KvSwap, KvView};
use bindings::wasi::keyvalue::{atomics, batch, store};

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit/keyvalue-draft2",
        world: "wasi:keyvalue/imports",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/store.bucket": crate::kv::Bucket,
            "wasi:keyvalue/atomics.cas": crate::kv::draft2::Cas,
        },
        trappable_error_type: {
            "wasi:keyvalue/store.error" => crate::kv::Error,
            "wasi:keyvalue/atomics.cas-error" => crate::kv::draft2::CasFailure,
        },
    });
}

/// What a signed counter may be.
const COUNTER: std::ops::RangeInclusive<i128> = i64::MIN as i128..=i64::MAX as i128;

/// A compare-and-swap under way: which entry, and its version when the handle was made. It holds
/// no value, so that a guest's handles cost the host little.
#[expect(unreachable_pub, reason = "the generated bindings export it")]
pub struct Cas {
    bucket: Arc<dyn KvBucket>,
    key: String,
    version: u64,
}

/// Why a swap did not happen.
#[expect(unreachable_pub, reason = "the generated bindings export it")]
pub enum CasFailure {
    /// The entry was changed; a handle at its present version.
    Changed(Resource<Cas>),
    /// Something else.
    Store(Error),
}

impl<E: Into<Error>> From<E> for CasFailure {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

pub(super) fn add_to_linker<T: KvView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    store::add_to_linker::<T, HasKv>(linker, T::kv)?;
    atomics::add_to_linker::<T, HasKv>(linker, T::kv)?;
    batch::add_to_linker::<T, HasKv>(linker, T::kv)
}

impl store::Host for KvCtxView<'_> {
    async fn open(&mut self, identifier: String) -> Result<Resource<Bucket>, Error> {
        Ok(self.table.push(self.ctx.open(&identifier)?)?)
    }

    fn convert_error(&mut self, error: Error) -> wasmtime::Result<store::Error> {
        match error {
            Error::AccessDenied => Ok(store::Error::AccessDenied),
            Error::Other(text) => Ok(store::Error::Other(text)),
            Error::Handle(error) => Err(error.into()),
        }
    }
}

impl store::HostBucket for KvCtxView<'_> {
    async fn get(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Option<Vec<u8>>, Error> {
        let bucket = Arc::clone(&self.table.get(&bucket)?.0);
        Ok(bucket.get(vec![key]).await?.pop().flatten())
    }

    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> Result<(), Error> {
        let bucket = Arc::clone(&self.table.get(&bucket)?.0);
        Ok(bucket.set(vec![(key, value)]).await?)
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Result<(), Error> {
        let bucket = Arc::clone(&self.table.get(&bucket)?.0);
        Ok(bucket.delete(vec![key]).await?)
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Result<bool, Error> {
        let bucket = Arc::clone(&self.table.get(&bucket)?.0);
        Ok(bucket.version(key).await? != 0)
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<String>,
    ) -> Result<store::KeyResponse, Error> {
        let bucket = Arc::clone(&self.table.get(&bucket)?.0);
        let page = bucket.list(cursor).await?;
        Ok(store::KeyResponse {
            keys: page.keys,
            cursor: page.cursor,
        })
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for KvCtxView<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> Result<i64, Error> {
        let bucket = Arc::clone(&self.table.get(&bucket)?.0);
        let now = bucket.increment(key, i128::from(delta), COUNTER).await?;
        i64::try_from(now)
            .map_err(|_| Error::Other(format!("the counter is {now}, which is no 64-bit integer")))
    }

    async fn swap(&mut self, cas: Resource<Cas>, value: Vec<u8>) -> Result<(), CasFailure> {
        // The handle is consumed, whatever comes of it.
        let Cas {
            bucket,
            key,
            version,
        } = self.table.delete(cas)?;
        match bucket.swap(key.clone(), version, value).await? {
            KvSwap::Done => Ok(()),
            KvSwap::Changed(version) => Err(CasFailure::Changed(self.table.push(Cas {
                bucket,
                key,
                version,
            })?)),
        }
    }

    fn convert_cas_error(&mut self, error: CasFailure) -> wasmtime::Result<atomics::CasError> {
        match error {
            CasFailure::Changed(cas) => Ok(atomics::CasError::CasFailed(cas)),
            CasFailure::Store(error) => {
                store::Host::convert_error(self, error).map(atomics::CasError::StoreError)
            }
        }
    }
}

impl atomics::HostCas for KvCtxView<'_> {
    async fn new(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Resource<Cas>, Error> {
        let bucket = Arc::clone(&self.table.get(&bucket)?.0);
        let version = bucket.version(key.clone()).await?;
        Ok(self.table.push(Cas {
            bucket,
            key,
            version,
        })?)
    }

    /// Read now. If the entry was changed since the handle was made, this is the newer value and the
    /// swap will fail: it compares with the handle's version, as the draft demands.
    async fn current(&mut self, cas: Resource<Cas>) -> Result<Option<Vec<u8>>, Error> {
        let cas = self.table.get(&cas)?;
        let (bucket, key) = (Arc::clone(&cas.bucket), cas.key.clone());
        Ok(bucket.get(vec![key]).await?.pop().flatten())
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.table.delete(cas)?;
        Ok(())
    }
}

impl batch::Host for KvCtxView<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Vec<(String, Option<Vec<u8>>)>, Error> {
        let bucket = Arc::clone(&self.table.get(&bucket)?.0);
        let values = bucket.get(keys.clone()).await?;
        Ok(keys.into_iter().zip(values).collect())
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> Result<(), Error> {
        let bucket = Arc::clone(&self.table.get(&bucket)?.0);
        Ok(bucket.set(pairs).await?)
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<(), Error> {
        let bucket = Arc::clone(&self.table.get(&bucket)?.0);
        Ok(bucket.delete(keys).await?)
    }
}
