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
use crate::core::{Checksum, Cursor, Epoch, Key, Replica, Revision, Snapshot, shown as foreign};
use crate::error::{Error, Kind, Result};
use crate::status::{Mode as ShownMode, Status};
use crate::store::Recorded;
use crate::subscription::{Callback, Filter, Follow, SubscriptionId};
use crate::sync_config::Target;

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

    /// Waits until it is known whether notices arrive.
    pub(crate) async fn settled(&self) {
        let mut settled = self.settled.subscribe();
        // The sender lives as long as this engine.
        drop(settled.wait_for(|known| *known).await);
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.replica().next_deadline()
    }

    /// Counts writes that made a revision, and takes it in if it is known. Answers whether its epoch had been shown before.
    pub(crate) fn committed(&self, committed: Option<Committed>, writes: u64) -> bool {
        self.book.open().counters.writes += writes;
        let Some(committed) = committed else {
            return false;
        };
        let epoch = self.replica().shown_epoch(committed.epoch);
        let followed = self.shown.borrow().map(|cursor| cursor.epoch) == Some(epoch);
        self.feed(Input::Committed(committed));
        followed
    }

    /// A cursor of the database's as it is shown.
    pub(crate) fn shown(&self, stored: Cursor) -> Cursor {
        let epoch = self.replica().shown_epoch(stored.epoch);
        Cursor { epoch, ..stored }
    }

    /// A cursor that was shown as the database knows it.
    pub(crate) fn stored(&self, shown: Cursor) -> Cursor {
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

    /// Waits until reads show what the database answered a write with, at most until `deadline`. `followed` says that its
    /// epoch was shown before.
    pub(crate) async fn shows(
        &self,
        epoch: Epoch,
        revision: Revision,
        mut followed: bool,
        deadline: Duration,
    ) -> bool {
        let mut shown = self.shown.subscribe();
        let epoch = Some(self.replica().shown_epoch(epoch));
        let seen = async {
            loop {
                let cursor = *shown.borrow_and_update();
                followed |= cursor.map(|cursor| cursor.epoch) == epoch;
                match self.sought(Target { revision, epoch }).await {
                    // Its epoch was shown and has ended: what is shown now was read after the write.
                    Err(error) if error.is_other_epoch() && followed => return true,
                    // It stands on a newer history than the one shown, which is on its way.
                    Err(error) if error.is_other_epoch() && shown.changed().await.is_ok() => {}
                    // So it does where the history shown is known to be lost, though no epoch tells the two apart yet.
                    Ok(_)
                        if self.replica().shows_what_is_lost() && shown.changed().await.is_ok() => {
                    }
                    reached => return reached.is_ok(),
                }
            }
        };
        let left = deadline.saturating_sub(self.clock.now());
        self.clock.timeout(left, seen).await.unwrap_or(false)
    }

    /// Waits until reads show a revision of the database's, whose id is known: not another one of its number, which was lost.
    pub(crate) async fn reads(&self, cursor: Cursor) -> Result<()> {
        let mut shown = self.shown.subscribe();
        loop {
            self.sought(cursor.into()).await?;
            shown.borrow_and_update();
            {
                let replica = self.replica();
                if !replica.shows_what_is_lost() && !replica.contradicts(cursor) {
                    return Ok(());
                }
            }
            self.feed(Input::Look);
            if shown.changed().await.is_err() {
                return Err(Kind::Closed.into());
            }
        }
    }

    /// Asks the database for something, for no longer than a limit, and not beyond the end.
    pub(crate) async fn ask<T>(
        &self,
        what: &str,
        limit: Duration,
        asked: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            answer = self.clock.timeout(limit, asked) => {
                answer.unwrap_or_else(|_| Err(Error::unavailable(what, "no answer in time")))
            }
            _ = closed.wait_for(|closed| *closed) => Err(Kind::Closed.into()),
        }
    }

    /// Waits until a revision is shown.
    pub(crate) async fn reached(&self, target: Target) -> Result<Revision> {
        let mut shown = self.shown.subscribe();
        loop {
            let cursor = *shown.borrow_and_update();
            if let Some(cursor) = cursor {
                if target.epoch.is_some_and(|epoch| epoch != cursor.epoch) {
                    return Err(Kind::OtherEpoch {
                        wanted: target.revision,
                    }
                    .into());
                }
                if cursor.revision >= target.revision {
                    return Ok(cursor.revision);
                }
            }
            if shown.changed().await.is_err() {
                return Err(Kind::Closed.into());
            }
        }
    }

    /// Waits until a revision is shown, asking for it at once and then again and again, ever less often: notices may not
    /// arrive, and the next poll may be far. Nothing comes after the end.
    pub(crate) async fn sought(&self, target: Target) -> Result<Revision> {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            reached = self.asked_for(target) => reached,
            _ = closed.wait_for(|closed| *closed) => Err(Kind::Closed.into()),
        }
    }

    async fn asked_for(&self, target: Target) -> Result<Revision> {
        let mut pause = Duration::ZERO;
        loop {
            match self.clock.timeout(pause, self.reached(target)).await {
                Ok(reached) => return reached,
                Err(_) => {
                    pause = (pause * 2).clamp(Duration::from_millis(50), Duration::from_secs(2));
                }
            }
            self.feed(Input::Look);
        }
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
        let (stale, own_epoch) = (self.stale(&replica), replica.has_own_epoch());
        drop(replica);
        let cursor = shown.as_ref().map(|shown| shown.snapshot.cursor());
        let checksum = shown.as_ref().map(|shown| shown.checksum());
        let (mode, reason) = match mode {
            Mode::Push => (ShownMode::Push, own_epoch.then(|| OWN_EPOCH.to_owned())),
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
