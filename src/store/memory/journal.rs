//! Reading and trimming the journal of a database in memory.

use std::time::{Duration, SystemTime};

use super::content::{Content, Kept};
use crate::core::{Cursor, Revision};
use crate::store::sources::micros;
use crate::store::{HISTORY_BYTES, HISTORY_CHANGES, HISTORY_REVISIONS, Recorded};

impl Content {
    /// Forgets the oldest revisions, at most `batch`. The one below the floor stays, without its changes: by its id a
    /// reader that has come exactly that far proves its past.
    pub(super) fn trim(
        &mut self,
        now: SystemTime,
        keep: Duration,
        grace: Duration,
        batch: usize,
    ) -> u64 {
        let waiting = self.consumers.values().map(|stand| stand.cursor);
        let held = waiting
            .filter(|place| place.epoch == self.epoch && place.revision.next() >= self.floor)
            .map(|place| place.revision)
            .min();
        let old = |(revision, kept): &(&Revision, &Kept)| {
            let wanted = held.is_some_and(|held| **revision > held);
            let keep = if wanted { keep + grace } else { keep };
            **revision < self.revision && kept.at + keep < now
        };
        let due = self.journal.range(self.floor..).take_while(old).take(batch);
        let due: Vec<Revision> = due.map(|(revision, _)| *revision).collect();
        let Some(last) = due.last().copied() else {
            return 0;
        };
        self.floor = last.next();
        self.journal = self.journal.split_off(&last);
        if let Some(anchor) = self.journal.get_mut(&last) {
            anchor.changes.clear();
        }
        due.len() as u64
    }

    /// Whole revisions after a cursor, bounded as the database bounds them.
    pub(super) fn history(&self, after: Cursor, limit: usize) -> Option<Vec<Recorded>> {
        let known =
            after.revision == Revision::ZERO || self.id_of(after.revision) == Some(after.id);
        if after.epoch != self.epoch || !known || after.revision.next() < self.floor {
            return None;
        }
        let (mut bytes, mut changes) = (0, 0);
        let bounded = |(_, kept): &(&Revision, &Kept)| {
            let fits = bytes < HISTORY_BYTES && changes < HISTORY_CHANGES;
            let texts = kept
                .changes
                .iter()
                .flat_map(|change| [&change.old, &change.new]);
            bytes += texts.flatten().map(|text| text.len()).sum::<usize>();
            changes += kept.changes.len();
            fits
        };
        let later = self
            .journal
            .range(after.revision.next()..)
            .take(limit.min(HISTORY_REVISIONS));
        let recorded = |(revision, kept): (&Revision, &Kept)| Recorded {
            cursor: Cursor {
                epoch: self.epoch,
                revision: *revision,
                id: kept.id,
            },
            at_micros: micros(kept.at),
            changes: kept.changes.clone(),
        };
        Some(later.take_while(bounded).map(recorded).collect())
    }
}
