//! What a database in memory holds: entries, their journal, and who listens.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use super::consumers::Stand;
use crate::core::notice::Notice;
use crate::core::replica::{AuditReport, Committed};
use crate::core::{
    Cursor, Entry, Epoch, Journaled, JournaledChange, Key, Revision, RevisionId, Value,
};
use crate::error::Result;
use crate::store::sources::micros;
use crate::store::{Answered, Mailbox, RecordedChange, Sources, WriteRequest};
use crate::write::{Item, WrittenKey};

pub(super) struct Content {
    pub(super) epoch: Epoch,
    pub(super) revision: Revision,
    pub(super) id: RevisionId,
    pub(super) floor: Revision,
    pub(super) entries: BTreeMap<Key, Row>,
    pub(super) journal: BTreeMap<Revision, Kept>,
    pub(super) audits: u64,
    pub(super) audit: Option<AuditReport>,
    pub(super) claims: BTreeMap<&'static str, SystemTime>,
    pub(super) listeners: Vec<Weak<Mailbox>>,
    pub(super) consumers: BTreeMap<String, Stand>,
    /// The id of revision 0.
    pub(super) first: RevisionId,
    /// Rows that are not what the journal's last word says, with that last word.
    pub(super) altered: BTreeMap<Key, Option<Arc<str>>>,
}

#[derive(Clone)]
pub(super) struct Row {
    pub(super) text: Arc<str>,
    pub(super) revision: Revision,
    pub(super) at_micros: i64,
}

pub(super) struct Kept {
    pub(super) id: RevisionId,
    pub(super) at: SystemTime,
    pub(super) origin: Option<u64>,
    idempotency_key: Option<String>,
    pub(super) changes: Vec<RecordedChange>,
    /// The rows before each of them.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "a test rewinds"))]
    pub(super) before: Vec<Option<Row>>,
}

impl Default for Content {
    fn default() -> Self {
        Self {
            epoch: Epoch::from_u128(0),
            revision: Revision::ZERO,
            id: RevisionId::from_u128(0),
            floor: Revision::new(1),
            entries: BTreeMap::new(),
            journal: BTreeMap::new(),
            audits: 0,
            audit: None,
            claims: BTreeMap::new(),
            listeners: Vec::new(),
            consumers: BTreeMap::new(),
            first: RevisionId::from_u128(0),
            altered: BTreeMap::new(),
        }
    }
}

impl Content {
    /// The first instance brings the randomness that names this history.
    pub(super) fn begin(&mut self, sources: &Sources) {
        if self.epoch == Epoch::from_u128(0) {
            self.epoch = Epoch::from_u128(sources.bits());
            self.id = RevisionId::from_u128(sources.bits());
            self.first = self.id;
        }
    }

    pub(super) fn cursor(&self) -> Cursor {
        Cursor {
            epoch: self.epoch,
            revision: self.revision,
            id: self.id,
        }
    }

    pub(super) fn entry(&self, key: &Key) -> Option<Arc<Entry>> {
        let row = self.entries.get(key)?;
        Some(Arc::new(Entry::new(
            key.clone(),
            Value::stored(&row.text),
            row.revision,
            row.at_micros,
        )))
    }

    pub(super) fn id_of(&self, revision: Revision) -> Option<RevisionId> {
        if revision == self.revision {
            Some(self.id)
        } else {
            self.journal.get(&revision).map(|kept| kept.id)
        }
    }

    pub(super) fn check(&self, item: &Item) -> Result<()> {
        let present = self.entries.get(&item.key).map(|row| row.revision);
        item.refusal(present.is_some(), present).map_or(Ok(()), Err)
    }

    /// The revision that an earlier write under an idempotency key made.
    pub(super) fn replay(&self, idempotency_key: &str) -> Option<Revision> {
        let found = |kept: &Kept| kept.idempotency_key.as_deref() == Some(idempotency_key);
        let mut journal = self.journal.iter();
        journal.find_map(|(revision, kept)| found(kept).then_some(*revision))
    }

    /// What writing an item of this canonical text changes, if anything.
    pub(super) fn change(&self, item: &Item, text: Option<Arc<str>>) -> Option<RecordedChange> {
        let change = RecordedChange {
            key: item.key.clone(),
            old: self.entries.get(&item.key).map(|row| row.text.clone()),
            new: text,
        };
        (change.old != change.new).then_some(change)
    }

    /// What a write is answered that is among those a revision was made of, or changed nothing.
    pub(super) fn answer(&self, request: &WriteRequest, made: Option<&Committed>) -> Answered {
        let changes = made.map_or(&[][..], |made| &made.journaled.changes);
        let changed = |key: &Key| changes.iter().any(|change| change.key == *key);
        self.answered(request, self.cursor(), false, changed)
    }

    /// What a write is answered that had been done before.
    pub(super) fn replayed(&self, request: &WriteRequest, revision: Revision) -> Answered {
        let kept = self.journal.get(&revision);
        let changes = kept.map_or(&[][..], |kept| &kept.changes);
        let changed = |key: &Key| changes.iter().any(|change| change.key == *key);
        let cursor = Cursor {
            epoch: self.epoch,
            revision,
            id: kept.map_or(self.id, |kept| kept.id),
        };
        self.answered(request, cursor, true, changed)
    }

    fn answered(
        &self,
        request: &WriteRequest,
        cursor: Cursor,
        replayed: bool,
        changed: impl Fn(&Key) -> bool,
    ) -> Answered {
        let key = |item: &Item| WrittenKey {
            key: item.key.clone(),
            entry: self.entry(&item.key),
            changed: changed(&item.key),
        };
        let keys: Vec<WrittenKey> = request.items.iter().map(key).collect();
        Answered {
            cursor,
            changed: keys.iter().any(|key| key.changed),
            replayed,
            keys,
        }
    }

    /// Gives the changes a revision and tells the listeners.
    pub(super) fn seal(
        &mut self,
        changes: Vec<RecordedChange>,
        origin: u64,
        idempotency_key: Option<String>,
        sources: &Sources,
    ) -> Journaled {
        let at = (sources.wall)();
        self.revision = self.revision.next();
        self.id = RevisionId::from_u128(sources.bits());
        let mut before = Vec::new();
        for change in &changes {
            let row = change.new.as_ref().map(|text| Row {
                text: text.clone(),
                revision: self.revision,
                at_micros: micros(at),
            });
            before.push(self.put(&change.key, row));
            self.altered.remove(&change.key);
        }
        let kept = Kept {
            id: self.id,
            at,
            origin: Some(origin),
            idempotency_key,
            changes,
            before,
        };
        let journaled = journaled(self.revision, &kept);
        self.journal.insert(self.revision, kept);
        self.ring(
            &Notice::Changed {
                epoch: self.epoch,
                revision: self.revision,
            }
            .encode(),
        );
        journaled
    }

    /// Sets or removes one row and returns the one before.
    pub(super) fn put(&mut self, key: &Key, row: Option<Row>) -> Option<Row> {
        match row {
            Some(row) => self.entries.insert(key.clone(), row),
            None => self.entries.remove(key),
        }
    }

    pub(super) fn ring(&mut self, text: &str) {
        self.listeners.retain(|listener| {
            listener.upgrade().is_some_and(|mailbox| {
                mailbox.put(text);
                true
            })
        });
    }
}

pub(super) fn journaled(revision: Revision, kept: &Kept) -> Journaled {
    let changes = kept.changes.iter().map(|change| JournaledChange {
        key: change.key.clone(),
        new: change.new.clone(),
    });
    Journaled {
        revision,
        id: kept.id,
        at_micros: micros(kept.at),
        origin: kept.origin,
        changes: changes.collect(),
    }
}
