//! The cache that readers touch: a concurrent map of shared entries.
//!
//! Guarantees: one writer (the engine, under its lock) and many readers that never wait for a database. A single lookup
//! sees one entry whole; two lookups may straddle a revision.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::DashMap;
use foldhash::fast::RandomState;

use crate::core::{ChangeSet, Entry, Key, Snapshot};

#[derive(Debug)]
pub(crate) struct Cache {
    entries: DashMap<Key, Arc<Entry>, RandomState>,
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
        self.entries.get(key).map(|entry| entry.value().clone())
    }

    /// Looks at an entry in place.
    pub(crate) fn with(&self, key: &str, read: &mut dyn FnMut(&Entry)) {
        if let Some(entry) = self.entries.get(key) {
            read(entry.value());
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn falsify(&self, entry: Arc<Entry>) {
        drop(self.entries.insert(entry.key().clone(), entry));
    }

    pub(crate) fn apply(&self, set: &ChangeSet, silent: &[Arc<Entry>]) {
        for change in &set.changes {
            match &change.new {
                Some(entry) => drop(self.entries.insert(change.key.clone(), entry.clone())),
                None => drop(self.entries.remove(&change.key)),
            }
        }
        for entry in silent {
            self.entries.insert(entry.key().clone(), entry.clone());
        }
    }

    /// Makes the cache hold exactly a snapshot, without an instant in which a key that stays is missing.
    pub(crate) fn replace(&self, snapshot: &Snapshot) {
        self.entries.retain(|key, _| snapshot.get(key).is_some());
        for entry in snapshot {
            self.entries.insert(entry.key().clone(), entry.clone());
        }
        self.ready.store(true, Ordering::Release);
    }
}
