//! What a WebSocket's client may say, and what it is answered.
//!
//! Guarantees: whatever it says, the connection goes on; what is not understood is answered with an error.

use axum::body::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::frames::{Framing, Kind, Message};
use super::registry::Open;
use crate::core::{Revision, shown_start};
use crate::server::identity::Identity;
use crate::server::{App, message};

/// A message of a client.
#[derive(Deserialize)]
struct Said<'a> {
    #[serde(rename = "type")]
    kind: String,
    revision: Option<u64>,
    cursor: Option<String>,
    /// Repeated in the answer.
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

/// Answers a message; most need no answer.
pub(super) fn reply(
    app: &App,
    (open, identity, framing): (&Open, &Identity, Framing),
    text: &str,
) -> Vec<Bytes> {
    let said: Said<'_> = match serde_json::from_str(text) {
        Ok(said) => said,
        Err(error) => {
            let problem = format!("a message is not a JSON object with a type: {error}");
            return answer(
                app,
                open,
                framing,
                Kind::Error,
                None,
                &problem_text(&problem),
            );
        }
    };
    let id = said.id.map(RawValue::get);
    match said.kind.as_str() {
        "ack" => match acknowledged(&said) {
            Some(revision) => {
                open.applied(revision);
                let at = said.cursor.as_deref().and_then(message::events_cursor);
                if let (Some(bookmarks), Some(at)) = (&app.relay.bookmarks, at)
                    && open.is_named()
                    && open.dealt_with(at.revision.get())
                {
                    bookmarks.note(open.client(), at);
                }
                Vec::new()
            }
            None => {
                let problem = problem_text("ack needs a revision, or the cursor of a message");
                answer(app, open, framing, Kind::Error, id, &problem)
            }
        },
        "ping" => answer(app, open, framing, Kind::Pong, id, "{}"),
        "head" => match head(app, identity, said.revision) {
            Some(head) => answer(app, open, framing, Kind::Head, id, &head),
            None => answer(
                app,
                open,
                framing,
                Kind::Error,
                id,
                &problem_text("nothing is loaded yet"),
            ),
        },
        other => {
            let other = shown_start(other);
            let problem =
                format!("there is no message of type \"{other}\"; there are ack, head and ping");
            answer(app, open, framing, Kind::Error, id, &problem_text(&problem))
        }
    }
}

fn acknowledged(said: &Said<'_>) -> Option<u64> {
    let cursor = said.cursor.as_deref().and_then(message::cursor);
    said.revision.or(cursor.map(|cursor| cursor.revision.get()))
}

fn problem_text(problem: &str) -> String {
    serde_json::json!({ "problem": problem }).to_string()
}

/// How this server is, cheap enough to be asked by everybody twice a second.
fn head(app: &App, identity: &Identity, own: Option<u64>) -> Option<String> {
    let glance = app.service.glance()?;
    let cursor = glance.cursor;
    let mut head = serde_json::json!({
        "epoch": cursor.epoch,
        "revision": cursor.revision,
        "cursor": message::id(cursor),
        "mode": glance.mode,
    });
    if let Some(own) = own.and_then(|own| app.service.id_of(Revision::new(own))) {
        head["ownId"] = format!("{:032x}", own.as_u128()).into();
    }
    if let Some(proven) = glance.proven {
        head["staleMs"] = u64::try_from(proven.as_millis()).unwrap_or(u64::MAX).into();
    }
    // A checksum of the whole would tell whoever sees a part whether a guess at the rest is right.
    if let Some(audit) = glance.audit.filter(|_| identity.scope().is_all()) {
        let checksum = audit.checksum;
        head["audit"] = serde_json::json!({ "number": audit.number, "revision": audit.revision, "checksum": checksum });
    }
    Some(head.to_string())
}

fn answer(
    app: &App,
    open: &Open,
    framing: Framing,
    kind: Kind<'_>,
    id: Option<&str>,
    payload: &str,
) -> Vec<Bytes> {
    let mut out = Vec::with_capacity(1);
    let id = id.map(|id| format!(",\"id\":{id}")).unwrap_or_default();
    let message = Message {
        kind,
        payload,
        cursor: None,
        correlation: open.id(),
        at: app.service.clock().wall(),
        beside: &id,
    };
    framing.push(&message, &mut out);
    out
}
