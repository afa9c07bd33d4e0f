//! What the answer or the silence of a server means for the caller.
//!
//! Guarantees: *not applied* is said only where nothing was sent, or where a server of this program said so, or refused the
//! request before it was carried out; whatever else comes of a write is *unknown*. No message holds a value, a key that was
//! shown, or more of an address than host and port.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderMap;

use super::elements::Strange;
use super::wire::Problem;
use crate::core::{Key, Revision, shown_start};
use crate::error::{Error, Kind};

/// What a server refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) problem: Problem,
    /// How long it wants to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// Host and port.
    pub(super) server: String,
}

impl Refusal {
    pub(super) fn new(
        server: String,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Self {
        let seconds = headers
            .get("retry-after")
            .and_then(|text| text.to_str().ok());
        let seconds = seconds.and_then(|text| text.trim().parse::<u64>().ok());
        Self {
            status,
            problem: Problem::read(body),
            retry_after: seconds.map(Duration::from_secs),
            server,
        }
    }

    /// What it said, short and on one line.
    pub(super) fn told(&self) -> String {
        let (server, status) = (&self.server, self.status.as_u16());
        let detail = shown_start(&self.problem.detail);
        if detail.is_empty() {
            format!("server {server} answered {status}")
        } else {
            format!("server {server} answered {status}: {detail}")
        }
    }

    /// Whether another server may do what this one would not.
    pub(super) fn is_for_another(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS
            || (self.status == StatusCode::SERVICE_UNAVAILABLE && self.problem.slug().is_some())
    }

    /// As the error of a read.
    pub(super) fn of_read(&self, what: &str) -> Error {
        match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(what),
            StatusCode::TOO_MANY_REQUESTS => Error::unavailable(what, self.told()),
            status if status.is_server_error() => Error::unavailable(what, self.told()),
            _ => Error::refused(what, self.told()),
        }
    }

    /// As the error of a write.
    pub(super) fn of_write(&self, what: &str) -> Error {
        match (self.status, self.problem.slug()) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => self.denied(what),
            (StatusCode::PRECONDITION_FAILED, _) => self.conflict(what),
            (StatusCode::TOO_MANY_REQUESTS, _) => {
                let (what, problem) = (what.to_owned(), self.told());
                Kind::Retryable { what, problem }.into()
            }
            (StatusCode::SERVICE_UNAVAILABLE, Some(_)) => Error::unavailable(what, self.told()),
            (StatusCode::GATEWAY_TIMEOUT, Some("outcome-unknown")) => {
                Error::unknown(what, self.told())
            }
            (StatusCode::INTERNAL_SERVER_ERROR, Some("internal")) => {
                Error::refused(what, self.told())
            }
            // What stands between may have passed the request on.
            (status, _) if status.is_server_error() => Error::unknown(what, self.told()),
            // A redirect or a refusal comes before the request is carried out.
            _ => Error::refused(what, self.told()),
        }
    }

    fn denied(&self, what: &str) -> Error {
        let advice = match self.status {
            StatusCode::UNAUTHORIZED => {
                "; the setting api_key is missing, wrong, revoked or expired"
            }
            _ => "",
        };
        let (what, problem) = (what.to_owned(), self.told() + advice);
        Kind::Denied { what, problem }.into()
    }

    fn conflict(&self, what: &str) -> Error {
        let Problem {
            key: Some(key),
            expected: Some(expected),
            actual: Some(actual),
            actual_revision,
            ..
        } = &self.problem
        else {
            return Error::refused(what, self.told());
        };
        Kind::Conflict {
            key: Key::stored(key),
            expected: shown_start(expected),
            actual: shown_start(actual),
            at: actual_revision.map(Revision::new),
        }
        .into()
    }
}

/// What a server says cannot be understood.
pub(super) fn strange(what: &str, server: &str, strange: &Strange) -> Error {
    let problem = &strange.0;
    Error::unavailable(
        what,
        format!("what server {server} says cannot be understood: {problem}"),
    )
}

/// What a client of a server cannot do.
pub(super) fn elsewhere(what: &str) -> Error {
    Error::refused(
        what,
        "this instance has no database of its own; do it where the database is, or on a server that has it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> Refusal {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "7".parse().unwrap());
        let status = StatusCode::from_u16(status).unwrap();
        Refusal::new("a:1".to_owned(), status, &headers, body.as_bytes())
    }

    fn problem(slug: &str) -> String {
        format!(r#"{{"type":"urn:sync-config:problem:{slug}","detail":"because","status":1}}"#)
    }

    #[test]
    fn only_what_is_known_not_to_be_applied_is_told_as_such() {
        let write = |status, body: &str| refusal(status, body).of_write("writing key \"k\"");
        for status in [401, 403] {
            assert!(write(status, "").is_denied());
        }
        let busy = write(429, "");
        assert!(busy.is_retryable() && !busy.is_unavailable(), "{busy}");
        assert!(write(503, &problem("unavailable")).is_unavailable());
        assert!(write(504, &problem("outcome-unknown")).is_outcome_unknown());
        let internal = write(500, &problem("internal"));
        assert!(!internal.is_outcome_unknown() && !internal.is_retryable());
        for (status, body) in [(500, ""), (502, "<html>"), (503, "<html>"), (504, "{}")] {
            let error = write(status, body);
            assert!(error.is_outcome_unknown(), "{status}: {error}");
        }
        for status in [301, 400, 404, 413] {
            let error = write(status, "");
            assert!(
                !error.is_outcome_unknown() && !error.is_retryable(),
                "{error}"
            );
        }
    }

    #[test]
    fn a_conflict_names_the_key_and_both_states() {
        let body = r#"{"type":"urn:sync-config:problem:precondition-failed","detail":"d","key":"k",
            "expected":"absent","actual":"at revision 3","actualRevision":3}"#;
        let error = refusal(412, body).of_write("writing key \"k\"");
        assert!(error.is_conflict(), "{error}");
        assert_eq!(error.conflicting_revision(), Some(Revision::new(3)));
        let said = error.to_string();
        assert!(
            said.contains("\"k\"") && said.contains("at revision 3"),
            "{said}"
        );
        let bare = refusal(412, "{}").of_write("writing 2 keys");
        assert!(!bare.is_outcome_unknown() && !bare.is_retryable());
    }

    #[test]
    fn a_server_that_asks_for_time_or_is_behind_is_left_for_another() {
        let busy = refusal(429, "");
        assert_eq!(busy.retry_after, Some(Duration::from_secs(7)));
        assert!(busy.is_for_another());
        assert!(refusal(503, &problem("unavailable")).is_for_another());
        assert!(!refusal(503, "").is_for_another() && !refusal(412, "").is_for_another());
        assert!(refusal(502, "").of_read("x").is_unavailable());
        assert!(refusal(401, "").of_read("x").is_denied());
    }

    #[test]
    fn what_a_server_says_is_one_short_line() {
        let detail = format!("a\\n\\u001b[31m{}", "x".repeat(10_000));
        let body = format!(r#"{{"type":"x","detail":"{detail}"}}"#);
        let said = refusal(400, &body).of_write("w").to_string();
        assert!(
            said.len() < 1_000 && !said.contains(char::is_control),
            "{said}"
        );
    }
}
