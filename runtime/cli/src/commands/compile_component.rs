//! `oarlock compile-component`: what a host starts that compiles in a child (`Compiler::Child`). Not for people.

use oarlock_host::compile::compile_component;
use oarlock_spec::codes::exit;

use crate::output::{Failure, Outcome};

/// Compile the component that a host sends on stdin
#[derive(Debug, clap::Args)]
pub(crate) struct CompileComponent {}

impl CompileComponent {
    pub(crate) fn run(self) -> Outcome {
        compile_component(std::io::stdin().lock(), std::io::stdout().lock())
            .map(|()| exit::OK)
            .map_err(|error| {
                Failure::new(
                    exit::FAILURE,
                    format!(
                        "{error}; this command is for hosts that compile components in a child"
                    ),
                )
            })
    }
}
