//! Errors of the control API: a status, a stable word, a message for people.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER as RETRY_AFTER_HEADER;
use http::{HeaderValue, StatusCode};
use oarlock_host::ChangeError;
use oarlock_host::dynos::OneOffError;
use oarlock_spec::api::ErrorBody;
use oarlock_spec::codes::api as words;
use oarlock_spec::names::AppName;

/// An error as the API answers it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) word: &'static str,
    /// For whoever asked: what is wrong with the request, or what can be done.
    pub(crate) message: String,
    /// For the operator's log: what went wrong in the host, with paths and errors of the system.
    pub(crate) cause: Option<String>,
}

/// When a refused change may be tried again, in seconds.
const RETRY_AFTER: u64 = 1;

impl ApiError {
    pub(crate) fn new(status: StatusCode, word: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            word,
            message: message.into(),
            cause: None,
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

    /// The platform's fault: the operator finds `cause` in the host's own log.
    pub(crate) fn internal(cause: impl Into<String>) -> Self {
        let message = "the host failed; its own log says why, and what was running goes on";
        Self {
            cause: Some(cause.into()),
            ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, words::INTERNAL, message)
        }
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        let message = error.to_string();
        match error {
            ChangeError::UnknownApp(app) | ChangeError::NotRunning(app) => Self::not_running(&app),
            ChangeError::UnknownProcess { .. }
            | ChangeError::NoScale(_)
            | ChangeError::TooMany { .. }
            | ChangeError::Cap(_)
            | ChangeError::NoRoom(_) => Self::refused(words::INVALID_FORMATION, message),
            ChangeError::UnknownTarget { .. } => Self::refused(words::UNKNOWN_TARGET, message),
            ChangeError::Busy { .. } => Self::busy(message),
            ChangeError::Boot { .. } => Self::refused(words::BOOT_FAILED, message),
            ChangeError::ShuttingDown => Self::shutting_down(),
            other => Self::internal(other.to_string()),
        }
    }
}

impl From<OneOffError> for ApiError {
    fn from(error: OneOffError) -> Self {
        let message = error.to_string();
        match error {
            // The platform knows it; the host does not yet.
            OneOffError::UnknownApp(app) => Self::not_running(&app),
            OneOffError::UnknownCommand { .. } => Self::refused(words::UNKNOWN_COMMAND, message),
            OneOffError::NotACommand { .. } => Self::refused(words::NOT_A_COMMAND, message),
            OneOffError::Load(_) => Self::refused(words::INVALID_COMPONENT, message),
            OneOffError::TooMany { .. } => Self::busy(message),
            OneOffError::NotRunning(app) => Self::not_running(&app),
            OneOffError::ShuttingDown => Self::shutting_down(),
            OneOffError::Platform(_) => Self::internal(message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Some(cause) = &self.cause {
            tracing::error!(%cause, "a request to the control API failed");
        }
        let body = ErrorBody {
            error: self.word.to_owned(),
            message: self.message,
        };
        let mut response = (self.status, Json(body)).into_response();
        if self.word == words::BUSY {
            let seconds = HeaderValue::from(RETRY_AFTER);
            response.headers_mut().insert(RETRY_AFTER_HEADER, seconds);
        }
        response
    }
}
