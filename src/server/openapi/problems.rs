//! The problems of the API, as the document describes them.
#![allow(
    dead_code,
    reason = "their shapes are described here; what is sent is made where it happens"
)]

use serde::Serialize;
use utoipa::{ToResponse, ToSchema};

/// What is answered instead of what was asked for (RFC 9457).
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::server) struct Problem {
    /// Names the kind: `urn:sync-config:problem:` with `bad-request`, `unauthorized`, `forbidden`, `not-found`,
    /// `method-not-allowed`, `request-timeout`, `already-done`, `too-old`, `precondition-failed`, `too-large`, `too-many-requests`, `internal`,
    /// `not-ready`, `unavailable` or `outcome-unknown`.
    #[schema(
        example = "urn:sync-config:problem:not-found",
        pattern = "^urn:sync-config:problem:[a-z-]+$"
    )]
    r#type: String,
    title: String,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What happened and what to do, for people.
    detail: String,
    /// The request's name.
    request_id: String,
    /// Why it is not ready.
    #[schema(required = false)]
    reasons: Vec<String>,
    /// The key whose condition did not hold.
    #[schema(required = false)]
    key: String,
    /// What was expected of it, in words.
    #[schema(required = false)]
    expected: String,
    /// What it is, in words.
    #[schema(required = false)]
    actual: String,
    /// The revision that it was last changed by, if it has a value.
    #[schema(required = false)]
    actual_revision: u64,
}

/// A condition that does not hold.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::server) struct Conflict {
    key: String,
    /// What was expected of it, in words.
    expected: String,
    /// What it is, in words.
    actual: String,
    /// The revision that it was last changed by, if it has a value.
    #[schema(required = false)]
    actual_revision: u64,
}

macro_rules! problems {
    ($($(#[$about:meta])* $name:ident),* $(,)?) => {$(
        $(#[$about])*
        #[derive(ToResponse)]
        #[response(content_type = "application/problem+json")]
        pub(in crate::server) struct $name(Problem);
    )*};
}

problems! {
    /// The request is not as it should be; the detail says where and what the bound is.
    BadRequest,
    /// A valid API key is needed; the same answer whether it is missing, malformed, unknown or wrong.
    Unauthorized,
    /// The key, the page's site, or the store does not let this service do this.
    Forbidden,
    /// A write under this `Idempotency-Key` was done before, and the key has no value now.
    AlreadyDone,
    /// There is nothing there.
    NotFound,
    /// The path does not take this method; the header `Allow` names those it takes.
    MethodNotAllowed,
    /// The body did not arrive within 15 s.
    RequestTimeout,
    /// Neither memory nor the journal leads on from there: begin anew.
    Gone,
    /// A condition does not hold; nothing was written. The problem names the key, what was expected of it and what it is.
    PreconditionFailed,
    /// The body, the value or the batch is longer than its bound.
    TooLarge,
    /// The API key, or an address without one, asks too much; `Retry-After` says when to come again.
    TooManyRequests,
    /// Nothing was done: not loaded yet, shutting down, too much under way, or the store is away; `Retry-After` says when to
    /// come again.
    Unavailable,
    /// A fault of the service; its log says why.
    Internal,
    /// The store's answer was lost: the write was applied or it was not.
    OutcomeUnknown,
}
