//! `GET /v1/changes`: whole revisions of the journal after a place.
//!
//! Guarantees: the revisions are dense and each is whole, with old and new values, as far as the scope goes; one answer is
//! bounded whatever was asked for; who cannot be led on is told so, never given a gap.

use axum::extract::{Extension, OriginalUri, State};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::budget::{self, whole};
use super::identity::Identity;
use super::openapi::{self, BadRequest, Gone};
use super::problem::Problem;
use super::scope::Scope;
use super::{App, Shared, message, place, query};
use crate::core::{Cursor, Epoch, Revision};
use crate::store::{HISTORY_REVISIONS, Recorded};
use crate::wire::{ChangeView, json, timestamp};

/// Revisions of one answer at most: what the journal gives at once.
const MAX_LIMIT: u32 = HISTORY_REVISIONS as u32;

/// Revisions of an answer that was not asked for a number of them.
const USUAL_LIMIT: u32 = 100;

/// Revisions after a place.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Changes)]
pub(super) struct Page<'a> {
    epoch: Epoch,
    /// What was asked for.
    from: Place,
    /// Where to go on: pass its cursor as `since`.
    next: Place,
    /// The newest place known to this server.
    head: Place,
    /// Whether there is more at once.
    more: bool,
    revisions: Vec<RevisionView<'a>>,
}

/// A place in the history.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Place {
    revision: Revision,
    #[schema(value_type = openapi::Cursor)]
    cursor: String,
}

impl From<Cursor> for Place {
    fn from(cursor: Cursor) -> Self {
        Self {
            revision: cursor.revision,
            cursor: message::id(cursor),
        }
    }
}

/// One revision with its changes.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ChangedRevision)]
pub(super) struct RevisionView<'a> {
    #[serde(flatten)]
    place: Place,
    /// When its transaction began, by the database's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    committed_at: Option<String>,
    #[schema(value_type = Vec<openapi::Change>)]
    changes: Vec<ChangeView<'a>>,
}

/// Read the journal
///
/// Whole revisions after a place, with values before and after, in order and without a gap; at most 1,024, and an answer ends
/// with the one that reaches 20,000 changes or 8 MiB. Revisions without a change in the scope are left out, unless `all` is true.
#[utoipa::path(
    get, path = "/v1/changes", tag = "changes", operation_id = "readChanges",
    params(
        ("since" = openapi::Cursor, Query, description = "A place: the header `sync-config-cursor` of an answer, or `next.cursor`"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1024, description = "Revisions at most; 100 without it"),
        ("prefix" = Option<Vec<String>>, Query, description = "Only keys that begin with this; may stand 64 times", style = Form, explode),
        ("all" = Option<bool>, Query, description = "Tell of every revision, also of those that change nothing in the scope")
    ),
    responses(
        (status = 200, description = "The revisions", body = Page<'_>, headers(("sync-config-cursor" = openapi::Cursor, description = "The place that this is of"))),
        (status = 400, response = BadRequest), (status = 410, response = Gone)
    )
)]
pub(super) async fn changes(
    State(app): State<Shared>,
    Extension(identity): Extension<Identity>,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    let [since, limit, all] = query::values(&uri, ["since", "limit", "all"])?;
    let scope = query::scope(&uri)?.within(identity.scope());
    let limit = limit.map_or(Ok(USUAL_LIMIT), |text| {
        query::number("limit", &text, 1..=MAX_LIMIT)
    })?;
    let all = all.map_or(Ok(false), |text| query::truth("all", &text))?;
    let from = since.as_deref().and_then(message::cursor).ok_or_else(|| {
        let problem = "since in the query has to be a cursor, as the header sync-config-cursor of an answer tells it";
        Problem::bad_request(problem)
    })?;
    let shown = place::shown(&app)?;
    // Kept until the answer has its share of memory: so much as the journal gives at once is held by few. The semaphore is never
    // closed.
    let _turn = if from == shown {
        None
    } else {
        app.journal.acquire().await.ok()
    };
    let recorded = if from == shown {
        Vec::new()
    } else {
        read(&app, from, limit).await?
    };
    let next = recorded.last().map_or(from, Recorded::cursor);
    let head = if next.revision > shown.revision {
        next
    } else {
        shown
    };
    let full = recorded.len() == limit as usize;
    let page = Page {
        epoch: next.epoch,
        from: from.into(),
        next: next.into(),
        head: head.into(),
        more: full || (!recorded.is_empty() && next.revision < head.revision),
        revisions: recorded
            .iter()
            .map(|recorded| view(recorded, &scope))
            .filter(|revision| all || !revision.changes.is_empty())
            .collect(),
    };
    let text = json(&page);
    if text.len() > budget::BYTES {
        // Trying again would never help.
        return Err(Problem::too_old(format!(
            "what follows is larger than an answer may be, which is {} bytes; begin anew with the state, GET /v1/config",
            budget::BYTES
        )));
    }
    let mut share = app.budget.share();
    share.grow(text.len())?;
    Ok(place::told(next, whole(text, share)))
}

async fn read(app: &App, from: Cursor, limit: u32) -> Result<Vec<Recorded>, Problem> {
    let page = app.service.history(from, limit).await?;
    page.ok_or_else(|| {
        Problem::too_old(
            "the journal does not lead on from there: it was trimmed, or the history was replaced; \
             begin anew with the state, GET /v1/config",
        )
    })
}

fn view<'a>(recorded: &'a Recorded, scope: &Scope) -> RevisionView<'a> {
    let (cursor, at) = (recorded.cursor(), recorded.time());
    let matching = recorded
        .changes()
        .iter()
        .filter(|change| scope.contains(change.key()));
    RevisionView {
        place: cursor.into(),
        committed_at: at.map(timestamp),
        changes: matching
            .map(|change| ChangeView::from(change).made_by(cursor.revision, at))
            .collect(),
    }
}
