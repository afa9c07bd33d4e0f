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

    /// Where the entries whose keys begin with `prefix` stand.
    #[cfg(feature = "server")]
    pub(crate) fn range(&self, prefix: &str) -> std::ops::Range<usize> {
        let from = self
            .entries
            .partition_point(|entry| entry.key().as_str() < prefix);
        from..from + self.prefixed(prefix).len()
    }

    /// Where the entries stand whose keys come after `key`; nothing comes before the empty one.
    #[cfg(feature = "server")]
    pub(crate) fn first_after(&self, key: &str) -> usize {
        self.entries
            .partition_point(|entry| entry.key().as_str() <= key)
    }

    /// The entry that stands somewhere.
    #[cfg(feature = "server")]
    pub(crate) fn at(&self, place: usize) -> Option<&Arc<Entry>> {
        self.entries.get(place)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Epoch, Key, RevisionId, Value};

    fn snapshot(keys: &[&str]) -> Snapshot {
        let cursor = Cursor {
            epoch: Epoch::from_u128(1),
            revision: Revision::new(3),
            id: RevisionId::from_u128(3),
        };
        let entry = |key: &&str| {
            let (key, value) = (Key::stored(key), Value::stored("1"));
            Arc::new(Entry::new(key, value, Revision::new(2), 0))
        };
        Snapshot::new(cursor, keys.iter().map(entry).collect())
    }

    fn keys(entries: &[Arc<Entry>]) -> Vec<&str> {
        entries.iter().map(|entry| entry.key().as_str()).collect()
    }

    #[test]
    fn a_key_is_found_by_its_bytes_alone() {
        let all = snapshot(&["B", "a", "a:1", "a:2", "b", "ä"]);
        assert_eq!(all.get("ä").unwrap().key().as_str(), "ä");
        assert!(all.get("A").is_none() && all.get("").is_none() && all.get("ö").is_none());
        assert_eq!(all.into_iter().count(), 6);
    }

    #[test]
    fn a_prefix_selects_its_neighbours_and_the_empty_one_all() {
        let all = snapshot(&["B", "a", "a:1", "a:2", "b", "ä"]);
        assert_eq!(keys(all.prefixed("a:")), ["a:1", "a:2"]);
        assert_eq!(keys(all.prefixed("a")), ["a", "a:1", "a:2"]);
        assert_eq!(keys(all.prefixed("ä")), ["ä"]);
        assert_eq!(all.prefixed("").len(), 6);
        assert!(all.prefixed("c").is_empty() && all.prefixed("ää").is_empty());
    }

    #[test]
    fn an_empty_snapshot_answers_like_any_other() {
        let none = snapshot(&[]);
        assert!(none.is_empty() && none.is_empty() && none.get("a").is_none());
        assert!(none.prefixed("").is_empty());
        assert_eq!(none.checksum(), Checksum::new(0));
    }
}
