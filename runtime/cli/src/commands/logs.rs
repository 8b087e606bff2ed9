//! `oarlock logs`

use oarlock_spec::api::LogSource;
use oarlock_spec::codes::exit;

use crate::args::Which;
use crate::output::{self, Failure, Outcome};
use crate::print;
use crate::signals::Signals;
use crate::target::client_failure;

/// Show the log
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  oarlock logs -f --dyno web\n  oarlock logs -n 20 --source app --json"
)]
pub(crate) struct Logs {
    #[command(flatten)]
    which: Which,
    /// Go on with lines as they come
    #[arg(short, long)]
    follow: bool,
    /// How many past lines
    #[arg(short = 'n', long = "lines", default_value_t = 100, value_name = "N")]
    lines: usize,
    /// Only a dyno (`web.1`), a process type (`web`) or `router`
    #[arg(long)]
    dyno: Option<String>,
    /// Only the app's lines, or only Oarlock's
    #[arg(long, value_parser = source, value_name = "app|oarlock")]
    source: Option<LogSource>,
    /// Print JSON, an object a line
    #[arg(long)]
    json: bool,
}

fn source(text: &str) -> Result<LogSource, String> {
    match text {
        "app" => Ok(LogSource::App),
        "oarlock" => Ok(LogSource::Oarlock),
        _ => Err("use `app` or `oarlock`".to_owned()),
    }
}

impl Logs {
    pub(crate) async fn run(self) -> Outcome {
        let target = self.which.find().await?;
        let query = oarlock_platform::control::LogQuery {
            n: Some(self.lines),
            follow: self.follow,
            dyno: self.dyno,
            source: self.source,
        };
        let mut lines = target
            .client
            .logs(&target.app, &query)
            .await
            .map_err(client_failure)?;
        let mut signals = Signals::install()
            .map_err(|error| Failure::new(exit::FAILURE, format!("no signals: {error}")))?;
        // While no line comes, too.
        let mut reader_gone = std::pin::pin!(output::reader_gone());
        loop {
            let entry = tokio::select! {
                entry = lines.next() => entry.map_err(client_failure)?,
                () = signals.next() => return Ok(exit::OK),
                () = &mut reader_gone => return Ok(exit::OK),
            };
            match entry {
                None => return Ok(exit::OK),
                Some(entry) if self.json => match serde_json::to_string(&entry) {
                    Ok(text) => output::line(text)?,
                    Err(error) => {
                        return Err(Failure::new(
                            exit::FAILURE,
                            format!("cannot print JSON: {error}"),
                        ));
                    }
                },
                Some(entry) => print::logs([entry])?,
            }
        }
    }
}
