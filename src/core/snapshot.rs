//! Snapshots: all entries at one revision.

use std::sync::Arc;

use super::{Checksum, Cursor, Entry, Fold, Revision};

/// Every entry at one revision: never half a transaction, never changing.
#[derive(Clone, Debug)]
pub struct Snapshot {
    cursor: Cursor,
    /// In byte order of their keys.
    entries: Vec<Arc<Entry>>,
}

impl Snapshot {
    /// `entries` must be in byte order of their keys.
    pub(crate) fn new(cursor: Cursor, entries: Vec<Arc<Entry>>) -> Self {
        Self { cursor, entries }
    }

    /// The revision all entries are of.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.cursor.revision
    }

    /// The revision with its epoch and random id.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Looks a key up.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        let at = self
            .entries
            .binary_search_by(|entry| entry.key().as_str().cmp(key))
            .ok()?;
        self.entries.get(at)
    }

    /// All entries in byte order of their keys.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Entry>> {
        self.entries.iter()
    }

    /// The entries whose keys begin with `prefix`, in byte order of their keys.
    #[must_use]
    pub fn prefixed(&self, prefix: &str) -> &[Arc<Entry>] {
        let from = self
            .entries
            .partition_point(|entry| entry.key().as_str() < prefix);
        let rest = self.entries.get(from..).unwrap_or_default();
        let length = rest.partition_point(|entry| entry.key().starts_with(prefix));
        rest.get(..length).unwrap_or_default()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The checksum of these entries, computed now: about 10 ms for 100,000 entries.
    #[must_use]
    pub fn checksum(&self) -> Checksum {
        let mut fold = Fold::default();
        for entry in &self.entries {
            fold.add(entry.key(), entry.as_json());
        }
        fold.finish()
    }
}

impl<'a> IntoIterator for &'a Snapshot {
    type Item = &'a Arc<Entry>;
    type IntoIter = std::slice::Iter<'a, Arc<Entry>>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
