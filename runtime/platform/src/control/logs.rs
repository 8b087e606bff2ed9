//! `GET …/logs`: a JSON object a line.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use oarlock_host::logs::LogFilter;
use oarlock_spec::api::{LogLine, LogSource};
use serde::Deserialize;

use super::{ApiError, ControlState};

/// Lines of a tail when the query does not say.
const DEFAULT_LINES: usize = 100;

/// Lines of a tail at most.
const MAX_LINES: usize = 10_000;

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

fn encode(line: &LogLine) -> Result<Bytes, serde_json::Error> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(bytes.into())
}
