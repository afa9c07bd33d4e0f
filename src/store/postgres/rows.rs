//! Rows of the statements as core types.

use std::sync::Arc;

use tokio_postgres::Row;

use super::raw::{Bits, Moment};
use crate::core::replica::{AuditReport, Committed, Head};
use crate::core::{
    Checksum, Cursor, Entry, Epoch, Journaled, JournaledChange, Key, Revision, RevisionId, Value,
};
use crate::error::Error;
use crate::store::{
    Answered, GroupAnswer, Member, Recorded, RecordedChange, WriteAnswer, WriteRequest,
};
use crate::write::{Item, WrittenKey};

/// A row, as far as it is understood: its columns by their number. `None` for a column that is missing or of another type,
/// and in it `None` for NULL.
pub(super) trait Columns {
    fn text(&self, column: usize) -> Option<Option<&str>>;
    fn number(&self, column: usize) -> Option<Option<i64>>;
    /// A uuid.
    fn bits(&self, column: usize) -> Option<Option<u128>>;
    /// A time in microseconds since 1970; 0 for NULL and for one that cannot be shown.
    fn micros(&self, column: usize) -> Option<i64>;
}

impl Columns for Row {
    fn text(&self, column: usize) -> Option<Option<&str>> {
        self.try_get(column).ok()
    }

    fn number(&self, column: usize) -> Option<Option<i64>> {
        self.try_get(column).ok()
    }

    fn bits(&self, column: usize) -> Option<Option<u128>> {
        let bits: Option<Bits> = self.try_get(column).ok()?;
        Some(bits.map(|Bits(bits)| bits))
    }

    fn micros(&self, column: usize) -> Option<i64> {
        let Moment(micros) = self.try_get(column).ok()?;
        Some(micros)
    }
}

pub(super) fn strange(what: &str) -> Error {
    Error::refused(
        what,
        "the database's answer could not be understood; is the schema this program's?",
    )
}

pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.get()).unwrap_or(i64::MAX)
}

pub(super) fn revision(number: i64) -> Option<Revision> {
    u64::try_from(number).ok().map(Revision::new)
}

fn revision_id(text: Option<&str>) -> Option<RevisionId> {
    text?.parse().ok()
}

/// The cursor in a row of `head.sql`.
pub(super) fn cursor(row: &Row) -> Option<Cursor> {
    let epoch: Epoch = row.try_get::<_, &str>(0).ok()?.parse().ok()?;
    Some(Cursor {
        epoch,
        revision: revision(row.try_get(1).ok()?)?,
        id: revision_id(row.try_get(2).ok()?)?,
    })
}

/// The revision in a row of `numbered.sql`, if there is one.
pub(super) fn numbered(row: &Row, epoch: Epoch) -> Option<Cursor> {
    Some(Cursor {
        epoch,
        revision: revision(row.try_get::<_, Option<i64>>(1).ok()??)?,
        id: revision_id(row.try_get(2).ok()?)?,
    })
}

/// The last audit in a row of `head.sql`.
pub(super) fn audit(row: &Row) -> Option<AuditReport> {
    let number = u64::try_from(row.try_get::<_, i64>(4).ok()?).ok()?;
    let checksum = u32::try_from(row.try_get::<_, Option<i64>>(6).ok()??).ok()?;
    Some(AuditReport {
        number,
        revision: revision(row.try_get::<_, Option<i64>>(5).ok()??)?,
        checksum: Checksum::new(checksum),
    })
}

/// A row of `head.sql`; `None` when it is strange.
pub(super) fn head(row: &Row) -> Option<Head> {
    let Cursor {
        epoch,
        revision,
        id,
    } = cursor(row)?;
    Some(Head {
        epoch,
        revision,
        id,
        own_id: revision_id(row.try_get(3).ok()?),
        audit: audit(row),
        deaf: None,
    })
}

/// The channel that the store notifies on, in a row of `head.sql`.
pub(super) fn channel(row: &Row) -> Option<&str> {
    row.try_get(8).ok()
}

/// Whether the server is a standby, in a row of `head.sql`.
pub(super) fn standby(row: &Row) -> bool {
    row.try_get(7).unwrap_or(false)
}

/// Whether the statement's transaction could not write, in a row of `head.sql`.
pub(super) fn read_only(row: &Row) -> bool {
    row.try_get(10).unwrap_or(false)
}

/// The server's process that answered, in a row of `head.sql`.
pub(super) fn process(row: &Row) -> Option<i32> {
    row.try_get(11).ok()
}

/// The rows of `altered.sql`.
pub(super) fn altered(rows: &[Row]) -> Option<Vec<(Key, Option<Arc<str>>)>> {
    let row = |row: &Row| {
        let last_word: Option<&str> = row.try_get(1).ok()?;
        Some((Key::stored(row.try_get(0).ok()?), last_word.map(Arc::from)))
    };
    rows.iter().map(row).collect()
}

/// Collects the rows of `history.sql`; `None` when the journal does not reach back to `after`, or has another past.
pub(super) fn history(after: Cursor, rows: &[impl Columns]) -> Option<Vec<Recorded>> {
    let mut recorded: Vec<Recorded> = Vec::new();
    let mut anchored = after.revision == Revision::ZERO;
    for row in rows {
        let (at, id) = (revision(row.number(0)??)?, revision_id(row.text(1)?)?);
        let epoch: Epoch = row.text(2)??.parse().ok()?;
        if epoch != after.epoch || revision(row.number(3)??)? > after.revision.next() {
            return None;
        }
        if at == after.revision {
            if id != after.id {
                return None;
            }
            anchored = true;
            continue;
        }
        let last = recorded.last().map_or(after, |last| last.cursor);
        if last.revision == at {
            if last.id != id {
                return None;
            }
        } else if at == last.revision.next() {
            let cursor = Cursor {
                epoch,
                revision: at,
                id,
            };
            recorded.push(Recorded {
                cursor,
                at_micros: row.micros(7)?,
                changes: Vec::new(),
            });
        } else {
            return None;
        }
        if let (Some(key), Some(last)) = (row.text(4)?, recorded.last_mut()) {
            last.changes.push(RecordedChange {
                key: Key::stored(key),
                old: row.text(5)?.map(Arc::from),
                new: row.text(6)?.map(Arc::from),
            });
        }
    }
    if anchored { Some(recorded) } else { None }
}

/// Collects the rows of `write.sql`.
pub(super) fn write_answer(items: &[Item], rows: &[Row], instance: u64) -> Option<WriteAnswer> {
    let mut committed = Vec::new();
    let answered = answered(items, rows, &mut committed)?;
    let committed = sealed(rows, 11, instance, committed);
    Some(WriteAnswer {
        committed,
        answered,
    })
}

/// Collects the rows of `write_group.sql`.
pub(super) fn group_answer(
    requests: &[&WriteRequest],
    mut rows: &[Row],
    instance: u64,
) -> Option<GroupAnswer> {
    let (all, mut changes) = (rows, Vec::new());
    let mut members = Vec::with_capacity(requests.len());
    for request in requests {
        let (own, rest) = rows.split_at_checked(request.items.len())?;
        rows = rest;
        members.push(match own.first()?.try_get::<_, &str>(11).ok()? {
            "held" => Member::Held,
            "refused" => Member::Refused(refused(&request.items, own)?),
            "written" | "replayed" => {
                Member::Answered(answered(&request.items, own, &mut changes)?)
            }
            _ => return None,
        });
    }
    let newest = all
        .iter()
        .find(|row| row.try_get(4).is_ok_and(|replayed: bool| !replayed));
    let committed = newest.and_then(|row| sealed(std::slice::from_ref(row), 13, instance, changes));
    Some(GroupAnswer { committed, members })
}

/// What one write's rows tell its caller; what it changed is added to `changes`.
fn answered(items: &[Item], rows: &[Row], changes: &mut Vec<JournaledChange>) -> Option<Answered> {
    let first = rows.first()?;
    let at_micros: i64 = first.try_get(3).ok()?;
    let replayed: bool = first.try_get(4).ok()?;
    let mut keys: Vec<WrittenKey> = Vec::with_capacity(rows.len());
    for (item, row) in items.iter().zip(rows) {
        if row.try_get::<_, &str>(5).ok()? != item.key.as_str() {
            return None;
        }
        let text: Option<&str> = row.try_get(6).ok()?;
        let changed: bool = row.try_get(8).ok()?;
        let updated = row.try_get::<_, Option<i64>>(9).ok()?.unwrap_or(at_micros);
        let updated = if changed { at_micros } else { updated };
        let at = row.try_get::<_, Option<i64>>(7).ok()?.and_then(revision);
        let entry = text.map(|text| {
            let (key, value) = (item.key.clone(), Value::stored(text));
            Arc::new(Entry::new(key, value, at.unwrap_or_default(), updated))
        });
        if changed && !replayed {
            changes.push(JournaledChange {
                key: item.key.clone(),
                new: text.map(Arc::from),
            });
        }
        keys.push(WrittenKey {
            key: item.key.clone(),
            entry,
            changed,
        });
    }
    if keys.len() != items.len() {
        return None;
    }
    Some(Answered {
        cursor: Cursor {
            epoch: first.try_get::<_, &str>(2).ok()?.parse().ok()?,
            revision: revision(first.try_get(0).ok()?)?,
            id: revision_id(first.try_get(1).ok()?)?,
        },
        changed: keys.iter().any(|key| key.changed),
        replayed,
        keys,
    })
}

/// The revision that a transaction with changes made; `None` where the column `others` says that it may hold more than
/// these, so that it has to be read like any other news.
fn sealed(
    rows: &[Row],
    others: usize,
    instance: u64,
    changes: Vec<JournaledChange>,
) -> Option<Committed> {
    let row = rows.first()?;
    if changes.is_empty() || row.try_get(others).ok()? {
        return None;
    }
    let journaled = Journaled {
        revision: revision(row.try_get(0).ok()?)?,
        id: revision_id(row.try_get(1).ok()?)?,
        at_micros: row.try_get(3).ok()?,
        origin: Some(instance),
        changes,
    };
    Some(Committed {
        epoch: row.try_get::<_, &str>(2).ok()?.parse().ok()?,
        anchor: revision_id(row.try_get(10).ok()?),
        journaled,
    })
}

/// The condition that did not hold, in the rows of a refused write.
fn refused(items: &[Item], rows: &[Row]) -> Option<Error> {
    items.iter().zip(rows).find_map(|(item, row)| {
        let found: i64 = row.try_get::<_, Option<i64>>(12).ok()??;
        Some(super::fault::conflict(
            item.key.clone(),
            super::writing::expected(item)?,
            found,
        ))
    })
}
