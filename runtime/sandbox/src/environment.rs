//! `wasi:cli/environment`: exactly the grant's variables and arguments, shared by all instances of a
//! sandbox, so that starting one copies nothing.

use std::sync::Arc;

use wasmtime::component::{HasData, Linker};
use wasmtime_wasi::{p2, p3};

use crate::state::GuestState;

/// Variables and arguments of a dyno.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) arguments: Vec<String>,
}

/// What the bindings call.
pub(crate) struct EnvironmentView<'a>(&'a Arc<Environment>);

/// The key under which bindings find [`EnvironmentView`].
struct HasEnvironment;

impl HasData for HasEnvironment {
    type Data<'a> = EnvironmentView<'a>;
}

/// Where a guest's relative paths start, as far as its libc asks.
const INITIAL_DIRECTORY: &str = "/app";

impl p2::bindings::cli::environment::Host for EnvironmentView<'_> {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(self.0.variables.clone())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.0.arguments.clone())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(Some(INITIAL_DIRECTORY.to_owned()))
    }
}

impl p3::bindings::cli::environment::Host for EnvironmentView<'_> {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(self.0.variables.clone())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.0.arguments.clone())
    }

    fn get_initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(Some(INITIAL_DIRECTORY.to_owned()))
    }
}

fn view(state: &mut GuestState) -> EnvironmentView<'_> {
    EnvironmentView(&state.environment)
}

/// Links `wasi:cli/environment` 0.2.
pub(crate) fn p2(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    p2::bindings::cli::environment::add_to_linker::<GuestState, HasEnvironment>(linker, view)
}

/// Links `wasi:cli/environment` 0.3.
pub(crate) fn p3(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    p3::bindings::cli::environment::add_to_linker::<GuestState, HasEnvironment>(linker, view)
}
