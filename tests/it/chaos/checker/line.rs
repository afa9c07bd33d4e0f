//! One history of the database, and the state at each of its revisions.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use crate::chaos::history::{self, Change, Micros, Place, Scope, Texts, Truth};

/// A history that the database followed up to its end, or to its loss.
pub(super) struct Line<'a> {
    pub(super) index: usize,
    pub(super) truth: &'a Truth,
    /// When it was lost; never for the last one.
    pub(super) lost_at: Micros,
    /// What the next line has of it for certain.
    pub(super) kept_up_to: u64,
    /// Per key the revisions that changed it, ascending, with the text from there on.
    keys: BTreeMap<&'a str, Vec<(u64, Option<&'a str>)>>,
    checksums: RefCell<HashMap<u64, String>>,
}

impl<'a> Line<'a> {
    pub(super) fn new(index: usize, truth: &'a Truth, lost_at: Micros, kept_up_to: u64) -> Self {
        let first = base(truth);
        let mut keys: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (key, text) in &truth.base {
            keys.entry(key)
                .or_default()
                .push((first, Some(text.as_str())));
        }
        for revision in &truth.revisions {
            for change in &revision.changes {
                let texts = keys.entry(&change.key).or_default();
                texts.push((revision.revision, change.new.as_deref()));
            }
        }
        Self {
            index,
            truth,
            lost_at,
            kept_up_to,
            keys,
            checksums: RefCell::default(),
        }
    }

    /// The revision before the first one of the journal.
    pub(super) fn base(&self) -> u64 {
        base(self.truth)
    }

    pub(super) fn revision(&self, number: u64) -> Option<&'a history::Revision> {
        let at = self
            .truth
            .revisions
            .binary_search_by_key(&number, |revision| revision.revision);
        at.ok().map(|at| &self.truth.revisions[at])
    }

    /// Whether a place lies on this line. The id of the base is not known, nor is it always told.
    pub(super) fn has(&self, place: &Place) -> bool {
        match (self.revision(place.revision), &place.rid) {
            (Some(revision), Some(rid)) => revision.rid == *rid,
            (Some(_), None) => true,
            (None, _) => place.revision == self.base(),
        }
    }

    /// The text of a key at a revision, and the revision that made it so.
    pub(super) fn text(&self, key: &str, at: u64) -> (Option<&'a str>, u64) {
        let Some(texts) = self.keys.get(key) else {
            return (None, 0);
        };
        match texts.partition_point(|(revision, _)| *revision <= at) {
            0 => (None, 0),
            found => (texts[found - 1].1, texts[found - 1].0),
        }
    }

    /// Whether a key ever had a text.
    pub(super) fn ever(&self, key: &str, text: Option<&str>) -> bool {
        let texts = self.keys.get(key);
        texts.is_some_and(|texts| texts.iter().any(|(_, had)| *had == text))
    }

    /// The state at a revision.
    pub(super) fn state(&self, at: u64) -> Texts {
        let texts = self
            .keys
            .keys()
            .filter_map(|key| Some((*key, self.text(key, at).0?)));
        texts
            .map(|(key, text)| (key.to_owned(), text.to_owned()))
            .collect()
    }

    pub(super) fn checksum(&self, at: u64) -> String {
        let mut known = self.checksums.borrow_mut();
        known
            .entry(at)
            .or_insert_with(|| history::checksum(&self.state(at)))
            .clone()
    }

    /// The revisions after one and up to another that concern a filter.
    pub(super) fn concerning(
        &self,
        scope: &'a Scope,
        after: u64,
        to: u64,
    ) -> impl Iterator<Item = &'a history::Revision> {
        let revisions = &self.truth.revisions;
        let from = revisions.partition_point(|revision| revision.revision <= after);
        let concerned = |change: &Change| scope.matches(&change.key);
        revisions[from..]
            .iter()
            .take_while(move |revision| revision.revision <= to)
            .filter(move |revision| revision.changes.iter().any(concerned))
    }
}

fn base(truth: &Truth) -> u64 {
    let first = truth.revisions.first();
    first.map_or(truth.head, |first| first.revision.saturating_sub(1))
}
