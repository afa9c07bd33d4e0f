//! The cache that readers touch: a concurrent map of shared entries.
//!
//! Guarantees: one writer (the engine, under its lock) and many readers that never wait for a database. A single lookup
//! sees one entry whole; two lookups may straddle a revision.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::{DashMap, SharedValue};
use foldhash::fast::RandomState;

use crate::core::{ByKey, ChangeSet, Entry, Snapshot};

#[derive(Debug)]
pub(crate) struct Cache {
    /// A map without values, because an entry brings its key along: the keys beside it would be another 16 bytes each.
    entries: DashMap<ByKey, (), RandomState>,
    ready: AtomicBool,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            entries: DashMap::with_hasher(RandomState::default()),
            ready: AtomicBool::new(false),
        }
    }

    /// Whether the first load is in.
    pub(crate) fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.entries.get(key).map(|entry| entry.key().0.clone())
    }

    /// Looks at an entry in place.
    pub(crate) fn with(&self, key: &str, read: &mut dyn FnMut(&Entry)) {
        if let Some(entry) = self.entries.get(key) {
            read(&entry.key().0);
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn falsify(&self, entry: Arc<Entry>) {
        self.put(entry);
    }

    pub(crate) fn apply(&self, set: &ChangeSet, silent: &[Arc<Entry>]) {
        for change in &set.changes {
            match &change.new {
                Some(entry) => self.put(entry.clone()),
                None => drop(self.entries.remove(change.key.as_str())),
            }
        }
        for entry in silent {
            self.put(entry.clone());
        }
    }

    /// Makes the cache hold exactly a snapshot, without an instant in which a key that stays is missing.
    pub(crate) fn replace(&self, snapshot: &Snapshot) {
        self.entries
            .retain(|entry, ()| snapshot.get(entry.key()).is_some());
        for entry in snapshot {
            self.put(entry.clone());
        }
        self.ready.store(true, Ordering::Release);
    }

    /// Puts an entry in the place of the one before. The map's own `insert` would keep the key, which is the old entry.
    fn put(&self, entry: Arc<Entry>) {
        let new = ByKey(entry);
        let hash = self.entries.hash_usize(&new);
        let Some(shard) = self
            .entries
            .shards()
            .get(self.entries.determine_shard(hash))
        else {
            return;
        };
        let mut shard = shard.write();
        let old = match shard.get_mut(hash as u64, |(other, _)| *other == new) {
            Some((place, _)) => Some(std::mem::replace(place, new)),
            None => {
                let hash_of = |(other, _): &(ByKey, _)| self.entries.hash_usize(other) as u64;
                shard.insert(hash as u64, (new, SharedValue::new(())), hash_of);
                None
            }
        };
        drop(shard);
        drop(old);
    }
}
