//! Writes of the store's own: several requests in one transaction, each decided by itself.
//!
//! Guarantees: what others wrote before gets its own revision first, so that conditions are decided on what readers see.

use std::sync::Arc;

use super::bench::{Bench, bytes, number, parsed, read_time, revision, shown, some};
use super::fault::Outcome;
use super::sealing::Draft;
use crate::core::replica::Committed;
use crate::core::{Cursor, Entry, Key, Revision, RevisionId, Value};
use crate::error::Error;
use crate::store::{Answered, GroupAnswer, Member, RecordedChange, WriteRequest};
use crate::write::WrittenKey;

/// What is to become of a request.
enum Judged {
    Written(Vec<Wanted>),
    /// An earlier write under its idempotency key made this revision.
    Replayed(Revision, RevisionId),
    Refused(Error),
}

/// An item beside what there is of its key.
struct Wanted {
    key: Key,
    present: Option<Arc<Entry>>,
    /// The text that it is to have.
    text: Option<Arc<str>>,
}

impl Wanted {
    fn changes(&self) -> bool {
        self.present.as_ref().map(|entry| entry.as_json()) != self.text.as_deref()
    }

    fn change(&self) -> RecordedChange {
        RecordedChange {
            key: self.key.clone(),
            old: self.present.as_ref().map(|entry| entry.as_json().into()),
            new: self.text.clone(),
        }
    }
}

impl Bench<'_> {
    /// Writes the requests. No key stands in two of them, and at most one has an idempotency key.
    pub(super) fn write_group(&self, requests: &[WriteRequest]) -> Outcome<GroupAnswer> {
        self.seal_pending()?;
        let before = self.cursor()?;
        let mut judged = Vec::with_capacity(requests.len());
        let mut draft = Draft {
            changes: Vec::new(),
            actor: None,
            own: true,
            mark: None,
            idempotency_key: None,
        };
        for request in requests {
            let request_judged = self.judge(request)?;
            if let Judged::Written(wanted) = &request_judged {
                for wanted in wanted.iter().filter(|wanted| !wanted.changes()) {
                    self.overwrite(wanted)?;
                }
                let changes = wanted.iter().filter(|wanted| wanted.changes());
                draft.changes.extend(changes.map(Wanted::change));
                draft.actor = draft.actor.or(request.actor.as_deref());
                let key = request.idempotency_key.as_deref();
                draft.idempotency_key = draft.idempotency_key.or(key);
            }
            judged.push(request_judged);
        }
        let committed = if draft.changes.is_empty() {
            None
        } else {
            Some(Committed {
                epoch: before.epoch,
                anchor: Some(before.id),
                journaled: self.seal(before, &draft)?,
            })
        };
        let mut members = Vec::with_capacity(judged.len());
        for (request, judged) in requests.iter().zip(judged) {
            members.push(match judged {
                Judged::Written(wanted) => {
                    Member::Answered(answered(before, wanted, committed.as_ref()))
                }
                Judged::Replayed(revision, id) => {
                    let at = Cursor {
                        revision,
                        id,
                        ..before
                    };
                    Member::Answered(self.replayed(request, at)?)
                }
                Judged::Refused(error) => Member::Refused(error),
            });
        }
        Ok(GroupAnswer { committed, members })
    }

    fn judge(&self, request: &WriteRequest) -> Outcome<Judged> {
        if let Some(key) = &request.idempotency_key {
            let mut statement = self.statement(&self.queries().replay)?;
            let mut rows = statement.query([key])?;
            if let Some(row) = rows.next()? {
                let id = parsed(some(row, 1)?)?;
                return Ok(Judged::Replayed(revision(row.get(0)?)?, id));
            }
        }
        let mut found = Vec::with_capacity(request.items.len());
        for item in &request.items {
            let present = self.entry(&item.key)?;
            let at = present.as_deref().map(Entry::revision);
            if let Some(refusal) = item.refusal(at.is_some(), at) {
                return Ok(Judged::Refused(refusal));
            }
            found.push(present);
        }
        // All conditions before any value, as in PostgreSQL.
        let mut all = Vec::with_capacity(request.items.len());
        for (item, present) in request.items.iter().zip(found) {
            let key = item.key.clone();
            match item.canonical() {
                Ok(text) => all.push(Wanted { key, present, text }),
                Err(refusal) => return Ok(Judged::Refused(refusal)),
            }
        }
        Ok(Judged::Written(all))
    }

    /// The entry of a key as readers see it.
    fn entry(&self, key: &Key) -> Outcome<Option<Arc<Entry>>> {
        let mut statement = self.statement(&self.queries().entry)?;
        let mut rows = statement.query([key.as_str()])?;
        let Some(row) = rows.next()? else {
            return Ok(None);
        };
        let (value, updated) = (Value::stored(some(row, 0)?), read_time(bytes(row, 1)?));
        let at = match row.get::<_, Option<i64>>(2)? {
            Some(at) => revision(at)?,
            None => Revision::ZERO,
        };
        Ok(Some(Arc::new(Entry::new(key.clone(), value, at, updated))))
    }

    /// Puts what readers see of a key, and this write asks for, in the place of a row that cannot have a revision.
    fn overwrite(&self, wanted: &Wanted) -> Outcome<()> {
        let (queries, key) = (self.queries(), wanted.key.as_str());
        if !self.holds(&queries.blocked, [key])? {
            return Ok(());
        }
        match &wanted.text {
            Some(text) => self.run(&queries.put, [key, &**text, &*shown(self.now())])?,
            None => self.run(&queries.delete, [key])?,
        };
        self.run(&queries.settle, [key])?;
        Ok(())
    }

    /// What a write is answered that had been done before.
    fn replayed(&self, request: &WriteRequest, cursor: Cursor) -> Outcome<Answered> {
        let mut keys = Vec::with_capacity(request.items.len());
        for item in &request.items {
            let place = (number(cursor.revision), item.key.as_str());
            keys.push(WrittenKey {
                key: item.key.clone(),
                entry: self.entry(&item.key)?,
                changed: self.holds(&self.queries().journaled, place)?,
            });
        }
        Ok(Answered {
            cursor,
            changed: keys.iter().any(|key| key.changed),
            replayed: true,
            keys,
        })
    }
}

/// What a write is answered that is among those a revision was made of, or changed nothing.
fn answered(before: Cursor, wanted: Vec<Wanted>, made: Option<&Committed>) -> Answered {
    let keys = wanted.into_iter().map(|wanted| {
        let changed = wanted.changes();
        let made = made.filter(|_| changed).map(|made| &made.journaled);
        let entry = match (made, &wanted.text) {
            (Some(made), Some(text)) => {
                let (key, value) = (wanted.key.clone(), Value::stored(text));
                let entry = Entry::new(key, value, made.revision, made.at_micros);
                Some(Arc::new(entry))
            }
            (Some(_), None) => None,
            (None, _) => wanted.present,
        };
        WrittenKey {
            key: wanted.key,
            entry,
            changed,
        }
    });
    let keys: Vec<WrittenKey> = keys.collect();
    let cursor = made.map_or(before, |made| Cursor {
        epoch: made.epoch,
        revision: made.journaled.revision,
        id: made.journaled.id,
    });
    Answered {
        cursor,
        changed: keys.iter().any(|key| key.changed),
        replayed: false,
        keys,
    }
}
