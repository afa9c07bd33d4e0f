//! Views: the keys under a prefix as a store of their own.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;

use crate::core::{Change, ChangeSet, Checksum, Entry, Key, Prefix, Revision, Snapshot, shown};
use crate::error::{Kind, Result};
use crate::status::Status;
use crate::subscription::{Callback, Event, Filter, Follow, SubscriptionId};
use crate::sync_config::{SyncConfig, Target, WrongType};
use crate::write::{Batch, Written, WrittenKey};

/// How long `shutdown` waits for running callbacks, as a service does.
const FAREWELL: Duration = Duration::from_secs(2);

/// The keys of a store that begin with a prefix, without it: a [`SyncConfig`] that shows nothing else and writes nothing
/// else.
///
/// ```
/// # use sync_config::{MemoryDatabase, prelude::*};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> sync_config::Result<()> {
/// # let config = Builder::memory(&MemoryDatabase::new()).start().await?;
/// let tenant = config.scoped("tenant:42:")?;
/// tenant.set("limit", 5).await?;
/// assert_eq!(config.get_i64("tenant:42:limit", 0), 5);
/// config.set("tenant:421:limit", 7).await?;
/// assert_eq!(tenant.get_all()?.len(), 1);
/// # config.shutdown().await?;
/// # Ok(())
/// # }
/// ```
///
/// The prefix ends in a separator (`:`, `/` or `.`), so that no other key of the store begins with it by chance. Keys are
/// relative everywhere: in reads, writes, preconditions, errors, events, snapshots and the checksum. A key that is too
/// long together with the prefix is refused. The entry whose key is the prefix itself is not shown. Views can be taken of
/// views.
///
/// Revisions, [`SyncConfig::sync`], [`SyncConfig::wait_for`], [`SyncConfig::status`] and idempotency keys are the whole
/// store's. Shutting a view down ends the subscriptions made through it and refuses writes and further subscriptions
/// through it; the store, other views, and live handles go on. Dropping a view ends nothing.
///
/// A lookup that hands out an entry copies its key; the getters with a default, and live handles, copy nothing. Structs
/// are decoded once, for the view and its store together.
pub struct Scoped<C: ?Sized> {
    prefix: Prefix,
    /// The subscriptions made through this view; `None` after its shutdown.
    own: Mutex<Option<BTreeSet<SubscriptionId>>>,
    /// Those that live handles stand on, where the store shows them by subscriptions: they go on after the shutdown.
    handles: Mutex<BTreeSet<SubscriptionId>>,
    shown: ArcSwapOption<Shown>,
    config: Arc<C>,
}

/// The view of a snapshot, and its checksum once somebody has asked for that.
struct Shown {
    /// Of which snapshot. While this is held, no other can have its address.
    whole: Weak<Snapshot>,
    snapshot: Arc<Snapshot>,
    checksum: OnceLock<Checksum>,
}

/// Longer keys are rare, and their memory is not kept.
const KEPT: usize = 1_024;

thread_local! {
    /// Where whole keys are put together.
    static WHOLE: Cell<String> = const { Cell::new(String::new()) };
}

impl<C: SyncConfig + ?Sized> Scoped<C> {
    /// Makes a view of a shared store: what [`SyncConfigExt::scoped`](crate::SyncConfigExt::scoped) does.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`](crate::Error::is_invalid_input) for a prefix that does not end in `:`, `/` or `.`, or
    /// leaves no room for a key.
    pub fn new(config: Arc<C>, prefix: &str) -> Result<Self> {
        Ok(Self {
            prefix: Prefix::parse(prefix)?,
            own: Mutex::new(Some(BTreeSet::new())),
            handles: Mutex::default(),
            shown: ArcSwapOption::empty(),
            config,
        })
    }

    /// The prefix.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.prefix.as_str()
    }

    /// Calls with the key as the store names it; the empty one, which names nothing, stays so.
    fn whole<R>(&self, key: &str, call: impl FnOnce(&str) -> R) -> R {
        if key.is_empty() {
            return call("");
        }
        // Taken out, since the call may come back here.
        let mut whole = WHOLE.take();
        whole.clear();
        whole.push_str(self.prefix.as_str());
        whole.push_str(key);
        let result = call(&whole);
        if whole.capacity() <= KEPT {
            WHOLE.set(whole);
        }
        result
    }

    fn own(&self) -> MutexGuard<'_, Option<BTreeSet<SubscriptionId>>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<()> {
        match *self.own() {
            Some(_) => Ok(()),
            None => Err(Kind::Closed.into()),
        }
    }

    /// Remembers a subscription to be ended with this view, unless that has ended meanwhile.
    fn keep(&self, id: SubscriptionId) -> Result<SubscriptionId> {
        if let Some(own) = &mut *self.own() {
            own.insert(id);
            return Ok(id);
        }
        self.config.unsubscribe_without_waiting(id);
        Err(Kind::Closed.into())
    }

    fn handles(&self) -> MutexGuard<'_, BTreeSet<SubscriptionId>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, id: SubscriptionId) -> bool {
        let own = self.own().as_mut().is_some_and(|own| own.remove(&id));
        own || self.handles().remove(&id)
    }

    fn shown(&self) -> Result<Arc<Shown>> {
        let whole = self.config.snapshot()?;
        let shown = self.shown.load_full();
        let same = |shown: &Arc<Shown>| std::ptr::eq(shown.whole.as_ptr(), Arc::as_ptr(&whole));
        if let Some(shown) = shown.filter(same) {
            return Ok(shown);
        }
        let shown = Arc::new(Shown {
            whole: Arc::downgrade(&whole),
            snapshot: snapshot(&self.prefix, &whole),
            checksum: OnceLock::new(),
        });
        self.shown.store(Some(shown.clone()));
        Ok(shown)
    }
}

#[async_trait]
impl<C: SyncConfig + ?Sized> SyncConfig for Scoped<C> {
    fn get(&self, key: &str) -> Result<Option<Arc<Entry>>> {
        let whole = self.whole(key, |whole| self.config.get(whole))?;
        Ok(whole.and_then(|whole| entry(&self.prefix, &whole)))
    }

    fn peek(&self, key: &str, read: &mut dyn FnMut(&Entry)) -> Result<()> {
        self.whole(key, |whole| self.config.peek(whole, read))
    }

    fn wrong_type(&self, wrong: &WrongType) {
        self.config.wrong_type(wrong);
    }

    fn snapshot(&self) -> Result<Arc<Snapshot>> {
        Ok(self.shown()?.snapshot.clone())
    }

    async fn write(&self, batch: Batch) -> Result<Written> {
        self.open()?;
        let written = self.config.write(batch.within(&self.prefix)).await;
        let mut written = written.map_err(|error| error.within(&self.prefix))?;
        written.keys = (written.keys.iter())
            .filter_map(|key| written_key(&self.prefix, key))
            .collect();
        Ok(written)
    }

    fn subscribe(&self, filter: Filter, mut callback: Callback) -> Result<SubscriptionId> {
        self.open()?;
        let (filter, prefix) = (filter.within(&self.prefix), self.prefix.clone());
        let callback = move |whole: &Event| {
            if let Some(event) = event(&prefix, whole) {
                callback(&event);
            }
        };
        self.keep(self.config.subscribe(filter, Box::new(callback))?)
    }

    fn unsubscribe(&self, id: SubscriptionId) -> bool {
        self.forget(id) && self.config.unsubscribe(id)
    }

    fn unsubscribe_without_waiting(&self, id: SubscriptionId) -> bool {
        self.forget(id) && self.config.unsubscribe_without_waiting(id)
    }

    fn follow(&self, key: &str, follower: Weak<dyn Follow>) -> Result<Option<SubscriptionId>> {
        self.open()?;
        let key = self.prefix.join(key)?;
        let id = self.config.follow(&key, follower)?;
        self.handles().extend(id);
        Ok(id)
    }

    fn checksum(&self) -> Result<Checksum> {
        let shown = self.shown()?;
        Ok(*shown.checksum.get_or_init(|| shown.snapshot.checksum()))
    }

    async fn sync(&self) -> Result<usize> {
        self.config.sync().await
    }

    async fn wait_for(&self, target: Target, timeout: Duration) -> Result<Revision> {
        self.config.wait_for(target, timeout).await
    }

    fn status(&self) -> Status {
        self.config.status()
    }

    /// Ends the subscriptions made through this view, and this view for writes and further subscriptions. The store goes
    /// on.
    async fn shutdown(&self) -> Result<()> {
        let own = self.own().take().unwrap_or_default();
        if own.is_empty() {
            return Ok(());
        }
        let config = self.config.clone();
        // Waits for callbacks, which may need this very thread.
        let ending = tokio::task::spawn_blocking(move || {
            for id in own {
                config.unsubscribe(id);
            }
        });
        if tokio::time::timeout(FAREWELL, ending).await.is_err() {
            let prefix = self.prefix.as_str();
            tracing::warn!(
                prefix = %shown(prefix),
                "callbacks are still running after the shutdown of a view"
            );
        }
        Ok(())
    }
}

impl<C: ?Sized> fmt::Debug for Scoped<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scoped")
            .field("prefix", &self.prefix.as_str())
            .finish_non_exhaustive()
    }
}

/// An entry as a view shows it; `None` when it is not in the view.
fn entry(prefix: &Prefix, whole: &Arc<Entry>) -> Option<Arc<Entry>> {
    let key = prefix.strip(whole.key())?;
    Some(Arc::new(whole.renamed(key)))
}

fn change(prefix: &Prefix, whole: &Change) -> Option<Change> {
    let key: Key = prefix.strip(whole.key())?;
    let renamed = |entry: &Option<Arc<Entry>>| {
        let entry = entry.as_ref()?;
        Some(Arc::new(entry.renamed(key.clone())))
    };
    let (old, new) = (renamed(&whole.old), renamed(&whole.new));
    Some(Change { key, old, new })
}

fn change_set(prefix: &Prefix, whole: &ChangeSet) -> Arc<ChangeSet> {
    let changes = whole.changes.iter();
    let changes = changes.filter_map(|whole| change(prefix, whole)).collect();
    Arc::new(ChangeSet { changes, ..*whole })
}

fn snapshot(prefix: &Prefix, whole: &Snapshot) -> Arc<Snapshot> {
    let entries = whole.prefixed(prefix.as_str()).iter();
    let entries = entries.filter_map(|whole| entry(prefix, whole)).collect();
    Arc::new(Snapshot::new(whole.cursor(), entries))
}

/// An event as a view tells it; `None` when it tells of nothing in the view.
fn event(prefix: &Prefix, whole: &Event) -> Option<Event> {
    match whole {
        Event::State(state) => Some(Event::State(snapshot(prefix, state))),
        Event::Changed(set) => {
            let set = change_set(prefix, set);
            (!set.changes.is_empty()).then_some(Event::Changed(set))
        }
        Event::Resynced(set) => Some(Event::Resynced(change_set(prefix, set))),
        Event::Lagged { missed, state } => Some(Event::Lagged {
            missed: *missed,
            state: snapshot(prefix, state),
        }),
    }
}

fn written_key(prefix: &Prefix, whole: &WrittenKey) -> Option<WrittenKey> {
    Some(WrittenKey {
        key: prefix.strip(&whole.key)?,
        entry: whole.entry.as_ref().and_then(|whole| entry(prefix, whole)),
        changed: whole.changed,
    })
}
