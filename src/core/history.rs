//! The recent past of a replica: enough to undo a few revisions and to recognise their ids.
//!
//! It lets a checksum of a moment ago be compared although newer revisions have been applied since, so that a mismatch
//! is found under constant writes too.

use std::collections::VecDeque;
use std::sync::Arc;

use super::table::Table;
use super::{ChangeSet, Revision, RevisionId};

/// At 500 revisions a second about eight seconds: longer than an audit of a million entries takes.
const MAX_REVISIONS: usize = 4_096;

/// Bounds the memory that old entries keep: 100,000 changes.
const MAX_CHANGES: usize = 100_000;

/// The last revisions applied, oldest first, without a gap.
#[derive(Debug)]
pub(crate) struct History {
    /// The state that remains when everything in here is undone.
    base: (Revision, RevisionId),
    sets: VecDeque<Arc<ChangeSet>>,
    changes: usize,
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

    pub(crate) fn push(&mut self, set: Arc<ChangeSet>) {
        self.changes += set.changes.len();
        self.sets.push_back(set);
        while self.sets.len() > MAX_REVISIONS || (self.changes > MAX_CHANGES && self.sets.len() > 1)
        {
            let Some(oldest) = self.sets.pop_front() else {
                break;
            };
            self.changes -= oldest.changes.len();
            self.base = (oldest.cursor.revision, oldest.cursor.id);
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
            .map(|set| set.cursor.id)
    }

    /// The revisions after `revision`, newest first; `None` when `revision` is older than what is remembered.
    pub(crate) fn since(
        &self,
        revision: Revision,
    ) -> Option<impl Iterator<Item = &Arc<ChangeSet>>> {
        let skip = revision.get().checked_sub(self.base.0.get())?;
        let count = self.sets.len().checked_sub(usize::try_from(skip).ok()?)?;
        Some(self.sets.iter().rev().take(count))
    }

    /// The table as it was at `revision`, given the table now.
    pub(crate) fn table_at(&self, revision: Revision, now: &Table) -> Option<Table> {
        let later = self.since(revision)?;
        let mut table = now.clone();
        for set in later {
            for change in &set.changes {
                table.set(&change.key, change.old.clone());
            }
        }
        Some(table)
    }
}
