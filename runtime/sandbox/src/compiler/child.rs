//! The compiler's side.

use std::io::{self, Read, Write};

use rustix::process::{Resource, Rlimit};

use crate::engine::{Variant, compile_config};
use crate::proposals::Proposals;

use super::{MAX_MESSAGE, MAX_WASM, Status, compatibility, expect_magic, read_bytes};

/// Compiles the one component that a host sends on `input`, and answers on `output`: what a program does that
/// [`Compiler::Child`](super::Compiler::Child) names. It is for a process of its own, whose memory it
/// limits, and which the host that starts it ends, as it does when it ends itself.
///
/// # Errors
///
/// If the host says something else than this version's hosts do, or is gone.
pub fn compile_component(mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    confine();
    expect_magic(&mut input)?;
    let wanted = super::read_array::<{ blake3::OUT_LEN }>(&mut input)?;
    let [memory, cpu] = [
        super::read_array(&mut input)?,
        super::read_array(&mut input)?,
    ];
    limit(u64::from_le_bytes(memory), u64::from_le_bytes(cpu));
    let wasm = read_bytes(&mut input, MAX_WASM)?;
    let (status, payload) = answer(blake3::Hash::from_bytes(wanted), &wasm);
    output.write_all(super::MAGIC)?;
    output.write_all(&[status as u8])?;
    output.write_all(blake3::hash(&payload).as_bytes())?;
    output.write_all(&(payload.len() as u64).to_le_bytes())?;
    output.write_all(&payload)?;
    output.flush()
}

fn answer(wanted: blake3::Hash, wasm: &[u8]) -> (Status, Vec<u8>) {
    let choices = Proposals::every().flat_map(|proposals| {
        Variant::ALL
            .into_iter()
            .map(move |variant| (variant, proposals))
    });
    for (variant, proposals) in choices {
        let engine = match wasmtime::Engine::new(&compile_config(variant, proposals)) {
            Ok(engine) => engine,
            Err(error) => {
                let status = if crate::trap::is_full(&error) {
                    Status::NoMemory
                } else {
                    Status::Unfit
                };
                return (status, message(crate::trap::describe(&error)));
            }
        };
        if compatibility(&engine) == wanted {
            return match engine.precompile_component(wasm) {
                Ok(code) => (Status::Compiled, code),
                Err(error) if crate::trap::is_full(&error) => {
                    (Status::NoMemory, message(crate::trap::describe(&error)))
                }
                Err(error) => {
                    let error = crate::trap::describe(&error);
                    (Status::Invalid, message(proposals.refusal(wasm, error)))
                }
            };
        }
    }
    let reason = "it is of another version of Oarlock, or for another machine; use the same";
    (Status::Unfit, reason.into())
}

fn message(mut text: String) -> Vec<u8> {
    text.truncate(text.floor_char_boundary(MAX_MESSAGE as usize));
    text.into_bytes()
}

/// What the host grants for this component.
fn limit(memory: u64, cpu_seconds: u64) {
    let memory = address_space().saturating_add(memory);
    lower(Resource::As, memory, memory);
    // The kernel kills at the harder of the two, without a word; at the softer its signal says why.
    lower(Resource::Cpu, cpu_seconds, cpu_seconds.saturating_add(1));
}

/// Bytes of address space that this process has by now: the program itself, and its allocator's first steps.
fn address_space() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    // Without /proc: what a program like this one has.
    pages.map_or(1 << 30, |pages| pages.saturating_mul(page))
}

/// A limit that cannot be set is one that the system sets otherwise: the host's deadline is left.
fn confine() {
    lower(Resource::Core, 0, 0);
}

/// What it is limited to already stays: root may raise limits.
fn lower(resource: Resource, soft: u64, hard: u64) {
    let now = rustix::process::getrlimit(resource);
    let least = |most: u64| {
        let now = now.current.into_iter().chain(now.maximum);
        Some(now.fold(most, u64::min))
    };
    let limit = Rlimit {
        current: least(soft),
        maximum: least(hard),
    };
    let _ = rustix::process::setrlimit(resource, limit);
}
