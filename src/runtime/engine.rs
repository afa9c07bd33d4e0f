//! The engine: the core behind a lock, with everything that is served from memory.
//!
//! Guarantees: inputs are handled one at a time; what they publish has reached the cache, the waiters and the
//! subscribers' queues before the next input is handled.

#[cfg(feature = "server")]
mod glance;
mod kept;
#[cfg(feature = "server")]
mod past;
mod publishing;
#[cfg(feature = "testing")]
mod tested;
mod under_way;
#[cfg(feature = "server")]
mod vitals;
mod waiting;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, mpsc, oneshot, watch};

#[cfg(feature = "server")]
pub(crate) use self::glance::Glance;
use super::book::{Book, OWN_EPOCH};
use super::cache::Cache;
use super::clock::Clock;
use super::followers::Followers;
use super::news::News;
use super::subscriptions::{StateSource, Subscriptions};
use crate::core::replica::{Action, Committed, Config, Input, Mode};
use crate::core::{Checksum, Cursor, Key, Replica, Revision, Snapshot, shown as foreign};
use crate::error::{Error, Kind, Result};
use crate::status::{Mode as ShownMode, Status};
use crate::store::Recorded;
use crate::subscription::{Callback, Filter, Follow, SubscriptionId};

#[cfg(feature = "server")]
pub(crate) use vitals::Vitals;

pub(crate) struct Engine {
    pub(crate) clock: Clock,
    pub(crate) cache: Cache,
    pub(crate) book: Book,
    /// The driver looks at the core's deadlines again.
    pub(crate) rescheduled: Notify,
    pub(crate) subscriptions: Subscriptions,
    followers: Followers,
    instance: u64,
    store: String,
    replica: Mutex<Replica>,
    /// The state now, once somebody has asked for it; gone with the next revision.
    snapshot: ArcSwapOption<Shown>,
    shown: watch::Sender<Option<Cursor>>,
    /// Whether it is known if notices arrive.
    settled: watch::Sender<bool>,
    closed: watch::Sender<bool>,
    actions: mpsc::UnboundedSender<Action>,
    /// Transactions of this instance's that are under way.
    writing: AtomicUsize,
    resyncs: Mutex<Resyncs>,
}

/// The state at a revision, and its checksum once somebody has asked for that.
struct Shown {
    snapshot: Arc<Snapshot>,
    checksum: OnceLock<Checksum>,
}

impl Shown {
    fn new(snapshot: Arc<Snapshot>) -> Arc<Self> {
        let checksum = OnceLock::new();
        Arc::new(Self { snapshot, checksum })
    }

    /// Folds the state once; whoever asks meanwhile waits for that. Called without the engine's lock, which a large
    /// table's fold would hold for long.
    fn checksum(&self) -> Checksum {
        *self.checksum.get_or_init(|| self.snapshot.checksum())
    }
}

#[derive(Default)]
struct Resyncs {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<usize>>,
}

impl Engine {
    /// Makes an engine, and the queue of actions that a driver runs. The queue is bounded by the core: it has at most
    /// one query in flight and a handful of notices for each interval.
    pub(crate) fn new(
        config: Config,
        seed: u64,
        store: String,
        clock: Clock,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Action>) {
        let (actions, queue) = mpsc::unbounded_channel();
        let instance = config.instance;
        let replica = Replica::new(config, seed, clock.now());
        let subscriptions = Subscriptions::new(clock.clone());
        let engine = Self {
            clock,
            cache: Cache::new(),
            book: Book::default(),
            rescheduled: Notify::new(),
            subscriptions,
            followers: Followers::default(),
            instance,
            store,
            replica: Mutex::new(replica),
            snapshot: ArcSwapOption::empty(),
            shown: watch::Sender::new(None),
            settled: watch::Sender::new(false),
            closed: watch::Sender::new(false),
            actions,
            writing: AtomicUsize::new(0),
            resyncs: Mutex::default(),
        };
        (Arc::new(engine), queue)
    }

    /// Hands something that happened to the core and carries out what it publishes.
    pub(crate) fn feed(&self, input: Input) {
        // Whoever waits for a revision is woken once for all of a page, not a thousand times.
        let many = matches!(&input, Input::Page { page, .. } if page.revisions.len() > 1);
        let mut replica = self.replica();
        let lost = replica.shows_what_is_lost();
        replica.handle(self.clock.now(), input);
        while let Some(action) = replica.next_action() {
            match action {
                Action::Publish(publication) => self.publish(publication, !many),
                Action::Tell(told) => self.book.note(&told, self.clock.wall()),
                Action::ResyncDone { tickets, changed } => self.resync_done(&tickets, changed),
                // Without a driver nobody runs actions any more.
                action => drop(self.actions.send(action)),
            }
        }
        // What is shown may be found in the database after all, which is nothing to publish.
        let found = lost && !replica.shows_what_is_lost();
        if many || found {
            self.shown.send_modify(|_| {});
        }
        let settled = replica.settled();
        drop(replica);
        self.settled
            .send_if_modified(|known| std::mem::replace(known, settled) != settled);
        self.rescheduled.notify_one();
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.replica().next_deadline()
    }

    /// Counts writes that made a revision, and takes it in if it is known.
    pub(crate) fn committed(&self, committed: Option<Committed>, writes: u64) {
        self.book.open().counters.writes += writes;
        if let Some(committed) = committed {
            self.feed(Input::Committed(committed));
        }
    }

    /// A cursor of the database's as it is shown.
    pub(crate) fn as_shown(&self, stored: Cursor) -> Cursor {
        let epoch = self.replica().shown_epoch(stored.epoch);
        Cursor { epoch, ..stored }
    }

    /// A cursor that was shown as the database knows it.
    pub(crate) fn as_stored(&self, shown: Cursor) -> Cursor {
        let epoch = self.replica().stored_epoch(shown.epoch);
        Cursor { epoch, ..shown }
    }

    /// Revisions of the database's journal, likewise.
    pub(crate) fn recorded(&self, mut stored: Vec<Recorded>) -> Vec<Recorded> {
        let replica = self.replica();
        for recorded in &mut stored {
            recorded.cursor.epoch = replica.shown_epoch(recorded.cursor.epoch);
        }
        stored
    }

    /// Tells of every revision that is shown from now on.
    pub(crate) fn news(&self) -> News {
        News::new(self.shown.subscribe(), self.closed.subscribe())
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Asks for a full resync and waits for its end.
    pub(crate) async fn resync(&self) -> Result<usize> {
        let (done, wait) = oneshot::channel();
        let ticket = {
            let mut resyncs = lock(&self.resyncs);
            resyncs.next += 1;
            let ticket = resyncs.next;
            resyncs.waiting.retain(|_, waiting| !waiting.is_closed());
            resyncs.waiting.insert(ticket, done);
            ticket
        };
        self.feed(Input::ResyncAsked { ticket });
        // Asked for during the end, after which nobody answers.
        if *self.closed.borrow() {
            return Err(Kind::Closed.into());
        }
        wait.await.map_err(|_| Error::from(Kind::Closed))
    }

    pub(crate) fn snapshot(&self) -> Result<Arc<Snapshot>> {
        Ok(self.shown_now()?.snapshot.clone())
    }

    fn shown_now(&self) -> Result<Arc<Shown>> {
        let asked_before = self.snapshot.load_full();
        asked_before
            .or_else(|| self.current(&self.replica()))
            .ok_or_else(|| Kind::NotReady.into())
    }

    #[cfg(feature = "server")]
    pub(crate) fn shows_what_is_lost(&self) -> bool {
        self.replica().shows_what_is_lost()
    }

    #[cfg(feature = "server")]
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        *self.shown.borrow()
    }

    pub(crate) fn checksum(&self) -> Result<Checksum> {
        Ok(self.shown_now()?.checksum())
    }

    /// Subscribes. The state a subscription begins with and the first change it hears are neighbours.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        filter: Filter,
        callback: Callback,
    ) -> SubscriptionId {
        let engine = Arc::downgrade(self);
        let state: StateSource = Arc::new(move |take| {
            if let Some(engine) = engine.upgrade() {
                let replica = engine.replica();
                if let Some(shown) = engine.current(&replica) {
                    take(shown.snapshot.clone());
                }
            }
        });
        self.subscriptions.prepare();
        let replica = self.replica();
        let first = if filter.state {
            self.current(&replica)
        } else {
            None
        };
        self.subscriptions.add(
            filter,
            callback,
            state,
            first.as_deref().map(|shown| &shown.snapshot),
        )
    }

    /// Shows a follower the key's entry now, and every later one before whoever waits for its revision is woken.
    pub(crate) fn follow(&self, key: Key, follower: Weak<dyn Follow>) {
        let replica = self.replica();
        self.followers.add(key.clone(), follower.clone());
        if self.cache.ready() {
            let entry = self.cache.get(&key);
            self.note_rejected(Followers::show(&follower, entry.as_ref()).into());
        }
        drop(replica);
    }

    fn note_rejected(&self, rejected: u64) {
        if rejected > 0 {
            self.book.open().counters.rejected_values += rejected;
        }
    }

    pub(crate) fn status(&self) -> Status {
        let replica = self.replica();
        let shown = self.current(&replica);
        let (entries, proven, mode) = (replica.len(), replica.proven_at(), replica.mode());
        let stale = self.stale(&replica);
        let own_epoch = replica.has_own_epoch().then(|| OWN_EPOCH.to_owned());
        let advice = own_epoch.or_else(|| replica.part().map(str::to_owned));
        drop(replica);
        let cursor = shown.as_ref().map(|shown| shown.snapshot.cursor());
        let checksum = shown.as_ref().map(|shown| shown.checksum());
        let (mode, reason) = match mode {
            Mode::Push => (ShownMode::Push, advice),
            Mode::Poll { why } => (ShownMode::Poll, Some(foreign(&why).to_string())),
            Mode::Offline { why } => (ShownMode::Offline, Some(foreign(&why).to_string())),
        };
        let pages = self.book.open();
        let (heartbeat, mut counters) = (pages.heartbeat.clone(), pages.counters.clone());
        let slow_consumers = pages.slow_consumers.clone();
        let state_file = pages.state_file.clone();
        drop(pages);
        counters.callback_panics = self.subscriptions.tally.panics.load(Ordering::Relaxed);
        counters.subscribers_lagged = self.subscriptions.tally.lagged.load(Ordering::Relaxed);
        Status {
            instance: format!("{:016x}", self.instance),
            store: self.store.clone(),
            ready: cursor.is_some(),
            epoch: cursor.map(|cursor| cursor.epoch),
            revision: cursor.map_or(Revision::ZERO, |cursor| cursor.revision),
            checksum,
            entries,
            mode,
            reason,
            proven_at: proven.map(|at| self.clock.wall_at(at)),
            stale,
            state_file,
            heartbeat,
            counters,
            subscriptions: self.subscriptions.len(),
            slow_consumers,
            slow_subscribers: self.subscriptions.slow(),
        }
    }

    /// Ends what waits: subscribers, and whoever waits for a revision or a resync that will not come.
    pub(crate) async fn close(&self) {
        self.closed.send_replace(true);
        lock(&self.resyncs).waiting.clear();
        self.subscriptions.close().await;
    }

    fn resync_done(&self, tickets: &[u64], changed: usize) {
        let mut resyncs = lock(&self.resyncs);
        for ticket in tickets {
            if let Some(waiting) = resyncs.waiting.remove(ticket) {
                // Whoever asked may have stopped waiting.
                let _gone = waiting.send(changed);
            }
        }
    }

    /// The state now, built once for each revision. Whoever holds the replica keeps newer revisions back.
    fn current(&self, replica: &Replica) -> Option<Arc<Shown>> {
        let asked_before = self.snapshot.load_full();
        if asked_before.is_some() {
            return asked_before;
        }
        let built = replica.entries().map(Arc::new).map(Shown::new);
        self.snapshot.store(built.clone());
        built
    }

    fn replica(&self) -> MutexGuard<'_, Replica> {
        lock(&self.replica)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
