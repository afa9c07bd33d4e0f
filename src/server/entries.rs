//! Reading and writing entries.
//!
//! Guarantees: a value passes through as its text; a write's answer is the key's state after it; preconditions are decided
//! inside the database.

use axum::body::Body;
use axum::extract::{Extension, OriginalUri, State};
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use super::batch::idempotency_key;
use super::budget::{PART, Share, whole};
use super::identity::{Identity, Role};
use super::openapi::{
    self, AlreadyDone, BadRequest, Deleted, NotFound, OutcomeUnknown, PreconditionFailed,
    RequestTimeout, TooLarge,
};
use super::problem::Problem;
use super::query::percent_decoded;
use super::{Shared, body, etag, place};
use crate::core::{Entry, Key, MAX_VALUE_BYTES, Value};
use crate::error::{Error, Kind};
use crate::sync_config::SyncConfig;
use crate::wire::{EntryView, json};
use crate::write::{Batch, Precondition, Written};

/// A body may be this long: a value and some blanks around it.
const MAX_BODY: usize = MAX_VALUE_BYTES + 16 * 1024;

/// Read an entry
///
/// From memory: it works while the database is away.
#[utoipa::path(
    get, path = "/v1/config/{key}", tag = "configuration", operation_id = "readEntry",
    params(
        ("key" = Key, Path, description = "The key: everything after `/v1/config/`, percent-encoded; it may hold slashes"),
        ("If-None-Match" = Option<openapi::ETags>, Header, description = "Entity tags that the client has: 304 if it is one of them"),
        ("If-Match" = Option<openapi::ETags>, Header, description = "Entity tags: 412 if it is none of them")
    ),
    responses(
        (status = 200, description = "The entry", body = openapi::Entry, headers(("etag" = openapi::ETag, description = "Names the entry's revision"), ("sync-config-cursor" = openapi::Cursor, description = "The place that this is of"))),
        (status = 304, description = "It is what the client has", headers(("etag" = openapi::ETag, description = "Names the entry's revision"), ("sync-config-cursor" = openapi::Cursor, description = "The place that this is of"))),
        (status = 400, response = BadRequest), (status = 404, response = NotFound), (status = 412, response = PreconditionFailed)
    )
)]
pub(super) async fn read(
    State(app): State<Shared>,
    Extension(identity): Extension<Identity>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = key_of(&uri)?;
    identity.demand_key(&key)?;
    // The place first: the entry may be of a later one. Should the epoch change meanwhile, the tag is of the old one and
    // matches nothing.
    let at = place::shown(&app)?;
    let entry = app.service.get(&key)?;
    let tag = entry
        .as_ref()
        .map(|entry| etag::of(at.epoch, entry.revision()));
    etag::demand(&headers, tag.as_deref())?;
    let (Some(entry), Some(tag)) = (entry, tag) else {
        return Ok(place::told(at, Problem::missing(&key)));
    };
    if etag::has(&headers, &tag)? {
        return Ok(place::told(at, (StatusCode::NOT_MODIFIED, [(ETAG, tag)])));
    }
    let mut share = app.budget.share();
    if entry.as_json().len() > PART {
        share.grow(entry.as_json().len())?;
    }
    Ok(place::told(at, shown(StatusCode::OK, &entry, tag, share)))
}

/// Put a value
///
/// Durable when it is answered, and this server reads it from then on. The body is the JSON value itself.
#[utoipa::path(
    put, path = "/v1/config/{key}", tag = "configuration", operation_id = "putEntry",
    params(
        ("key" = Key, Path, description = "The key: everything after `/v1/config/`, percent-encoded; it may hold slashes"),
        ("If-Match" = Option<openapi::ETags>, Header, description = "The key has one of these entity tags, or `*`: any"),
        ("If-None-Match" = Option<openapi::Any>, Header, description = "`*`: the key is absent"),
        ("Idempotency-Key" = Option<openapi::IdempotencyKey>, Header, description = "Makes sending it again safe while the journal keeps the revision")
    ),
    request_body(content = serde_json::Value, description = "The value, at most 1 MiB of text", content_type = "application/json"),
    responses(
        (status = 200, description = "The entry, which was there before", body = openapi::Entry, headers(("etag" = openapi::ETag, description = "Names the entry's revision"), ("sync-config-cursor" = openapi::Cursor, description = "The place that this is of"))),
        (status = 409, response = AlreadyDone),
        (status = 201, description = "The entry, which was not", body = openapi::Entry, headers(("etag" = openapi::ETag, description = "Names the entry's revision"), ("sync-config-cursor" = openapi::Cursor, description = "The place that this is of"))),
        (status = 400, response = BadRequest), (status = 408, response = RequestTimeout), (status = 412, response = PreconditionFailed),
        (status = 413, response = TooLarge), (status = 504, response = OutcomeUnknown)
    )
)]
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
    let what = format!("a value may have {MAX_VALUE_BYTES}");
    let (body, share) = body::read(&headers, body, MAX_BODY, &what, &app.budget).await?;
    let text = std::str::from_utf8(&body)
        .map_err(|_| Problem::bad_request("the body is not UTF-8, which JSON has to be"))?;
    let value = Value::parse(text).map_err(|error| {
        let key = key.clone();
        Problem::from(Error::from(Kind::Value { key, error }))
    })?;
    // After the body, which may take its time: a tag is compared with the epoch of now.
    let (precondition, known) = demanded(&app, &key, &headers)?;
    let named = Named::of(&identity, &headers)?;
    let batch = |precondition| named.on(Batch::new().put_value(&key, value.clone(), precondition));
    drop(body);
    let written = write(&app, &identity, &headers, precondition, batch).await?;
    let entry = written.keys().first().and_then(|key| key.entry());
    let Some(entry) = entry else {
        // Only of a replay, which answers with what is there now.
        return Err(Problem::already_done(&key, written.revision()));
    };
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
    let tag = etag::of(written.cursor().epoch, entry.revision());
    // What was sent is no longer held: its share is the answer's. What was written cannot be refused for want of more.
    Ok(place::told(
        written.cursor(),
        shown(status, entry, tag, share),
    ))
}

/// Delete a key
#[utoipa::path(
    delete, path = "/v1/config/{key}", tag = "configuration", operation_id = "deleteEntry",
    params(
        ("key" = Key, Path, description = "The key: everything after `/v1/config/`, percent-encoded; it may hold slashes"),
        ("If-Match" = Option<openapi::ETags>, Header, description = "The key has one of these entity tags, or `*`: any"),
        ("If-None-Match" = Option<openapi::Any>, Header, description = "`*`: the key is absent"),
        ("Idempotency-Key" = Option<openapi::IdempotencyKey>, Header, description = "Makes sending it again safe while the journal keeps the revision")
    ),
    responses(
        (status = 200, description = "It is gone", body = Deleted, headers(("sync-config-cursor" = openapi::Cursor, description = "The place that this is of"))),
        (status = 404, response = NotFound), (status = 400, response = BadRequest), (status = 412, response = PreconditionFailed),
        (status = 504, response = OutcomeUnknown)
    )
)]
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
    let named = Named::of(&identity, &headers)?;
    let batch = |precondition| {
        named.on(match precondition {
            Some(precondition) => Batch::new().delete_if(&key, precondition),
            None => Batch::new().delete(&key),
        })
    };
    let written = write(&app, &identity, &headers, precondition, batch).await?;
    if !written.changed() {
        return Ok(place::told(written.cursor(), Problem::missing(&key)));
    }
    let answer = serde_json::json!({ "key": key, "revision": written.revision() });
    Ok(place::told(written.cursor(), as_json(answer.to_string())))
}

/// Writes; and once more where the key is at another revision that the headers name as well.
async fn write(
    app: &Shared,
    identity: &Identity,
    headers: &HeaderMap,
    precondition: Option<Precondition>,
    batch: impl Fn(Option<Precondition>) -> Batch,
) -> Result<Written, Problem> {
    identity.demand_live()?;
    let refused = match app.service.write(batch(precondition)).await {
        Ok(written) => return Ok(written),
        Err(refused) => refused,
    };
    let found = refused.conflicting_revision();
    match found
        .filter(|found| place::shown(app).is_ok_and(|at| etag::names(headers, at.epoch, *found)))
    {
        Some(found) => {
            identity.demand_live()?;
            let again = batch(Some(Precondition::Revision(found)));
            Ok(app.service.write(again).await?)
        }
        None => Err(refused.into()),
    }
}

/// What a write's headers demand, and whether the key is known to this instance.
fn demanded(
    app: &Shared,
    key: &str,
    headers: &HeaderMap,
) -> Result<(Option<Precondition>, bool), Problem> {
    let epoch = place::shown(app)?.epoch;
    let current = app.service.get(key)?.map(|entry| entry.revision());
    let precondition = etag::precondition(headers, epoch, current)?;
    // The database knows a revision by its number alone, which there may be another one's by now.
    if matches!(precondition, Some(Precondition::Revision(_))) {
        refuse_what_is_lost(app)?;
    }
    Ok((precondition, current.is_some()))
}

/// Refuses a write that names a revision while what is shown is known to be lost in the database.
pub(super) fn refuse_what_is_lost(app: &Shared) -> Result<(), Problem> {
    if app.service.shows_what_is_lost() {
        let problem = "the store's history was replaced and is not shown yet; nothing was written";
        return Err(Problem::unavailable(problem));
    }
    Ok(())
}

/// What the journal is told of a write beside its keys.
struct Named {
    actor: Option<String>,
    idempotency_key: Option<String>,
}

impl Named {
    fn of(identity: &Identity, headers: &HeaderMap) -> Result<Self, Problem> {
        Ok(Self {
            actor: identity.actor(None),
            idempotency_key: idempotency_key(headers)?.map(|key| identity.once(key)),
        })
    }

    fn on(&self, mut batch: Batch) -> Batch {
        if let Some(actor) = &self.actor {
            batch = batch.actor(actor);
        }
        if let Some(key) = &self.idempotency_key {
            batch = batch.idempotency_key(key);
        }
        batch
    }
}

fn shown(status: StatusCode, entry: &Entry, tag: String, share: Share) -> Response {
    let mut response = whole(json(&EntryView(entry)), share);
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
}
