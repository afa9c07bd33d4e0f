//! What a client asks for with the URL and the headers it opens a stream with.

use axum::http::{HeaderMap, Uri};

use crate::core::{Cursor, Epoch, Revision};
use crate::server::identity::Identity;
use crate::server::problem::Problem;
use crate::server::scope::Scope;
use crate::server::{message, query};

/// A client's name for statistics, in bytes; the rest is cut off.
pub(super) const MAX_NAME: usize = 128;

/// What a client asks for.
pub(super) struct Asked {
    pub(super) scope: Scope,
    /// Every revision is told, with the revision of each change.
    pub(super) all: bool,
    /// Whether it begins with a state, where it does not resume.
    pub(super) state: bool,
    /// The place to go on after.
    pub(super) resume: Option<Cursor>,
    /// It is told by epoch and number alone.
    pub(super) number: Option<(Epoch, Revision)>,
    /// It names a place that cannot be found.
    pub(super) lost: bool,
    pub(super) client: String,
    /// It has a name of its own.
    pub(super) named: bool,
    /// Whether it is told of events.
    pub(super) events: bool,
    /// Its place among them.
    pub(super) events_after: Option<Cursor>,
}

impl Asked {
    pub(super) fn read(
        uri: &Uri,
        headers: &HeaderMap,
        identity: &Identity,
    ) -> Result<Self, Problem> {
        let names = [
            "cursor",
            "lastEventId",
            "epoch",
            "revision",
            "client",
            "state",
            "all",
            "events",
        ];
        let [
            cursor,
            last_event_id,
            epoch,
            revision,
            client,
            state,
            all,
            events,
        ] = query::values(uri, names)?;
        let scope = scope(uri, identity)?;
        // A browser that reconnects sends the header along with the query it began with.
        let last = match headers.get("last-event-id") {
            // One that is no text leads nowhere, and is not the same as none.
            Some(header) => Some(header.to_str().unwrap_or_default().to_owned()),
            None => last_event_id.or(cursor),
        };
        let events_after = last.as_deref().and_then(message::events_cursor);
        let all = flag("all", all, false)?;
        // Events go to whoever has a name: a copy of the store, and whoever is anybody, asks for them.
        let is_named = client.is_some() || !identity.is_anyone();
        let events = flag(
            "events",
            events,
            (is_named && !all) || events_after.is_some(),
        )?;
        // A number leads nowhere beside a place.
        let number = numbered(epoch, revision)?.filter(|_| last.is_none());
        let resume = last.as_deref().and_then(message::cursor);
        Ok(Self {
            lost: last.is_some() && resume.is_none(),
            number,
            scope,
            all,
            events,
            events_after: events_after.filter(|_| events),
            state: flag("state", state, true)?,
            resume,
            client: named(identity, client),
            named: is_named,
        })
    }
}

/// The keys that are asked for and may be seen.
fn scope(uri: &Uri, identity: &Identity) -> Result<Scope, Problem> {
    let scope = identity.scope().within(&query::scope(uri)?);
    if scope.is_none() {
        return Err(Problem::forbidden(
            "the API key is for none of the keys that are asked for; ask with a prefix that it is for",
        ));
    }
    Ok(scope)
}

fn flag(name: &str, value: Option<String>, default: bool) -> Result<bool, Problem> {
    match value.as_deref() {
        None => Ok(default),
        Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(_) => Err(Problem::bad_request(format!(
            "{name} in the query must be true or false"
        ))),
    }
}

/// What a client that kept epoch and number alone goes on after.
fn numbered(
    epoch: Option<String>,
    revision: Option<String>,
) -> Result<Option<(Epoch, Revision)>, Problem> {
    let (epoch, revision) = match (epoch, revision) {
        (Some(epoch), Some(revision)) => (epoch, revision),
        (None, None) => return Ok(None),
        _ => {
            return Err(Problem::bad_request(
                "epoch and revision go together in the query",
            ));
        }
    };
    let wrong =
        |name: &str, problem: &str| Problem::bad_request(format!("{name} in the query {problem}"));
    let epoch: Epoch = epoch.parse().map_err(|_| wrong("epoch", "is not a UUID"))?;
    let number = revision.parse::<i64>().ok().filter(|number| *number >= 0);
    let number = number.ok_or_else(|| wrong("revision", "is not a number from 0 on"))?;
    Ok(Some((epoch, Revision::new(number.unsigned_abs()))))
}

/// The name that statistics know a client by: where there are API keys, theirs.
fn named(identity: &Identity, client: Option<String>) -> String {
    let mut name = match client {
        Some(client) if identity.is_anyone() && !client.is_empty() => client,
        _ => identity.name().to_string(),
    };
    while name.len() > MAX_NAME {
        let _last = name.pop();
    }
    name
}
