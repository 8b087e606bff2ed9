//! Errors of the control API: a status, a stable word, a message for people.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use oarlock_host::dynos::OneOffError;
use oarlock_spec::api::ErrorBody;
use oarlock_spec::names::AppName;

/// The words of [`ErrorBody::error`]: promised, they do not change.
pub mod words {
    /// No such endpoint (404).
    pub const NOT_FOUND: &str = "not_found";
    /// The endpoint does not know this method (405).
    pub const METHOD_NOT_ALLOWED: &str = "method_not_allowed";
    /// A body, query or path that is not what the endpoint takes (400).
    pub const BAD_REQUEST: &str = "bad_request";
    /// The body is over `MAX_BODY` (413).
    pub const BODY_TOO_LARGE: &str = "body_too_large";
    /// No such app on this host (404).
    pub const UNKNOWN_APP: &str = "unknown_app";
    /// The app has no release that runs yet (409).
    pub const NOT_RUNNING: &str = "not_running";
    /// The formation cannot be what was asked (422).
    pub const INVALID_FORMATION: &str = "invalid_formation";
    /// No dyno or process type of that name (422).
    pub const UNKNOWN_TARGET: &str = "unknown_target";
    /// A config var's name or value is refused (422).
    pub const INVALID_CONFIG: &str = "invalid_config";
    /// No such release (404).
    pub const UNKNOWN_RELEASE: &str = "unknown_release";
    /// Nothing to go back to, or that release's slug is gone (409).
    pub const CANNOT_ROLL_BACK: &str = "cannot_roll_back";
    /// The new release failed; the old one goes on (422).
    pub const RELEASE_FAILED: &str = "release_failed";
    /// Neither a process type nor a component (422).
    pub const UNKNOWN_COMMAND: &str = "unknown_command";
    /// The component is a handler (422).
    pub const NOT_A_COMMAND: &str = "not_a_command";
    /// The component was refused (422).
    pub const INVALID_COMPONENT: &str = "invalid_component";
    /// `POST …/runs` without `Connection: upgrade` (426).
    pub const UPGRADE_REQUIRED: &str = "upgrade_required";
    /// Too many changes wait for this app (503).
    pub const BUSY: &str = "busy";
    /// The host is going down (503).
    pub const SHUTTING_DOWN: &str = "shutting_down";
    /// The host's fault; its log says more (500).
    pub const INTERNAL: &str = "internal";
}

/// An error as the API answers it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) word: &'static str,
    pub(crate) message: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, word: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            word,
            message: message.into(),
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, words::BAD_REQUEST, message)
    }

    pub(crate) fn refused(word: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, word, message)
    }

    pub(crate) fn unknown_app(app: impl std::fmt::Display, known: &[AppName]) -> Self {
        let known = known
            .iter()
            .map(AppName::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        let message = format!("no app `{app}` is on this host; it has: {known}");
        Self::new(StatusCode::NOT_FOUND, words::UNKNOWN_APP, message)
    }

    pub(crate) fn not_running(app: &AppName) -> Self {
        let message = format!("`{app}` has no release that runs yet; see `oarlock logs`");
        Self::new(StatusCode::CONFLICT, words::NOT_RUNNING, message)
    }

    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, words::BUSY, message)
    }

    pub(crate) fn shutting_down() -> Self {
        let message = "the host is shutting down; start it again first";
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            words::SHUTTING_DOWN,
            message,
        )
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, words::INTERNAL, message)
    }
}

impl From<OneOffError> for ApiError {
    fn from(error: OneOffError) -> Self {
        let message = error.to_string();
        match error {
            OneOffError::UnknownApp(_) => {
                Self::new(StatusCode::NOT_FOUND, words::UNKNOWN_APP, message)
            }
            OneOffError::UnknownCommand { .. } => Self::refused(words::UNKNOWN_COMMAND, message),
            OneOffError::NotACommand { .. } => Self::refused(words::NOT_A_COMMAND, message),
            OneOffError::Load(_) => Self::refused(words::INVALID_COMPONENT, message),
            OneOffError::TooMany { .. } => Self::busy(message),
            OneOffError::Platform(_) => Self::internal(message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            error: self.word.to_owned(),
            message: self.message,
        };
        (self.status, Json(body)).into_response()
    }
}
