//! The trait that services inject, and what can be built on it for every implementor.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::core::{
    Change, Checksum, Cursor, Entry, Epoch, Key, Report, Revision, Scalar, Snapshot, Value,
};
#[allow(unused_imports, reason = "named in the documentation")]
use crate::error::Error;
use crate::error::Result;
use crate::status::Status;
use crate::subscription::{self, Callback, Filter, Follow, Follower, SubscriptionId};
use crate::typed::{self, Changes, Live, LiveGroup, Scoped, TypedMap};
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

    /// As [`SyncConfig::with_entry`], where `read` looks at the value and the revision alone: a view of a store hands
    /// over the store's own entry, whose key is longer, and copies nothing.
    ///
    /// # Errors
    ///
    /// As [`SyncConfig::with_entry`].
    fn peek(&self, key: &str, read: &mut dyn FnMut(&Entry)) -> Result<()> {
        self.with_entry(key, read)
    }

    /// The value as far as it is decoded with its entry; `None` when the key is absent or nothing is loaded yet. One lookup
    /// and one copy, without a call back.
    #[doc(hidden)]
    fn scalar(&self, key: &str) -> Option<Scalar> {
        let mut found = None;
        let looked = self.peek(key, &mut |entry| found = Some(entry.value().scalar()));
        looked.ok().and(found)
    }

    /// Hears of a value that made a getter answer with its default, once for each key and revision. Logs it; a
    /// [`ConfigService`](crate::ConfigService) counts it too.
    fn wrong_type(&self, wrong: &WrongType) {
        wrong.log();
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

    /// Ends a subscription without waiting: a callback of it that is running, or about to start, goes on.
    fn unsubscribe_without_waiting(&self, id: SubscriptionId) -> bool {
        self.unsubscribe(id)
    }

    /// Shows `follower` the entry of a key now and each later one, until it is dropped: what [`SyncConfigExt::live`]
    /// stands on.
    ///
    /// A [`ConfigService`](crate::ConfigService) shows a revision before anybody who waits for it is woken, a writer of
    /// its own among them. Another implementor that leaves this to its [`SyncConfig::subscribe`] shows it as soon as
    /// callbacks are called; then the answer is the subscription to end.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] for a key out of bounds, [`Error::is_closed`] after shutdown.
    fn follow(&self, key: &str, follower: Weak<dyn Follow>) -> Result<Option<SubscriptionId>> {
        let key = Key::parse(key)?;
        let filter = Filter::key(key.as_str()).with_state();
        let callback = move |event: &crate::Event| subscription::show(&key, event, &follower);
        self.subscribe(filter, Box::new(callback)).map(Some)
    }

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

/// A value that a getter with a default found to be of another type. The value itself is not part of it.
#[derive(Clone, Debug)]
pub struct WrongType {
    key: Key,
    revision: Revision,
    found: &'static str,
    wanted: &'static str,
}

impl WrongType {
    /// The key, as the store names it.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The revision of the entry.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Logs it at WARN.
    pub(crate) fn log(&self) {
        tracing::warn!(key = %self.key, revision = %self.revision, found = self.found, wanted = self.wanted,
            "a value has another type than its reader wants; the reader's default is used");
    }
}

impl fmt::Display for WrongType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, revision) = (&self.key, self.revision);
        let (found, wanted) = (self.found, self.wanted);
        write!(
            f,
            "the value of key \"{key}\" at revision {revision} is a JSON {found}, not {wanted}"
        )
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
    ///
    /// Here and in the other getters with a default, a value of another type, `null` among them, is counted and logged
    /// once for each key and revision. Absence is none.
    fn get_bool(&self, key: &str, default: bool) -> bool {
        match self.scalar(key) {
            None => default,
            Some(Scalar::Bool(value)) => value,
            Some(_) => read(self, key, "a boolean", Entry::as_bool).unwrap_or(default),
        }
    }

    /// Reads an integer; the default when the key is absent, not an integer that fits, or nothing is loaded yet.
    fn get_i64(&self, key: &str, default: i64) -> i64 {
        match self.scalar(key) {
            None => default,
            Some(Scalar::Int(value)) => value,
            Some(_) => read(self, key, "an integer of 64 bits", Entry::as_i64).unwrap_or(default),
        }
    }

    /// Reads a number; the default when the key is absent, not a number that fits, or nothing is loaded yet.
    fn get_f64(&self, key: &str, default: f64) -> f64 {
        match self.scalar(key) {
            None => default,
            Some(Scalar::Float(value)) => value,
            Some(_) => read(self, key, "a number that f64 holds", Entry::as_f64).unwrap_or(default),
        }
    }

    /// Reads a string; the default when the key is absent, not a string, or nothing is loaded yet.
    fn get_string(&self, key: &str, default: &str) -> String {
        read(self, key, "a string", Entry::as_string).unwrap_or_else(|| default.to_owned())
    }

    /// Reads and decodes a value strictly: `None` when the key is absent. It is decoded once for each change and type.
    ///
    /// # Errors
    ///
    /// [`Error::is_wrong_type`] when the value is no `T`, [`Error::is_not_ready`] before the first load.
    fn get_as<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        key: &str,
    ) -> Result<Option<Arc<T>>> {
        // `Deserialize` is not called in place, where the store's memory is locked.
        let (mut found, mut decoded) = (false, None);
        self.peek(key, &mut |entry| (found, decoded) = (true, entry.decoded()))?;
        if !found || decoded.is_some() {
            return Ok(decoded);
        }
        let entry = self.get(key)?;
        Ok(entry.map(|entry| entry.decode()).transpose()?)
    }

    /// Makes a handle on one key whose reads cost nanoseconds and always find a decoded value: see [`Live`].
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] for a key out of bounds, [`Error::is_closed`] after shutdown. A value that is no `T`
    /// is no error: [`Live::rejected`] tells of it.
    fn live<T: DeserializeOwned + Send + Sync + 'static>(
        self: &Arc<Self>,
        key: &str,
        default: T,
    ) -> Result<Live<T>> {
        typed::live(self, key, default)
    }

    /// Makes a struct of live handles on keys that begin with `prefix`: see [`LiveGroup`].
    ///
    /// # Errors
    ///
    /// As [`SyncConfigExt::live`], and [`Error::is_invalid_input`] for a prefix that does not end in `:`, `/` or `.`.
    fn group<G: LiveGroup>(self: &Arc<Self>, prefix: &str) -> Result<G> {
        typed::group(self, prefix)
    }

    /// Shows the keys that begin with `prefix`, without it, as a store of their own: see [`Scoped`].
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] for a prefix that does not end in `:`, `/` or `.`, or leaves no room for a key.
    fn scoped(self: &Arc<Self>, prefix: &str) -> Result<Arc<Scoped<Self>>> {
        Ok(Arc::new(Scoped::new(self.clone(), prefix)?))
    }

    /// Shows the keys that begin with `prefix` as a map of one type: see [`TypedMap`].
    ///
    /// # Errors
    ///
    /// As [`SyncConfigExt::scoped`].
    fn map<T: DeserializeOwned + Send + Sync + 'static>(
        self: &Arc<Self>,
        prefix: &str,
    ) -> Result<TypedMap<T, Self>> {
        Ok(TypedMap::new(self.scoped(prefix)?))
    }

    /// Streams every matching change from now on, in revision order: see [`Changes`].
    ///
    /// # Errors
    ///
    /// [`Error::is_closed`] after shutdown.
    fn changes(self: &Arc<Self>, filter: Filter) -> Result<Changes> {
        typed::changes(self, filter)
    }

    /// Waits for the next change of a key: the first one after this future was first polled. For every change without a
    /// gap between two waits use [`SyncConfigExt::changes`].
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] for a key out of bounds, [`Error::is_closed`] after shutdown, also one that happens
    /// meanwhile.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the wait and leaves nothing behind.
    async fn changed(&self, key: &str) -> Result<Change> {
        typed::changed(self, key).await
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
}

impl<C: SyncConfig + ?Sized> SyncConfigExt for C {}

/// Looks at a value in place. Allocates nothing as long as the value is what its reader wants.
fn read<C: SyncConfig + ?Sized, R>(
    config: &C,
    key: &str,
    wanted: &'static str,
    view: impl Fn(&Entry) -> Option<R>,
) -> Option<R> {
    let (mut result, mut wrong) = (None, None);
    let peeked = config.peek(key, &mut |entry| {
        result = view(entry);
        if result.is_none() && entry.reports(Report::WrongType) {
            wrong = Some(WrongType {
                key: entry.key().clone(),
                revision: entry.revision(),
                found: entry.value().kind(),
                wanted,
            });
        }
    });
    if let Some(wrong) = wrong {
        config.wrong_type(&wrong);
    }
    // Not ready is the default's case too.
    peeked.ok().and(result)
}
