//! The newest revisions, kept for all clients together.
//!
//! Guarantees: they are neighbours of one epoch, oldest first, within [`REVISIONS`] and [`BYTES`]; a place in the ring
//! never comes to mean another revision.

use std::collections::VecDeque;
use std::sync::Arc;

use super::told::Told;
use crate::core::Cursor;

/// Two seconds at 500 revisions a second: a client that is further behind reads the journal.
pub(super) const REVISIONS: usize = 1_024;

/// Bytes of their values, old and new, and of what was made of them for clients. A single revision may be larger.
pub(super) const BYTES: usize = 16 * 1_048_576;

/// Places left free where the ring begins anew, for what is read from the journal later on.
const ROOM: u64 = 1 << 20;

/// The newest revisions.
pub(super) struct Ring {
    /// The place of the first revision.
    first: u64,
    told: VecDeque<Arc<Told>>,
    /// The revision before the first one, if it is known.
    base: Option<Cursor>,
    /// Whoever is at this place or before has to begin anew: the past became another one.
    broken: u64,
}

/// What there is after a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum After {
    /// So many revisions were added to the list; none when the place is the end.
    Revisions,
    /// The next one is not here any more; the journal leads on.
    Fallen,
    /// Nothing leads on.
    Broken,
}

impl Ring {
    pub(super) fn new() -> Self {
        Self {
            first: ROOM,
            told: VecDeque::new(),
            base: None,
            broken: 0,
        }
    }

    /// The place after the newest revision.
    pub(super) fn end(&self) -> u64 {
        self.first + self.told.len() as u64
    }

    /// The newest revision, once there is one.
    pub(super) fn head(&self) -> Option<Cursor> {
        self.told.back().map(|told| told.cursor()).or(self.base)
    }

    /// Adds the next revision. What is kept begins with it if it is not the next one.
    pub(super) fn push(&mut self, told: Arc<Told>) {
        let (cursor, head) = (told.cursor(), self.head());
        let next = head.is_some_and(|head| {
            head.epoch == cursor.epoch && head.revision.next() == cursor.revision
        });
        if !next {
            self.begin(None);
        }
        self.told.push_back(told);
        let mut bytes: usize = self.told.iter().map(|told| told.weight()).sum();
        while self.told.len() > REVISIONS || (bytes > BYTES && self.told.len() > 1) {
            let Some(oldest) = self.told.pop_front() else {
                break;
            };
            bytes = bytes.saturating_sub(oldest.weight());
            self.base = Some(oldest.cursor());
            self.first += 1;
        }
    }

    /// Puts older revisions before those that are here, if they lead up to them and there is room.
    pub(super) fn extend_back(&mut self, older: &[Arc<Told>], before: Cursor) {
        let Some(last) = older.last().map(|told| told.cursor()) else {
            return;
        };
        let bytes: usize = self
            .told
            .iter()
            .chain(older)
            .map(|told| told.weight())
            .sum();
        let fits = self.told.len() + older.len() <= REVISIONS && bytes <= BYTES;
        let place = self.first.checked_sub(older.len() as u64);
        if let Some(first) =
            place.filter(|first| fits && self.base == Some(last) && *first > self.broken)
        {
            for told in older.iter().rev() {
                self.told.push_front(told.clone());
            }
            (self.first, self.base) = (first, Some(before));
        }
    }

    /// Begins anew after a revision, and those that are at an older place go on by the journal.
    pub(super) fn begin(&mut self, base: Option<Cursor>) {
        self.first = self.end() + ROOM;
        self.told.clear();
        self.base = base;
    }

    /// Begins anew after a revision to which nothing leads.
    pub(super) fn break_off(&mut self, base: Cursor) {
        self.broken = self.end();
        self.begin(Some(base));
    }

    /// The place after a revision that is known here.
    pub(super) fn place(&self, of: Cursor) -> Option<u64> {
        if self.base == Some(of) {
            return Some(self.first);
        }
        let first = self.told.front()?.cursor();
        if first.epoch != of.epoch {
            return None;
        }
        let at = of.revision.get().checked_sub(first.revision.get())?;
        let told = self.told.get(usize::try_from(at).ok()?)?;
        (told.cursor() == of).then_some(self.first + at + 1)
    }

    /// The base as the place from which everything here follows.
    pub(super) fn base(&self) -> Option<Cursor> {
        self.base
    }

    /// Adds at most `most` revisions from a place on.
    pub(super) fn after(&self, place: u64, most: usize, into: &mut Vec<Arc<Told>>) -> After {
        if place <= self.broken {
            return After::Broken;
        }
        let Some(at) = place.checked_sub(self.first) else {
            return After::Fallen;
        };
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        into.extend(self.told.iter().skip(at).take(most).cloned());
        After::Revisions
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::core::{Cause, Change, ChangeSet, Entry, Epoch, Key, Revision, RevisionId, Value};

    fn at(epoch: u128, revision: u64) -> Cursor {
        Cursor {
            epoch: Epoch::from_u128(epoch),
            revision: Revision::new(revision),
            id: RevisionId::from_u128(epoch * 1_000_000 + u128::from(revision)),
        }
    }

    /// A revision with a value of so many bytes.
    fn told(cursor: Cursor, bytes: usize) -> Arc<Told> {
        let value = format!("\"{}\"", "x".repeat(bytes));
        let entry = Entry::new(Key::stored("k"), Value::stored(&value), cursor.revision, 0);
        let changes = vec![Change {
            key: Key::stored("k"),
            old: None,
            new: Some(Arc::new(entry)),
        }];
        let set = ChangeSet {
            cursor,
            cause: Cause::Remote,
            changes,
        };
        Arc::new(Told::applied(Arc::new(set), SystemTime::UNIX_EPOCH))
    }

    fn filled(revisions: std::ops::RangeInclusive<u64>) -> Ring {
        let mut ring = Ring::new();
        ring.break_off(at(1, revisions.start() - 1));
        for revision in revisions {
            ring.push(told(at(1, revision), 1));
        }
        ring
    }

    fn after(ring: &Ring, place: u64) -> (After, Vec<u64>) {
        let mut found = Vec::new();
        let after = ring.after(place, usize::MAX, &mut found);
        let revisions = found.iter().map(|told| told.cursor().revision.get());
        (after, revisions.collect())
    }

    #[test]
    fn a_known_revision_leads_to_exactly_the_next_ones() {
        let ring = filled(11..=13);
        for (revision, next) in [(10, vec![11, 12, 13]), (12, vec![13]), (13, vec![])] {
            let place = ring.place(at(1, revision)).unwrap();
            assert_eq!(after(&ring, place), (After::Revisions, next));
        }
        // Before, after, of another epoch, or with another id.
        assert_eq!(ring.place(at(1, 9)), None);
        assert_eq!(ring.place(at(1, 14)), None);
        assert_eq!(ring.place(at(2, 12)), None);
        let forged = Cursor {
            id: RevisionId::from_u128(7),
            ..at(1, 12)
        };
        assert_eq!(ring.place(forged), None);
    }

    #[test]
    fn what_is_kept_is_bounded_by_number_and_by_bytes() {
        let mut ring = filled(1..=5);
        let place = ring.place(at(1, 2)).unwrap();
        for revision in 6..=(REVISIONS as u64 + 5) {
            ring.push(told(at(1, revision), 1));
        }
        assert_eq!(ring.told.len(), REVISIONS);
        assert_eq!(after(&ring, place).0, After::Fallen);
        assert_eq!(ring.base(), Some(at(1, 5)));
        let next = REVISIONS as u64 + 6;
        for revision in next..next + 40 {
            ring.push(told(at(1, revision), 1_000_000));
        }
        assert!(ring.told.len() <= BYTES / 1_000_000);
        ring.push(told(at(1, next + 40), 2 * BYTES));
        assert_eq!(ring.told.len(), 1, "one revision may be larger");
    }

    #[test]
    fn nothing_leads_over_a_break_and_the_journal_leads_over_a_gap() {
        let mut ring = filled(1..=3);
        let (early, end) = (ring.place(at(1, 1)).unwrap(), ring.end());
        ring.push(told(at(1, 9), 1));
        assert_eq!(after(&ring, early).0, After::Fallen);
        assert_eq!(after(&ring, end).0, After::Fallen);
        let before = ring.end();
        ring.break_off(at(2, 4));
        for place in [early, end, before] {
            assert_eq!(after(&ring, place).0, After::Broken);
        }
        let place = ring.place(at(2, 4)).unwrap();
        ring.push(told(at(2, 5), 1));
        assert_eq!(after(&ring, place), (After::Revisions, vec![5]));
    }

    #[test]
    fn older_revisions_are_taken_in_where_they_lead_up_to_the_others() {
        let mut ring = filled(11..=12);
        let place = ring.place(at(1, 11)).unwrap();
        let older: Vec<_> = (8..=10).map(|revision| told(at(1, revision), 1)).collect();
        ring.extend_back(&older[..2], at(1, 7));
        assert_eq!(ring.place(at(1, 7)), None, "there would be a hole");
        ring.extend_back(&older, at(1, 7));
        let from = ring.place(at(1, 7)).unwrap();
        assert_eq!(after(&ring, from).1, [8, 9, 10, 11, 12]);
        assert_eq!(after(&ring, place).1, [12], "places stay what they were");
    }
}
