//! The chat's page, which is part of the component.

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse};

/// Only what comes from here, no script or style within the page, and nobody may frame it.
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'";

pub(crate) async fn html() -> impl IntoResponse {
    let headers = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(include_str!("page/index.html")))
}

pub(crate) async fn css() -> impl IntoResponse {
    asset("text/css; charset=utf-8", include_str!("page/chat.css"))
}

pub(crate) async fn script() -> impl IntoResponse {
    asset(
        "text/javascript; charset=utf-8",
        include_str!("page/chat.js"),
    )
}

fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], text)
}
