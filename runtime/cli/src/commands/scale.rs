//! `oarlock scale [web=3 …]`

use oarlock_spec::api::Formation;
use oarlock_spec::codes::exit;
use oarlock_spec::names::ProcessType;

use crate::args::Which;
use crate::output::{self, Failure, Outcome};
use crate::target::client_failure;

/// Show or change how many dynos of each type run
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  oarlock scale\n  oarlock scale web=3 worker=2")]
pub(crate) struct Scale {
    #[command(flatten)]
    which: Which,
    /// As in `web=3 worker=2`; types not named keep theirs
    #[arg(value_name = "TYPE=COUNT", value_parser = parse)]
    changes: Vec<(ProcessType, u32)>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Scale {
    pub(crate) async fn run(self) -> Outcome {
        let target = self.which.find().await?;
        let (client, app) = (&target.client, &target.app);
        let change = collect(self.changes)?;
        let before = client.formation(app).await.map_err(client_failure)?;
        if change.is_empty() {
            output::listing(&before, self.json, text)?;
            return Ok(exit::OK);
        }
        let now = client.scale(app, &change).await.map_err(client_failure)?;
        output::listing(&now, self.json, |now| {
            if *now == before {
                format!("Nothing changed: {}", text(now))
            } else {
                text(now)
            }
        })?;
        Ok(exit::OK)
    }
}

fn text(formation: &Formation) -> String {
    formation
        .iter()
        .map(|(process, count)| format!("{process}={count}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// One `web=3`.
pub(crate) fn parse(text: &str) -> Result<(ProcessType, u32), String> {
    let (process, count) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` has no `=`; write it as in `web=3`"))?;
    let count = count
        .parse()
        .map_err(|_| format!("`{count}` is not a number of dynos; write it as in `{process}=3`"))?;
    Ok((process.parse().map_err(|error| format!("{error}"))?, count))
}

/// Several of them as one formation; a type named twice is a mistake.
pub(crate) fn collect(changes: Vec<(ProcessType, u32)>) -> Result<Formation, Failure> {
    let mut formation = Formation::new();
    for (process, count) in changes {
        if formation.insert(process.clone(), count).is_some() {
            return Err(Failure::new(
                exit::USAGE,
                format!("`{process}` is named twice"),
            ));
        }
    }
    Ok(formation)
}
