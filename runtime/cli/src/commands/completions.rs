//! `oarlock completions SHELL`

use clap::CommandFactory as _;
use clap_complete::Shell;
use oarlock_spec::codes::exit;

use crate::args::Args;
use crate::output::Outcome;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  oarlock completions fish > ~/.config/fish/completions/oarlock.fish"
)]
pub(crate) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Outcome {
        // Into memory first, so that a closed pipe is no panic.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Args::command(), "oarlock", &mut script);
        crate::output::line(String::from_utf8_lossy(&script).trim_end())?;
        Ok(exit::OK)
    }
}
