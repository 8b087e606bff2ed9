//! The compiler's side.

use std::io::{self, Read, Write};

use rustix::process::{Resource, Rlimit, Signal};

use crate::engine::{Variant, compile_config};
use crate::proposals::Proposals;

use super::{MAX_MESSAGE, MAX_WASM, MEMORY, Status, compatibility, expect_magic, read_bytes};

/// Compiles the one component that a host sends on `input`, and answers on `output`: what a program does that
/// [`Compiler::Child`](super::Compiler::Child) names. It is for a process of its own, whose memory it
/// limits, and which ends with the host that started it.
///
/// # Errors
///
/// If the host says something else than this version's hosts do, or is gone.
pub fn compile_component(mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    confine();
    expect_magic(&mut input)?;
    let wanted = super::read_array::<{ blake3::OUT_LEN }>(&mut input)?;
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
            Err(error) => return (Status::Unfit, message(crate::trap::describe(&error))),
        };
        if compatibility(&engine) == wanted {
            return match engine.precompile_component(wasm) {
                Ok(code) => (Status::Compiled, code),
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

/// A limit that cannot be set is one that the system sets otherwise: the host's deadline is left.
fn confine() {
    lower(Resource::As, MEMORY);
    lower(Resource::Core, 0);
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
}

/// What it is limited to already stays: root may raise limits.
fn lower(resource: Resource, most: u64) {
    let now = rustix::process::getrlimit(resource);
    let limit = now
        .current
        .into_iter()
        .chain(now.maximum)
        .fold(most, u64::min);
    let limit = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    let _ = rustix::process::setrlimit(resource, limit);
}
