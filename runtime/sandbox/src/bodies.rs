//! Bodies of WASI 0.2 on their way out, of responses and of requests: what waits for its reader is charged to the
//! instance, and a guest that is ahead of its reader waits.
//!
//! wasmtime-wasi-http bounds each body (`egress/hooks.rs`), but not how many a guest makes: hundreds that are never sent
//! would each hold their pieces. A guest of 0.3 writes into a body only when it has been handed over, and of those there
//! are no more than `concurrency` and `outgoing` together.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::body::HostOutgoingBody;
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{DynOutputStream, OutputStream, StreamError, StreamResult};

use crate::budget::Budget;
use crate::state::GuestState;

/// The first bytes of each body, which are not charged: most bodies are smaller, and a charge costs an allocation. As a
/// body needs a handle, there are at most `limits.handles` times this much.
const FREE: usize = 4 << 10;
/// Of the account there must be this much before a guest may write again, or it would write single bytes.
const LEAST: u64 = 4 << 10;

/// Links `outgoing-body.write` again, so that what is written is charged.
pub(crate) fn p2(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let linked = linker
        .instance("wasi:http/types@0.2.12")
        .and_then(|mut types| types.func_wrap("[method]outgoing-body.write", write));
    linker.allow_shadowing(false);
    linked
}

type Written = wasmtime::Result<(Result<Resource<DynOutputStream>, ()>,)>;

fn write(
    mut store: StoreContextMut<'_, GuestState>,
    (body,): (Resource<HostOutgoingBody>,),
) -> Written {
    let state = store.data_mut();
    let Some(stream) = state.table.get_mut(&body)?.take_output_stream() else {
        return Ok((Err(()),));
    };
    let stream: DynOutputStream = Box::new(ChargedStream {
        stream,
        budget: state.limiter.budget().clone(),
        free: FREE,
    });
    Ok((Ok(state.table.push_child(stream, &body)?),))
}

/// A body's stream, each of whose pieces is charged until its reader has let go of it.
struct ChargedStream {
    stream: DynOutputStream,
    budget: Arc<Budget>,
    /// What may still be written without a charge.
    free: usize,
}

#[async_trait::async_trait]
impl Pollable for ChargedStream {
    async fn ready(&mut self) {
        self.stream.ready().await;
        if self.free == 0 {
            self.budget.until_room(LEAST).await;
        }
    }
}

#[async_trait::async_trait]
impl OutputStream for ChargedStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() <= self.free {
            self.free -= bytes.len();
            return self.stream.write(bytes);
        }
        self.free = 0;
        // Another of the guest's streams may have taken what `check_write` said there was.
        match self.budget.hold(bytes.len() as u64) {
            Some(charge) => self.stream.write(charge.on(bytes)),
            None => Err(StreamError::LastOperationFailed(wasmtime::format_err!(
                "the instance's memory limit leaves no room for this part of the body"
            ))),
        }
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.stream.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let permitted = self.stream.check_write()?;
        let room = self.budget.room();
        if permitted > self.free && room < LEAST {
            return Ok(self.free);
        }
        Ok(permitted.min(usize::try_from(room).unwrap_or(usize::MAX).max(self.free)))
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}
