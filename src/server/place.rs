//! At which place of the store's history an answer stands: the header `sync-config-cursor`.
//!
//! Guarantees: what an answer shows of the state is of that place, or of a later one where a single key was read; a reader
//! that goes on from there by `/v1/changes` or `/v1/watch` misses nothing.

use axum::http::header::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};

use super::App;
use super::message;
use super::problem::Problem;
use crate::core::Cursor;
use crate::error::{Error, Kind};

const HEADER: HeaderName = HeaderName::from_static("sync-config-cursor");

/// What is shown now.
pub(super) fn shown(app: &App) -> Result<Cursor, Problem> {
    let cursor = app.service.cursor();
    cursor.ok_or_else(|| Error::from(Kind::NotReady).into())
}

/// Says with an answer of which place it is.
pub(super) fn told(cursor: Cursor, answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    if let Ok(text) = HeaderValue::try_from(message::id(cursor)) {
        response.headers_mut().insert(HEADER, text);
    }
    response
}
