//! The revisions that a server pushed and that were not asked for yet.
//!
//! Guarantees: they follow one another without a gap from a known place; memory is bounded by [`REVISIONS`] and [`BYTES`],
//! beyond which the oldest are forgotten and read from the journal instead.

use std::collections::VecDeque;

use crate::core::{Cursor, Journaled, Revision, RevisionId};
use crate::store::{HISTORY_BYTES as BYTES, HISTORY_REVISIONS as REVISIONS};

/// Revisions after a place.
#[derive(Debug)]
pub(super) struct Buffer {
    /// The place after which the first one comes.
    base: Cursor,
    revisions: VecDeque<Pushed>,
    bytes: usize,
}

/// A whole revision.
#[derive(Clone, Debug)]
pub(super) struct Pushed {
    pub(super) cursor: Cursor,
    pub(super) journaled: Journaled,
    /// The bytes of its keys and texts.
    pub(super) bytes: usize,
}

/// What leads on from a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Following {
    pub(super) anchor: RevisionId,
    pub(super) revisions: Vec<Journaled>,
}

impl Buffer {
    /// Begins at a place.
    pub(super) fn at(base: Cursor) -> Self {
        Self {
            base,
            revisions: VecDeque::new(),
            bytes: 0,
        }
    }

    /// The newest place.
    pub(super) fn head(&self) -> Cursor {
        self.revisions.back().map_or(self.base, |last| last.cursor)
    }

    /// Takes the next revision in; false, and nothing is taken, if it is not the next one.
    pub(super) fn push(&mut self, pushed: Pushed) -> bool {
        let head = self.head();
        let next = head.revision.next();
        if pushed.cursor.epoch != head.epoch || pushed.cursor.revision != next {
            return false;
        }
        self.bytes += pushed.bytes;
        self.revisions.push_back(pushed);
        while self.revisions.len() > REVISIONS || self.bytes > BYTES {
            if !self.forget() {
                break;
            }
        }
        true
    }

    /// The revisions after `after`, whole, within the same bounds; `None` when they do not all stand here. What comes before
    /// them is forgotten: nobody goes back.
    pub(super) fn after(&mut self, after: Revision) -> Option<Following> {
        if after < self.base.revision || after > self.head().revision {
            return None;
        }
        while self.base.revision < after && self.forget() {}
        let revisions = self.revisions.iter().map(|one| one.journaled.clone());
        Some(Following {
            anchor: self.base.id,
            revisions: revisions.collect(),
        })
    }

    /// Takes the oldest out. False when there is none.
    fn forget(&mut self) -> bool {
        match self.revisions.pop_front() {
            Some(oldest) => {
                self.bytes -= oldest.bytes;
                self.base = oldest.cursor;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Epoch;

    fn cursor(revision: u64) -> Cursor {
        Cursor {
            epoch: Epoch::from_u128(1),
            revision: Revision::new(revision),
            id: RevisionId::from_u128(u128::from(revision) + 100),
        }
    }

    fn pushed(revision: u64, bytes: usize) -> Pushed {
        let cursor = cursor(revision);
        let journaled = Journaled {
            revision: cursor.revision,
            id: cursor.id,
            at_micros: 0,
            origin: None,
            changes: Vec::new(),
        };
        Pushed {
            cursor,
            journaled,
            bytes,
        }
    }

    fn numbers(following: Option<Following>) -> Option<(u128, Vec<u64>)> {
        let following = following?;
        let revisions = following.revisions.iter().map(|one| one.revision.get());
        Some((following.anchor.as_u128() - 100, revisions.collect()))
    }

    #[test]
    fn pages_lead_on_from_where_the_reader_is_and_what_he_has_is_forgotten() {
        let mut buffer = Buffer::at(cursor(4));
        assert_eq!(
            numbers(buffer.after(Revision::new(4))),
            Some((4, Vec::new()))
        );
        for revision in 5..=8 {
            assert!(buffer.push(pushed(revision, 1)));
        }
        assert_eq!(
            numbers(buffer.after(Revision::new(6))),
            Some((6, vec![7, 8]))
        );
        assert_eq!(
            numbers(buffer.after(Revision::new(6))),
            Some((6, vec![7, 8]))
        );
        assert_eq!(
            numbers(buffer.after(Revision::new(5))),
            None,
            "is read from the journal"
        );
        assert_eq!(numbers(buffer.after(Revision::new(9))), None);
        assert_eq!(
            numbers(buffer.after(Revision::new(8))),
            Some((8, Vec::new()))
        );
    }

    #[test]
    fn a_gap_a_repetition_and_another_epoch_are_not_taken() {
        let mut buffer = Buffer::at(cursor(4));
        assert!(!buffer.push(pushed(6, 1)) && !buffer.push(pushed(4, 1)));
        let mut other = pushed(5, 1);
        other.cursor.epoch = Epoch::from_u128(2);
        assert!(!buffer.push(other));
        assert!(buffer.push(pushed(5, 1)) && !buffer.push(pushed(5, 1)));
        assert_eq!(buffer.head(), cursor(5));
    }

    #[test]
    fn memory_is_bounded_by_number_and_bytes_and_the_oldest_go_first() {
        let mut buffer = Buffer::at(cursor(0));
        let last = REVISIONS as u64 + 10;
        for revision in 1..=last {
            assert!(buffer.push(pushed(revision, 1)));
        }
        assert_eq!(buffer.revisions.len(), REVISIONS);
        assert!(buffer.after(Revision::new(9)).is_none());
        assert_eq!(
            buffer.after(Revision::new(10)).unwrap().revisions.len(),
            REVISIONS
        );
        assert!(buffer.push(pushed(last + 1, BYTES)));
        assert_eq!((buffer.revisions.len(), buffer.bytes), (1, BYTES));
        assert!(buffer.push(pushed(last + 2, BYTES + 1)), "too large alone");
        assert_eq!((buffer.revisions.len(), buffer.bytes), (0, 0));
        assert_eq!(buffer.head(), cursor(last + 2));
    }
}
