//! `POST /v1/events`: what is published to clients beside the configuration.
//!
//! Events are in a second store of this very library beside the first one: its journal keeps them until retention, its
//! revisions are their order, and every server hears of them as of any change.
//!
//! Guarantees: an event that was accepted is durable, and is delivered in order, by whichever server, to those clients it is for that
//! are connected or come back with their cursor before retention; a client whose place is older than that is told that it
//! missed events.

use std::time::SystemTime;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::asked::MAX_NAME;
use super::frames::{Framing, Kind, Message};
use super::hashed;
use super::interest::Target;
use crate::core::{Key, MAX_VALUE_BYTES, RevisionId};
use crate::server::batch::idempotency_key;
use crate::server::body::misread;
use crate::server::identity::{Identity, Role};
use crate::server::openapi::{self, BadRequest, TooLarge};
use crate::server::problem::Problem;
use crate::server::{Shared, body, message};
use crate::settings::Settings;
use crate::sync_config::SyncConfig;
use crate::wire::timestamp;
use crate::write::Batch;

/// The longest type and correlation id, in bytes.
const MAX_TYPE: usize = 128;
const MAX_CORRELATION: usize = 256;

/// What types of the relay itself begin with, and those that stand alone.
const OURS: [&str; 3] = ["config.", "connection.", "events."];
const OURS_ALONE: [&str; 11] = [
    "ack", "snapshot", "change", "progress", "reset", "head", "ping", "pong", "error", "message",
    "open",
];

/// What an event should look like, for those whose body does not.
const SHAPE: &str = "write {\"type\":…,\"payload\":…,\"to\":{\"client\":…} or {\"prefix\":…} or \"all\"}, and correlationId if there is one";

/// The settings of the store that holds a store's events.
///
/// # Errors
///
/// [`Error::is_invalid_input`](crate::Error::is_invalid_input) where a name leaves no room for the ending.
pub(crate) fn settings(store: &Settings) -> crate::error::Result<Settings> {
    store.beside("events", "events (--events off does without)")
}

/// What is to be published.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Asked {
    #[serde(rename = "type")]
    kind: String,
    payload: Box<RawValue>,
    to: To,
    correlation_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum To {
    Client(String),
    Prefix(String),
    All,
}

/// An event as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Published<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
}

impl<'a> Published<'a> {
    /// Reads a value of the store; `None` if somebody else put it there.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Adds its frames.
    pub(super) fn push(
        &self,
        framing: Framing,
        cursor: Option<&str>,
        at: SystemTime,
        out: &mut Vec<Bytes>,
    ) {
        // A line break ends an event's field. In JSON it stands between tokens only, where a blank does as well.
        let payload = self.payload.get().replace(['\n', '\r'], " ");
        let message = Message {
            kind: Kind::Published(&self.kind),
            payload: &payload,
            cursor,
            correlation: self.correlation_id.as_deref().unwrap_or(&self.id),
            at,
            beside: "",
        };
        framing.push(&message, out);
    }
}

/// Publish an event
///
/// To one client, to those that watch keys with a prefix, or to all: delivered in order, by any server, to those that are connected and
/// to those that come back with their cursor within the retention.
#[utoipa::path(
    post, path = "/v1/events", tag = "changes", operation_id = "publish",
    params(("Idempotency-Key" = Option<openapi::IdempotencyKey>, Header, description = "Makes sending it again safe")),
    request_body(content = openapi::Publication, description = "The event, at most 1 MiB", content_type = "application/json"),
    responses(
        (status = 202, description = "It is durable: its id, and its place among the events", body = openapi::Published),
        (status = 400, response = BadRequest), (status = 408, response = openapi::RequestTimeout), (status = 413, response = TooLarge),
        (status = 504, response = openapi::OutcomeUnknown)
    )
)]
pub(in crate::server) async fn publish(
    State(app): State<Shared>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    identity.demand(Role::Write)?;
    let Some(station) = &app.relay.events else {
        return Err(Problem::unavailable(
            "this server has no events; start it with --events on",
        ));
    };
    let idempotency = idempotency_key(&headers)?.map(|key| identity.once(key));
    let what = format!("an event may have {MAX_VALUE_BYTES}");
    let (text, _share) = body::read(&headers, body, MAX_VALUE_BYTES, &what, &app.budget).await?;
    let asked: Asked =
        serde_json::from_slice(&text).map_err(|error| misread("event", &error, SHAPE))?;
    let target = checked(&asked, &identity)?;
    let clock = app.service.clock();
    let id = match &idempotency {
        // Sent again it is the same event, whose id clients know it by.
        Some(key) => hashed("event", key),
        None => {
            RevisionId::from_u128(u128::from(clock.random()) << 64 | u128::from(clock.random()))
        }
    };
    let event = Published {
        id: id.to_string(),
        kind: asked.kind,
        payload: &asked.payload,
        correlation_id: asked.correlation_id,
    };
    let mut batch = Batch::new().put(&target.key(), &event);
    if let Some(actor) = identity.actor(None) {
        batch = batch.actor(actor);
    }
    if let Some(key) = idempotency {
        batch = batch.idempotency_key(key);
    }
    identity.demand_live()?;
    let written = station.service.write(batch).await?;
    let answer = json!({
        "id": event.id,
        "revision": written.revision(),
        "cursor": message::id(written.cursor()),
        "replayed": written.replayed(),
        "acceptedAt": timestamp(clock.wall()),
    });
    Ok((StatusCode::ACCEPTED, axum::Json(answer)).into_response())
}

/// To whom it goes, if it may.
fn checked(asked: &Asked, identity: &Identity) -> Result<Target, Problem> {
    let wrong = Problem::bad_request;
    let known = |character: char| character.is_ascii_alphanumeric() || "._-:/".contains(character);
    let kind = asked.kind.as_str();
    if kind.is_empty() || kind.len() > MAX_TYPE || !kind.chars().all(known) {
        return Err(wrong(format!(
            "type must be 1 to {MAX_TYPE} letters, digits and ._-:/"
        )));
    }
    if OURS.iter().any(|ours| kind.starts_with(ours)) || OURS_ALONE.contains(&kind) {
        return Err(wrong(format!(
            "the type \"{kind}\" is the relay's own; choose another one"
        )));
    }
    if asked
        .correlation_id
        .as_ref()
        .is_some_and(|id| Value::from(id.as_str()).to_string().len() > MAX_CORRELATION + 2)
    {
        return Err(wrong(format!(
            "correlationId may have {MAX_CORRELATION} bytes as JSON"
        )));
    }
    let target = match &asked.to {
        To::Client(name) if name.is_empty() => {
            return Err(wrong("to.client must not be empty".to_owned()));
        }
        To::Client(name) if name.len() > MAX_NAME => {
            return Err(wrong(format!("to.client may have {MAX_NAME} bytes")));
        }
        To::Client(name) => Target::Client(name.clone()),
        To::Prefix(prefix) => Target::Prefix(prefix.clone()),
        To::All => Target::All,
    };
    match &target {
        Target::Prefix(prefix) if !prefix.is_empty() => {
            let key = Key::parse(prefix)?;
            identity.demand_key(&key)?;
        }
        // Whoever is limited to some keys has no business with all clients.
        _ => identity.demand_all()?,
    }
    Ok(target)
}
