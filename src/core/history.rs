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

/// The last revisions applied, oldest first, without a gap.
#[derive(Debug)]
pub(crate) struct History {
    /// The state that remains when everything in here is undone.
    base: (Revision, RevisionId),
    sets: VecDeque<Remembered>,
    changes: usize,
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
        }
    }

    pub(crate) fn push(&mut self, set: Arc<ChangeSet>, unmoved: Vec<Key>) {
        self.changes += set.changes.len() + unmoved.len();
        self.sets.push_back(Remembered { set, unmoved });
        while self.sets.len() > MAX_REVISIONS || (self.changes > MAX_CHANGES && self.sets.len() > 1)
        {
            let Some(oldest) = self.sets.pop_front() else {
                break;
            };
            let Remembered { set, unmoved } = oldest;
            self.changes -= set.changes.len() + unmoved.len();
            self.base = (set.cursor.revision, set.cursor.id);
        }
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
