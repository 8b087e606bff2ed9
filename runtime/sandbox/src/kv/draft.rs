//! `wasi:keyvalue@0.2.0-draft`: cursors are numbers, counters are unsigned.

use std::sync::Arc;

use wasmtime::component::{Linker, Resource};

use super::{Bucket, Error, HasKv, KvCtxView, KvView};
use bindings::wasi::keyvalue::{atomics, batch, store};

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit/keyvalue-draft",
        world: "wasi:keyvalue/imports",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": crate::kv::Bucket },
        trappable_error_type: { "wasi:keyvalue/store.error" => crate::kv::Error },
    });
}

/// What an unsigned counter may be.
const COUNTER: std::ops::RangeInclusive<i128> = 0..=u64::MAX as i128;

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
        cursor: Option<u64>,
    ) -> Result<store::KeyResponse, Error> {
        let bucket = Arc::clone(&self.table.get(&bucket)?.0);
        let page = bucket.list_created(cursor.unwrap_or(0)).await?;
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
        delta: u64,
    ) -> Result<u64, Error> {
        let bucket = Arc::clone(&self.table.get(&bucket)?.0);
        let now = bucket.increment(key, i128::from(delta), COUNTER).await?;
        u64::try_from(now).map_err(|_| {
            Error::Other(format!(
                "the counter is {now}, which is no unsigned 64-bit integer"
            ))
        })
    }
}

impl batch::Host for KvCtxView<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<(String, Vec<u8>)>>, Error> {
        let bucket = Arc::clone(&self.table.get(&bucket)?.0);
        let values = bucket.get(keys.clone()).await?;
        Ok(keys
            .into_iter()
            .zip(values)
            .map(|(key, value)| value.map(|value| (key, value)))
            .collect())
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
