//! Reads, each at one moment of the file: the head, pages of the journal, the whole table.

use std::sync::Arc;

use super::bench::{Bench, bytes, number, parsed, read_time, revision, some, text};
use super::fault::{Failure, Outcome};
use crate::core::replica::{Head, Loaded, Page};
use crate::core::{
    Checksum, Cursor, Entry, Fold, Journaled, JournaledChange, Key, Revision, RevisionId, Value,
};
use crate::store::{HISTORY_BYTES, HISTORY_CHANGES, HISTORY_REVISIONS, Recorded, RecordedChange};

/// Revisions of a page at most.
const PAGE_REVISIONS: u64 = 1_024;

/// Changes that end a page, with a whole revision.
const PAGE_CHANGES: usize = 20_000;

/// Bytes of keys and values that end a page.
const PAGE_BYTES: usize = 16 << 20;

/// Room for what is read so far.
struct Room {
    revisions: usize,
    changes: usize,
    bytes: usize,
}

impl Room {
    /// Whether another revision may begin.
    fn is_left(&self, page: &Self) -> bool {
        page.revisions < self.revisions && page.changes < self.changes && page.bytes < self.bytes
    }
}

impl Bench<'_> {
    pub(super) fn read_head(&self, own: Revision) -> Outcome<Head> {
        let head = self.head(own)?;
        Ok(Head {
            epoch: head.cursor.epoch,
            revision: head.cursor.revision,
            id: head.cursor.id,
            own_id: head.own_id,
            audit: head.audit,
            deaf: None,
        })
    }

    pub(super) fn read_page(&self, after: Revision) -> Outcome<Page> {
        let head = self.head(after)?;
        let mut page = Page {
            epoch: head.cursor.epoch,
            head: head.cursor.revision,
            anchor: head.own_id,
            floor: Some(head.floor),
            revisions: Vec::new(),
            more: false,
        };
        let bound = Room {
            revisions: usize::MAX,
            changes: PAGE_CHANGES,
            bytes: PAGE_BYTES,
        };
        let mut read = Room {
            revisions: 0,
            changes: 0,
            bytes: 0,
        };
        let last = Revision::new(after.get().saturating_add(PAGE_REVISIONS));
        let mut statement = self.statement(&self.queries().page)?;
        let mut rows = statement.query([number(after), number(last)])?;
        while let Some(row) = rows.next()? {
            let at = revision(row.get(0)?)?;
            if page.revisions.last().map(|last| last.revision) != Some(at) {
                if !bound.is_left(&read) {
                    break;
                }
                let origin = text(row, 3)?;
                page.revisions.push(Journaled {
                    revision: at,
                    id: parsed(some(row, 1)?)?,
                    at_micros: row.get(2)?,
                    origin: origin.and_then(|text| u64::from_str_radix(text, 16).ok()),
                    changes: Vec::new(),
                });
            }
            if let (Some(key), Some(last)) = (text(row, 4)?, page.revisions.last_mut()) {
                let new = text(row, 5)?;
                read.changes += 1;
                read.bytes += key.len() + new.map_or(0, str::len);
                last.changes.push(JournaledChange {
                    key: Key::stored(key),
                    new: new.map(Arc::from),
                });
            }
        }
        let last = page.revisions.last();
        page.more = last.is_some_and(|last| last.revision < page.head);
        Ok(page)
    }

    pub(super) fn read_snapshot(&self) -> Outcome<Loaded> {
        let head = self.head(Revision::ZERO)?;
        let mut entries = Vec::new();
        let mut statement = self.statement(&self.queries().entries)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let at = match row.get::<_, Option<i64>>(3)? {
                Some(at) => revision(at)?,
                None => Revision::ZERO,
            };
            // A row altered behind the triggers need not be a text of this program's.
            let (Some(key), Some(value)) = (bytes(row, 0)?, bytes(row, 1)?) else {
                continue;
            };
            let key = Key::stored(&String::from_utf8_lossy(key));
            let value = Value::stored(&String::from_utf8_lossy(value));
            let updated = read_time(bytes(row, 2)?);
            entries.push(Arc::new(Entry::new(key, value, at, updated)));
        }
        Ok(Loaded {
            cursor: head.cursor,
            audit: head.audit,
            entries,
        })
    }

    /// Folds the table in the order of its keys.
    pub(super) fn read_fold(&self) -> Outcome<(Cursor, Checksum)> {
        let cursor = self.cursor()?;
        let mut fold = Fold::default();
        let mut statement = self.statement(&self.queries().fold)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if let (Some(key), Some(value)) = (bytes(row, 0)?, bytes(row, 1)?) {
                let (key, value) = (String::from_utf8_lossy(key), String::from_utf8_lossy(value));
                fold.add(&key, &value);
            }
        }
        Ok((cursor, fold.finish()))
    }

    /// Whole revisions after a cursor; `None` when the journal does not lead on from it.
    pub(super) fn read_history(&self, after: Cursor, limit: u32) -> Outcome<Option<Vec<Recorded>>> {
        let head = self.head(after.revision)?;
        let known = after.revision == Revision::ZERO || head.own_id == Some(after.id);
        if after.epoch != head.cursor.epoch || !known || after.revision.next() < head.floor {
            return Ok(None);
        }
        let bound = Room {
            revisions: usize::try_from(limit)
                .map_or(HISTORY_REVISIONS, |limit| limit.min(HISTORY_REVISIONS)),
            changes: HISTORY_CHANGES,
            bytes: HISTORY_BYTES,
        };
        let mut read = Room {
            revisions: 0,
            changes: 0,
            bytes: 0,
        };
        let most = after.revision.get().saturating_add(bound.revisions as u64);
        let mut recorded: Vec<Recorded> = Vec::new();
        let mut statement = self.statement(&self.queries().history)?;
        let mut rows = statement.query([number(after.revision), number(Revision::new(most))])?;
        while let Some(row) = rows.next()? {
            let at = revision(row.get(0)?)?;
            if recorded.last().map(|last| last.cursor.revision) != Some(at) {
                if !bound.is_left(&read) {
                    break;
                }
                let id: RevisionId = parsed(some(row, 1)?)?;
                read.revisions += 1;
                recorded.push(Recorded {
                    cursor: Cursor {
                        revision: at,
                        id,
                        ..head.cursor
                    },
                    at_micros: row.get(5)?,
                    changes: Vec::new(),
                });
            }
            if let (Some(key), Some(last)) = (text(row, 2)?, recorded.last_mut()) {
                let (old, new) = (text(row, 3)?, text(row, 4)?);
                read.changes += 1;
                read.bytes += old.map_or(0, str::len) + new.map_or(0, str::len);
                last.changes.push(RecordedChange {
                    key: Key::stored(key),
                    old: old.map(Arc::from),
                    new: new.map(Arc::from),
                });
            }
        }
        if dense(after.revision, &recorded) {
            Ok(Some(recorded))
        } else {
            Err(Failure::strange("reading the journal"))
        }
    }

    /// Keys whose rows are not what the journal's last word says, with that.
    pub(super) fn read_altered(&self) -> Outcome<Vec<(Key, Option<Arc<str>>)>> {
        let mut altered = Vec::new();
        let mut statement = self.statement(&self.queries().altered)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            // What is not UTF-8 has no name that could be given on.
            if let Ok(Some(key)) = text(row, 0) {
                altered.push((Key::stored(key), text(row, 1)?.map(Arc::from)));
            }
        }
        Ok(altered)
    }
}

/// Whether no revision is missing.
fn dense(after: Revision, recorded: &[Recorded]) -> bool {
    let mut expected = after;
    recorded.iter().all(|recorded| {
        expected = expected.next();
        recorded.cursor.revision == expected
    })
}
