//! Typed maps: the keys under a prefix with values of one type.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::scoped::Scoped;
use crate::core::{Entry, Key, Revision, Snapshot, shown};
use crate::error::{Error, Kind, Result};
use crate::subscription::{Event, Filter, SubscriptionId};
use crate::sync_config::{SyncConfig, SyncConfigExt};
use crate::write::{Batch, Precondition, Written};

/// How long to wait for the value of another that was faster: above `check_interval` and what a page may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often to try again when a key is created and deleted by others in between.
const TRIES: usize = 16;

/// The values of one type under a prefix, made by [`SyncConfigExt::map`](crate::SyncConfigExt::map).
///
/// ```
/// # use sync_config::{MemoryDatabase, prelude::*};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> sync_config::Result<()> {
/// # let config = Builder::memory(&MemoryDatabase::new()).start().await?;
/// let quotas = config.map::<u64>("quota:")?;
/// let alice = quotas.load_or_create("alice", || 100).await?; // one value, whoever else creates it now
/// assert_eq!((*alice, quotas.len()?), (100, 1));
/// quotas.insert("alice", &200).await?;
/// for (key, quota) in quotas.entries()?.iter() {
///     println!("{key}: {}", quota?);
/// }
/// quotas.remove("alice").await?;
/// assert!(quotas.get("alice")?.is_none());
/// # config.shutdown().await?;
/// # Ok(())
/// # }
/// ```
///
/// Keys are relative to the prefix, as in a [`Scoped`] view. Reads touch memory only, and a value is decoded once. One
/// that is no `T` concerns its own key alone: `get` of it says so, everything else goes on. Clones are the same map.
pub struct TypedMap<T, C: ?Sized = dyn SyncConfig> {
    view: Arc<Scoped<C>>,
    values: PhantomData<fn() -> T>,
}

impl<T, C> TypedMap<T, C>
where
    T: DeserializeOwned + Send + Sync + 'static,
    C: SyncConfig + ?Sized,
{
    pub(crate) fn new(view: Arc<Scoped<C>>) -> Self {
        let values = PhantomData;
        Self { view, values }
    }

    /// The view that this map reads and writes.
    #[must_use]
    pub fn view(&self) -> &Arc<Scoped<C>> {
        &self.view
    }

    /// Looks a value up in memory; `None` when the key is absent.
    ///
    /// # Errors
    ///
    /// [`Error::is_wrong_type`] when the value is no `T`, [`Error::is_not_ready`] before the first load.
    pub fn get(&self, key: &str) -> Result<Option<Arc<T>>> {
        self.view.get_as(key)
    }

    /// Whether a key has a value, of whatever type.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_ready`] before the first load.
    pub fn contains_key(&self, key: &str) -> Result<bool> {
        let mut found = false;
        self.view.peek(key, &mut |_| found = true)?;
        Ok(found)
    }

    /// Puts a value.
    ///
    /// # Errors
    ///
    /// As [`SyncConfig::write`].
    pub async fn insert(&self, key: &str, value: &T) -> Result<Written>
    where
        T: Serialize,
    {
        self.view.write(Batch::new().put(key, value)).await
    }

    /// Deletes a value. An absent one is no error; the answer says that nothing changed.
    ///
    /// # Errors
    ///
    /// As [`SyncConfig::write`].
    pub async fn remove(&self, key: &str) -> Result<Written> {
        self.view.delete(key).await
    }

    /// Answers the key's value; if it is absent, makes one and puts it. Of many who do this at the same time, on any
    /// instance, one puts its value and all answer that one: the database decides.
    ///
    /// # Errors
    ///
    /// As [`SyncConfig::write`]; [`Error::is_wrong_type`] when the value is no `T`, and [`Error::is_conflict`] when
    /// others kept creating and deleting the key.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves it open whether the value is put.
    pub async fn load_or_create(&self, key: &str, make: impl FnOnce() -> T + Send) -> Result<Arc<T>>
    where
        T: Serialize,
    {
        if let Some(value) = self.get(key)? {
            return Ok(value);
        }
        let value = crate::core::Value::encode(&make());
        let value = value.map_err(|error| self.refused(key, error))?;
        let mut tries = 0;
        loop {
            let absent = Some(Precondition::Absent);
            let batch = Batch::new().put_value(key, value.clone(), absent);
            let error = match self.view.write(batch).await {
                Ok(written) => return self.put(key, &written),
                Err(error) if error.is_conflict() && tries < TRIES => error,
                Err(error) => return Err(error),
            };
            tries += 1;
            match error.conflicting_revision() {
                Some(revision) => drop(self.view.wait_for(revision.into(), PATIENCE).await?),
                // Somebody was faster, and nothing says when.
                None => drop(self.view.sync().await?),
            }
            if let Some(value) = self.get(key)? {
                return Ok(value);
            }
        }
    }

    /// All values at one revision. Costs a copy of the list of entries once for each revision, here and in `len`.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_ready`] before the first load.
    pub fn entries(&self) -> Result<TypedEntries<T>> {
        let (snapshot, values) = (self.view.snapshot()?, PhantomData);
        Ok(TypedEntries { snapshot, values })
    }

    /// How many keys there are, of whatever type their values are.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_ready`] before the first load.
    pub fn len(&self) -> Result<usize> {
        Ok(self.view.snapshot()?.len())
    }

    /// Whether there are none.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_ready`] before the first load.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Calls back with a key and its values before and after, decoded, whenever one changes; `None` is absence.
    ///
    /// A value that is no `T` is not handed over and counts as if it had not come; it is logged with the key and the
    /// revision. After a lag the net differences are handed over.
    ///
    /// # Errors
    ///
    /// [`Error::is_closed`] after shutdown.
    pub fn on_change(
        &self,
        mut callback: impl FnMut(&Key, Option<&T>, Option<&T>) + Send + 'static,
    ) -> Result<SubscriptionId> {
        let mut told = BTreeMap::new();
        let filter = Filter::all().with_state();
        let callback = move |event: &Event| {
            for (key, old, new) in differences::<T>(&mut told, event) {
                callback(&key, old.as_deref(), new.as_deref());
            }
        };
        self.view.subscribe(filter, Box::new(callback))
    }

    /// Ends a subscription made by [`TypedMap::on_change`]: see [`SyncConfig::unsubscribe`].
    pub fn unsubscribe(&self, id: SubscriptionId) -> bool {
        self.view.unsubscribe(id)
    }

    /// The value that was put, as the database holds it.
    fn put(&self, key: &str, written: &Written) -> Result<Arc<T>> {
        let entry = written.keys.first().and_then(|key| key.entry.clone());
        match entry {
            Some(entry) => Ok(entry.decode()?),
            None => Err(Error::refused(
                format!("creating key \"{}\"", shown(key)),
                "the store answered without its entry",
            )),
        }
    }

    fn refused(&self, key: &str, error: crate::core::ValueError) -> Error {
        match Key::parse(key) {
            Ok(key) => Kind::Value { key, error }.into(),
            Err(error) => error.into(),
        }
    }
}

impl<T, C: ?Sized> Clone for TypedMap<T, C> {
    fn clone(&self) -> Self {
        Self {
            view: self.view.clone(),
            values: PhantomData,
        }
    }
}

impl<T, C: ?Sized> fmt::Debug for TypedMap<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedMap").field(&self.view).finish()
    }
}

/// The values of a [`TypedMap`] at one revision. They are decoded when they are looked at, once.
pub struct TypedEntries<T> {
    snapshot: Arc<Snapshot>,
    values: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned + Send + Sync + 'static> TypedEntries<T> {
    /// The revision that all are of.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.snapshot.revision()
    }

    /// Looks a value up.
    ///
    /// # Errors
    ///
    /// [`Error::is_wrong_type`] when the value is no `T`.
    pub fn get(&self, key: &str) -> Result<Option<Arc<T>>> {
        let entry = self.snapshot.get(key);
        Ok(entry.map(|entry| entry.decode()).transpose()?)
    }

    /// Keys and values in byte order of the keys; each value that is no `T` is an error of its own.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, Result<Arc<T>>)> {
        self.snapshot
            .iter()
            .map(|entry| (entry.key(), entry.decode().map_err(Error::from)))
    }

    /// How many keys there are, of whatever type their values are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.snapshot.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.snapshot.is_empty()
    }
}

impl<T> fmt::Debug for TypedEntries<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedEntries").field(&self.snapshot).finish()
    }
}

/// A key with its values before and after.
type Difference<T> = (Key, Option<Arc<T>>, Option<Arc<T>>);

/// What an event changes of what was told. The state at the beginning is taken in silently.
fn differences<T: DeserializeOwned + Send + Sync + 'static>(
    told: &mut BTreeMap<Key, Arc<Entry>>,
    event: &Event,
) -> Vec<Difference<T>> {
    let state = match event {
        Event::Changed(set) | Event::Resynced(set) => {
            let changes = set.changes.iter();
            return changes
                .filter_map(|change| difference(told, &change.key, change.new.as_ref()))
                .collect();
        }
        Event::State(state) | Event::Lagged { state, .. } => state,
    };
    let gone = told.keys().filter(|key| state.get(key).is_none());
    let gone: Vec<Key> = gone.cloned().collect();
    let mut all: Vec<_> = gone
        .iter()
        .filter_map(|key| difference(told, key, None))
        .collect();
    let there = state.iter();
    all.extend(there.filter_map(|entry| difference(told, entry.key(), Some(entry))));
    match event {
        Event::State(_) => Vec::new(),
        Event::Lagged { .. } | Event::Changed(_) | Event::Resynced(_) => all,
    }
}

fn difference<T: DeserializeOwned + Send + Sync + 'static>(
    told: &mut BTreeMap<Key, Arc<Entry>>,
    key: &Key,
    new: Option<&Arc<Entry>>,
) -> Option<Difference<T>> {
    let decoded = match new.map(|entry| entry.decode::<T>()) {
        Some(Ok(value)) => Some(value),
        None => None,
        Some(Err(error)) => {
            let revision = new.map_or(0, |entry| entry.revision().get());
            tracing::warn!(revision, %error, "a value of a map has another type");
            return None;
        }
    };
    let old = match new {
        Some(entry) => told.insert(key.clone(), entry.clone()),
        None => told.remove(key),
    };
    if old.as_ref().map(|entry| entry.as_json()) == new.map(|entry| entry.as_json()) {
        return None;
    }
    let old = old.and_then(|entry| entry.decode().ok());
    Some((key.clone(), old, decoded))
}
