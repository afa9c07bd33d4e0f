//! Live handles: a key's value, decoded when it changes and not when it is read.

use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use arc_swap::ArcSwap;
use serde::de::DeserializeOwned;

use super::Ends;
use crate::core::{DecodeError, Entry, Key, Report, Revision};
use crate::error::Result;
use crate::subscription::Follow;
use crate::sync_config::SyncConfig;

/// A handle on one key: reading it is one atomic load of a value that is decoded already.
///
/// ```
/// # use sync_config::{MemoryDatabase, prelude::*};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> sync_config::Result<()> {
/// # let config = Builder::memory(&MemoryDatabase::new()).start().await?;
/// let limit = config.live("limit:login", 100)?; // the default while the key is absent
/// config.set("limit:login", 5).await?;
/// assert_eq!(*limit.load(), 5); // after `set` returns, this instance's handles show it
/// config.set("limit:login", "five").await?;
/// assert_eq!(*limit.load(), 5); // no number: the previous value stays
/// assert!(limit.rejected().is_some()); // and the handle says so
/// config.delete("limit:login").await?;
/// assert_eq!(*limit.load(), 100);
/// # config.shutdown().await?;
/// # Ok(())
/// # }
/// ```
///
/// An absent key, a deleted one, and a store that has loaded nothing yet show the default. `null` is a value like any
/// other: an `Option` takes it as `None`, an `i64` rejects it. A value that cannot be decoded changes nothing but
/// [`Live::rejected`]; it is counted ([`rejected_values`](crate::Counters::rejected_values)) and logged once for each key
/// and revision. After shutdown the handle keeps the last value.
///
/// Clones share one value. It is decoded, and the one before is dropped, while the store takes the change in: `Deserialize`
/// and `Drop` of `T` must not call the store, and should be quick. One that panics counts as a rejection.
pub struct Live<T>(Arc<Cell<T>>);

struct Cell<T> {
    key: Key,
    value: ArcSwap<T>,
    default: Arc<T>,
    seen: Mutex<Seen>,
    /// Ends the subscription behind this, where there is one.
    ends: OnceLock<Ends>,
}

#[derive(Default)]
struct Seen {
    /// Whether anything was shown yet, absence too.
    shown: bool,
    /// The newest entry, decoded or rejected.
    newest: Option<Arc<Entry>>,
    /// The revision of the value; `None` for the default.
    revision: Option<Revision>,
    rejected: Option<Rejection>,
}

/// Why a live handle does not show its key's present value. The value itself is not part of it.
#[derive(Clone, Debug)]
pub struct Rejection {
    revision: Revision,
    error: DecodeError,
}

impl Rejection {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        self.error.key()
    }

    /// The revision of the value that was rejected.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Why it was.
    #[must_use]
    pub fn error(&self) -> &DecodeError {
        &self.error
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, at revision {}", self.error, self.revision)
    }
}

/// A store that is shared in whatever way, as far as a handle needs it.
pub(super) trait Source {
    fn follow(&self, key: &str, follower: Weak<dyn Follow>) -> Result<Option<Ends>>;

    fn get(&self, key: &str) -> Result<Option<Arc<Entry>>>;
}

impl<C: SyncConfig + ?Sized> Source for Arc<C> {
    fn follow(&self, key: &str, follower: Weak<dyn Follow>) -> Result<Option<Ends>> {
        let id = C::follow(self, key, follower)?;
        Ok(id.map(|id| Ends::new(self, id)))
    }

    fn get(&self, key: &str) -> Result<Option<Arc<Entry>>> {
        C::get(self, key)
    }
}

/// Makes a handle on a key.
pub(super) fn follow<T>(source: &dyn Source, key: Key, default: T) -> Result<Live<T>>
where
    T: DeserializeOwned + Send + Sync + 'static,
{
    let default = Arc::new(default);
    let cell = Arc::new(Cell {
        key,
        value: ArcSwap::new(default.clone()),
        default,
        seen: Mutex::default(),
        ends: OnceLock::new(),
    });
    let follower: Arc<dyn Follow> = cell.clone();
    if let Some(ends) = source.follow(&cell.key, Arc::downgrade(&follower))? {
        drop(cell.ends.set(ends));
        // A store whose callbacks come later: what it has already is shown at once.
        if let Ok(entry) = source.get(&cell.key) {
            cell.begin(entry.as_ref());
        }
    }
    Ok(Live(cell))
}

pub(crate) fn live<C, T>(config: &Arc<C>, key: &str, default: T) -> Result<Live<T>>
where
    C: SyncConfig + ?Sized,
    T: DeserializeOwned + Send + Sync + 'static,
{
    follow(config, Key::parse(key)?, default)
}

impl<T> Live<T> {
    /// The value now. Hold it briefly: it is borrowed from the handle, and many held at once make reads slower.
    #[must_use]
    pub fn load(&self) -> LiveRef<T> {
        LiveRef(self.0.value.load())
    }

    /// A copy of the value now.
    #[must_use]
    pub fn get(&self) -> T
    where
        T: Clone,
    {
        T::clone(&self.load())
    }

    /// The value now, to keep.
    #[must_use]
    pub fn shared(&self) -> Arc<T> {
        self.0.value.load_full()
    }

    /// A reader for one thread, which keeps the value and only looks whether it is still the newest: about a nanosecond.
    #[must_use]
    pub fn reader(&self) -> LiveReader<T> {
        LiveReader(arc_swap::cache::Cache::new(Slot(self.0.clone())))
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.0.key
    }

    /// The revision of the value shown; `None` for the default.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.0.seen().revision
    }

    /// Why the key's present value is not shown; `None` when it is, or the key is absent.
    #[must_use]
    pub fn rejected(&self) -> Option<Rejection> {
        self.0.seen().rejected.clone()
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Live<T> {
    /// Shows the key, never the value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("key", &self.0.key)
            .finish_non_exhaustive()
    }
}

/// A value that was read from a [`Live`] handle.
pub struct LiveRef<T>(arc_swap::Guard<Arc<T>>);

impl<T> Deref for LiveRef<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for LiveRef<T> {
    /// Does not show the value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LiveRef")
    }
}

/// Reads a [`Live`] handle for one thread.
///
/// ```
/// # use sync_config::{MemoryDatabase, prelude::*};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> sync_config::Result<()> {
/// # let config = Builder::memory(&MemoryDatabase::new()).start().await?;
/// let mut limit = config.live("limit:login", 100)?.reader();
/// for _request in 0..1_000 {
///     assert_eq!(*limit.get(), 100);
/// }
/// # config.shutdown().await?;
/// # Ok(())
/// # }
/// ```
pub struct LiveReader<T>(arc_swap::cache::Cache<Slot<T>, Arc<T>>);

struct Slot<T>(Arc<Cell<T>>);

impl<T> Deref for Slot<T> {
    type Target = ArcSwap<T>;
    fn deref(&self) -> &ArcSwap<T> {
        &self.0.value
    }
}

impl<T> LiveReader<T> {
    /// The value now.
    pub fn get(&mut self) -> &T {
        self.0.load()
    }
}

impl<T> fmt::Debug for LiveReader<T> {
    /// Does not show the value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LiveReader")
    }
}

impl<T> Cell<T> {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Cell<T> {
    /// Takes what the store has now, unless something newer was shown.
    fn begin(&self, entry: Option<&Arc<Entry>>) {
        let decoded = entry.map(|entry| (entry, decode::<T>(entry)));
        let mut seen = self.seen();
        if !seen.shown {
            let (old, _) = self.take(&mut seen, decoded);
            drop(seen);
            drop(old);
        }
    }

    /// Takes a new entry over. Answers the value before, to be dropped without the lock, and whether this one is good.
    fn take(
        &self,
        seen: &mut Seen,
        decoded: Option<Decoded<'_, T>>,
    ) -> (Option<Arc<T>>, Result<(), DecodeError>) {
        seen.shown = true;
        seen.newest = decoded.as_ref().map(|(entry, _)| Arc::clone(entry));
        seen.rejected = None;
        match decoded {
            None => {
                seen.revision = None;
                (Some(self.value.swap(self.default.clone())), Ok(()))
            }
            Some((entry, Ok(value))) => {
                seen.revision = Some(entry.revision());
                (Some(self.value.swap(value)), Ok(()))
            }
            Some((entry, Err(error))) => {
                let revision = entry.revision();
                seen.rejected = Some(Rejection {
                    revision,
                    error: error.clone().at(&self.key),
                });
                (None, Err(error))
            }
        }
    }

    /// Takes an entry of the same text over as the newest one: its revision has moved on, and that is all.
    fn moved(&self, entry: &Arc<Entry>) -> bool {
        let mut seen = self.seen();
        let same = |newest: &Arc<Entry>| newest.as_json() == entry.as_json();
        if !seen.newest.as_ref().is_some_and(same) {
            return false;
        }
        match &mut seen.rejected {
            Some(rejected) => rejected.revision = entry.revision(),
            None => seen.revision = Some(entry.revision()),
        }
        seen.newest = Some(entry.clone());
        true
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Follow for Cell<T> {
    fn show(&self, entry: Option<&Arc<Entry>>) -> Result<(), DecodeError> {
        if entry.is_some_and(|entry| self.moved(entry)) {
            return Ok(());
        }
        let decoded = entry.map(|entry| (entry, decode::<T>(entry)));
        let mut seen = self.seen();
        let (old, taken) = self.take(&mut seen, decoded);
        drop(seen);
        drop(old);
        match (taken, entry) {
            // Another handle may have reported it.
            (Err(error), Some(entry)) if entry.reports(Report::Rejected) => Err(error),
            _ => Ok(()),
        }
    }
}

/// An entry with what it is as a `T`.
type Decoded<'a, T> = (&'a Arc<Entry>, Result<Arc<T>, DecodeError>);

fn decode<T: DeserializeOwned + Send + Sync + 'static>(
    entry: &Arc<Entry>,
) -> Result<Arc<T>, DecodeError> {
    let decoded = catch_unwind(AssertUnwindSafe(|| entry.decode::<T>()));
    decoded.unwrap_or_else(|_| {
        Err(DecodeError {
            key: entry.key().clone(),
            found: entry.value().kind(),
            wanted: std::any::type_name::<T>(),
            place: "decoding it panicked".to_owned(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Value;

    /// A store that shows nothing by itself.
    struct Silent;

    impl Source for Silent {
        fn follow(&self, _: &str, _: Weak<dyn Follow>) -> Result<Option<Ends>> {
            Ok(None)
        }
        fn get(&self, _: &str) -> Result<Option<Arc<Entry>>> {
            Ok(None)
        }
    }

    fn entry(text: &str, revision: u64) -> Arc<Entry> {
        let (key, value) = (Key::stored("k"), Value::stored(text));
        Arc::new(Entry::new(key, value, Revision::new(revision), 0))
    }

    #[test]
    fn a_revision_that_keeps_the_text_keeps_the_value_and_moves_the_revision() {
        let live = follow(&Silent, Key::stored("k"), 0u8).unwrap();
        live.0.show(Some(&entry("7", 1))).unwrap();
        let value = live.shared();
        live.0.show(Some(&entry("7", 2))).unwrap();
        assert!(Arc::ptr_eq(&live.shared(), &value));
        assert_eq!(live.revision(), Some(Revision::new(2)));
        let bad = |revision| live.0.show(Some(&entry("[]", revision)));
        assert!(bad(3).is_err() && bad(4).is_ok(), "it is told once");
        let rejected = live.rejected().unwrap();
        assert_eq!(rejected.revision(), Revision::new(4));
        assert_eq!(live.revision(), Some(Revision::new(2)));
        assert!(Arc::ptr_eq(&live.shared(), &value));
    }

    #[test]
    fn what_is_there_at_the_beginning_does_not_replace_what_was_shown() {
        let live = follow(&Silent, Key::stored("k"), 0u8).unwrap();
        live.0.begin(Some(&entry("1", 1)));
        assert_eq!(*live.load(), 1);
        live.0.show(None).unwrap();
        live.0.begin(Some(&entry("1", 1)));
        assert_eq!((*live.load(), live.revision()), (0, None));
    }
}
