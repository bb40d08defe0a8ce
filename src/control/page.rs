//! The live page: its files, embedded, and the headers under which a browser may show them.
//!
//! Nothing comes from elsewhere and nothing inline runs (Content-Security-Policy), so that text which a peer could
//! influence stays text. Read-only: GET and HEAD.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, StatusCode};
use axum::routing::get;

use super::live::{self, Live};
use super::rotate::unix_time;

/// `/` and what it needs.
pub fn routes<S: Clone + Send + Sync + 'static>(live: Arc<Live>) -> Router<S> {
    Router::new()
        .route("/", get(|| async { file("text/html; charset=utf-8", include_str!("page/index.html")) }))
        .route("/live.js", get(|| async { file(SCRIPT, include_str!("page/live.js")) }))
        .route("/charts.js", get(|| async { file(SCRIPT, include_str!("page/charts.js")) }))
        .route("/words.js", get(|| async { file(SCRIPT, include_str!("page/words.js")) }))
        .route("/live.css", get(|| async { file(STYLE, include_str!("page/live.css")) }))
        .route("/live.svg", get(|| async { file("image/svg+xml", include_str!("page/live.svg")) }))
        .route("/uplot.js", get(|| async { file(SCRIPT, include_str!("page/uplot.js")) }))
        .route("/uplot.css", get(|| async { file(STYLE, include_str!("page/uplot.css")) }))
        .route("/live.json", get(data))
        .with_state(live)
}

type Answer<T> = (StatusCode, [(HeaderName, &'static str); 5], T);

fn file(content_type: &'static str, content: &'static str) -> Answer<&'static str> {
    (StatusCode::OK, headers(content_type), content)
}

async fn data(State(live): State<Arc<Live>>, Query(query): Query<live::Query>) -> Answer<String> {
    match live.json(&query, unix_time()) {
        Ok(json) => (StatusCode::OK, headers("application/json"), json),
        Err(error) => {
            tracing::warn!(%error, "live page: cannot be answered");
            (StatusCode::INTERNAL_SERVER_ERROR, headers("application/json"), "{}".to_owned())
        }
    }
}

fn headers(content_type: &'static str) -> [(HeaderName, &'static str); 5] {
    [
        (CONTENT_TYPE, content_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ]
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Own files alone, nothing inline, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
