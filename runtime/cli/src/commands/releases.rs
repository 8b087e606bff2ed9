//! `oarlock releases`

use oarlock_spec::api::{ReleaseRow, ReleaseStatus};
use oarlock_spec::codes::exit;

use crate::args::Which;
use crate::output::{self, Outcome};
use crate::target::client_failure;

/// List the releases, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  oarlock releases\n  oarlock releases --json")]
pub(crate) struct Releases {
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Releases {
    pub(crate) async fn run(self) -> Outcome {
        let target = self.which.find().await?;
        let rows = target
            .client
            .releases(&target.app)
            .await
            .map_err(client_failure)?;
        output::listing(&rows, self.json, text)?;
        Ok(exit::OK)
    }
}

fn text(rows: &Vec<ReleaseRow>) -> String {
    let mut table = output::table(&["RELEASE", "STATUS", "DESCRIPTION", "CREATED"]);
    for row in rows {
        table.add_row([
            row.release.to_string(),
            status(row.status).to_owned(),
            row.description.clone(),
            row.created_at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        ]);
    }
    table.to_string()
}

pub(crate) fn status(status: ReleaseStatus) -> &'static str {
    match status {
        ReleaseStatus::Pending => "pending",
        ReleaseStatus::Current => "current",
        ReleaseStatus::Superseded => "superseded",
        ReleaseStatus::Failed => "failed",
    }
}
