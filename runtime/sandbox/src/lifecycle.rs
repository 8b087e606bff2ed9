//! `oarlock:dyno`: how a guest hears that it is to stop.

use tokio_util::sync::CancellationToken;
use wasmtime::component::{Accessor, HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};

use crate::state::GuestState;

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit",
        inline: "
            package oarlock:host;
            world host {
                import oarlock:dyno/lifecycle@0.1.0;
                import oarlock:dyno/lifecycle-async@0.1.0;
            }
        ",
        world: "oarlock:host/host",
        imports: {
            "oarlock:dyno/lifecycle-async.stopping": async | store | trappable,
            default: trappable,
        },
        with: {
            "wasi:io/poll": wasmtime_wasi_io::bindings::wasi::io::poll,
        },
        require_store_data_send: true,
    });
}

use bindings::oarlock::dyno::{lifecycle, lifecycle_async};

/// What the host functions of this interface see of the store's data.
pub(crate) struct LifecycleView<'a> {
    stopping: &'a CancellationToken,
    table: &'a mut ResourceTable,
}

/// The key under which bindings find [`LifecycleView`].
struct Lifecycle;

impl HasData for Lifecycle {
    type Data<'a> = LifecycleView<'a>;
}

/// Becomes ready when the dyno is to stop, and stays so.
struct StopEvent(CancellationToken);

#[async_trait::async_trait]
impl Pollable for StopEvent {
    async fn ready(&mut self) {
        self.0.cancelled().await;
    }
}

impl lifecycle::Host for LifecycleView<'_> {
    fn stopping(&mut self) -> wasmtime::Result<Resource<DynPollable>> {
        let event = self.table.push(StopEvent(self.stopping.clone()))?;
        subscribe(self.table, event)
    }
}

impl lifecycle_async::Host for LifecycleView<'_> {}

impl<T: Send> lifecycle_async::HostWithStore<T> for Lifecycle {
    async fn stopping(accessor: &Accessor<T, Self>) -> wasmtime::Result<()> {
        let token = accessor.with(|mut store| store.get().stopping.clone());
        token.cancelled().await;
        Ok(())
    }
}

fn view(state: &mut GuestState) -> LifecycleView<'_> {
    LifecycleView {
        stopping: &state.stopping,
        table: &mut state.table,
    }
}

/// Links `lifecycle`, for guests of 0.2.
pub(crate) fn p2(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    lifecycle::add_to_linker::<GuestState, Lifecycle>(linker, view)
}

/// Links `lifecycle-async`, for guests of 0.3.
pub(crate) fn p3(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    lifecycle_async::add_to_linker::<GuestState, Lifecycle>(linker, view)
}
