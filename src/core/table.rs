//! The table: every entry at one revision, in byte order of the keys.
//!
//! Guarantees: a journaled revision is applied as a whole, and what it changed comes back with old and new entries.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::{ByKey, Change, Checksum, Entry, Fold, Journaled, Key, Value};

/// All entries of a replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    entries: BTreeSet<ByKey>,
}

/// What applying a revision did.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// True differences, in byte order of the keys.
    pub(crate) changes: Vec<Change>,
    /// Entries whose value stayed the same while their revision moved on.
    pub(crate) silent: Vec<Arc<Entry>>,
    /// Keys that were named and have the value, or the absence, that they had before.
    pub(crate) unmoved: Vec<Key>,
}

impl Table {
    /// Builds a table from entries in any order; of two with one key the later one counts.
    pub(crate) fn build(entries: Vec<Arc<Entry>>) -> Self {
        Self {
            entries: sorted(entries).into_iter().map(ByKey).collect(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.entries.get(key).map(|entry| &entry.0)
    }

    pub(crate) fn entries(&self) -> Vec<Arc<Entry>> {
        self.entries.iter().map(|entry| entry.0.clone()).collect()
    }

    /// Applies one journaled revision.
    pub(crate) fn apply(&mut self, journaled: &Journaled) -> Applied {
        let mut applied = Applied::default();
        for change in &journaled.changes {
            let new = change.new.as_deref().map(|text| {
                Arc::new(Entry::new(
                    change.key.clone(),
                    Value::stored(text),
                    journaled.revision,
                    journaled.at_micros,
                ))
            });
            let old = self.set(&change.key, new.clone());
            if same_text(old.as_ref(), new.as_ref()) {
                applied.silent.extend(new);
                applied.unmoved.push(change.key.clone());
            } else {
                applied.changes.push(Change {
                    key: change.key.clone(),
                    old,
                    new,
                });
            }
        }
        applied.changes.sort_by(|a, b| a.key.cmp(&b.key));
        applied
    }

    /// Sets or removes one entry and returns the one before.
    pub(crate) fn set(&mut self, key: &Key, entry: Option<Arc<Entry>>) -> Option<Arc<Entry>> {
        let before = match entry {
            Some(entry) => self.entries.replace(ByKey(entry)),
            None => self.entries.take(key.as_str()),
        };
        before.map(|before| before.0)
    }

    /// What would have to change for this table to hold the same texts as `other`, in byte order of the keys. Both are
    /// walked side by side, since a lookup for each of a million keys takes a second.
    pub(crate) fn difference(&self, other: &Self) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        let (mut olds, mut news) = (
            self.entries.iter().peekable(),
            other.entries.iter().peekable(),
        );
        loop {
            let order = match (olds.peek(), news.peek()) {
                (Some(old), Some(new)) => old.cmp(new),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return changes,
            };
            let old = if order.is_le() { olds.next() } else { None };
            let new = if order.is_ge() { news.next() } else { None };
            let (old, new) = (old.map(|old| &old.0), new.map(|new| &new.0));
            let Some(either) = old.or(new) else {
                return changes;
            };
            if !same_text(old, new) {
                changes.push(Change {
                    key: either.key().clone(),
                    old: old.cloned(),
                    new: new.cloned(),
                });
            }
        }
    }

    pub(crate) fn checksum(&self) -> Checksum {
        let mut fold = Fold::default();
        for ByKey(entry) in &self.entries {
            fold.add(entry.key(), entry.as_json());
        }
        fold.finish()
    }
}

/// Sorts by key, and by insertion where keys are equal. What most comparisons need stands beside the entry: to follow two
/// pointers for each of twenty million comparisons takes ten times as long as to look once for each of a million keys.
fn sorted(entries: Vec<Arc<Entry>>) -> Vec<Arc<Entry>> {
    let shared = shared_beginning(&entries);
    let beginning = |entry: &Arc<Entry>| {
        let rest = entry.key().as_bytes().get(shared..).unwrap_or_default();
        let mut first = [0; 8];
        first
            .iter_mut()
            .zip(rest)
            .for_each(|(to, from)| *to = *from);
        u64::from_be_bytes(first)
    };
    let mut entries: Vec<(u64, Arc<Entry>)> = entries
        .into_iter()
        .map(|entry| (beginning(&entry), entry))
        .collect();
    entries.sort_by(|(first, one), (second, other)| {
        first.cmp(second).then_with(|| one.key().cmp(other.key()))
    });
    entries.into_iter().map(|(_, entry)| entry).collect()
}

/// How many bytes all keys begin with alike.
fn shared_beginning(entries: &[Arc<Entry>]) -> usize {
    let Some((first, rest)) = entries.split_first() else {
        return 0;
    };
    let alike = |shared: usize, entry: &Arc<Entry>| {
        let pairs = first.key().bytes().zip(entry.key().bytes());
        pairs
            .take(shared)
            .take_while(|(one, other)| one == other)
            .count()
    };
    rest.iter().fold(first.key().len(), alike)
}

fn same_text(old: Option<&Arc<Entry>>, new: Option<&Arc<Entry>>) -> bool {
    old.map(|entry| entry.as_json()) == new.map(|entry| entry.as_json())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{JournaledChange, Revision, RevisionId};

    fn journaled(number: u64, changes: &[(&str, Option<&str>)]) -> Journaled {
        let change = |(key, new): &(&str, Option<&str>)| JournaledChange {
            key: Key::stored(key),
            new: new.map(Arc::from),
        };
        Journaled {
            revision: Revision::new(number),
            id: RevisionId::from_u128(number.into()),
            at_micros: 0,
            origin: None,
            changes: changes.iter().map(change).collect(),
        }
    }

    fn keys(changes: &[Change]) -> Vec<&str> {
        changes.iter().map(|change| change.key.as_str()).collect()
    }

    #[test]
    fn a_revision_brings_true_differences_in_the_order_of_the_keys() {
        let mut table = Table::default();
        let applied = table.apply(&journaled(1, &[("b", Some("1")), ("B", Some("null"))]));
        assert_eq!(keys(&applied.changes), ["B", "b"]);
        let applied = table.apply(&journaled(2, &[("b", None), ("B", Some("0"))]));
        assert_eq!(keys(&applied.changes), ["B", "b"]);
        let old = applied.changes[0].old.as_ref().unwrap();
        assert_eq!((old.as_json(), old.revision()), ("null", Revision::new(1)));
        assert!(applied.changes[1].new.is_none() && table.len() == 1);
    }

    #[test]
    fn the_same_text_moves_the_revision_and_is_no_change() {
        let mut table = Table::default();
        table.apply(&journaled(1, &[("a", Some("1"))]));
        let named = [("a", Some("1")), ("gone", None)];
        let applied = table.apply(&journaled(2, &named));
        assert!(applied.changes.is_empty());
        assert_eq!(applied.silent.len(), 1);
        assert_eq!(applied.unmoved, ["a", "gone"].map(Key::stored));
        assert_eq!(table.get("a").unwrap().revision(), Revision::new(2));
        let applied = table.apply(&journaled(3, &[("a", Some("1.0"))]));
        assert_eq!(keys(&applied.changes), ["a"], "1 and 1.0 are two texts");
    }

    #[test]
    fn a_difference_is_what_leads_from_one_table_to_the_other() {
        let (mut left, mut right) = (Table::default(), Table::default());
        left.apply(&journaled(
            1,
            &[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))],
        ));
        right.apply(&journaled(
            9,
            &[("b", Some("1")), ("c", Some("2")), ("d", Some("1"))],
        ));
        let changes = left.difference(&right);
        assert_eq!(keys(&changes), ["a", "c", "d"]);
        for change in changes {
            left.set(&change.key, change.new);
        }
        assert!(left.difference(&right).is_empty());
        assert_eq!(left.checksum(), right.checksum());
    }
}
