//! The endpoints, one function each.

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::routing::{get, patch, post};
use oarlock_spec::api::{
    AppRow, ConfigChange, ConfigVars, DynoRow, Formation, ReleaseRow, RestartRequest,
    RollbackRequest,
};
use oarlock_spec::names::DynoName;
use serde::de::DeserializeOwned;

use super::{ApiError, ControlState, MAX_BODY, logs, runs, words};

type Answer<T> = Result<Json<T>, ApiError>;

pub(super) fn router(state: ControlState) -> Router {
    Router::new()
        .route("/v1/apps", get(list_apps))
        .route("/v1/apps/{app}/dynos", get(list_dynos))
        .route(
            "/v1/apps/{app}/formation",
            get(show_formation).patch(change_formation),
        )
        .route("/v1/apps/{app}/restart", post(restart))
        .route("/v1/apps/{app}/logs", get(logs::stream))
        .route(
            "/v1/apps/{app}/config",
            get(show_config).merge(patch(change_config)),
        )
        .route("/v1/apps/{app}/releases", get(list_releases))
        .route("/v1/apps/{app}/rollback", post(roll_back))
        .route("/v1/apps/{app}/runs", post(runs::start))
        .method_not_allowed_fallback(async || {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                words::METHOD_NOT_ALLOWED,
                "this endpoint has no such method",
            )
        })
        .fallback(async || {
            ApiError::new(
                StatusCode::NOT_FOUND,
                words::NOT_FOUND,
                "there is no such endpoint",
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}

/// A request's body as JSON; an empty one is an empty object.
pub(super) fn read_body<T: DeserializeOwned>(
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<T, ApiError> {
    let bytes = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            words::BODY_TOO_LARGE,
            format!("the body is over the limit of {MAX_BODY} bytes"),
        ),
        _ => ApiError::bad_request(error.body_text()),
    })?;
    let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::bad_request(format!("the body is not understood: {error}")))
}

type Body = Result<Bytes, axum::extract::rejection::BytesRejection>;

async fn list_apps(State(state): State<ControlState>) -> Answer<Vec<AppRow>> {
    let mut rows = Vec::new();
    for app in state.apps.all() {
        rows.push(app.row().await);
    }
    Ok(Json(rows))
}

async fn list_dynos(
    State(state): State<ControlState>,
    Path(app): Path<String>,
) -> Answer<Vec<DynoRow>> {
    let app = state.apps.find(&app)?;
    // An app that is still being built has no dynos.
    Ok(Json(
        state.runtime.dynos(app.name()).await.unwrap_or_default(),
    ))
}

async fn show_formation(
    State(state): State<ControlState>,
    Path(app): Path<String>,
) -> Answer<Formation> {
    let app = state.apps.find(&app)?;
    let formation = state.runtime.formation(app.name()).await;
    formation
        .map(Json)
        .ok_or_else(|| ApiError::not_running(app.name()))
}

async fn change_formation(
    State(state): State<ControlState>,
    Path(app): Path<String>,
    body: Body,
) -> Answer<Formation> {
    let app = state.apps.find(&app)?;
    Ok(Json(app.scale(read_body(body)?).await?))
}

async fn restart(
    State(state): State<ControlState>,
    Path(app): Path<String>,
    body: Body,
) -> Answer<Vec<DynoName>> {
    let app = state.apps.find(&app)?;
    let request: RestartRequest = read_body(body)?;
    let target = request.target.as_deref();
    Ok(Json(state.runtime.restart(app.name(), target).await?))
}

async fn show_config(
    State(state): State<ControlState>,
    Path(app): Path<String>,
) -> Answer<ConfigVars> {
    Ok(Json(state.apps.find(&app)?.config().await?))
}

async fn change_config(
    State(state): State<ControlState>,
    Path(app): Path<String>,
    body: Body,
) -> Answer<ReleaseRow> {
    let app = state.apps.find(&app)?;
    let change: ConfigChange = read_body(body)?;
    Ok(Json(app.change_config(change).await?))
}

async fn list_releases(
    State(state): State<ControlState>,
    Path(app): Path<String>,
) -> Answer<Vec<ReleaseRow>> {
    Ok(Json(state.apps.find(&app)?.releases().await?))
}

async fn roll_back(
    State(state): State<ControlState>,
    Path(app): Path<String>,
    body: Body,
) -> Answer<ReleaseRow> {
    let app = state.apps.find(&app)?;
    let request: RollbackRequest = read_body(body)?;
    Ok(Json(app.roll_back(request.to).await?))
}
