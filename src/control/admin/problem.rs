//! Requests that cannot be met, and the parts of requests that most often are the reason.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::{Admin, Body, MAX_BODY_OCTETS, json};
use crate::config::parse_prefix;
use crate::control::api::{Failure, Reason};
use crate::control::overrides::OverrideError;
use crate::engine::policy::{Mode, Prefix};

/// Why a request cannot be met.
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Problem {
    /// For programs `code`, for people `message`.
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Problem {
        Problem { status, code, message: message.into() }
    }

    /// The request itself is wrong.
    pub(super) fn bad_request(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let error = Reason { code: self.code.to_owned(), message: self.message };
        (self.status, json(&Failure { error })).into_response()
    }
}

impl From<OverrideError> for Problem {
    fn from(error: OverrideError) -> Problem {
        let (status, code) = match error {
            OverrideError::Everything(_) => (StatusCode::BAD_REQUEST, "bad_prefix"),
            OverrideError::Allowed(_) => (StatusCode::CONFLICT, "allowed"),
            OverrideError::Denied(_) => (StatusCode::CONFLICT, "denied"),
            OverrideError::TooMany => (StatusCode::CONFLICT, "too_many_blocks"),
            OverrideError::NotBlocked(_) => (StatusCode::NOT_FOUND, "not_blocked"),
            OverrideError::NoService { .. } => (StatusCode::NOT_FOUND, "no_such_service"),
            OverrideError::Policy(_) => (StatusCode::CONFLICT, "policy"),
        };
        Problem::new(status, code, error.to_string())
    }
}

/// The mode that the configuration gives the service `name`.
pub(super) fn known_service(admin: &Admin, name: &str) -> Result<Mode, Problem> {
    let modes = admin.in_force.configured_modes();
    if let Some((_, mode)) = modes.iter().find(|(known, _)| known == name) {
        return Ok(*mode);
    }
    let known = modes.into_iter().map(|(name, _)| name).collect();
    Err(OverrideError::NoService { name: name.to_owned(), known }.into())
}

/// The prefix in `text`.
pub(super) fn prefix(text: &str) -> Result<Prefix, Problem> {
    parse_prefix(text).map_err(|message| Problem::new(StatusCode::BAD_REQUEST, "bad_prefix", message))
}

/// What the JSON in `body` means.
pub(super) fn parse<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let octets = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("the body is longer than {MAX_BODY_OCTETS} octets");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
        }
        _ => Problem::bad_request(error.body_text()),
    })?;
    serde_json::from_slice(&octets)
        .map_err(|error| Problem::bad_request(format!("the body is not what is wanted: {error}")))
}
