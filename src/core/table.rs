//! The table: every entry at one revision, in byte order of the keys.
//!
//! Guarantees: a journaled revision is applied as a whole, and what it changed comes back with old and new entries.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Change, Checksum, Entry, Fold, Journaled, Key, Value};

/// All entries of a replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    entries: BTreeMap<Key, Arc<Entry>>,
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
    /// Builds a table from entries in any order.
    pub(crate) fn build(entries: impl IntoIterator<Item = Arc<Entry>>) -> Self {
        Self {
            entries: entries
                .into_iter()
                .map(|entry| (entry.key().clone(), entry))
                .collect(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn entries(&self) -> Vec<Arc<Entry>> {
        self.entries.values().cloned().collect()
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
        match entry {
            Some(entry) => self.entries.insert(key.clone(), entry),
            None => self.entries.remove(key),
        }
    }

    /// What would have to change for this table to hold the same texts as `other`.
    pub(crate) fn difference(&self, other: &Self) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        for (key, old) in &self.entries {
            let new = other.entries.get(key);
            if !same_text(Some(old), new) {
                changes.push(Change {
                    key: key.clone(),
                    old: Some(old.clone()),
                    new: new.cloned(),
                });
            }
        }
        for (key, new) in &other.entries {
            if !self.entries.contains_key(key) {
                changes.push(Change {
                    key: key.clone(),
                    old: None,
                    new: Some(new.clone()),
                });
            }
        }
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        changes
    }

    pub(crate) fn checksum(&self) -> Checksum {
        let mut fold = Fold::default();
        for (key, entry) in &self.entries {
            fold.add(key, entry.as_json());
        }
        fold.finish()
    }
}

fn same_text(old: Option<&Arc<Entry>>, new: Option<&Arc<Entry>>) -> bool {
    old.map(|entry| entry.as_json()) == new.map(|entry| entry.as_json())
}
