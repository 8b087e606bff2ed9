//! The data of a store: all that the host functions of one instance work on.

use std::sync::Arc;

use oarlock_spec::names::{AppName, DynoName};
use tokio_util::sync::CancellationToken;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::environment::Environment;
use crate::fields::FieldsCharge;
use crate::files::Files;
use crate::functions::Data;
use crate::limiter::MemoryLimiter;
use crate::sockets::{NetCtxView, NetView};

/// The guest that calls a host function: the data of its store, opaque but for these methods.
// What is shared by all instances of a sandbox lies behind `Arc`s.
pub struct GuestState {
    /// Whose it is, and which dyno.
    pub(crate) who: Arc<(AppName, DynoName)>,
    /// What the embedder's own host functions work on.
    pub(crate) data: Arc<Data>,
    /// Clocks, randomness, standard streams. Environment and folders are ours: see below.
    pub(crate) wasi: WasiCtx,
    /// Every resource the guest holds; its capacity is `limits.resources`.
    pub(crate) table: ResourceTable,
    pub(crate) http: WasiHttpCtx,
    /// Outgoing HTTP: the one choke point for it.
    pub(crate) hooks: crate::egress::HttpHooks,
    /// Sockets and name look-ups.
    pub(crate) net: crate::sockets::NetCtx,
    /// `wasi:keyvalue`.
    pub(crate) kv: crate::kv::KvCtx,
    /// Environment variables and arguments, shared by all instances of the sandbox.
    pub(crate) environment: Arc<Environment>,
    /// Folders, and this instance's `/tmp`.
    pub(crate) files: Files,
    /// Fires when the dyno is to stop.
    pub(crate) stopping: CancellationToken,
    /// Linear memories and tables, and the account that the host's own buffers are charged to.
    pub(crate) limiter: MemoryLimiter,
    /// What header sets take of that account.
    pub(crate) fields: FieldsCharge,
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl NetView for GuestState {
    fn net(&mut self) -> NetCtxView<'_> {
        NetCtxView {
            ctx: &mut self.net,
            table: &mut self.table,
            memory: &mut self.limiter,
        }
    }
}

impl WasiHttpView for GuestState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

impl crate::kv::KvView for GuestState {
    fn kv(&mut self) -> crate::kv::KvCtxView<'_> {
        crate::kv::KvCtxView {
            ctx: &self.kv,
            table: &mut self.table,
        }
    }
}
