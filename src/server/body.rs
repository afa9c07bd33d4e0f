//! Bodies of requests.
//!
//! Guarantees: a body is read within a time and up to a length, and what all of them hold at once is bounded by a budget; a
//! client that sends too much is still told so, and one whose key ended meanwhile is told that.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use futures_util::StreamExt;

use super::budget::{Budget, Share};
use super::ending::is_over;
use super::problem::Problem;

/// How long a body may take. Shorter than the request's own timeout, so that a slow body is told as one.
const TIMEOUT: Duration = Duration::from_secs(15);

/// So much of a body that is too long is read and thrown away beyond its bound, because a client that is still sending when
/// the connection closes never sees the answer.
const MAX_WASTE: usize = 16 * 1_048_576;

/// Reads a body of at most `most` bytes, and takes a share of `budget` for it, to be kept for as long as what is made of it; `what`
/// says of the bound what it is for.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    most: usize,
    what: &str,
    budget: &Budget,
) -> Result<(Vec<u8>, Share), Problem> {
    let read = collect(headers, body, most, what, budget);
    let read = tokio::time::timeout(TIMEOUT, read).await;
    read.map_err(|_| Problem::slow_body())?
}

async fn collect(
    headers: &HeaderMap,
    body: Body,
    most: usize,
    what: &str,
    budget: &Budget,
) -> Result<(Vec<u8>, Share), Problem> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let endured = most + MAX_WASTE;
    let mut share = budget.share();
    let mut read = 0;
    let mut bytes = Vec::new();
    let mut data = body.into_data_stream();
    while announced.is_none_or(|bytes| bytes <= endured) && read <= endured {
        let Some(piece) = data.next().await else {
            break;
        };
        let piece = piece.map_err(|error| {
            if is_over(&error) {
                return Problem::unauthorized();
            }
            Problem::bad_request("the body ended early")
        })?;
        read += piece.len();
        if read <= most {
            share.grow(piece.len())?;
            bytes.extend_from_slice(&piece);
        }
    }
    if read > most || announced.is_some_and(|bytes| bytes > most) {
        let detail = format!("the body is longer than {most} bytes; {what}");
        return Err(Problem::too_large(detail));
    }
    Ok((bytes, share))
}

/// Says what is wrong with a body that is no `what`, without any value of it; `shape` is how to write one.
pub(super) fn misread(what: &str, error: &serde_json::Error, shape: &str) -> Problem {
    let (line, column) = (error.line(), error.column());
    let said = error.to_string();
    let named = ["unknown field", "missing field", "duplicate field"];
    if error.is_data() && !named.iter().any(|named| said.starts_with(named)) {
        return Problem::bad_request(format!(
            "the body is no {what} at line {line} column {column}; {shape}"
        ));
    }
    Problem::bad_request(format!("the body is no {what}: {said}; {shape}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_body_is_told_without_a_value_of_it() {
        for (body, told) in [
            (r#"["hunter2"]"#, "column 10"),
            ("[1, hunter2]", "column 5"),
            ("{}", "column 0"),
        ] {
            let error = serde_json::from_str::<Vec<u8>>(body).unwrap_err();
            let problem = format!("{:?}", misread("list", &error, "write [1]"));
            assert!(
                problem.contains("no list") && problem.contains("write [1]"),
                "{problem}"
            );
            assert!(
                problem.contains(told) && !problem.contains("hunter2"),
                "{problem}"
            );
        }
    }
}
