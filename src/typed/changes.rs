//! Streams of changes: a buffer between callbacks, which never wait, and a reader that may.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;

use super::Ends;
use crate::core::{Cause, Change, ChangeSet, Entry, Key, Snapshot, Table};
use crate::error::{Kind, Result};
use crate::subscription::{Behind, Event, Filter, SubscriptionId};
use crate::sync_config::SyncConfig;

/// Revisions waiting for the reader one by one, as for any subscriber.
const BUFFER: usize = 1_024;

/// Bytes of changes waiting for the reader one by one. A single revision may be larger.
const BUFFER_BYTES: usize = 32 << 20;

/// The changes that match a filter, one after the other: a [`Stream`] made by
/// [`SyncConfigExt::changes`](crate::SyncConfigExt::changes).
///
/// ```
/// # use sync_config::{MemoryDatabase, prelude::*};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> sync_config::Result<()> {
/// # let config = Builder::memory(&MemoryDatabase::new()).start().await?;
/// let mut changes = config.changes(Filter::prefix("limit:"))?;
/// config.set("limit:login", 5).await?;
/// let change = changes.next().await.expect("the store is open");
/// assert_eq!(change.key().as_str(), "limit:login");
/// assert!(change.old().is_none() && change.new().is_some());
/// # config.shutdown().await?;
/// assert!(changes.next().await.is_none()); // the end, at shutdown
/// # Ok(())
/// # }
/// ```
///
/// Every change comes in the order of the revisions, and within a revision in byte order of the keys. Up to 1,024
/// revisions and 32 MiB wait for a slow reader; beyond that, what waits is folded to one change for each key, from the
/// oldest value to the newest, in byte order of the keys, until the reader has taken it all. [`Changes::missed`] then
/// tells how many revisions were folded; the last state of a key is never lost.
///
/// The stream ends at shutdown, after what waits. Dropping it ends the subscription and does not wait; until then it keeps
/// the store from being dropped. It holds a map of the keys that match, about 50 bytes each, to tell what changed while
/// callbacks lagged.
#[derive(Debug)]
pub struct Changes {
    buffer: Arc<Buffer>,
    _ends: Ends,
}

/// What waits for the reader.
#[derive(Default)]
struct Buffer(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Revisions, each with its weight.
    sets: VecDeque<(Arc<ChangeSet>, usize)>,
    /// What was taken of the first one.
    taken: usize,
    bytes: usize,
    /// What is folded. Taken before any revision comes to wait by itself again.
    net: BTreeMap<Key, Change>,
    /// How many revisions are folded in it.
    folded: usize,
    missed: u64,
    /// How many revisions wait, and how many bytes, for the status.
    queued_now: Arc<AtomicUsize>,
    bytes_now: Arc<AtomicUsize>,
    ended: bool,
    reader: Option<Waker>,
}

/// Hears the events of a subscription with state, and its end, which is when this is dropped.
struct Source {
    buffer: Arc<Buffer>,
    /// What the reader will know when it has taken everything.
    known: Option<Table>,
}

pub(crate) fn changes<C: SyncConfig + ?Sized>(config: &Arc<C>, filter: Filter) -> Result<Changes> {
    let (buffer, id) = subscribe(&**config, filter)?;
    let _ends = Ends::new(config, id);
    Ok(Changes { buffer, _ends })
}

pub(crate) async fn changed<C: SyncConfig + ?Sized>(config: &C, key: &str) -> Result<Change> {
    /// Ends the subscription, also of a wait that is given up.
    struct Wait<'a, C: SyncConfig + ?Sized>(&'a C, SubscriptionId);

    impl<C: SyncConfig + ?Sized> Drop for Wait<'_, C> {
        fn drop(&mut self) {
            self.0.unsubscribe_without_waiting(self.1);
        }
    }

    let key = Key::parse(key)?;
    let (buffer, id) = subscribe(config, Filter::key(key.as_str()))?;
    let _wait = Wait(config, id);
    let change = poll_fn(|context| buffer.poll(context)).await;
    change.ok_or_else(|| Kind::Closed.into())
}

fn subscribe<C: SyncConfig + ?Sized>(
    config: &C,
    filter: Filter,
) -> Result<(Arc<Buffer>, SubscriptionId)> {
    let buffer = Arc::new(Buffer::default());
    let filter = filter.with_state().before(buffer.waiting().behind());
    let mut source = Source {
        buffer: buffer.clone(),
        known: None,
    };
    let callback = Box::new(move |event: &Event| source.hear(event));
    let id = config.subscribe(filter, callback)?;
    Ok((buffer, id))
}

impl Changes {
    /// The next change; `None` after the end.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Change> {
        poll_fn(|context| self.buffer.poll(context)).await
    }

    /// How many revisions were folded into others so far, because this stream was read too slowly. 0 means that every
    /// change came by itself.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.buffer.waiting().missed
    }
}

impl Stream for Changes {
    type Item = Change;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Change>> {
        self.buffer.poll(context)
    }
}

impl Buffer {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Change>> {
        let mut waiting = self.waiting();
        match waiting.take() {
            Some(change) => Poll::Ready(Some(change)),
            None if waiting.ended => Poll::Ready(None),
            None => {
                let before = waiting.reader.replace(context.waker().clone());
                drop(waiting);
                // The last to hold a task takes what that holds with it, the subscription perhaps.
                drop(before);
                Poll::Pending
            }
        }
    }

    /// Changes what waits and wakes the reader, without the lock: it may read at once, on this thread.
    fn update(&self, update: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.waiting();
        update(&mut waiting);
        waiting.tell();
        let reader = waiting.reader.take();
        drop(waiting);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Waiting {
    fn behind(&self) -> Behind {
        Behind {
            queued: self.queued_now.clone(),
            bytes: self.bytes_now.clone(),
            most: (BUFFER, BUFFER_BYTES),
        }
    }

    fn tell(&self) {
        let queued = self.sets.len() + self.folded;
        self.queued_now.store(queued, Ordering::Relaxed);
        self.bytes_now.store(self.bytes, Ordering::Relaxed);
    }

    fn take(&mut self) -> Option<Change> {
        let taken = self.take_next();
        self.tell();
        taken
    }

    fn take_next(&mut self) -> Option<Change> {
        if let Some((_, change)) = self.net.pop_first() {
            self.forget_nothing();
            return Some(change);
        }
        let (set, weighs) = self.sets.front()?;
        let change = set.changes.get(self.taken).cloned();
        self.taken += 1;
        if self.taken >= set.changes.len() {
            self.bytes -= weighs;
            self.sets.pop_front();
            self.taken = 0;
        }
        change
    }

    fn add(&mut self, set: &Arc<ChangeSet>) {
        let weighs = set.weight();
        let full = self.sets.len() >= BUFFER
            || !self.sets.is_empty() && self.bytes + weighs > BUFFER_BYTES;
        if self.net.is_empty() && !full {
            self.sets.push_back((set.clone(), weighs));
            self.bytes += weighs;
            return;
        }
        self.fold_all();
        self.missed += 1;
        self.folded += 1;
        self.fold(&set.changes);
        self.forget_nothing();
    }

    /// Folds the revisions that wait.
    fn fold_all(&mut self) {
        self.bytes = 0;
        let mut taken = std::mem::take(&mut self.taken);
        for (set, _) in std::mem::take(&mut self.sets) {
            self.missed += 1;
            self.folded += 1;
            self.fold(set.changes.get(taken..).unwrap_or_default());
            taken = 0;
        }
    }

    /// What folded to nothing at all does not wait.
    fn forget_nothing(&mut self) {
        if self.net.is_empty() {
            self.folded = 0;
        }
    }

    /// Folds changes to one for each key; one that ends where it began is none.
    fn fold(&mut self, changes: &[Change]) {
        for change in changes {
            let old = match self.net.remove(&change.key) {
                Some(earlier) => earlier.old,
                None => change.old.clone(),
            };
            if text(&old) != text(&change.new) {
                let (key, new) = (change.key.clone(), change.new.clone());
                self.net.insert(key.clone(), Change { key, old, new });
            }
        }
    }
}

fn text(entry: &Option<Arc<Entry>>) -> Option<&str> {
    entry.as_ref().map(|entry| entry.as_json())
}

impl Source {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::State(state) if self.known.is_none() => {
                self.known = Some(Table::build(state.iter().cloned().collect()));
            }
            Event::State(state) => self.jump(state, 0),
            Event::Lagged { missed, state } => self.jump(state, *missed),
            Event::Changed(set) | Event::Resynced(set) => self.go_on(set),
        }
    }

    fn go_on(&mut self, set: &Arc<ChangeSet>) {
        let known = self.known.get_or_insert_default();
        for change in &set.changes {
            known.set(&change.key, change.new.clone());
        }
        if !set.changes.is_empty() {
            self.buffer.update(|waiting| waiting.add(set));
        }
    }

    /// Goes on from a later state: what changed on the way to it is told as one revision.
    fn jump(&mut self, state: &Arc<Snapshot>, missed: u64) {
        let now = Table::build(state.iter().cloned().collect());
        let changes = self.known.get_or_insert_default().difference(&now);
        self.known = Some(now);
        let (cursor, cause) = (state.cursor(), Cause::Resync);
        let set = ChangeSet {
            cursor,
            cause,
            changes,
        };
        self.buffer.update(|waiting| {
            waiting.missed += missed;
            if !set.changes.is_empty() {
                waiting.add(&Arc::new(set));
            }
        });
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.buffer.update(|waiting| waiting.ended = true);
    }
}

impl fmt::Debug for Buffer {
    /// Shows how much waits, never what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting();
        f.debug_struct("Buffer")
            .field("revisions", &waiting.sets.len())
            .field("folded", &waiting.net.len())
            .field("missed", &waiting.missed)
            .finish_non_exhaustive()
    }
}
