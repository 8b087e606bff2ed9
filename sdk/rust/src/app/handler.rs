//! What a handler may return, and the answers that most of them give.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};

use crate::{Body, Error, Response};

/// What a handler may return.
pub trait IntoResponse {
    /// The response to send.
    fn into_response(self) -> Response;
}

impl<B: Into<Body>> IntoResponse for http::Response<B> {
    fn into_response(self) -> Response {
        self.map(Into::into)
    }
}

impl<R: IntoResponse, E: Into<Error>> IntoResponse for Result<R, E> {
    fn into_response(self) -> Response {
        self.map_or_else(|error| failed(&error.into()), R::into_response)
    }
}

/// The client is told nothing: what went wrong is for the app's log.
fn failed(error: &Error) -> Response {
    super::command::report(error);
    status(StatusCode::INTERNAL_SERVER_ERROR)
}

/// An HTML page.
pub fn html(page: impl Into<Body>) -> Response {
    typed("text/html; charset=utf-8", page.into())
}

/// Plain text.
pub fn text(text: impl Into<Body>) -> Response {
    typed("text/plain; charset=utf-8", text.into())
}

/// `value` as JSON.
///
/// # Errors
/// If `value` has no JSON form.
#[cfg(feature = "json")]
pub fn json(value: &impl serde::Serialize) -> crate::Result<Response> {
    Ok(typed("application/json", Body::json(value)?))
}

/// A status alone, its reason as the text: `404 Not Found`.
pub fn status(code: StatusCode) -> Response {
    let mut response = text(format!("{code}\n"));
    *response.status_mut() = code;
    response
}

fn typed(content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use futures::executor::block_on;

    use super::*;

    #[test]
    fn an_error_is_answered_without_its_text() {
        let answer: Result<Response, Error> = Err("the password is hunter2".into());
        let response = answer.into_response();
        assert_eq!(response.status(), 500);
        assert_eq!(
            block_on(response.into_body().text(100)).unwrap(),
            "500 Internal Server Error\n"
        );
    }

    #[test]
    fn answers_say_what_they_are() {
        assert_eq!(
            html("<p>").headers()["content-type"],
            "text/html; charset=utf-8"
        );
        let response = json(&[1, 2]).unwrap();
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(block_on(response.into_body().text(100)).unwrap(), "[1,2]");
    }
}
