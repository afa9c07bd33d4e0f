//! The whole table as it streams by.
//!
//! Entries and the revisions of their keys come as two streams of one view and are put together here: the server takes
//! twice as long for a million rows when it joins them, and this program a third of what that adds.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;

use foldhash::fast::RandomState;
use futures_util::stream::{TryReadyChunks, TryReadyChunksError};
use futures_util::{TryFutureExt, TryStreamExt};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, RowStream, Transaction};

use super::listener::moving;
use super::raw::Moment;
use super::rows;
use crate::core::{ByKey, Entry, Key, Revision, Value};
use crate::error::Result;

const NONE: [(&(dyn ToSql + Sync), Type); 0] = [];

/// Reads every entry, in no order. `entries` and `keys` are the statements of those names.
#[allow(
    clippy::mutable_key_type,
    reason = "an entry is compared and hashed by its key, which never changes"
)]
pub(super) async fn load(
    what: &str,
    view: &Transaction<'_>,
    entries: &str,
    keys: &str,
) -> Result<Vec<Arc<Entry>>> {
    let mut unnumbered: HashSet<ByKey, RandomState> = HashSet::default();
    let mut read = Arrived::of(moving(what, view.query_typed_raw(entries, NONE)).await?);
    while let Some(arrived) = read.next(what).await? {
        for row in &arrived {
            unnumbered.insert(entry(row).ok_or_else(|| rows::strange(what))?);
        }
    }
    let mut loaded = Vec::with_capacity(unnumbered.len());
    let mut read = Arrived::of(moving(what, view.query_typed_raw(keys, NONE)).await?);
    while let Some(arrived) = read.next(what).await? {
        for row in &arrived {
            let (key, revision) = numbered(row).ok_or_else(|| rows::strange(what))?;
            if let Some(ByKey(mut entry)) = unnumbered.take(key) {
                if let Some(entry) = Arc::get_mut(&mut entry) {
                    entry.number(revision);
                }
                loaded.push(entry);
            }
        }
    }
    loaded.extend(unnumbered.into_iter().map(|ByKey(entry)| entry));
    Ok(loaded)
}

/// Rows as many at a time as have arrived, because to watch the clock for each of a million takes a tenth of a second.
pub(super) struct Arrived(Pin<Box<TryReadyChunks<RowStream>>>);

/// As many rows at most are held twice.
const MOST_AT_ONCE: usize = 256;

impl Arrived {
    pub(super) fn of(stream: RowStream) -> Self {
        Self(Box::pin(stream.try_ready_chunks(MOST_AT_ONCE)))
    }

    /// The rows that have arrived, at least one; `None` at the end. Gives the stream up when it has stalled.
    pub(super) async fn next(&mut self, what: &str) -> Result<Option<Vec<Row>>> {
        let next = self
            .0
            .try_next()
            .map_err(|TryReadyChunksError(_, error)| error);
        moving(what, next).await
    }
}

/// A row of `entries.sql`, not numbered yet.
fn entry(row: &Row) -> Option<ByKey> {
    let (key, value) = (
        Key::stored(row.try_get(0).ok()?),
        Value::stored(row.try_get(1).ok()?),
    );
    let Moment(updated_micros) = row.try_get(2).ok()?;
    let entry = Entry::new(key, value, Revision::ZERO, updated_micros);
    Some(ByKey(Arc::new(entry)))
}

/// A row of `keys.sql`.
fn numbered(row: &Row) -> Option<(&str, Revision)> {
    let revision = rows::revision(row.try_get(1).ok()?)?;
    Some((row.try_get(0).ok()?, revision))
}
