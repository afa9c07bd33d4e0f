//! A page of the journal as its rows arrive.
//!
//! Guarantees: whole revisions; no more values are held than [`MOST_BYTES`] and one revision, however many follow.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::rows::{self, Columns};
use crate::core::replica::Page;
use crate::core::{Epoch, Journaled, JournaledChange, Key, Revision, RevisionId};

/// Rows of a page, about 3 MB of small values.
const MOST_ROWS: i64 = 20_000;

/// Bytes of keys and values that end a page.
const MOST_BYTES: usize = 16 << 20;

/// Rows of the first page: a quarter of a gigabyte at most, where each value is a mebibyte.
const FIRST_ROWS: i64 = 256;

/// A page has at most this many times the rows of the one before.
const GROWTH: i64 = 8;

/// How many rows to ask for, learned from the pages of all sessions: what does not fit is sent in vain.
pub(super) struct Pace(AtomicI64);

impl Default for Pace {
    fn default() -> Self {
        Self(AtomicI64::new(FIRST_ROWS))
    }
}

impl Pace {
    pub(super) fn rows(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Learns from a page: as many rows of that size as fit.
    fn learn(&self, held: usize, bytes: usize) {
        let fit = held.saturating_mul(MOST_BYTES) / bytes.max(1);
        let rows = i64::try_from(fit).unwrap_or(MOST_ROWS);
        let most = self.rows().saturating_mul(GROWTH).min(MOST_ROWS);
        self.0.store(rows.clamp(1, most), Ordering::Relaxed);
    }

    /// A page did not come to its end: the next is smaller, in case that it took too long.
    pub(super) fn failed(&self) {
        self.0.store((self.rows() / 2).max(1), Ordering::Relaxed);
    }
}

/// The page so far.
pub(super) struct Paging {
    after: Revision,
    page: Option<Page>,
    held: usize,
    bytes: usize,
    full: bool,
}

impl Paging {
    pub(super) fn after(after: Revision) -> Self {
        Self {
            after,
            page: None,
            held: 0,
            bytes: 0,
            full: false,
        }
    }

    /// Takes in a row of `page.sql`; `None` when it is strange, or contradicts those before.
    pub(super) fn row(&mut self, row: &impl Columns) -> Option<()> {
        if self.full {
            return Some(());
        }
        let epoch = Epoch::from_u128(row.bits(0)??);
        let head = rows::revision(row.number(1)??)?;
        match &self.page {
            None => self.begin(epoch, head, row.number(2)?.and_then(rows::revision)),
            // All rows are of one moment.
            Some(page) if page.epoch != epoch || page.head != head => return None,
            Some(_) => {}
        }
        let Some(at) = row.number(3)? else {
            return Some(());
        };
        let (at, id) = (rows::revision(at)?, RevisionId::from_u128(row.bits(4)??));
        if at > head {
            return None;
        }
        let page = self.page.as_mut()?;
        if at == self.after {
            let before = page.anchor.replace(id);
            return before.is_none_or(|before| before == id).then_some(());
        }
        match page.revisions.last() {
            Some(last) if last.revision == at && last.id != id => return None,
            Some(last) if last.revision == at => {}
            Some(_) | None => {
                let origin = row.text(6)?;
                let at_micros = row.micros(5)?;
                self.revision(Journaled {
                    revision: at,
                    id,
                    at_micros,
                    origin: origin.and_then(|text| u64::from_str_radix(text, 16).ok()),
                    changes: Vec::new(),
                });
            }
        }
        if let Some(key) = row.text(7)? {
            self.change(key, row.text(8)?);
        }
        Some(())
    }

    fn begin(&mut self, epoch: Epoch, head: Revision, floor: Option<Revision>) {
        self.page = Some(Page {
            epoch,
            head,
            anchor: None,
            floor,
            revisions: Vec::new(),
            more: false,
        });
    }

    /// A further revision begins; the page may be full before it.
    fn revision(&mut self, journaled: Journaled) {
        self.full = self.bytes >= MOST_BYTES;
        if let (Some(page), false) = (&mut self.page, self.full) {
            page.revisions.push(journaled);
        }
    }

    /// A change of the revision begun last.
    fn change(&mut self, key: &str, new: Option<&str>) {
        let last = self
            .page
            .as_mut()
            .and_then(|page| page.revisions.last_mut());
        if let (Some(journaled), false) = (last, self.full) {
            self.bytes += key.len() + new.map_or(0, str::len);
            self.held += 1;
            journaled.changes.push(JournaledChange {
                key: Key::stored(key),
                new: new.map(Arc::from),
            });
        }
    }

    /// The page, after its last row; `None` if there was not even one.
    pub(super) fn end(self, pace: &Pace) -> Option<Page> {
        if self.held > 0 {
            pace.learn(self.held, self.bytes);
        }
        let mut page = self.page?;
        let last = page.revisions.last();
        page.more = last.is_some_and(|last| last.revision < page.head);
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of revisions with so many changes of so many bytes each; how many revisions each holds.
    fn pages(pace: &Pace, head: u64, changes: usize, bytes: usize) -> Vec<usize> {
        let (text, mut after, mut held) = ("x".repeat(bytes), 0, Vec::new());
        while after < head {
            let mut paging = Paging::after(Revision::new(after));
            paging.begin(Epoch::from_u128(1), Revision::new(head), None);
            // As the database answers.
            let asked = usize::try_from(pace.rows()).unwrap().div_ceil(changes);
            for revision in (after + 1..=head).take(asked) {
                paging.revision(Journaled {
                    revision: Revision::new(revision),
                    id: RevisionId::from_u128(revision.into()),
                    at_micros: 0,
                    origin: None,
                    changes: Vec::new(),
                });
                (0..changes).for_each(|_| paging.change("k", Some(&text)));
            }
            let page = paging.end(pace).unwrap();
            let last = page.revisions.last().unwrap();
            assert!(
                page.revisions
                    .iter()
                    .all(|one| one.changes.len() == changes)
            );
            assert_eq!(page.more, last.revision < page.head);
            after = last.revision.get();
            held.push(page.revisions.len());
        }
        held
    }

    #[test]
    fn a_page_ends_after_16_mib_with_a_whole_revision_and_the_next_asks_for_no_more_than_fits() {
        let pace = Pace::default();
        let held = pages(&pace, 7, 9, 1_000_000);
        assert_eq!(held, [2, 2, 2, 1]);
        assert_eq!(pace.rows(), 16);
        assert_eq!(
            pages(&pace, 1, 30, 1_000_000),
            [1],
            "one is whole however large"
        );
    }

    #[test]
    fn a_pace_that_large_values_made_slow_is_as_fast_as_before_after_a_few_pages() {
        let pace = Pace::default();
        pages(&pace, 40, 1, 1_000_000);
        assert!(pace.rows() < 100);
        let held = pages(&pace, 20_000, 1, 10);
        assert_eq!(held[..4], [16, 128, 1_024, 8_192]);
        assert_eq!(pace.rows(), MOST_ROWS);
    }

    #[test]
    fn a_page_that_fails_is_asked_for_in_halves() {
        let pace = Pace::default();
        pace.failed();
        assert_eq!(pace.rows(), FIRST_ROWS / 2);
        (0..20).for_each(|_| pace.failed());
        assert_eq!(pace.rows(), 1);
    }
}
