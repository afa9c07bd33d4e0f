//! Reading, writing and listing entries.
//!
//! Guarantees: a value passes through as its text; a write's answer is the key's state after it; preconditions are decided
//! inside the database.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, OriginalUri, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt, Stream, StreamExt, stream};

use super::identity::{Identity, Role};
use super::problem::Problem;
use super::query::{self, percent_decoded};
use super::scope::Scope;
use super::{Shared, etag};
use crate::core::{Entry, Epoch, Key, MAX_VALUE_BYTES, Snapshot, Value};
use crate::error::{Error, Kind};
use crate::sync_config::SyncConfig;
use crate::wire::{EntryView, json};
use crate::write::{Batch, Precondition, Written};

/// A body may be this long: a value and some blanks around it.
const MAX_BODY: usize = MAX_VALUE_BYTES + 16 * 1024;

/// So much of a body that is too long is read and thrown away, because a client that is still sending when the
/// connection closes never sees the answer.
const MAX_WASTE: usize = 16 * 1_048_576;

/// How long a body may take. Shorter than the request's own timeout, so that a slow body is told as one.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// A list goes out in pieces of about this size.
const PIECE: usize = 64 * 1024;

/// Answers with one entry.
pub(super) async fn read(
    State(app): State<Shared>,
    Extension(identity): Extension<Identity>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = key_of(&uri)?;
    identity.demand_key(&key)?;
    // The epoch first: should it change meanwhile, the tag is of the old one and matches nothing.
    let epoch = epoch(&app)?;
    let entry = app.service.get(&key)?;
    let entry = entry.ok_or_else(|| Problem::missing(&key))?;
    let tag = etag::of(epoch, entry.revision());
    if etag::has(&headers, &tag)? {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    Ok(shown(StatusCode::OK, &entry, tag))
}

/// Puts the body's JSON value.
pub(super) async fn put(
    State(app): State<Shared>,
    Extension(identity): Extension<Identity>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let key = key_of(&uri)?;
    identity.demand(Role::Write)?;
    identity.demand_key(&key)?;
    let body = tokio::time::timeout(BODY_TIMEOUT, collect(&headers, body)).await;
    let body = body.map_err(|_| Problem::slow_body())??;
    let text = std::str::from_utf8(&body)
        .map_err(|_| Problem::bad_request("the body is not UTF-8, which JSON has to be"))?;
    let value = Value::parse(text).map_err(|error| {
        let key = key.clone();
        Problem::from(Error::from(Kind::Value { key, error }))
    })?;
    // After the body, which may take its time: a tag is compared with the epoch of now.
    let (precondition, known) = demanded(&app, &key, &headers)?;
    let batch = |precondition| Batch::new().put_value(&key, value.clone(), precondition);
    let written = write(&app, &headers, precondition, batch).await?;
    let entry = written.keys().first().and_then(|key| key.entry());
    let entry = entry.ok_or_else(Problem::internal)?;
    let created = written.changed()
        && app
            .service
            .created(written.cursor(), &key)
            .unwrap_or(!known);
    let status = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(shown(
        status,
        entry,
        etag::of(written.cursor().epoch, entry.revision()),
    ))
}

/// Deletes a key.
pub(super) async fn delete(
    State(app): State<Shared>,
    Extension(identity): Extension<Identity>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = key_of(&uri)?;
    identity.demand(Role::Write)?;
    identity.demand_key(&key)?;
    let (precondition, _) = demanded(&app, &key, &headers)?;
    let batch = |precondition| match precondition {
        Some(precondition) => Batch::new().delete_if(&key, precondition),
        None => Batch::new().delete(&key),
    };
    let written = write(&app, &headers, precondition, batch).await?;
    if !written.changed() {
        return Err(Problem::missing(&key));
    }
    let answer = serde_json::json!({ "key": key, "revision": written.revision() });
    Ok(as_json(answer.to_string()))
}

/// Answers with all entries, or those with a prefix, at one revision.
pub(super) async fn list(
    State(app): State<Shared>,
    Extension(identity): Extension<Identity>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let [prefix] = query::values(&uri, ["prefix"])?;
    let asked = Scope::of(prefix.or(Some(String::new())));
    let scope = asked.within(identity.scope());
    let snapshot = app.service.snapshot()?;
    let tag = etag::of(snapshot.cursor().epoch, snapshot.revision());
    if etag::has(&headers, &tag)? {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    let pieces = stream::iter(Pieces::new(snapshot, scope));
    let body = Body::from_stream(in_time(pieces, super::WHOLE_TIMEOUT));
    let headers = [(CONTENT_TYPE, "application/json".to_owned()), (ETAG, tag)];
    Ok((headers, body).into_response())
}

/// The pieces until a deadline, and then an error. A client that asks for none is found out by its connection.
fn in_time(
    pieces: impl Stream<Item = Bytes> + Unpin,
    limit: Duration,
) -> impl Stream<Item = io::Result<Bytes>> {
    let mut late = Box::pin(tokio::time::sleep(limit));
    pieces.map(move |piece| match late.as_mut().now_or_never() {
        Some(()) => Err(io::ErrorKind::TimedOut.into()),
        None => Ok(piece),
    })
}

/// Writes; and once more where the key is at another revision that the headers name as well.
async fn write(
    app: &Shared,
    headers: &HeaderMap,
    precondition: Option<Precondition>,
    batch: impl Fn(Option<Precondition>) -> Batch,
) -> Result<Written, Problem> {
    let refused = match app.service.write(batch(precondition)).await {
        Ok(written) => return Ok(written),
        Err(refused) => refused,
    };
    let found = refused.conflicting_revision();
    match found.filter(|found| epoch(app).is_ok_and(|epoch| etag::names(headers, epoch, *found))) {
        Some(found) => Ok(app
            .service
            .write(batch(Some(Precondition::Revision(found))))
            .await?),
        None => Err(refused.into()),
    }
}

/// What a write's headers demand, and whether the key is known to this instance.
fn demanded(
    app: &Shared,
    key: &str,
    headers: &HeaderMap,
) -> Result<(Option<Precondition>, bool), Problem> {
    let epoch = epoch(app)?;
    let current = app.service.get(key)?.map(|entry| entry.revision());
    let precondition = etag::precondition(headers, epoch, current)?;
    // The database knows a revision by its number alone, which there may be another one's by now.
    if matches!(precondition, Some(Precondition::Revision(_))) && app.service.shows_what_is_lost() {
        let problem = "the store's history was replaced and is not shown yet; nothing was written";
        return Err(Problem::unavailable(problem));
    }
    Ok((precondition, current.is_some()))
}

fn epoch(app: &Shared) -> Result<Epoch, Problem> {
    match app.service.cursor() {
        Some(cursor) => Ok(cursor.epoch),
        None => Err(Error::from(Kind::NotReady).into()),
    }
}

fn shown(status: StatusCode, entry: &Entry, tag: String) -> Response {
    let mut response = as_json(json(&EntryView(entry)));
    *response.status_mut() = status;
    if let Ok(tag) = tag.parse() {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

fn as_json(body: String) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

/// The key: everything after `/v1/config/`, percent-decoded once.
fn key_of(uri: &Uri) -> Result<Key, Problem> {
    let path = uri.path().strip_prefix("/v1/config/").unwrap_or_default();
    let text = percent_decoded(path).ok_or_else(|| {
        Problem::bad_request("the key's percent-encoding is broken, or it is not UTF-8")
    })?;
    Ok(Key::parse(&text)?)
}

async fn collect(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Problem> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let mut read = 0;
    let mut bytes = Vec::new();
    let mut data = body.into_data_stream();
    while announced.is_none_or(|bytes| bytes <= MAX_WASTE) && read <= MAX_WASTE {
        let Some(piece) = data.next().await else {
            break;
        };
        let piece = piece.map_err(|_| Problem::bad_request("the body ended early"))?;
        read += piece.len();
        if read <= MAX_BODY {
            bytes.extend_from_slice(&piece);
        }
    }
    if read > MAX_BODY || announced.is_some_and(|bytes| bytes > MAX_BODY) {
        return Err(Problem::too_large(format!(
            "the body is longer than {MAX_BODY} bytes; a value may have {MAX_VALUE_BYTES}"
        )));
    }
    Ok(bytes)
}

/// The pieces of a list, made when they are asked for.
struct Pieces {
    snapshot: Arc<Snapshot>,
    scope: Scope,
    /// Which prefix is being listed, and which entry of it comes next; `None` at the end.
    next: Option<(usize, usize)>,
}

impl Pieces {
    fn new(snapshot: Arc<Snapshot>, scope: Scope) -> Self {
        Self {
            snapshot,
            scope,
            next: Some((0, 0)),
        }
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let (mut prefix, mut at) = self.next?;
        let mut piece = String::new();
        let mut begun = (prefix, at) != (0, 0);
        if !begun {
            let revision = self.snapshot.revision();
            piece = format!("{{\"revision\":{revision},\"entries\":[");
        }
        while let Some(text) = self.scope.prefixes().get(prefix) {
            let entries = self.snapshot.prefixed(text);
            while let Some(entry) = entries.get(at)
                && piece.len() < PIECE
            {
                if begun {
                    piece.push(',');
                }
                begun = true;
                piece.push_str(&json(&EntryView(entry)));
                at += 1;
            }
            if at < entries.len() {
                self.next = Some((prefix, at));
                return Some(piece.into());
            }
            (prefix, at) = (prefix + 1, 0);
        }
        piece.push_str("]}");
        self.next = None;
        Some(piece.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_decoded_once() {
        let key = |path: &'static str| key_of(&Uri::from_static(path)).map(|key| key.to_string());
        assert_eq!(key("/v1/config/a/b").unwrap(), "a/b");
        assert_eq!(key("/v1/config/a%2Fb").unwrap(), "a/b");
        assert_eq!(key("/v1/config/a%252Fb+c").unwrap(), "a%2Fb+c");
        assert_eq!(key("/v1/config//a/").unwrap(), "/a/");
        assert_eq!(key("/v1/config/limit:login").unwrap(), "limit:login");
        for wrong in [
            "/v1/config/",
            "/v1/config/%",
            "/v1/config/%zz",
            "/v1/config/%ff",
            "/v1/config/%00",
        ] {
            assert!(key(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_taken_too_slowly_breaks_off() {
        let pieces = || stream::iter([Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        let limit = Duration::from_secs(600);
        for (pause, whole) in [(599, true), (601, false)] {
            let mut taken = in_time(pieces(), limit);
            assert!(taken.next().await.unwrap().is_ok());
            tokio::time::advance(Duration::from_secs(pause)).await;
            assert_eq!(taken.next().await.unwrap().is_ok(), whole, "{pause} s");
        }
    }
}
