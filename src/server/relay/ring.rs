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
