//! `oarlock restart [DYNO]`

use oarlock_spec::codes::exit;

use crate::args::Which;
use crate::output::{self, Outcome};
use crate::target::client_failure;

/// Restart dynos, one by one
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  oarlock restart\n  oarlock restart web.1")]
pub(crate) struct Restart {
    #[command(flatten)]
    which: Which,
    /// A dyno (`web.1`) or a process type (`web`) [default: all]
    #[arg(value_name = "DYNO")]
    target: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Restart {
    pub(crate) async fn run(self) -> Outcome {
        let target = self.which.find().await?;
        let restarted = target
            .client
            .restart(&target.app, self.target.as_deref())
            .await
            .map_err(client_failure)?;
        output::listing(&restarted, self.json, |dynos| {
            let names: Vec<String> = dynos.iter().map(ToString::to_string).collect();
            if names.is_empty() {
                "Nothing changed: no such dyno runs".to_owned()
            } else {
                format!("Restarted {}", names.join(", "))
            }
        })?;
        Ok(exit::OK)
    }
}
