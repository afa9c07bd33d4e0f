//! The trait that services inject, and what can be built on it for every implementor.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::core::{Checksum, Cursor, Entry, Epoch, Key, Revision, Snapshot, Value};
#[allow(unused_imports, reason = "named in the documentation")]
use crate::error::Error;
use crate::error::Result;
use crate::status::Status;
use crate::subscription::{Callback, Filter, Follower, SubscriptionId};
use crate::write::{Batch, Written};

/// A configuration store held in memory: inject it as `Arc<dyn SyncConfig>`.
///
/// Reads touch memory only: they never wait and never fail for lack of a network. After a write returns, this instance
/// reads it. Two calls of [`SyncConfig::get`] may straddle a revision; [`SyncConfig::snapshot`] never does.
#[async_trait]
pub trait SyncConfig: Send + Sync + 'static {
    /// Looks a key up in memory.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_ready`] before the first load. An absent key is `None`, not an error.
    fn get(&self, key: &str) -> Result<Option<Arc<Entry>>>;

    /// Hands an entry to `read` in place, without the shared counter that [`SyncConfig::get`] touches. `read` must not
    /// call back into the store.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_ready`] before the first load. For an absent key `read` is not called.
    fn with_entry(&self, key: &str, read: &mut dyn FnMut(&Entry)) -> Result<()> {
        if let Some(entry) = self.get(key)? {
            read(&entry);
        }
        Ok(())
    }

    /// All entries in byte order of their keys.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_ready`] before the first load.
    fn get_all(&self) -> Result<Vec<Arc<Entry>>> {
        Ok(self.snapshot()?.iter().cloned().collect())
    }

    /// All entries at one revision, never half a transaction. Costs a copy of the list of entries once for each revision.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_ready`] before the first load.
    fn snapshot(&self) -> Result<Arc<Snapshot>>;

    /// Puts a value that is JSON already; [`SyncConfigExt::set`] takes any serialisable value.
    ///
    /// # Errors
    ///
    /// As [`SyncConfig::write`].
    async fn set_value(&self, key: &str, value: Value) -> Result<Written> {
        self.write(Batch::new().put_value(key, value, None)).await
    }

    /// Deletes a key. A missing key is no error; the answer says that nothing changed.
    ///
    /// # Errors
    ///
    /// As [`SyncConfig::write`].
    async fn delete(&self, key: &str) -> Result<Written> {
        self.write(Batch::new().delete(key)).await
    }

    /// Writes many keys all or nothing, each with an optional precondition.
    ///
    /// The write is durable in the database when this returns, and this instance reads it.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`], [`Error::is_conflict`], [`Error::is_denied`], [`Error::is_unavailable`] and the
    /// other retryable ones mean that nothing was written, ever. [`Error::is_outcome_unknown`] means that the answer was
    /// lost.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves it open whether the write is applied.
    async fn write(&self, batch: Batch) -> Result<Written>;

    /// Calls back with every matching change, in revision order, each once. See [`crate::Event`].
    ///
    /// Callbacks run on threads of their own; one that blocks or panics harms nobody else, until 256 block at once. They
    /// may read, write (from another task), subscribe and unsubscribe.
    ///
    /// # Errors
    ///
    /// [`Error::is_closed`] after shutdown.
    fn subscribe(&self, filter: Filter, callback: Callback) -> Result<SubscriptionId>;

    /// Ends a subscription: once this has returned, no callback of it starts. False if there is none of that name.
    ///
    /// Waits for a callback of this subscription that is running to return, however long that takes: hold no lock that
    /// the callback needs. Within the callback itself it does not wait; and two callbacks may end each other's
    /// subscriptions.
    fn unsubscribe(&self, id: SubscriptionId) -> bool;

    /// CRC32 of the sorted entries at the revision shown, computed once for each revision (10 ms for 100,000 entries).
    ///
    /// # Errors
    ///
    /// [`Error::is_not_ready`] before the first load.
    fn checksum(&self) -> Result<Checksum>;

    /// Reads the whole table again and repairs what differs. Answers how many keys did.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`] when the database did not give the table in time.
    async fn sync(&self) -> Result<usize>;

    /// Waits until this instance shows a revision (or a later one).
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`], [`Error::is_closed`] after shutdown, and [`Error::is_other_epoch`] when the target is of a
    /// history that was replaced.
    async fn wait_for(&self, target: Target, timeout: Duration) -> Result<Revision>;

    /// What this instance knows of itself.
    fn status(&self) -> Status;

    /// Ends the service: when this returns no task, no connection and no callback is left. Reads still answer from
    /// memory; writes and subscriptions are refused.
    ///
    /// # Errors
    ///
    /// None at present; a second call is harmless.
    async fn shutdown(&self) -> Result<()>;
}

/// What to wait for: a revision, or a cursor whose epoch has to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub(crate) revision: Revision,
    pub(crate) epoch: Option<Epoch>,
}

impl From<Revision> for Target {
    fn from(revision: Revision) -> Self {
        Self {
            revision,
            epoch: None,
        }
    }
}

impl From<Cursor> for Target {
    fn from(cursor: Cursor) -> Self {
        Self {
            revision: cursor.revision,
            epoch: Some(cursor.epoch),
        }
    }
}

/// Typed reads, writes and callbacks for every [`SyncConfig`], also behind `dyn`.
#[async_trait]
pub trait SyncConfigExt: SyncConfig {
    /// Puts any serialisable value.
    ///
    /// # Errors
    ///
    /// As [`SyncConfig::write`].
    async fn set<T: Serialize + Send + Sync>(&self, key: &str, value: T) -> Result<Written> {
        self.write(Batch::new().put(key, value)).await
    }

    /// Reads a boolean; the default when the key is absent, not a boolean, or nothing is loaded yet. Never fails.
    fn get_bool(&self, key: &str, default: bool) -> bool {
        self.read(key, Entry::as_bool).unwrap_or(default)
    }

    /// Reads an integer; the default when the key is absent, not an integer that fits, or nothing is loaded yet.
    fn get_i64(&self, key: &str, default: i64) -> i64 {
        self.read(key, Entry::as_i64).unwrap_or(default)
    }

    /// Reads a number; the default when the key is absent, not a number that fits, or nothing is loaded yet.
    fn get_f64(&self, key: &str, default: f64) -> f64 {
        self.read(key, Entry::as_f64).unwrap_or(default)
    }

    /// Reads a string; the default when the key is absent, not a string, or nothing is loaded yet.
    fn get_string(&self, key: &str, default: &str) -> String {
        self.read(key, Entry::as_string)
            .unwrap_or_else(|| default.to_owned())
    }

    /// Reads and decodes a value strictly, once for each change: `None` when the key is absent.
    ///
    /// # Errors
    ///
    /// [`Error::is_wrong_type`] when the value is no `T`, [`Error::is_not_ready`] before the first load.
    fn get_as<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        key: &str,
    ) -> Result<Option<Arc<T>>> {
        match self.get(key)? {
            Some(entry) => Ok(Some(entry.decode()?)),
            None => Ok(None),
        }
    }

    /// Calls back with old and new value of one key, decoded, whenever it changes; `None` is absence.
    ///
    /// A value that is no `T` is not handed over; it is logged with the key and the revision.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] for a key out of bounds, [`Error::is_closed`] after shutdown.
    fn subscribe_as<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        key: &str,
        mut callback: impl FnMut(Option<&T>, Option<&T>) + Send + 'static,
    ) -> Result<SubscriptionId> {
        let mut follower = Follower::new(Key::parse(key)?);
        let filter = Filter::key(key).with_state();
        self.subscribe(
            filter,
            Box::new(move |event| {
                if let Some((old, new)) = follower.follow::<T>(event) {
                    callback(old.as_deref(), new.as_deref());
                }
            }),
        )
    }

    /// Calls back with every matching event: [`SyncConfig::subscribe`] without the box.
    ///
    /// # Errors
    ///
    /// [`Error::is_closed`] after shutdown.
    fn on_change(
        &self,
        filter: Filter,
        callback: impl FnMut(&crate::Event) + Send + 'static,
    ) -> Result<SubscriptionId> {
        self.subscribe(filter, Box::new(callback))
    }

    #[doc(hidden)]
    fn read<R>(&self, key: &str, view: impl Fn(&Entry) -> Option<R>) -> Option<R> {
        let mut result = None;
        match self.with_entry(key, &mut |entry| result = view(entry)) {
            Ok(()) => result,
            Err(_) => None,
        }
    }
}

impl<C: SyncConfig + ?Sized> SyncConfigExt for C {}
