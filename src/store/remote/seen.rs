//! What was handed out already, by whichever server: no answer from before it is taken.

use std::collections::VecDeque;

use crate::core::{Cursor, Revision};

/// Places remembered: a reader asks on from one of the last that it was given.
const PLACES: usize = 64;

/// The places that were handed out.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// All of one epoch, oldest first.
    places: VecDeque<Cursor>,
}

impl Seen {
    /// The newest place.
    pub(super) fn newest(&self) -> Option<Cursor> {
        self.places.back().copied()
    }

    /// The place of a revision, while it is remembered.
    pub(super) fn at(&self, revision: Revision) -> Option<Cursor> {
        let same = |place: &&Cursor| place.revision == revision;
        self.places.iter().rev().find(same).copied()
    }

    /// Whether an answer is from before what was handed out, in the same history.
    pub(super) fn is_past(&self, answered: Cursor) -> bool {
        self.newest().is_some_and(|newest| {
            newest.epoch == answered.epoch && answered.revision < newest.revision
        })
    }

    /// Notes a place that is handed out.
    pub(super) fn note(&mut self, place: Cursor) {
        if let Some(newest) = self.newest() {
            if newest == place || self.is_past(place) {
                return;
            }
            if newest.epoch != place.epoch || newest.revision == place.revision {
                self.places.clear();
            }
        }
        if self.places.len() == PLACES {
            self.places.pop_front();
        }
        self.places.push_back(place);
    }

    /// Forgets everything: a server proved that its store has it not.
    pub(super) fn forget(&mut self) {
        self.places.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Epoch, RevisionId};

    fn place(epoch: u128, revision: u64) -> Cursor {
        Cursor {
            epoch: Epoch::from_u128(epoch),
            revision: Revision::new(revision),
            id: RevisionId::from_u128(7),
        }
    }

    #[test]
    fn what_was_handed_out_is_known_and_never_goes_back_within_an_epoch() {
        let mut seen = Seen::default();
        assert!(!seen.is_past(place(1, 0)) && seen.newest().is_none());
        for revision in [3, 5, 4, 9] {
            seen.note(place(1, revision));
        }
        assert_eq!(seen.newest(), Some(place(1, 9)));
        assert_eq!(seen.at(Revision::new(5)), Some(place(1, 5)));
        assert_eq!(seen.at(Revision::new(4)), None, "was from before");
        assert!(seen.is_past(place(1, 8)) && !seen.is_past(place(1, 9)));
        assert!(!seen.is_past(place(2, 1)));
        seen.note(place(2, 1));
        assert_eq!(
            (seen.newest(), seen.at(Revision::new(9))),
            (Some(place(2, 1)), None)
        );
        seen.forget();
        assert_eq!(seen.newest(), None);
    }

    #[test]
    fn the_places_are_bounded() {
        let mut seen = Seen::default();
        for revision in 0..1_000 {
            seen.note(place(1, revision));
        }
        assert_eq!(seen.places.len(), PLACES);
        assert_eq!(
            seen.at(Revision::new(1_000 - PLACES as u64)),
            Some(place(1, 936))
        );
    }
}
