//! Errors as RFC 9457 `application/problem+json`.
//!
//! Guarantees: never a value, a password, a URL or an internal error text; those of the last two kinds go to the log.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{
    CONTENT_TYPE, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use axum::response::{IntoResponse, Response};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::core::{Key, KeyError, Revision};
use crate::error::{Error, Kind};

/// Seconds after which trying again is worthwhile: an unreachable store is tried each few seconds at most.
const RETRY_SECONDS: u64 = 2;

/// What is answered instead of what was asked for.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    /// The last part of `type`.
    slug: &'static str,
    title: &'static str,
    detail: String,
    /// After how many seconds to try again.
    retry: Option<u64>,
    /// Members beside those that every problem has.
    more: Map<String, Value>,
}

impl Problem {
    fn new(
        status: StatusCode,
        slug: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            status,
            slug,
            title,
            detail: detail.into(),
            retry: None,
            more: Map::new(),
        }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "bad-request",
            "Bad request",
            detail,
        )
    }

    /// The same, whether the key is missing, malformed, unknown or wrong.
    pub(super) fn unauthorized() -> Self {
        let detail =
            "this needs a valid API key, as the header api-key or as Authorization: Bearer";
        let status = StatusCode::UNAUTHORIZED;
        Self::new(status, "unauthorized", "Unauthorized", detail)
    }

    /// Asks to wait so long.
    pub(super) fn too_many(detail: impl Into<String>, wait: Duration) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let mut problem = Self::new(status, "too-many-requests", "Too many requests", detail);
        // A part of a second counts as one: nobody is to come too early.
        problem.retry = Some(wait.as_secs() + 1);
        problem
    }

    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", detail)
    }

    pub(super) fn missing(key: &Key) -> Self {
        let detail = format!("there is no key \"{}\"", key);
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// A write that is repeated was done, and what it wrote is gone.
    pub(super) fn already_done(key: &Key, revision: Revision) -> Self {
        let detail = format!(
            "a write under this Idempotency-Key made revision {revision} before; key \"{key}\" has no value now"
        );
        let status = StatusCode::CONFLICT;
        Self::new(status, "already-done", "Already done", detail)
    }

    pub(super) fn no_such_path() -> Self {
        let detail = "there is no such path; GET / names those there are";
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    pub(super) fn method_not_allowed() -> Self {
        let detail = "this path does not take this method; the header Allow names those it takes";
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, "method-not-allowed", "Method not allowed", detail)
    }

    pub(super) fn slow_body() -> Self {
        let detail = "the body did not arrive in time";
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "request-timeout",
            "Request timeout",
            detail,
        )
    }

    pub(super) fn too_large(detail: impl Into<String>) -> Self {
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self::new(status, "too-large", "Too large", detail)
    }

    pub(super) fn upgrade_required(detail: impl Into<String>) -> Self {
        let status = StatusCode::UPGRADE_REQUIRED;
        Self::new(status, "upgrade-required", "Upgrade required", detail)
    }

    pub(super) fn precondition_failed(detail: impl Into<String>) -> Self {
        let status = StatusCode::PRECONDITION_FAILED;
        Self::new(status, "precondition-failed", "Precondition failed", detail)
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let mut problem = Self::new(status, "unavailable", "Unavailable", detail);
        problem.retry = Some(RETRY_SECONDS);
        problem
    }

    pub(super) fn not_ready(reasons: Vec<String>) -> Self {
        let mut problem = Self::unavailable("not ready to serve");
        (problem.slug, problem.title) = ("not-ready", "Not ready");
        problem.with("reasons", reasons)
    }

    pub(super) fn outcome_unknown() -> Self {
        let detail = "the store's answer was lost; the write was applied or it was not: read the keys to see, or send it again under the same Idempotency-Key";
        let status = StatusCode::GATEWAY_TIMEOUT;
        Self::new(status, "outcome-unknown", "Outcome unknown", detail)
    }

    pub(super) fn internal() -> Self {
        let detail = "the request could not be carried out; the server's log says why";
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, "internal", "Internal error", detail)
    }

    /// What a client has seen is no longer to be continued.
    pub(super) fn too_old(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "too-old", "Too old", detail)
    }

    /// A key is not as a write expected it.
    pub(super) fn conflict(detail: impl Into<String>, conflict: &Conflict) -> Self {
        let mut problem = Self::precondition_failed(detail);
        if let Ok(Value::Object(members)) = serde_json::to_value(conflict) {
            problem.more.extend(members);
        }
        problem
    }

    /// Adds a member.
    pub(super) fn with(mut self, name: &str, member: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), member.into());
        self
    }
}

/// A condition that did not hold.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Conflict {
    pub(super) key: Key,
    /// What was expected of the key, in words.
    pub(super) expected: String,
    /// What it is, in words.
    pub(super) actual: String,
    /// The revision that it was last changed by, if it has a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) actual_revision: Option<Revision>,
}

impl Conflict {
    /// The condition that a refused write names.
    fn of(error: &Error) -> Option<Self> {
        match error.kind() {
            Kind::Conflict {
                key,
                expected,
                actual,
                at,
            } => Some(Self {
                key: key.clone(),
                expected: expected.clone(),
                actual: actual.clone(),
                actual_revision: *at,
            }),
            _ => None,
        }
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        if error.is_too_large() {
            return Self::too_large(error.to_string());
        }
        if error.is_invalid_input() {
            return Self::bad_request(error.to_string());
        }
        if let Some(conflict) = Conflict::of(&error) {
            return Self::conflict(error.to_string(), &conflict);
        }
        if error.is_not_ready() {
            return Self::not_ready(vec![error.to_string()]);
        }
        if error.is_closed() {
            return Self::unavailable("shutting down");
        }
        if error.is_denied() {
            return Self::forbidden("the store does not let this service do this");
        }
        tracing::warn!(%error, "a request failed");
        if error.is_outcome_unknown() {
            Self::outcome_unknown()
        } else if error.is_unavailable() {
            Self::unavailable("the store cannot be reached; nothing was written")
        } else if error.is_retryable() {
            Self::unavailable("the store is busy; nothing was written")
        } else {
            Self::internal()
        }
    }
}

/// What a problem tells, beside its answer, until the request's name is put into it.
#[derive(Clone, Debug)]
pub(super) struct Told(Arc<Value>);

impl Told {
    pub(super) fn with_request_id(&self, id: &str) -> String {
        let mut body = Value::clone(&self.0);
        body["requestId"] = id.into();
        body.to_string()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = serde_json::json!({
            "type": format!("urn:sync-config:problem:{}", self.slug),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Value::Object(members) = &mut body {
            members.extend(self.more);
        }
        let mut response = (self.status, body.to_string()).into_response();
        response.extensions_mut().insert(Told(Arc::new(body)));
        let headers = response.headers_mut();
        let media = HeaderValue::from_static("application/problem+json");
        headers.insert(CONTENT_TYPE, media);
        if let Some(seconds) = self.retry {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_denies_is_forbidden_and_no_fault_of_the_service() {
        let denied = Kind::Denied {
            what: "writing key \"k\"".to_owned(),
            problem: "permission denied for table sync_config".to_owned(),
        };
        let problem = Problem::from(Error::from(denied));
        assert_eq!(problem.status, StatusCode::FORBIDDEN);
        assert!(
            !problem.detail.contains("sync_config"),
            "no names of the database"
        );
    }
}
