//! `GET …/logs`: a JSON object a line.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use oarlock_host::logs::LogFilter;
use oarlock_spec::api::{LogLine, LogSource};
use oarlock_spec::names::{DynoName, ProcessType};
use serde::Deserialize;

use super::{ApiError, ControlState, words};
use crate::apps::ManagedApp;

/// Lines of a tail when the query does not say.
const DEFAULT_LINES: usize = 100;

/// Lines of a tail at most.
const MAX_LINES: usize = 10_000;

/// Whose lines are in each app's log beside those of its dynos.
const OWN: [&str; 4] = ["router", "api", "build", "scheduler"];

/// The process type of a one-off dyno of a component.
const ONE_OFF: &str = "run";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    n: Option<usize>,
    #[serde(default)]
    follow: bool,
    dyno: Option<String>,
    source: Option<LogSource>,
}

pub(super) async fn stream(
    State(state): State<ControlState>,
    Path(app): Path<String>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, ApiError> {
    let app = state.apps.find(&app)?;
    let Query(wanted) = wanted.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let n = wanted.n.unwrap_or(DEFAULT_LINES);
    if n > MAX_LINES {
        return Err(ApiError::bad_request(format!(
            "n is {n}; at most {MAX_LINES} lines are given at once"
        )));
    }
    let filter = LogFilter {
        dyno: wanted.dyno,
        source: wanted.source,
    };
    if let Some(name) = &filter.dyno {
        check_name(&state, &app, name)?;
    }
    let lines = if wanted.follow {
        let ending = state.ending.clone();
        // A follower has no end of its own, and must not hold the host's end up.
        state
            .runtime
            .follow(app.name(), n, filter)
            .take_until(ending.cancelled_owned())
            .boxed()
    } else {
        stream::iter(state.runtime.tail(app.name(), n, &filter)).boxed()
    };
    let body = Body::from_stream(lines.map(|line| encode(&line)));
    Ok(([("content-type", "application/x-ndjson")], body).into_response())
}

/// Refuses what no line can be of; the error has what there is. While no release runs, nobody knows that.
fn check_name(state: &ControlState, app: &ManagedApp, name: &str) -> Result<(), ApiError> {
    let Some(processes) = app.processes() else {
        return Ok(());
    };
    let dyno: Option<DynoName> = name.parse().ok();
    let process = dyno.as_ref().map_or(name, |dyno| dyno.process.as_str());
    let is_known = OWN.contains(&name)
        || process == ONE_OFF
        || processes.iter().any(|known| known.as_str() == process);
    // Of an earlier release, say.
    let filter = LogFilter {
        dyno: Some(name.to_owned()),
        source: None,
    };
    if is_known || !state.runtime.tail(app.name(), 1, &filter).is_empty() {
        return Ok(());
    }
    let known: Vec<&str> = processes
        .iter()
        .map(ProcessType::as_str)
        .chain(std::iter::once(ONE_OFF))
        .chain(OWN)
        .collect();
    let message = format!(
        "no dyno or process type is named `{name}`; there are: {}",
        known.join(", ")
    );
    Err(ApiError::refused(words::UNKNOWN_TARGET, message))
}

fn encode(line: &LogLine) -> Result<Bytes, serde_json::Error> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(bytes.into())
}
