//! `oarlock man DIR`: for who packages the command.

use std::path::PathBuf;

use clap::CommandFactory as _;
use oarlock_spec::codes::exit;

use crate::args::Args;
use crate::output::{self, Failure, Outcome};

/// Write a man page of each command into a folder
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  oarlock man ~/.local/share/man/man1 && man oarlock-up")]
pub(crate) struct Man {
    /// The folder, made if it is missing
    dir: PathBuf,
}

impl Man {
    pub(crate) fn run(self) -> Outcome {
        let dir = self.dir.display();
        std::fs::create_dir_all(&self.dir)
            .and_then(|()| clap_mangen::generate_to(Args::command(), &self.dir))
            .map_err(|error| {
                Failure::new(
                    exit::FAILURE,
                    format!("the man pages cannot be written into {dir}: {error}"),
                )
            })?;
        output::line(format!("Made {dir}/oarlock.1 and a page of each command"))?;
        Ok(exit::OK)
    }
}
