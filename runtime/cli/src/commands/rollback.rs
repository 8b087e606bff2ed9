//! `oarlock rollback [vN]`

use oarlock_spec::codes::exit;
use oarlock_spec::names::ReleaseId;

use crate::args::Which;
use crate::output::{self, Outcome};
use crate::target::client_failure;

/// Go back to an earlier release: a new one with its slug and config
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  oarlock rollback\n  oarlock rollback v12")]
pub(crate) struct Rollback {
    #[command(flatten)]
    which: Which,
    /// As in `v12` [default: the one before the current]
    release: Option<ReleaseId>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Rollback {
    pub(crate) async fn run(self) -> Outcome {
        let target = self.which.find().await?;
        let row = target
            .client
            .rollback(&target.app, self.release)
            .await
            .map_err(client_failure)?;
        output::listing(&row, self.json, |row| {
            format!("{}: {}", row.release, row.description)
        })?;
        Ok(exit::OK)
    }
}
