//! Gives back to the machine what the pools keep of a burst.
//!
//! A slot of a pool keeps its pages when it is given back, because page faults are most of a fresh instance's price.
//! That is right as long as the slot is used again soon; after a burst hundreds of them never are. wasmtime has no call
//! that empties an unused slot, but whoever has an instance owns its slot: so this takes the unused slots for instances
//! of a module that does nothing, tells the kernel that their pages are not needed, and ends these instances.

use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Waker};

use rustix::mm::{Advice, madvise};
use wasmtime::component::Linker as ComponentLinker;
use wasmtime::{Engine, Extern, Instance, Linker, Module, Store};

use crate::engine::{EngineInner, RESERVATION, STACK, Variant};

/// Slots that stay as they are: enough for what usually runs at once.
const KEEP: u32 = 32;
/// What the unused slots of a pool may keep without anybody minding: as wasmtime counts it, without the pages of a
/// component's image that slots have mapped, which are a multiple of it. It ends the emptying too: slots that are empty
/// count as unused ones.
const KEEP_BYTES: usize = 512 << 10;
/// Looks that a slot is unused for, before it is surplus.
const LOOKS: usize = 2;
/// Slots that are emptied at once; they cannot be used meanwhile.
const AT_ONCE: u32 = 256;
/// Of a stack, what is left alone beside the place where it is used: far more than the frames there need.
const SLACK: usize = 64 << 10;

/// A component that exports, as `e`, a module with an empty memory `m`, and a function `r` that calls the imported
/// `h`.`p`.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0\
    \x01\x33\
    \0asm\x01\0\0\0\
    \x01\x04\x01\x60\0\0\
    \x02\x07\x01\x01h\x01p\0\0\
    \x03\x02\x01\0\
    \x05\x03\x01\0\0\
    \x07\x09\x02\x01m\x02\0\x01r\0\x01\
    \x0a\x06\x01\x04\0\x10\0\x0b\
    \x0b\x08\x01\0\x01e\0\x11\0\0";

/// How many slots were unused at the last looks, of the pool of one engine of wasmtime's.
#[derive(Default)]
pub(crate) struct Trim {
    looks: Mutex<[u32; LOOKS]>,
}

impl Trim {
    /// Empties the slots that were unused at the last looks and at this one, but for a few. Blocks for some
    /// milliseconds; to be called every few seconds.
    pub(crate) fn look(&self, inner: &EngineInner, variant: Variant) {
        let engine = &inner.linked(variant).wasm;
        let Some(metrics) = engine.pooling_allocator_metrics() else {
            return;
        };
        let unused = metrics.unused_warm_memories();
        let surplus = {
            let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
            let least = looks.iter().copied().fold(unused, u32::min);
            looks.rotate_left(1);
            if let Some(last) = looks.last_mut() {
                *last = unused;
            }
            least.saturating_sub(KEEP)
        };
        if surplus == 0 || metrics.unused_memory_bytes_resident() <= KEEP_BYTES {
            return;
        }
        let mut left = surplus;
        while left > 0 {
            let now = left.min(AT_ONCE);
            // Those who want to start something go first.
            let Some(_held) = inner.places.try_hold(now) else {
                return;
            };
            let emptied = module(inner, variant).and_then(|module| empty(engine, &module, now));
            if let Err(error) = emptied {
                tracing::debug!(error = %crate::trap::describe(&error), "unused slots could not be emptied");
                return;
            }
            left -= now;
        }
    }
}

/// The module: a new one each time, for the pool gives a module the slots that it had before. It comes from the code
/// cache, so that what compiles components compiles it too, once: a compiler that has run in the host's own process
/// leaves more than ten megabytes behind.
fn module(inner: &EngineInner, variant: Variant) -> wasmtime::Result<Module> {
    let digest = blake3::hash(COMPONENT);
    let loaded = inner.cache.load(variant, digest, COMPONENT);
    let (code, _) = loaded.map_err(|error| wasmtime::format_err!("{error:?}"))?;
    let engine = &inner.linked(code.variant).wasm;
    let mut store = Store::new(engine, ());
    let instance = ComponentLinker::new(engine).instantiate(&mut store, &code.component)?;
    let module = instance.get_module(&mut store, "e");
    module.ok_or_else(|| wasmtime::format_err!("it exports no module"))
}

/// Empties so many unused slots, of memories and of stacks.
fn empty(engine: &Engine, module: &Module, count: u32) -> wasmtime::Result<()> {
    let mut linker = Linker::<()>::new(engine);
    linker.func_wrap_async("h", "p", |_, (): ()| {
        Box::new(async {
            empty_stack();
            std::future::pending::<()>().await;
        })
    })?;
    let pre = linker.instantiate_pre(module)?;
    // All are held until the last is made, so that each has other slots.
    let mut stores: Vec<Store<()>> = (0..count).map(|_| Store::new(engine, ())).collect();
    let mut calls = Vec::new();
    for store in &mut stores {
        store.set_epoch_deadline(u64::MAX / 2);
        calls.push(Box::pin(async {
            let instance = pre.instantiate_async(&mut *store).await?;
            empty_memory(store, instance);
            let run = instance.get_typed_func::<(), ()>(&mut *store, "r")?;
            run.call_async(&mut *store, ()).await
        }));
    }
    let mut context = Context::from_waker(Waker::noop());
    for call in &mut calls {
        let polled = pin!(call).poll(&mut context);
        if let std::task::Poll::Ready(ended) = polled {
            ended?;
        }
    }
    Ok(())
}

/// Gives back the pages of this instance's slot.
fn empty_memory(store: &mut Store<()>, instance: Instance) {
    let Some(Extern::Memory(memory)) = instance.get_export(&mut *store, "m") else {
        return;
    };
    let base = memory.data_ptr(&*store);
    // SAFETY: the slot of a pooled memory is `RESERVATION` bytes of address space, mapped by the pool as long as it
    // lives, and nobody's but this instance's while its store lives. The memory is empty, so no byte of it is anything to
    // anybody; what wasmtime expects of it is zeros, which is what private pages are after this.
    let given = unsafe { madvise(base.cast(), RESERVATION as usize, Advice::LinuxDontNeed) };
    if let Err(error) = given {
        tracing::debug!(%error, "the pages of an unused memory could not be given back");
    }
}

/// Gives back the pages of the stack that this runs on, but for those around the caller's frame and those above it.
#[inline(never)]
fn empty_stack() {
    let here = 0_u8;
    let here = std::ptr::addr_of!(here).cast_mut();
    // Page-aligned, since `STACK` and `SLACK` are.
    let page = here.map_addr(|address| address & !(SLACK - 1));
    let length = STACK - 3 * SLACK;
    let lowest = page.wrapping_sub(STACK - 2 * SLACK);
    // SAFETY: this runs on a stack of the pool's, of `STACK` bytes. Above this frame there are only the few of wasmtime's
    // and of an empty function, far less than `SLACK`: so `lowest` is above the stack's lowest byte, and the range ends at
    // least `SLACK` below this frame, where nothing is in use. The stack is only this call's until its store is dropped.
    let given = unsafe { madvise(lowest.cast(), length, Advice::LinuxDontNeed) };
    if let Err(error) = given {
        tracing::debug!(%error, "the pages of an unused stack could not be given back");
    }
}
