//! WebAssembly proposals that are off unless the operator's policy allows them, and what a component is told that
//! needs one.

use std::collections::BTreeSet;

use oarlock_spec::policy::Proposal;
use wasmparser::{Validator, WasmFeatures};
use wasmtime::Config;

/// Which of them components may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Proposals {
    gc: bool,
    exceptions: bool,
    function_references: bool,
}

impl Proposals {
    pub(crate) fn new(allowed: &BTreeSet<Proposal>) -> Self {
        let gc = allowed.contains(&Proposal::Gc);
        Self {
            gc,
            exceptions: allowed.contains(&Proposal::Exceptions),
            // The types of the one are written with those of the other.
            function_references: gc || allowed.contains(&Proposal::FunctionReferences),
        }
    }

    /// All that an engine may have, the usual first: a compiler's child finds the one of its host among them.
    pub(crate) fn every() -> impl Iterator<Item = Self> {
        (0..1_u8 << Proposal::ALL.len()).filter_map(|bits| {
            let chosen = Proposal::ALL.iter().enumerate();
            let allowed: BTreeSet<Proposal> = chosen
                .filter(|(index, _)| bits >> index & 1 == 1)
                .map(|(_, proposal)| *proposal)
                .collect();
            let proposals = Self::new(&allowed);
            // Others are the same as one of these.
            (proposals.allowed() == allowed).then_some(proposals)
        })
    }

    fn allowed(self) -> BTreeSet<Proposal> {
        let is_on = |proposal: &Proposal| match proposal {
            Proposal::Gc => self.gc,
            Proposal::Exceptions => self.exceptions,
            Proposal::FunctionReferences => self.function_references,
        };
        Proposal::ALL.into_iter().filter(is_on).collect()
    }

    /// Sets an engine up for these, and for no others.
    pub(crate) fn configure(self, config: &mut Config) {
        config
            .wasm_gc(self.gc)
            .wasm_exceptions(self.exceptions)
            .wasm_function_references(self.function_references);
    }

    /// What is said of a component that was refused: why, and how it is allowed, if it only needs what is off.
    pub(crate) fn refusal(self, wasm: &[u8], error: String) -> String {
        let needed = self.needed(wasm);
        if needed.is_empty() {
            return error;
        }
        let list = |quote: &str| {
            let names: Vec<String> = needed
                .iter()
                .map(|proposal| format!("{quote}{proposal}{quote}"))
                .collect();
            names.join(", ")
        };
        let plural = if needed.len() == 1 { "" } else { "s" };
        format!(
            "it needs the WebAssembly proposal{plural} {}, off on this host: compile it without, or have the operator \
             allow `wasm = [{}]` in the policy ({error})",
            list("`"),
            list("\"")
        )
    }

    /// The fewest proposals without which a component is not valid, and with which it is; none, if it never is.
    fn needed(self, wasm: &[u8]) -> Vec<Proposal> {
        let allowed = self.allowed();
        let is_valid_with = |more: &[Proposal]| {
            let allowed = allowed.iter().chain(more).copied().collect();
            validates(Self::new(&allowed), wasm)
        };
        let off = Proposal::ALL
            .into_iter()
            .filter(|proposal| !allowed.contains(proposal));
        let mut needed: Vec<Proposal> = off.collect();
        if is_valid_with(&[]) || !is_valid_with(&needed) {
            return Vec::new();
        }
        // The largest first, so that what it brings along is not what is kept.
        let mut index = 0;
        while index < needed.len() {
            let mut fewer = needed.clone();
            fewer.remove(index);
            if is_valid_with(&fewer) {
                needed = fewer;
            } else {
                index += 1;
            }
        }
        needed
    }
}

/// Whether a component is valid where everything is allowed but the proposals that these leave off. Takes time and
/// memory in proportion to the component's size.
fn validates(proposals: Proposals, wasm: &[u8]) -> bool {
    let mut features = WasmFeatures::all();
    features.set(WasmFeatures::GC, proposals.gc);
    features.set(WasmFeatures::EXCEPTIONS, proposals.exceptions);
    features.set(
        WasmFeatures::FUNCTION_REFERENCES,
        proposals.function_references,
    );
    Validator::new_with_features(features)
        .validate_all(wasm)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "(module (func (export \"f\") (result i32) i32.const 1))";
    const GC: &str = "(module (type $pair (struct (field i32) (field i32)))
        (func (export \"f\") (result i32)
            (struct.get $pair 0 (struct.new $pair (i32.const 1) (i32.const 2)))))";
    const EXCEPTIONS: &str = "(module (tag $e) (func (export \"f\") (throw $e)))";
    const REFERENCES: &str = "(module (type $t (func)) (func (export \"f\") (param (ref $t))
        (call_ref $t (local.get 0))))";

    fn component(module: &str) -> Vec<u8> {
        let module = module.replacen("(module", "(core module $m", 1);
        wat::parse_str(format!("(component {module})")).unwrap()
    }

    fn needed(allowed: &[Proposal], module: &str) -> Vec<Proposal> {
        let allowed = allowed.iter().copied().collect();
        Proposals::new(&allowed).needed(&component(module))
    }

    #[test]
    fn what_a_component_needs_is_found() {
        use Proposal as P;
        assert_eq!(needed(&[], PLAIN), []);
        assert_eq!(needed(&[], GC), [P::Gc]);
        assert_eq!(needed(&[], EXCEPTIONS), [P::Exceptions]);
        assert_eq!(needed(&[], REFERENCES), [P::FunctionReferences]);
        assert_eq!(needed(&[P::Gc], REFERENCES), []);
        assert_eq!(needed(&[P::FunctionReferences], GC), [P::Gc]);
        let two = format!("{EXCEPTIONS} {}", GC.replacen("(module", "(core module", 1));
        assert_eq!(needed(&[], &two), [P::Gc, P::Exceptions]);
        assert_eq!(Proposals::default().needed(b"\0asm nonsense"), []);
    }

    #[test]
    fn an_engine_takes_what_is_allowed_and_nothing_else() {
        let modules = [
            (Proposal::Gc, GC),
            (Proposal::Exceptions, EXCEPTIONS),
            (Proposal::FunctionReferences, REFERENCES),
        ];
        for proposals in Proposals::every() {
            for variant in crate::engine::Variant::ALL {
                let config = crate::engine::compile_config(variant, proposals);
                let engine = wasmtime::Engine::new(&config).unwrap();
                for (proposal, module) in modules {
                    assert_eq!(
                        engine.precompile_component(&component(module)).is_ok(),
                        proposals.allowed().contains(&proposal),
                        "{proposal} with {proposals:?}"
                    );
                }
                engine.precompile_component(&component(PLAIN)).unwrap();
            }
        }
    }

    #[test]
    fn every_choice_has_code_of_its_own() {
        let all: Vec<Proposals> = Proposals::every().collect();
        assert_eq!((all.len(), all[0]), (6, Proposals::default()));
        let mut seen = BTreeSet::new();
        for proposals in all {
            let config = crate::engine::compile_config(crate::engine::Variant::Serial, proposals);
            let engine = wasmtime::Engine::new(&config).unwrap();
            seen.insert(*crate::compiler::compatibility(&engine).as_bytes());
        }
        assert_eq!(seen.len(), 6, "no cache and no child mixes them up");
    }

    #[test]
    fn a_refusal_names_the_proposal_and_the_key() {
        let refused = Proposals::default().refusal(&component(GC), "gc is off".to_owned());
        assert!(
            refused.contains("`gc`") && refused.contains("wasm = [\"gc\"]"),
            "{refused}"
        );
        assert_eq!(
            Proposals::default().refusal(b"nonsense", "it is nonsense".to_owned()),
            "it is nonsense"
        );
    }
}
