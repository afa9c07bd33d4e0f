//! The cache that readers touch: a concurrent map of shared entries.
//!
//! Guarantees: one writer (the engine, under its lock) and many readers that never wait for a database. A single lookup
//! sees one entry whole; two lookups may straddle a revision.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::{DashMap, SharedValue};
use foldhash::fast::RandomState;

use crate::core::{ByKey, ChangeSet, Entry, Scalar, Snapshot};

/// A map without values, because an entry brings its key along: the keys beside it would be another 16 bytes each.
///
/// Its shards are used themselves. The map's own `insert` keeps the key, which here is the old entry; and a key is hashed
/// by its bytes alone, without the mark at the end of a `str`, which costs a tenth of a lookup.
#[derive(Debug)]
pub(crate) struct Cache {
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
        self.find(key, Arc::clone)
    }

    /// Not inlined: a crate that calls it makes slower code of it than this one, by a half.
    #[inline(never)]
    pub(crate) fn scalar(&self, key: &str) -> Option<Scalar> {
        self.find(key, |entry| entry.value().scalar())
    }

    /// Looks at an entry in place. False before the first load.
    pub(crate) fn with(&self, key: &str, read: &mut dyn FnMut(&Entry)) -> bool {
        self.find(key, |entry| read(entry)).is_some() || self.ready()
    }

    /// Looks a key up, and takes what is wanted of its entry under the shard's lock.
    #[inline]
    fn find<T>(&self, key: &str, take: impl FnOnce(&Arc<Entry>) -> T) -> Option<T> {
        let hash = self.hash(key);
        let shard = self
            .entries
            .shards()
            .get(self.entries.determine_shard(hash))?
            .read();
        let (entry, _) = shard.get(hash as u64, |(entry, _)| entry.key() == key)?;
        Some(take(&entry.0))
    }

    #[cfg(feature = "testing")]
    pub(crate) fn falsify(&self, entry: Arc<Entry>) {
        self.put(entry);
    }

    pub(crate) fn apply(&self, set: &ChangeSet, silent: &[Arc<Entry>]) {
        for change in &set.changes {
            match &change.new {
                Some(entry) => self.put(entry.clone()),
                None => self.remove(&change.key),
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

    /// Puts an entry in the place of the one before.
    fn put(&self, entry: Arc<Entry>) {
        let new = ByKey(entry);
        let hash = self.hash(new.key());
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
                let hash_of = |(other, _): &(ByKey, _)| self.hash(other.key()) as u64;
                shard.insert(hash as u64, (new, SharedValue::new(())), hash_of);
                None
            }
        };
        // Outside of the lock: it may be the last to hold decoded values, whose `Drop` is not ours.
        drop(shard);
        drop(old);
    }

    fn remove(&self, key: &str) {
        let hash = self.hash(key);
        let shard = self
            .entries
            .shards()
            .get(self.entries.determine_shard(hash));
        let old = shard.and_then(|shard| {
            let mut shard = shard.write();
            shard.remove_entry(hash as u64, |(entry, _)| entry.key() == key)
        });
        drop(old);
    }

    fn hash(&self, key: &str) -> usize {
        let mut hasher = self.entries.hasher().build_hasher();
        hasher.write(key.as_bytes());
        hasher.finish() as usize
    }
}
