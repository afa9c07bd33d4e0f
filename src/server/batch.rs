//! `POST /v1/batch`: many keys, all or nothing, with conditions; or what would become of them.
//!
//! Guarantees: conditions are decided inside the database together with the write; a member that is not known is refused, so
//! that a condition that was misspelt never is none; a rehearsal writes nothing and says at which revision it was held.

mod asked;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use self::asked::{Asked, AskedItem};

use super::budget::{Share, whole};
use super::identity::{Identity, Role};
use super::openapi::{
    self, BadRequest, OutcomeUnknown, PreconditionFailed, RequestTimeout, TooLarge,
};
use super::problem::{Conflict, Problem};
use super::{Shared, body, entries, etag, message, place};
use crate::core::{Cursor, Entry, Epoch, Key, MAX_VALUE_BYTES, Revision, Snapshot, Value};
use crate::sync_config::SyncConfig;
use crate::wire::{json, timestamp};
use crate::write::{Batch, Item, Precondition, Written};

/// A larger transaction holds other writers up for longer than a configuration store should.
const MAX_ITEMS: usize = 10_000;

/// Sixteen of the largest values.
const MAX_BODY: usize = 16 * MAX_VALUE_BYTES;

/// What an answer says of a key beside its name and value, at most.
const BESIDE_VALUE: usize = 256;

/// What became of a batch, or would.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BatchAnswer)]
pub(super) struct Answer<'a> {
    /// The revision that was made; if nothing changed, the newest. Of a rehearsal, the one that it looked at.
    revision: Revision,
    /// The place of that revision.
    #[schema(value_type = openapi::Cursor)]
    cursor: String,
    epoch: Epoch,
    changed: bool,
    /// An earlier batch under the same idempotency key had done it.
    replayed: bool,
    /// This server's reads show it already.
    visible: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    dry_run: bool,
    /// The conditions that do not hold, of a rehearsal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<openapi::Conflict>, required = false)]
    conflicts: Option<Vec<Conflict>>,
    /// In the order of the items.
    keys: Vec<KeyAnswer<'a>>,
}

/// What became of one key, or what it is before a dry run. Without a revision it is absent.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BatchKey)]
pub(super) struct KeyAnswer<'a> {
    #[schema(value_type = Key)]
    key: &'a Key,
    changed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    value: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Revision, required = false)]
    revision: Option<Revision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    updated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = openapi::ETag, required = false)]
    etag: Option<String>,
}

impl<'a> KeyAnswer<'a> {
    fn of(
        key: &'a Key,
        changed: bool,
        entry: Option<&'a Entry>,
        epoch: Epoch,
        values: bool,
    ) -> Self {
        Self {
            key,
            changed,
            value: entry.filter(|_| values).map(Entry::value),
            revision: entry.map(Entry::revision),
            updated_at: entry.map(|entry| timestamp(entry.updated_at())),
            etag: entry.map(|entry| etag::of(epoch, entry.revision())),
        }
    }
}

/// Write many keys
///
/// All or nothing, in one revision, each with a condition if need be; or, with `dryRun`, say what would become of it.
/// A dry run answers 200 also where conditions do not hold, and names all of them.
#[utoipa::path(
    post, path = "/v1/batch", tag = "configuration", operation_id = "writeBatch",
    params(("Idempotency-Key" = Option<openapi::IdempotencyKey>, Header, description = "Makes sending it again safe while the journal keeps the revision")),
    request_body(content = Asked, description = "At most 10,000 items and 16 MiB", content_type = "application/json"),
    responses(
        (status = 200, description = "It was written, or would be", body = Answer<'_>, headers(("sync-config-cursor" = openapi::Cursor, description = "The place that this is of"))),
        (status = 400, response = BadRequest), (status = 408, response = RequestTimeout), (status = 412, response = PreconditionFailed),
        (status = 413, response = TooLarge), (status = 504, response = OutcomeUnknown)
    )
)]
pub(super) async fn batch(
    State(app): State<Shared>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    identity.demand(Role::Write)?;
    refuse_conditions(&headers)?;
    let idempotency_key = idempotency_key(&headers)?;
    let what = format!("split the batch; a value may have {MAX_VALUE_BYTES}");
    let (bytes, mut share) = body::read(&headers, body, MAX_BODY, &what, &app.budget).await?;
    let asked: Asked =
        serde_json::from_slice(&bytes).map_err(|error| asked::not_a_batch(&error))?;
    drop(bytes);
    if asked.items.len() > MAX_ITEMS {
        let problem = format!("a batch has at most {MAX_ITEMS} items; split it");
        return Err(Problem::too_large(problem));
    }
    let (dry_run, values) = (asked.dry_run, asked.values);
    if values && !dry_run {
        // Before it is written: afterwards it is too late to say that there is no room for the answer.
        share.grow(asked.items.iter().map(AskedItem::told).sum())?;
    }
    let mut batch = demanded(&app, &identity, asked)?;
    if let Some(key) = idempotency_key {
        batch = batch.idempotency_key(identity.once(key));
    }
    identity.demand_live()?;
    if dry_run {
        let state = app.service.snapshot()?;
        return rehearse(&state, batch.into_items()?, values, share);
    }
    let written = app.service.write(batch).await?;
    if values && written.replayed() {
        // It answers with what is there now, which may be longer. Nothing was written.
        let entries = written.keys().iter().filter_map(|key| key.entry());
        share.grow(entries.map(|entry| entry.as_json().len()).sum())?;
    }
    tracing::debug!(revision = %written.revision(), keys = written.keys().len(), changed = written.changed(), "batch written");
    Ok(done(&written, values, share))
}

/// The batch that was asked for, if whoever asks may write all of it.
fn demanded(app: &Shared, identity: &Identity, asked: Asked) -> Result<Batch, Problem> {
    let actor = identity.actor(asked.actor.as_deref().map(asked::named).transpose()?);
    let now = place::shown(app)?;
    let mut batch = Batch::new();
    let mut numbered = false;
    for item in asked.items {
        let key = Key::parse(&item.key)?;
        identity.demand_key(&key)?;
        let condition = asked::condition(&item, &key, now.epoch, asked.dry_run)?;
        numbered |= matches!(condition, Some(Precondition::Revision(_)));
        batch = asked::add(batch, &key, &item, condition)?;
    }
    if numbered {
        entries::refuse_what_is_lost(app)?;
    }
    Ok(match actor {
        Some(actor) => batch.actor(actor),
        None => batch,
    })
}

/// Says what became of a batch.
fn done(written: &Written, values: bool, share: Share) -> Response {
    let cursor = written.cursor();
    let keys = written.keys().iter().map(|key| {
        let entry = key.entry().map(|entry| &**entry);
        KeyAnswer::of(key.key(), key.changed(), entry, cursor.epoch, values)
    });
    let answer = Answer {
        revision: cursor.revision,
        cursor: message::id(cursor),
        epoch: cursor.epoch,
        changed: written.changed(),
        replayed: written.replayed(),
        visible: written.visible(),
        dry_run: false,
        conflicts: None,
        keys: keys.collect(),
    };
    told(cursor, &answer, share)
}

fn told(cursor: Cursor, answer: &Answer<'_>, share: Share) -> Response {
    place::told(cursor, whole(json(answer), share))
}

/// Says what would become of a batch.
fn rehearse(
    state: &Snapshot,
    items: Vec<Item>,
    values: bool,
    mut share: Share,
) -> Result<Response, Problem> {
    let cursor = state.cursor();
    // Before the answer is made: a short question may be one for the whole store.
    let told_of = |item: &Item| {
        let value = state.get(&item.key).filter(|_| values);
        BESIDE_VALUE + item.key.len() + value.map_or(0, |entry| entry.as_json().len())
    };
    share.grow(items.iter().map(told_of).sum())?;
    let mut conflicts = Vec::new();
    let mut keys = Vec::with_capacity(items.len());
    for item in &items {
        let entry = state.get(&item.key);
        conflicts.extend(unmet(item, entry.map(|entry| entry.revision())));
        let text = item.canonical()?;
        let changed = text.as_deref() != entry.map(|entry| entry.as_json());
        let entry = entry.map(|entry| &**entry);
        keys.push(KeyAnswer::of(
            &item.key,
            changed,
            entry,
            cursor.epoch,
            values,
        ));
    }
    let answer = Answer {
        revision: cursor.revision,
        cursor: message::id(cursor),
        epoch: cursor.epoch,
        changed: conflicts.is_empty() && keys.iter().any(|key| key.changed),
        replayed: false,
        visible: true,
        dry_run: true,
        conflicts: Some(conflicts),
        keys,
    };
    Ok(told(cursor, &answer, share))
}

/// The condition of an item that does not hold.
fn unmet(item: &Item, at: Option<Revision>) -> Option<Conflict> {
    let (holds, expected) = match item.precondition? {
        Precondition::Absent => (at.is_none(), "absent".to_owned()),
        Precondition::Present => (at.is_some(), "present".to_owned()),
        asked::FOREIGN => (false, "at a revision of another history".to_owned()),
        Precondition::Revision(revision) => {
            let holds = at == Some(revision) && revision > Revision::ZERO;
            (holds, format!("at revision {revision}"))
        }
    };
    let actual = at.map_or_else(|| "absent".to_owned(), |at| format!("at revision {at}"));
    (!holds).then(|| Conflict {
        key: item.key.clone(),
        expected,
        actual,
        actual_revision: at,
    })
}

/// A batch has its conditions in its items; one that stands in a header would be passed over.
fn refuse_conditions(headers: &HeaderMap) -> Result<(), Problem> {
    for name in [IF_MATCH, IF_NONE_MATCH] {
        if headers.contains_key(&name) {
            let problem = format!("a batch takes no {name}; give items ifMatch or ifAbsent");
            return Err(Problem::bad_request(problem));
        }
    }
    Ok(())
}

/// The longest idempotency key: what an index holds easily.
const MAX_IDEMPOTENCY_KEY: usize = 255;

/// The header that makes sending a write again safe.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers
        .get_all(HeaderName::from_static("idempotency-key"))
        .iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().ok().filter(|text| {
        let length = (1..=MAX_IDEMPOTENCY_KEY).contains(&text.len());
        length && values.next().is_none() && text.bytes().all(|byte| byte.is_ascii_graphic())
    });
    match text {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(Problem::bad_request(format!(
            "Idempotency-Key is 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters, once"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idempotency_key_is_short_and_visible() {
        let key = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("idempotency-key", value.parse().unwrap());
            }
            idempotency_key(&headers).ok()
        };
        assert_eq!(key(&[]), Some(None));
        assert_eq!(key(&["a-1"]), Some(Some("a-1".to_owned())));
        for wrong in [&["a", "b"][..], &[""], &["a b"], &[&"k".repeat(256)]] {
            assert_eq!(key(wrong), None, "{wrong:?}");
        }
    }
}
