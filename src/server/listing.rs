//! `GET /v1/config`: all entries, or those with some prefixes, at one revision, at once or page by page.
//!
//! Guarantees: the pages of one listing are of one revision, whatever is written between them and whichever server is asked:
//! what a later page needs of the past is undone from the present by the revisions that are remembered, or the client is told
//! to begin anew.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, OriginalUri, State};
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures_util::{FutureExt, Stream, StreamExt, stream};

use super::identity::Identity;
use super::openapi::{self, BadRequest, Gone, PreconditionFailed};
use super::problem::Problem;
use super::scope::Scope;
use super::{App, Shared, etag, message, place, query};
use crate::core::{ChangeSet, Cursor, Entry, Key, Revision, Snapshot};
use crate::sync_config::SyncConfig;
use crate::wire::{EntryView, json};

/// A list goes out in pieces of about this size.
const PIECE: usize = 64 * 1024;

/// Entries of a page at most; a client that wants more at once leaves `limit` out.
const MAX_LIMIT: u32 = 10_000;

/// Entries of a page that goes on without saying how many it wants.
const USUAL_LIMIT: u32 = 1_000;

/// How long a page of a revision that this server does not show yet waits for it.
const FOLLOW: Duration = Duration::from_secs(5);

/// List entries
///
/// All entries, or those with some prefixes, at one revision. With `limit` page by page: the pages of one listing are of one
/// revision, whatever is written between them and whichever server is asked.
#[utoipa::path(
    get, path = "/v1/config", tag = "configuration", operation_id = "listEntries",
    params(
        ("prefix" = Option<Vec<String>>, Query, description = "Only keys that begin with this; may stand 64 times", style = Form, explode),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 10000, description = "Entries of a page; without it, and without `after`, all"),
        ("after" = Option<openapi::After>, Query, description = "The `next` of the page before"),
        ("If-None-Match" = Option<openapi::ETags>, Header, description = "Entity tags that the client has: 304 if it is one of them"),
        ("If-Match" = Option<openapi::ETags>, Header, description = "Entity tags: 412 if it is none of them")
    ),
    responses(
        (status = 200, description = "The entries", body = openapi::EntryList, headers(("etag" = openapi::ETag, description = "Names the revision"), ("sync-config-cursor" = openapi::Cursor, description = "The place that this is of"))),
        (status = 304, description = "They are what the client has", headers(("etag" = openapi::ETag, description = "Names the revision"), ("sync-config-cursor" = openapi::Cursor, description = "The place that this is of"))),
        (status = 400, response = BadRequest), (status = 410, response = Gone), (status = 412, response = PreconditionFailed)
    )
)]
pub(super) async fn list(
    State(app): State<Shared>,
    Extension(identity): Extension<Identity>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let [limit, after] = query::values(&uri, ["limit", "after"])?;
    let scope = query::scope(&uri)?.within(identity.scope());
    let limit = limit.map(|text| query::number("limit", &text, 1..=MAX_LIMIT));
    let limit = limit.transpose()?;
    let after = after.map(|text| After::read(&text)).transpose()?;
    let (at, entries, next) = match (limit, after) {
        (None, None) => {
            let state = app.service.snapshot()?;
            let at = state.cursor();
            let entries: Entries = Box::new(Walk::new(state, &scope, ""));
            (at, entries, None)
        }
        (limit, after) => {
            let limit = limit.unwrap_or(USUAL_LIMIT) as usize;
            let (at, state, undone) = state_of(&app, after.as_ref()).await?;
            let key = after.as_ref().map_or("", |after| after.key.as_str());
            let mut found = page(&state, undone, &scope, key, limit + 1);
            let more = found.len() > limit;
            found.truncate(limit);
            let last = found.last().filter(|_| more);
            let next = last.map(|entry| After::text(at, entry.key()));
            let entries: Entries = Box::new(found.into_iter());
            (at, entries, next)
        }
    };
    let tag = etag::of_list(at.epoch, at.revision, &scope);
    etag::demand(&headers, Some(&tag))?;
    if etag::has(&headers, &tag)? {
        let unchanged = (StatusCode::NOT_MODIFIED, [(ETAG, tag)]);
        return Ok(place::told(at, unchanged));
    }
    let mut pieces = Pieces::new(at.revision, entries, next);
    let first = pieces.next().unwrap_or_default();
    let body = if pieces.rest.is_none() {
        // It has a length then, by which a short answer is told from a long one.
        Body::from(first)
    } else {
        let pieces = stream::iter([first]).chain(stream::iter(pieces));
        Body::from_stream(in_time(pieces, super::WHOLE_TIMEOUT))
    };
    let headers = [(CONTENT_TYPE, "application/json".to_owned()), (ETAG, tag)];
    Ok(place::told(at, (headers, body)))
}

/// Where a page goes on: the place that the listing is of, and the last key of the page before.
struct After {
    at: Cursor,
    key: String,
}

impl After {
    /// As the client passes it on: letters, digits, hyphens and a dot, so that it stands in a URL as it is.
    fn text(at: Cursor, key: &Key) -> String {
        let digits = key.as_bytes().iter().map(|byte| format!("{byte:02x}"));
        format!("{}.{}", message::id(at), digits.collect::<String>())
    }

    fn read(text: &str) -> Result<Self, Problem> {
        let read = || {
            let (at, digits) = text.split_once('.')?;
            let pairs = digits.as_bytes().chunks(2);
            let bytes: Option<Vec<u8>> = pairs
                .map(|pair| {
                    let pair = std::str::from_utf8(pair).ok().filter(|pair| {
                        pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit())
                    })?;
                    u8::from_str_radix(pair, 16).ok()
                })
                .collect();
            Some(Self {
                at: message::cursor(at)?,
                key: String::from_utf8(bytes?).ok()?,
            })
        };
        read().ok_or_else(|| {
            Problem::bad_request("after in the query is not the \"next\" of an earlier page")
        })
    }
}

/// What has to be undone of a state: the entries before, by key.
type Undone = BTreeMap<Key, Option<Arc<Entry>>>;

/// The place that a page is of, the present state, and what to undo of it.
async fn state_of(
    app: &App,
    after: Option<&After>,
) -> Result<(Cursor, Arc<Snapshot>, Undone), Problem> {
    let Some(After { at, .. }) = after else {
        let state = app.service.snapshot()?;
        return Ok((state.cursor(), state, Undone::new()));
    };
    let shown = place::shown(app)?;
    if at.epoch == shown.epoch && at.revision > shown.revision {
        // It began on a server that is further ahead.
        if !app.service.shows(*at, FOLLOW).await {
            let problem = "this instance is behind what the client has seen";
            return Err(Problem::unavailable(problem));
        }
    }
    let (state, later) = app.service.since(*at).ok_or_else(|| {
        Problem::too_old(
            "the revision that this listing began with is no longer remembered; begin it anew, without after",
        )
    })?;
    Ok((*at, state, undone(&later)))
}

/// What leads back from a state to the one before some revisions, oldest first.
fn undone(later: &[Arc<ChangeSet>]) -> Undone {
    let mut undone = Undone::new();
    for set in later.iter().rev() {
        for change in set.changes() {
            undone.insert(change.key().clone(), change.old().cloned());
        }
    }
    undone
}

/// The first entries after a key, in the state before what is undone.
fn page(
    state: &Arc<Snapshot>,
    undone: Undone,
    scope: &Scope,
    after: &str,
    limit: usize,
) -> Vec<Arc<Entry>> {
    let mut now = Walk::new(state.clone(), scope, after).peekable();
    let mut before = undone
        .into_iter()
        .filter(|(key, _)| key.as_str() > after && scope.contains(key))
        .peekable();
    let mut found = Vec::new();
    while found.len() < limit {
        let first = now.peek().map(|entry| entry.key());
        let earlier = match (first, before.peek()) {
            (None, None) => break,
            (Some(first), Some((key, _))) => key <= first,
            (first, _) => first.is_none(),
        };
        if !earlier {
            found.extend(now.next());
        } else if let Some((key, entry)) = before.next() {
            // What stands there now came later.
            drop(now.next_if(|entry| *entry.key() == key));
            found.extend(entry);
        }
    }
    found
}

/// The entries of a state that are in a scope, in the order of their keys.
struct Walk {
    state: Arc<Snapshot>,
    ranges: Vec<Range<usize>>,
}

impl Walk {
    fn new(state: Arc<Snapshot>, scope: &Scope, after: &str) -> Self {
        let from = state.first_after(after);
        let ranges = scope.prefixes().iter().rev().map(|prefix| {
            let range = state.range(prefix);
            range.start.max(from)..range.end
        });
        let ranges = ranges.collect();
        Self { state, ranges }
    }
}

impl Iterator for Walk {
    type Item = Arc<Entry>;

    fn next(&mut self) -> Option<Arc<Entry>> {
        loop {
            match self.ranges.last_mut()?.next() {
                Some(at) => return self.state.at(at).cloned(),
                None => drop(self.ranges.pop()),
            }
        }
    }
}

type Entries = Box<dyn Iterator<Item = Arc<Entry>> + Send>;

/// The pieces of a list, made when they are asked for.
struct Pieces {
    revision: Revision,
    begun: bool,
    /// What is still to be listed, and how it goes on after that; `None` at the end.
    rest: Option<(Entries, Option<String>)>,
}

impl Pieces {
    fn new(revision: Revision, entries: Entries, next: Option<String>) -> Self {
        Self {
            revision,
            begun: false,
            rest: Some((entries, next)),
        }
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let (entries, next) = self.rest.as_mut()?;
        let mut piece = String::new();
        if !self.begun {
            piece = format!("{{\"revision\":{},\"entries\":[", self.revision);
        }
        while piece.len() < PIECE {
            let Some(entry) = entries.next() else {
                let next = next.take();
                self.rest = None;
                let next = next.map_or_else(String::new, |next| format!(",\"next\":\"{next}\""));
                piece.push(']');
                piece.push_str(&next);
                piece.push('}');
                break;
            };
            if self.begun {
                piece.push(',');
            }
            self.begun = true;
            piece.push_str(&json(&EntryView(&entry)));
        }
        Some(piece.into())
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Cause, Change, Epoch, RevisionId, Value};

    fn at(revision: u64) -> Cursor {
        Cursor {
            epoch: Epoch::from_u128(7),
            revision: Revision::new(revision),
            id: RevisionId::from_u128(9),
        }
    }

    fn entry(key: &str, revision: u64) -> Arc<Entry> {
        let (key, value) = (Key::stored(key), Value::stored("1"));
        Arc::new(Entry::new(key, value, Revision::new(revision), 0))
    }

    fn shown(entries: &[Arc<Entry>]) -> Vec<String> {
        let shown = entries
            .iter()
            .map(|entry| format!("{}@{}", entry.key(), entry.revision()));
        shown.collect()
    }

    #[test]
    fn a_page_is_of_its_own_revision_whatever_came_later() {
        let now = ["a", "b/1", "b/3", "b/4", "c"].map(|key| entry(key, 5));
        let state = Arc::new(Snapshot::new(at(5), now.to_vec()));
        let change = |key: &str, old: Option<u64>, new: bool| Change {
            key: Key::stored(key),
            old: old.map(|revision| entry(key, revision)),
            new: new.then(|| entry(key, 5)),
        };
        let set = |revision, changes| {
            let (cursor, cause) = (at(revision), Cause::Remote);
            Arc::new(ChangeSet {
                cursor,
                cause,
                changes,
            })
        };
        let later = [
            set(
                4,
                vec![change("b/1", Some(2), true), change("b/2", Some(3), false)],
            ),
            set(
                5,
                vec![change("b/1", Some(4), true), change("b/4", None, true)],
            ),
        ];
        let before =
            |scope: &Scope, after, limit| shown(&page(&state, undone(&later), scope, after, limit));
        let all = ["a@5", "b/1@2", "b/2@3", "b/3@5", "c@5"];
        assert_eq!(before(&Scope::all(), "", 10), all);
        assert_eq!(before(&Scope::all(), "", 3), all[..3]);
        assert_eq!(before(&Scope::all(), "b/2", 10), all[3..]);
        assert_eq!(before(&Scope::of(["b/", "c"]), "b/1", 10), all[2..]);
        assert!(before(&Scope::of::<&str>([]), "", 10).is_empty());
    }

    #[test]
    fn a_place_in_a_listing_is_read_back_and_garbage_is_not() {
        let text = After::text(at(3), &Key::stored("a/ä %"));
        assert!(
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
        );
        let read = After::read(&text).unwrap();
        assert_eq!((read.at, read.key.as_str()), (at(3), "a/ä %"));
        let cursor = message::id(at(3));
        for wrong in [
            "",
            &cursor,
            &format!("{cursor}.f"),
            &format!("{cursor}.ff"),
            &format!("{cursor}.+1"),
        ] {
            assert!(After::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_list_comes_in_pieces_that_make_one_text() {
        let entries =
            |count: usize| -> Entries { Box::new((0..count).map(|n| entry(&format!("k{n}"), 1))) };
        for (count, next) in [(0, None), (1, Some("x".to_owned())), (5_000, None)] {
            let pieces: Vec<Bytes> =
                Pieces::new(Revision::new(3), entries(count), next.clone()).collect();
            assert_eq!(pieces.len() > 1, count == 5_000);
            let text = String::from_utf8(pieces.concat()).unwrap();
            let list: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(list["entries"].as_array().unwrap().len(), count);
            assert_eq!(list["next"].as_str().map(str::to_owned), next);
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
