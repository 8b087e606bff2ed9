//! `oarlock ps`

use jiff::Timestamp;
use oarlock_spec::api::{AppRow, AppState, DynoRow};
use oarlock_spec::codes::exit;

use crate::args::Which;
use crate::output::{self, Outcome};
use crate::target::client_failure;

/// List the dynos of a running app
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  oarlock ps\n  oarlock ps --app guestbook --json")]
pub(crate) struct Ps {
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Ps {
    pub(crate) async fn run(self) -> Outcome {
        let target = self.which.find().await?;
        let rows = target
            .client
            .dynos(&target.app)
            .await
            .map_err(client_failure)?;
        let apps = target.client.apps().await.map_err(client_failure)?;
        let app = apps.into_iter().find(|row| row.app == target.app);
        output::listing(&rows, self.json, |rows| {
            text(app.as_ref(), rows, Timestamp::now())
        })?;
        Ok(exit::OK)
    }
}

/// The app, unless it runs, and its dynos.
fn text(app: Option<&AppRow>, rows: &[DynoRow], now: Timestamp) -> String {
    let state = app.and_then(not_running);
    if rows.is_empty() {
        return state.unwrap_or_else(|| NO_DYNOS.to_owned());
    }
    let table = table(rows, now);
    match state {
        Some(state) => format!("{state}\n\n{table}"),
        None => table,
    }
}

const NO_DYNOS: &str = "No dynos. `oarlock scale web=1` starts one.";

/// As in `guestbook: starting (compiling)`.
fn not_running(app: &AppRow) -> Option<String> {
    let (name, state) = (&app.app, app.state.as_str());
    let detail = app.detail.as_deref().unwrap_or("unknown");
    match app.state {
        AppState::Running => None,
        AppState::Starting => Some(format!("{name}: {state} ({detail})")),
        AppState::Failed => Some(format!("{name}: {state}: {detail}")),
    }
}

fn table(rows: &[DynoRow], now: Timestamp) -> String {
    let mut table = output::table(&[
        "DYNO", "STATE", "RELEASE", "SINCE", "RESTARTS", "CPU", "MEMORY", "REQUESTS",
    ]);
    for row in rows {
        table.add_row([
            row.dyno.to_string(),
            row.state.as_str().to_owned(),
            row.release.to_string(),
            ago(row.since, now),
            row.restarts.to_string(),
            format!("{} ms", row.cpu_ms),
            bytes(row.memory_bytes),
            row.requests.to_string(),
        ]);
    }
    table.to_string()
}

/// How long ago, in the largest unit that fits.
fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86_400 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// Bytes in binary units, as the manifest writes them.
fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{} KiB", count / 1024),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_read_well() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        assert_eq!(
            ago(Timestamp::from_second(999_990).unwrap(), now),
            "10s ago"
        );
        assert_eq!(
            ago(Timestamp::from_second(1_000_100).unwrap(), now),
            "0s ago"
        );
        assert_eq!(
            ago(Timestamp::from_second(1_000_000 - 7200).unwrap(), now),
            "2h ago"
        );
        assert_eq!(bytes(1_310_720), "1.2 MiB");
    }
}
