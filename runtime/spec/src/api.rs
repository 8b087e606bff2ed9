//! What the commands and the running host say to each other, and what `--json` prints: plural
//! arrays, snake_case, RFC 3339 UTC times, plain integers with the unit in the name.
//!
//! The control API is HTTP/1.1 on a Unix socket:
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/apps` | | `[AppRow]` |
//! | `GET /v1/apps/{app}/dynos` | | `[DynoRow]` |
//! | `GET /v1/apps/{app}/formation` | | [`Formation`] |
//! | `PATCH /v1/apps/{app}/formation` | [`Formation`] (named types only) | [`Formation`], whole |
//! | `POST /v1/apps/{app}/restart` | [`RestartRequest`] | `[DynoName]` restarted |
//! | `GET /v1/apps/{app}/logs?n=&follow=&dyno=&source=` | | [`LogLine`]s, a JSON object a line |
//! | `GET /v1/apps/{app}/config` | | [`ConfigVars`] |
//! | `PATCH /v1/apps/{app}/config` | [`ConfigChange`] | [`ReleaseRow`], made current |
//! | `GET /v1/apps/{app}/releases` | | `[ReleaseRow]`, newest first |
//! | `POST /v1/apps/{app}/rollback` | [`RollbackRequest`] | [`ReleaseRow`], a new release made current |
//! | `POST /v1/apps/{app}/runs` | [`RunRequest`] | 101, then [`RunFrame`]s |
//!
//! Errors are 4xx and 5xx with an [`ErrorBody`].

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::names::{AppName, DynoName, ProcessType, ReleaseId, SlugId};

/// What a dyno is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DynoState {
    /// Being started, or waiting to be.
    Starting,
    /// Running; ready, for web.
    Up,
    /// Counted, but nothing in memory until the next request.
    Idle,
    /// Told to stop.
    Stopping,
    /// Ended by itself with an error; waits for its restart.
    Crashed,
    /// Ended with success, and not to be started again.
    Finished,
}

impl DynoState {
    /// As the log and `ps` print it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Idle => "idle",
            Self::Stopping => "stopping",
            Self::Crashed => "crashed",
            Self::Finished => "finished",
        }
    }
}

/// One row of `ps`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DynoRow {
    /// As in `web.1`.
    pub dyno: DynoName,
    /// Its process type.
    pub process: ProcessType,
    /// What it is doing.
    pub state: DynoState,
    /// The release it runs.
    pub release: ReleaseId,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// How often it was started again since the formation has it.
    pub restarts: u64,
    /// Guest CPU time so far.
    pub cpu_ms: u64,
    /// Linear memories and tables now.
    pub memory_bytes: u64,
    /// Requests so far (web only).
    pub requests: u64,
}

/// One row of `releases`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseRow {
    /// As in `v12`.
    pub release: ReleaseId,
    /// What became of it.
    pub status: ReleaseStatus,
    /// What made it, as in `Deploy 3f2a91c0` or `Set GREETING config var`.
    pub description: String,
    /// Its slug.
    pub slug: SlugId,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What became of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReleaseStatus {
    /// Made, not yet running.
    Pending,
    /// The one that runs.
    Current,
    /// Was current once.
    Superseded,
    /// Its release phase or its start failed.
    Failed,
}

/// What has become of an app since its host started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppState {
    /// No release serves yet, and one is on its way.
    Starting,
    /// A release runs. Hosts that say nothing of it list such apps only.
    #[default]
    Running,
    /// Its start failed, and there was no release to go on with.
    Failed,
}

impl AppState {
    /// As `ps` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Failed => "failed",
        }
    }
}

/// One row of the apps of a host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppRow {
    /// Its name.
    pub app: AppName,
    /// What has become of it.
    #[serde(default)]
    pub state: AppState,
    /// What is being done while it starts, as in `compiling`; why it failed.
    #[serde(default)]
    pub detail: Option<String>,
    /// The release that runs; `None` before the first.
    pub release: Option<ReleaseId>,
    /// Where it answers.
    pub url: Option<String>,
}

/// One log line, as `logs --json` prints it and as the control API streams it (a JSON object a line).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When.
    pub time: Timestamp,
    /// `app` or `oarlock`.
    pub source: LogSource,
    /// `web.1`, `router`, `release`, `api`, …
    pub dyno: String,
    /// The line, without its end.
    pub message: String,
}

/// Who wrote a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// The app.
    App,
    /// Oarlock itself.
    Oarlock,
}

impl LogSource {
    /// As contract 4 prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Oarlock => "oarlock",
        }
    }
}

impl std::fmt::Display for LogLine {
    /// Contract 4's line: microseconds, numeric offset, `source[dyno]: message`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}+00:00 {}[{}]: {}",
            self.time.strftime("%Y-%m-%dT%H:%M:%S.%6f"),
            self.source.as_str(),
            self.dyno,
            self.message
        )
    }
}

/// The formation: how many of each process type. Body of `GET` and `PATCH …/formation`.
pub type Formation = BTreeMap<ProcessType, u32>;

/// Body of `PATCH …/config`: a string sets a var, `null` removes it.
pub type ConfigChange = BTreeMap<String, Option<String>>;

/// The config vars of an app, by name. Body of `GET …/config`.
pub type ConfigVars = BTreeMap<String, String>;

/// Body of `POST …/restart`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartRequest {
    /// A dyno, a process type, or `None` for all.
    pub target: Option<String>,
}

/// Body of `POST …/rollback`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackRequest {
    /// To which release; `None`: the one before the current.
    pub to: Option<ReleaseId>,
}

/// Body of `POST …/runs`, which answers 101 and then speaks [`RunFrame`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// A process type, or a component's path within the slug.
    pub command: String,
    /// Arguments after the process's own.
    pub args: Vec<String>,
}

/// One message of a one-off dyno's connection, in either direction. On the wire: a byte for the
/// kind, a big-endian u32 length, the payload (at most 64 KiB).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunFrame {
    /// Kind 0, client to host: bytes for stdin; empty: the end of stdin.
    Stdin(Vec<u8>),
    /// Kind 1, host to client.
    Stdout(Vec<u8>),
    /// Kind 2, host to client.
    Stderr(Vec<u8>),
    /// Kind 3, host to client, last: the exit code (one byte), then a message for the user (may be empty).
    Exit(u8, String),
    /// Kind 4, client to host: stop the dyno.
    Stop,
}

/// What every error response of the control API holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// A stable word for programs, as in `unknown_process`.
    pub error: String,
    /// For people: what is wrong and what to do.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn log_lines_are_contract_4_s() {
        let line = |time, source, dyno: &str, message: &str| {
            LogLine {
                time: at(time),
                source,
                dyno: dyno.into(),
                message: message.into(),
            }
            .to_string()
        };
        assert_eq!(
            line(
                "2026-11-22T10:00:00.123456Z",
                LogSource::App,
                "worker.1",
                "3 entries indexed"
            ),
            "2026-11-22T10:00:00.123456+00:00 app[worker.1]: 3 entries indexed"
        );
        assert_eq!(
            line(
                "2026-11-22T10:00:00.125Z",
                LogSource::Oarlock,
                "web.1",
                "State changed from starting to up"
            ),
            "2026-11-22T10:00:00.125000+00:00 oarlock[web.1]: State changed from starting to up"
        );
        assert_eq!(
            line(
                "2026-11-22T11:00:00.000001999+01:00",
                LogSource::Oarlock,
                "router",
                ""
            ),
            "2026-11-22T10:00:00.000001+00:00 oarlock[router]: "
        );
    }

    #[test]
    fn a_dyno_s_row_is_contract_3_s() {
        let text = r#"{"dyno":"web.1","process":"web","state":"up","release":"v3","since":"2026-11-22T10:00:00Z","restarts":0,"cpu_ms":12,"memory_bytes":1310720,"requests":40}"#;
        let row = DynoRow {
            dyno: "web.1".parse().unwrap(),
            process: "web".parse().unwrap(),
            state: DynoState::Up,
            release: ReleaseId(3),
            since: at("2026-11-22T10:00:00Z"),
            restarts: 0,
            cpu_ms: 12,
            memory_bytes: 1_310_720,
            requests: 40,
        };
        assert_eq!(serde_json::to_string(&row).unwrap(), text);
        assert_eq!(serde_json::from_str::<DynoRow>(text).unwrap(), row);
    }

    #[test]
    fn states_and_sources_print_as_they_serialize() {
        let states = [
            DynoState::Starting,
            DynoState::Up,
            DynoState::Idle,
            DynoState::Stopping,
            DynoState::Crashed,
            DynoState::Finished,
        ];
        for state in states {
            assert_eq!(serde_json::to_value(state).unwrap(), json!(state.as_str()));
        }
        for source in [LogSource::App, LogSource::Oarlock] {
            assert_eq!(
                serde_json::to_value(source).unwrap(),
                json!(source.as_str())
            );
        }
    }

    #[test]
    fn the_other_bodies_are_snake_case_with_plain_values() {
        let line = LogLine {
            time: at("2026-11-22T10:00:00.5Z"),
            source: LogSource::App,
            dyno: "web.1".into(),
            message: "hi".into(),
        };
        let expected = json!({"time": "2026-11-22T10:00:00.5Z", "source": "app", "dyno": "web.1", "message": "hi"});
        assert_eq!(serde_json::to_value(line).unwrap(), expected);

        let slug = "0123456789abcdef".repeat(4);
        let row = ReleaseRow {
            release: ReleaseId(12),
            status: ReleaseStatus::Superseded,
            description: "Deploy 01234567".into(),
            slug: slug.parse().unwrap(),
            created_at: at("2026-11-22T10:00:00Z"),
        };
        let expected = json!({
            "release": "v12", "status": "superseded", "description": "Deploy 01234567", "slug": slug,
            "created_at": "2026-11-22T10:00:00Z"
        });
        assert_eq!(serde_json::to_value(row).unwrap(), expected);

        let formation: Formation = [("web".parse().unwrap(), 2)].into_iter().collect();
        assert_eq!(serde_json::to_value(formation).unwrap(), json!({"web": 2}));
        let change: ConfigChange = serde_json::from_value(json!({"A": "1", "B": null})).unwrap();
        assert_eq!(
            (change["A"].as_deref(), change["B"].as_deref()),
            (Some("1"), None)
        );
        assert!(serde_json::from_value::<Formation>(json!({"not a type": 1})).is_err());
    }
}
