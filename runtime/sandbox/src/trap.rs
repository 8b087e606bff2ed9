//! What an error that ended a guest means, in words for a log.

use wasmtime::component::ResourceTableError;
use wasmtime_wasi::I32Exit;

/// Why a guest ended before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It called `exit`, with this code.
    Exit(u8),
    /// It trapped after it was refused memory.
    Memory,
    /// It trapped, or a host function ended it.
    Trap(String),
    /// The machine or the engine's pools have no more of something that the guest needs; no fault of the guest's.
    Full(String),
}

/// Sorts an error that came out of a store.
pub(crate) fn classify(error: &wasmtime::Error, memory_refused: bool) -> Failure {
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return Failure::Exit(u8::try_from(*code).unwrap_or(1));
    }
    if memory_refused {
        return Failure::Memory;
    }
    if is_full(error) {
        return Failure::Full(describe(error));
    }
    Failure::Trap(describe(error))
}

/// Whether the machine, or a pool, had nothing left.
pub(crate) fn is_full(error: &wasmtime::Error) -> bool {
    error.is::<wasmtime::PoolConcurrencyLimitError>()
        || error.chain().any(|cause| {
            cause.downcast_ref::<rustix::io::Errno>() == Some(&rustix::io::Errno::NOMEM)
                || cause
                    .downcast_ref::<std::io::Error>()
                    .is_some_and(|error| error.kind() == std::io::ErrorKind::OutOfMemory)
        })
}

/// The error's causes on one line, without wasmtime's own prefixes and without repetitions.
pub(crate) fn describe(error: &wasmtime::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text = text.strip_prefix("wasm trap: ").unwrap_or(&text);
        let text = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join(" ");
        if !text.is_empty() && !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
    }
    if parts.is_empty() {
        return "unknown error".to_owned();
    }
    let text = parts.join(": ");
    match setting(error, &text) {
        Some(setting) => format!("{text}; raise `{setting}` in `[limits]`"),
        None => text,
    }
}

/// What wasmtime says when a store has as many handles as it may.
const NO_MORE_HANDLES: &str = "store handle limit exceeded";

/// The limit that was reached, where a limit ended the guest.
fn setting(error: &wasmtime::Error, text: &str) -> Option<&'static str> {
    let is_full = |cause: &(dyn std::error::Error + 'static)| {
        matches!(
            cause.downcast_ref::<ResourceTableError>(),
            Some(ResourceTableError::Full)
        )
    };
    if error.chain().any(is_full) {
        Some("resources")
    } else if text.contains(NO_MORE_HANDLES) {
        Some("handles")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_traps_and_memory_are_told_apart() {
        assert_eq!(
            classify(&wasmtime::Error::new(I32Exit(3)), true),
            Failure::Exit(3)
        );
        let trap = wasmtime::Error::new(wasmtime::Trap::UnreachableCodeReached);
        assert_eq!(classify(&trap, true), Failure::Memory);
        let Failure::Trap(text) = classify(&trap, false) else {
            panic!()
        };
        assert_eq!(text, "wasm `unreachable` instruction executed");
    }

    #[test]
    fn a_table_that_is_full_names_its_setting() {
        let full = wasmtime::Error::new(ResourceTableError::Full).context("a stream");
        let said = "a stream: resource table has no free keys; raise `resources` in `[limits]`";
        assert_eq!(describe(&full), said);
    }

    #[test]
    fn what_the_machine_has_not_is_no_trap() {
        let refused = wasmtime::Error::new(rustix::io::Errno::NOMEM).context("a stack");
        let said = Failure::Full("a stack: Out of memory (os error 12)".to_owned());
        assert!(
            matches!(classify(&refused, false), Failure::Full(_)),
            "{said:?}"
        );
    }
}
