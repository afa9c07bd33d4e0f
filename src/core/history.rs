//! The recent past of a replica: enough to undo a few revisions and to recognise their ids.
//!
//! It lets a checksum of a moment ago be compared although newer revisions have been applied since, so that a mismatch
//! is found under constant writes too.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::table::Table;
use super::{ChangeSet, Key, Revision, RevisionId};

/// At 500 revisions a second about eight seconds: longer than an audit of a million entries takes.
const MAX_REVISIONS: usize = 4_096;

/// Bounds the memory that old entries keep: 100,000 changes.
const MAX_CHANGES: usize = 100_000;

/// Bounds the memory that large old values keep: 32 MiB. Without it 4,096 changes of a value of 1 MiB kept 4 GiB.
const MAX_BYTES: usize = 32 * 1_048_576;

/// The last revisions applied, oldest first, without a gap.
#[derive(Debug)]
pub(crate) struct History {
    /// The state that remains when everything in here is undone.
    base: (Revision, RevisionId),
    sets: VecDeque<Remembered>,
    changes: usize,
    /// What the values before the changes take; those after them are in the table, or in a later change.
    bytes: usize,
}

#[derive(Debug)]
struct Remembered {
    set: Arc<ChangeSet>,
    /// Keys that the journal named although we already had what it says.
    unmoved: Vec<Key>,
}

impl History {
    /// Begins anew at a revision.
    pub(crate) fn at(revision: Revision, id: RevisionId) -> Self {
        Self {
            base: (revision, id),
            sets: VecDeque::new(),
            changes: 0,
            bytes: 0,
        }
    }

    pub(crate) fn push(&mut self, set: Arc<ChangeSet>, unmoved: Vec<Key>) {
        self.changes += set.changes.len() + unmoved.len();
        self.bytes += old_bytes(&set);
        self.sets.push_back(Remembered { set, unmoved });
        while self.sets.len() > MAX_REVISIONS || (self.beyond_memory() && self.sets.len() > 1) {
            let Some(oldest) = self.sets.pop_front() else {
                break;
            };
            let Remembered { set, unmoved } = oldest;
            self.changes -= set.changes.len() + unmoved.len();
            self.bytes -= old_bytes(&set);
            self.base = (set.cursor.revision, set.cursor.id);
        }
    }

    fn beyond_memory(&self) -> bool {
        self.changes > MAX_CHANGES || self.bytes > MAX_BYTES
    }

    /// The id of a revision, while it is remembered.
    pub(crate) fn id_of(&self, revision: Revision) -> Option<RevisionId> {
        if revision == self.base.0 {
            return Some(self.base.1);
        }
        let at = revision.get().checked_sub(self.base.0.get() + 1)?;
        self.sets
            .get(usize::try_from(at).ok()?)
            .map(|remembered| remembered.set.cursor.id)
    }

    /// What a revision changed, while it is remembered.
    #[cfg(feature = "server")]
    pub(crate) fn set(&self, cursor: super::Cursor) -> Option<&Arc<ChangeSet>> {
        let at = cursor.revision.get().checked_sub(self.base.0.get() + 1)?;
        let set = &self.sets.get(usize::try_from(at).ok()?)?.set;
        (set.cursor == cursor).then_some(set)
    }

    /// What the revisions after a cursor changed, oldest first; `None` when it is not one of this past, or older than what is
    /// remembered.
    #[cfg(feature = "server")]
    pub(crate) fn sets_after(&self, cursor: super::Cursor) -> Option<Vec<Arc<ChangeSet>>> {
        if self.id_of(cursor.revision) != Some(cursor.id) {
            return None;
        }
        let later = self.since(cursor.revision)?;
        let mut sets: Vec<_> = later.map(|remembered| remembered.set.clone()).collect();
        sets.reverse();
        Some(sets)
    }

    /// The revisions after `revision`, newest first; `None` when `revision` is older than what is remembered.
    fn since(&self, revision: Revision) -> Option<impl Iterator<Item = &Remembered>> {
        let skip = revision.get().checked_sub(self.base.0.get())?;
        let count = self.sets.len().checked_sub(usize::try_from(skip).ok()?)?;
        Some(self.sets.iter().rev().take(count))
    }

    /// The keys that the journal named after `revision`, whether or not that changed anything here.
    pub(crate) fn named_since(&self, revision: Revision) -> HashSet<Key> {
        let later = self.since(revision).into_iter().flatten();
        let named = later.flat_map(|Remembered { set, unmoved }| {
            let changed = set.changes.iter().map(|change| &change.key);
            changed.chain(unmoved)
        });
        named.cloned().collect()
    }

    /// The table as it was at `revision`, given the table now.
    pub(crate) fn table_at(&self, revision: Revision, now: &Table) -> Option<Table> {
        let later = self.since(revision)?;
        let mut table = now.clone();
        for remembered in later {
            for change in &remembered.set.changes {
                table.set(&change.key, change.old.clone());
            }
        }
        Some(table)
    }
}

fn old_bytes(set: &ChangeSet) -> usize {
    let olds = set.changes.iter().filter_map(|change| change.old.as_ref());
    olds.map(|entry| entry.as_json().len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Cause, Change, Cursor, Entry, Epoch, Value};

    fn id(number: u64) -> RevisionId {
        RevisionId::from_u128(u128::from(number) + 1_000)
    }

    /// A revision that sets so many keys to its own number.
    fn revision(table: &mut Table, number: u64, keys: usize) -> Arc<ChangeSet> {
        let cursor = Cursor {
            epoch: Epoch::from_u128(1),
            revision: Revision::new(number),
            id: id(number),
        };
        let changes = (0..keys).map(|at| {
            let key = Key::stored(&format!("k{at}"));
            let value = Value::stored(&number.to_string());
            let new = Some(Arc::new(Entry::new(key.clone(), value, cursor.revision, 0)));
            let old = table.set(&key, new.clone());
            Change { key, old, new }
        });
        Arc::new(ChangeSet {
            cursor,
            cause: Cause::Remote,
            changes: changes.collect(),
        })
    }

    #[test]
    fn the_past_is_the_present_with_the_later_revisions_undone() {
        let (mut table, mut history) = (Table::default(), History::at(Revision::new(4), id(4)));
        let mut pasts = vec![(4, table.checksum())];
        for number in 5..9 {
            history.push(
                revision(&mut table, number, number as usize % 3),
                Vec::new(),
            );
            pasts.push((number, table.checksum()));
        }
        for (number, checksum) in pasts {
            let past = history.table_at(Revision::new(number), &table).unwrap();
            assert_eq!(past.checksum(), checksum, "{number}");
            assert_eq!(history.id_of(Revision::new(number)), Some(id(number)));
        }
        for unknown in [3, 9] {
            assert!(history.table_at(Revision::new(unknown), &table).is_none());
            assert_eq!(history.id_of(Revision::new(unknown)), None);
        }
    }

    #[test]
    fn keys_that_were_named_and_not_changed_are_remembered_too() {
        let (mut table, mut history) = (Table::default(), History::at(Revision::ZERO, id(0)));
        history.push(revision(&mut table, 1, 1), vec![Key::stored("same")]);
        history.push(revision(&mut table, 2, 1), Vec::new());
        let named = history.named_since(Revision::ZERO);
        assert_eq!(named, ["k0", "same"].map(Key::stored).into());
        let named = history.named_since(Revision::new(1));
        assert_eq!(named, [Key::stored("k0")].into());
        assert!(history.named_since(Revision::new(2)).is_empty());
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let (mut table, mut history) = (Table::default(), History::at(Revision::ZERO, id(0)));
        let last = MAX_REVISIONS as u64 + 10;
        for number in 1..=last {
            history.push(revision(&mut table, number, 1), Vec::new());
        }
        assert_eq!(history.sets.len(), MAX_REVISIONS);
        assert!(history.table_at(Revision::new(9), &table).is_none());
        let base = history.table_at(Revision::new(10), &table).unwrap();
        assert_eq!(base.get("k0").unwrap().as_json(), "10");
        // One revision is kept however large it is, so that the present can always be left by a step.
        history.push(revision(&mut table, last + 1, MAX_CHANGES + 1), Vec::new());
        assert_eq!((history.sets.len(), history.changes), (1, MAX_CHANGES + 1));
        assert_eq!(history.id_of(Revision::new(last)), Some(id(last)));
    }
    #[test]
    fn large_old_values_are_let_go_before_many_small_ones() {
        let (mut table, mut history) = (Table::default(), History::at(Revision::ZERO, id(0)));
        history.push(revision(&mut table, 1, 1), Vec::new());
        let large = Value::stored(&format!("\"{}\"", "x".repeat(MAX_BYTES / 4)));
        let key = Key::stored("k0");
        let entry = Arc::new(Entry::new(key, large, Revision::new(1), 0));
        for number in 2..=9 {
            let mut set = (*revision(&mut table, number, 1)).clone();
            set.changes[0].old = Some(entry.clone());
            history.push(Arc::new(set), Vec::new());
            assert!(history.bytes <= MAX_BYTES, "{number}");
        }
        assert_eq!(history.sets.len(), 3);
        assert_eq!(history.id_of(Revision::new(6)), Some(id(6)));
        assert_eq!(history.id_of(Revision::new(5)), None);
    }
}
