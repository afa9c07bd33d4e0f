//! A deliberately dumb database: a table, a journal, a head, a floor, an audit; and what must be true of it for ever.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::core::replica::{AuditReport, Head, Loaded, Page};
use crate::core::{
    Checksum, Cursor, Entry, Epoch, Fold, Journaled, JournaledChange, Key, Revision, RevisionId,
    Value,
};

pub(super) type Texts = BTreeMap<Key, String>;

/// The values that keys had behind the triggers since the journal last spoke of them.
pub(super) type Loose = BTreeMap<Key, BTreeSet<Option<String>>>;

/// So few that pages follow one another often.
const PAGE: usize = 3;

/// Further back no backup goes.
const MOST_BACK: usize = 8;

/// What a restore brings back.
#[derive(Clone, Debug)]
struct Durable {
    head: Cursor,
    table: Texts,
    revision_of: BTreeMap<Key, Revision>,
    /// What the journal leads to; the table differs where it was altered behind the triggers.
    tracked: Texts,
    loose: Loose,
    journal: BTreeMap<Revision, Journaled>,
    /// Ids of revisions, some of them kept longer than the journal.
    ids: BTreeMap<Revision, RevisionId>,
    floor: Revision,
    audit: Option<AuditReport>,
    audit_claimed: Option<Duration>,
}

/// What no database knows: everything that ever was.
#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) states: HashMap<Cursor, (Texts, Loose)>,
    pub(super) revisions: HashMap<RevisionId, Journaled>,
    /// When a state stopped being the newest, the last time it was.
    pub(super) newest_until: HashMap<Cursor, Duration>,
    /// Keys that were ever altered behind the triggers.
    pub(super) altered: BTreeSet<Key>,
}

#[derive(Debug)]
pub(super) struct Database {
    durable: Durable,
    past: Vec<Durable>,
    ids: u128,
    pub(super) truth: Truth,
}

impl Database {
    pub(super) fn new() -> Self {
        let head = Cursor {
            epoch: Epoch::from_u128(1 << 64),
            revision: Revision::ZERO,
            id: RevisionId::from_u128(1),
        };
        let mut database = Self {
            durable: Durable {
                head,
                table: Texts::new(),
                revision_of: BTreeMap::new(),
                tracked: Texts::new(),
                loose: Loose::new(),
                journal: BTreeMap::new(),
                ids: BTreeMap::new(),
                floor: Revision::new(1),
                audit: None,
                audit_claimed: None,
            },
            past: Vec::new(),
            ids: 1,
            truth: Truth::default(),
        };
        database.became(Duration::ZERO, head);
        database
    }

    pub(super) fn head(&self) -> Cursor {
        self.durable.head
    }

    pub(super) fn table(&self) -> &Texts {
        &self.durable.table
    }

    pub(super) fn tracked(&self) -> &Texts {
        &self.durable.tracked
    }

    pub(super) fn is_altered(&self) -> bool {
        self.durable.table != self.durable.tracked
    }

    /// Keys whose row is not what the journal's last word says.
    pub(super) fn altered(&self) -> Vec<Key> {
        let (table, tracked) = (&self.durable.table, &self.durable.tracked);
        let keys = table.keys().chain(tracked.keys());
        keys.filter(|key| table.get(*key) != tracked.get(*key))
            .cloned()
            .collect()
    }

    pub(super) fn revision_of(&self, key: &Key) -> Revision {
        let known = self.durable.revision_of.get(key);
        known.copied().unwrap_or_default()
    }

    fn random(&mut self) -> u128 {
        self.ids += 1;
        self.ids
    }

    fn became(&mut self, now: Duration, head: Cursor) {
        if head != self.durable.head {
            self.truth.newest_until.insert(self.durable.head, now);
        }
        self.durable.head = head;
        self.truth.newest_until.insert(head, Duration::MAX);
        let (tracked, loose) = (self.durable.tracked.clone(), self.durable.loose.clone());
        self.truth.states.insert(head, (tracked, loose));
    }

    /// One transaction. None if it changes nothing.
    pub(super) fn commit(
        &mut self,
        now: Duration,
        origin: Option<u64>,
        writes: &BTreeMap<Key, Option<String>>,
    ) -> Option<Journaled> {
        let changed: Vec<_> = writes
            .iter()
            .filter(|(key, new)| self.durable.table.get(*key) != new.as_ref())
            .map(|(key, new)| (key.clone(), new.clone()))
            .collect();
        let before = self.durable.clone();
        for (key, new) in &changed {
            put(&mut self.durable.table, key, new.as_ref());
        }
        self.number(now, before, origin, changed)
    }

    fn number(
        &mut self,
        now: Duration,
        before: Durable,
        origin: Option<u64>,
        changed: Vec<(Key, Option<String>)>,
    ) -> Option<Journaled> {
        if changed.is_empty() {
            return None;
        }
        self.past.push(before);
        if self.past.len() > MOST_BACK {
            self.past.remove(0);
        }
        let id = RevisionId::from_u128(self.random());
        let revision = self.durable.head.revision.next();
        for (key, new) in &changed {
            put(&mut self.durable.tracked, key, new.as_ref());
            self.durable.loose.remove(key);
            self.durable.revision_of.insert(key.clone(), revision);
        }
        let changes = changed.into_iter().map(|(key, new)| JournaledChange {
            key,
            new: new.map(Arc::from),
        });
        let journaled = Journaled {
            revision,
            id,
            at_micros: 0,
            origin,
            changes: changes.collect(),
        };
        self.durable.journal.insert(revision, journaled.clone());
        self.durable.ids.insert(revision, id);
        self.truth.revisions.insert(id, journaled.clone());
        let epoch = self.durable.head.epoch;
        self.became(
            now,
            Cursor {
                epoch,
                revision,
                id,
            },
        );
        Some(journaled)
    }

    /// Alters a row where no trigger sees it.
    pub(super) fn alter(&mut self, key: &Key, new: Option<String>) {
        self.truth.altered.insert(key.clone());
        let values = [self.durable.table.get(key).cloned(), new.clone()];
        let loose = self.durable.loose.entry(key.clone()).or_default();
        loose.extend(values.clone());
        // Also of revisions that were taken back: a late answer may still lead from here to them.
        let head = self.durable.head.revision;
        for (cursor, (_, loose)) in &mut self.truth.states {
            if cursor.revision > head || *cursor == self.durable.head {
                let loose = loose.entry(key.clone()).or_default();
                loose.extend(values.clone());
            }
        }
        put(&mut self.durable.table, key, new.as_ref());
    }

    /// Numbers what was altered, as far as it still differs from the journal.
    pub(super) fn reconcile(&mut self, now: Duration, keys: &[Key]) -> Option<Journaled> {
        let durable = &self.durable;
        let changed = keys
            .iter()
            .filter(|key| durable.table.get(*key) != durable.tracked.get(*key))
            .map(|key| (key.clone(), durable.table.get(key).cloned()))
            .collect();
        self.number(now, self.durable.clone(), None, changed)
    }

    /// Forgets the journal below a floor that lies `kept` revisions before the head.
    pub(super) fn trim(&mut self, kept: u64, keep_anchor: bool) {
        let head = self.durable.head.revision.get();
        let floor = Revision::new(head.saturating_sub(kept).max(1)).max(self.durable.floor);
        self.durable.floor = floor;
        self.durable.journal.retain(|&at, _| at >= floor);
        let from = if keep_anchor {
            Revision::new(floor.get().saturating_sub(1))
        } else {
            floor
        };
        self.durable.ids.retain(|&at, _| at >= from);
    }

    /// Takes a revision out of the journal, counted from the newest.
    pub(super) fn damage(&mut self, nth: usize) {
        let at = self.durable.journal.keys().rev().nth(nth).copied();
        if let Some(at) = at {
            self.durable.journal.remove(&at);
        }
    }

    /// Goes back by some revisions: a backup, or a standby that had not received them.
    pub(super) fn restore(&mut self, now: Duration, back: usize) -> bool {
        let at = self.past.len().saturating_sub(back.max(1));
        self.past.truncate(at + 1);
        let Some(past) = self.past.pop() else {
            return false;
        };
        let head = past.head;
        self.truth.newest_until.insert(self.durable.head, now);
        self.durable = past;
        self.became(now, head);
        true
    }

    pub(super) fn rotate(&mut self, now: Duration, expected: Option<Epoch>) -> bool {
        let mut head = self.durable.head;
        if expected.is_some_and(|expected| expected != head.epoch) {
            return false;
        }
        head.epoch = Epoch::from_u128(self.random() << 64);
        self.became(now, head);
        true
    }

    pub(super) fn answer_head(&self, own: Revision) -> Head {
        let Cursor {
            epoch,
            revision,
            id,
        } = self.durable.head;
        Head {
            epoch,
            revision,
            id,
            own_id: self.durable.ids.get(&own).copied(),
            audit: self.durable.audit,
            deaf: None,
        }
    }

    pub(super) fn answer_page(&self, after: Revision) -> Page {
        let mut revisions: Vec<_> = (self.durable.journal.range(after.next()..))
            .take(PAGE + 1)
            .map(|(_, journaled)| journaled.clone())
            .collect();
        let more = revisions.len() > PAGE;
        revisions.truncate(PAGE);
        Page {
            epoch: self.durable.head.epoch,
            head: self.durable.head.revision,
            anchor: self.durable.ids.get(&after).copied(),
            floor: (!revisions.is_empty()).then_some(self.durable.floor),
            revisions,
            more,
        }
    }

    pub(super) fn answer_snapshot(&self) -> Loaded {
        let entries = self.durable.table.iter().map(|(key, text)| {
            let revision = self.revision_of(key);
            Arc::new(Entry::new(key.clone(), Value::stored(text), revision, 0))
        });
        Loaded {
            cursor: self.durable.head,
            audit: self.durable.audit,
            entries: entries.collect(),
        }
    }

    /// The fleet's turn to audit, once an interval.
    pub(super) fn audit(&mut self, now: Duration, interval: Duration) -> bool {
        let taken = self.durable.audit_claimed;
        let free = taken.is_none_or(|at| now >= at + interval * 8 / 10);
        if free {
            self.durable.audit_claimed = Some(now);
        }
        free
    }

    pub(super) fn report(&mut self, revision: Revision, checksum: Checksum) {
        let number = self.durable.audit.map_or(1, |audit| audit.number + 1);
        self.durable.audit = Some(AuditReport {
            number,
            revision,
            checksum,
        });
    }

    pub(super) fn checksum(&self) -> Checksum {
        let mut fold = Fold::default();
        for (key, text) in &self.durable.table {
            fold.add(key, text);
        }
        fold.finish()
    }
}

pub(super) fn put(texts: &mut Texts, key: &Key, new: Option<&String>) {
    match new {
        Some(new) => texts.insert(key.clone(), new.clone()),
        None => texts.remove(key),
    };
}
