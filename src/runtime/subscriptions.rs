//! Subscriptions: a bounded queue each, and threads that call back.
//!
//! Guarantees: events of a subscription are called back in revision order, one at a time; a slow, blocking or panicking
//! callback delays nobody else, unless as many block at once as there may be threads; a queue that overflows is told as lag
//! with the state to go on from; once `remove` has returned, no callback of the subscription starts.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::clock::Clock;
use super::delivery::{Delivery, Job};
use crate::core::{ChangeSet, Snapshot};
use crate::status::{MAX_NAMED, SlowSubscriber};
use crate::subscription::{Callback, Event, Filter, SubscriptionId};

/// Revisions waiting for one subscriber: two seconds at 500 revisions a second.
const QUEUE: usize = 1_024;

/// Bytes of changes waiting for one subscriber. A single revision may be larger.
const QUEUE_BYTES: usize = 32 << 20;

/// How long a subscriber that lagged is named: the default heartbeat, so that who looks that often sees it.
const LATELY: Duration = Duration::from_secs(300);

/// A callback that has run for longer is named: it should hand long work to somebody else.
const LONG_CALL: Duration = Duration::from_secs(5);

/// Gives the state at the newest revision while holding back newer ones.
pub(crate) type StateSource = Arc<dyn Fn(&mut dyn FnMut(Arc<Snapshot>)) + Send + Sync>;

/// All subscriptions of an instance.
pub(crate) struct Subscriptions {
    all: Mutex<BTreeMap<SubscriptionId, Arc<Subscription>>>,
    next: AtomicU64,
    delivery: Delivery,
    pub(crate) tally: Arc<Tally>,
}

/// What subscribers went through.
#[derive(Debug)]
pub(crate) struct Tally {
    clock: Clock,
    pub(crate) panics: AtomicU64,
    pub(crate) lagged: AtomicU64,
}

struct Subscription {
    filter: Filter,
    queue: Mutex<Queue>,
    /// Whoever ends the subscription need not wait any longer.
    called: Condvar,
    /// Locked by the thread that calls back, so never waited for by anyone else.
    callback: Mutex<Callback>,
    state: StateSource,
    tally: Arc<Tally>,
}

#[derive(Default)]
struct Queue {
    /// Each with its weight.
    events: VecDeque<(Event, usize)>,
    /// What they weigh together.
    bytes: usize,
    /// Revisions dropped since the last event was taken.
    missed: u64,
    /// When it was last told of such.
    lagged_at: Option<SystemTime>,
    /// A thread is calling back or about to.
    busy: bool,
    call: Call,
    /// When the callback that runs was called.
    called_at: Option<Duration>,
    closed: bool,
}

/// What is known of an event that was taken out of the queue.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Call {
    /// The callback has returned; or nothing was taken yet.
    #[default]
    Over,
    /// The callback runs or is about to start.
    Running,
    /// The callback waits for the end of another subscription's: so it has started.
    Waiting,
}

thread_local! {
    /// The subscription that this thread calls back.
    static CALLING: RefCell<Option<Arc<Subscription>>> = const { RefCell::new(None) };
}

impl Subscriptions {
    pub(crate) fn new(clock: Clock) -> Self {
        let all = Mutex::new(BTreeMap::new());
        let tally = Tally {
            clock,
            panics: AtomicU64::new(0),
            lagged: AtomicU64::new(0),
        };
        Self {
            all,
            next: AtomicU64::new(1),
            delivery: Delivery::new(),
            tally: Arc::new(tally),
        }
    }

    /// Adds a subscription. The caller holds the engine's lock, so that no revision slips between `first` and the next.
    pub(crate) fn add(
        &self,
        filter: Filter,
        callback: Callback,
        state: StateSource,
        first: Option<&Arc<Snapshot>>,
    ) -> SubscriptionId {
        let id = SubscriptionId(self.next.fetch_add(1, Ordering::Relaxed));
        let mut queue = Queue::default();
        if filter.state {
            queue
                .events
                .extend(first.map(|snapshot| (Event::State(filter.narrow(snapshot)), 0)));
        }
        let subscription = Arc::new(Subscription {
            filter,
            queue: Mutex::new(queue),
            called: Condvar::new(),
            callback: Mutex::new(callback),
            state,
            tally: self.tally.clone(),
        });
        lock(&self.all).insert(id, subscription.clone());
        self.wake(&subscription);
        id
    }

    /// Makes ready to call back. Before the engine's lock is taken, since it may start a thread.
    pub(crate) fn prepare(&self) {
        self.delivery.prepare();
    }

    /// Ends a subscription, and waits for its callback if that is running. The caller holds no lock.
    pub(crate) fn remove(&self, id: SubscriptionId) -> bool {
        let removed = self.take(id);
        if let Some(subscription) = &removed {
            subscription.wait_for_call();
        }
        removed.is_some()
    }

    /// Ends a subscription. A callback that runs, or is about to, goes on.
    pub(crate) fn release(&self, id: SubscriptionId) -> bool {
        self.take(id).is_some()
    }

    fn take(&self, id: SubscriptionId) -> Option<Arc<Subscription>> {
        let removed = lock(&self.all).remove(&id);
        if let Some(subscription) = &removed {
            subscription.close();
        }
        removed
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.all).len()
    }

    /// Those that are slow, the fullest first.
    pub(crate) fn slow(&self) -> Vec<SlowSubscriber> {
        let (all, now) = (lock(&self.all), self.tally.clock.wall());
        let slow = all.iter().filter_map(|(id, one)| one.slow(*id, now));
        let mut slow: Vec<SlowSubscriber> = slow.collect();
        drop(all);
        slow.sort_by_key(|slow| std::cmp::Reverse((slow.missed, slow.queued)));
        slow.truncate(MAX_NAMED);
        slow
    }

    /// Whether no event waits and every callback has returned.
    #[cfg(feature = "testing")]
    pub(crate) fn at_ease(&self) -> bool {
        let idle = |subscription: &Arc<Subscription>| !lock(&subscription.queue).busy;
        lock(&self.all).values().all(idle)
    }

    /// Tells everyone concerned. Called in revision order, under the engine's lock.
    pub(crate) fn publish(&self, event: &Event) {
        self.publish_exactly(event, event);
    }

    /// The same, with another event for those who want to hear of every revision.
    pub(crate) fn publish_exactly(&self, event: &Event, exact: &Event) {
        let subscriptions: Vec<_> = lock(&self.all).values().cloned().collect();
        let whole = if subscriptions.is_empty() {
            0
        } else {
            weight(event)
        };
        for subscription in subscriptions {
            let every = subscription.filter.every;
            let event = if every { exact } else { event };
            if subscription.offer(event, whole) {
                self.wake(&subscription);
            }
        }
    }

    fn wake(&self, subscription: &Arc<Subscription>) {
        let mut queue = lock(&subscription.queue);
        let idle = !queue.busy && !queue.events.is_empty() && !queue.closed;
        queue.busy |= idle;
        drop(queue);
        if idle {
            self.delivery.run(subscription.clone());
        }
    }

    /// Ends every subscription and waits until no thread calls back, at most a moment: a callback that never returns is
    /// left behind and named in the log.
    pub(crate) async fn close(&self) {
        let all = std::mem::take(&mut *lock(&self.all));
        for subscription in all.values() {
            subscription.close();
        }
        drop(all);
        self.delivery.close().await;
    }
}

impl Subscription {
    /// Queues an event, which weighs so much, if it concerns this subscription. True if there may be something to call
    /// back.
    fn offer(&self, whole: &Event, weighs: usize) -> bool {
        let event = match whole {
            Event::Changed(set) => match self.filter.apply(set) {
                Some(set) => Event::Changed(set),
                None if self.filter.every => Event::Changed(set.clone()),
                None => return false,
            },
            Event::Resynced(set) => {
                let nothing = || {
                    Arc::new(ChangeSet {
                        changes: Vec::new(),
                        ..**set
                    })
                };
                Event::Resynced(self.filter.apply(set).unwrap_or_else(nothing))
            }
            Event::State(state) if self.filter.state => Event::State(self.filter.narrow(state)),
            Event::State(_) | Event::Lagged { .. } => return false,
        };
        let weighs = if shares(&event, whole) {
            weighs
        } else {
            weight(&event)
        };
        let mut queue = lock(&self.queue);
        let full = queue.events.len() >= QUEUE
            || !queue.events.is_empty() && queue.bytes + weighs > QUEUE_BYTES;
        if queue.missed > 0 || full {
            queue.missed += 1;
        } else {
            queue.bytes += weighs;
            queue.events.push_back((event, weighs));
        }
        true
    }

    /// The next event to call back, which is running from here on; `None` leaves the subscription idle.
    fn next(&self) -> Option<Event> {
        let mut queue = lock(&self.queue);
        if queue.closed {
            return None;
        }
        if let Some((event, weighs)) = queue.events.pop_front() {
            queue.bytes -= weighs;
            self.calls(&mut queue);
            return Some(event);
        }
        if queue.missed == 0 {
            queue.busy = false;
            return None;
        }
        drop(queue);
        self.after_lag()
    }

    /// Takes the state that the dropped revisions led to. New revisions wait meanwhile, so exactly the next one follows.
    fn after_lag(&self) -> Option<Event> {
        let mut event = None;
        (self.state)(&mut |snapshot| {
            let mut queue = lock(&self.queue);
            if queue.closed {
                return;
            }
            self.calls(&mut queue);
            queue.lagged_at = Some(self.tally.clock.wall());
            let missed = std::mem::take(&mut queue.missed) + queue.events.drain(..).len() as u64;
            queue.bytes = 0;
            event = Some(Event::Lagged {
                missed,
                state: self.filter.narrow(&snapshot),
            });
        });
        if event.is_some() {
            self.tally.lagged.fetch_add(1, Ordering::Relaxed);
        }
        event
    }

    fn calls(&self, queue: &mut Queue) {
        queue.call = Call::Running;
        queue.called_at = Some(self.tally.clock.now());
    }

    /// How it is slow, if it is.
    fn slow(&self, id: SubscriptionId, now: SystemTime) -> Option<SlowSubscriber> {
        let (behind, filling_behind) = self.filter.behind();
        let queue = lock(&self.queue);
        let filling =
            queue.events.len() > QUEUE / 2 || queue.bytes > QUEUE_BYTES / 2 || filling_behind;
        let lagged_at = queue.lagged_at.filter(|at| *at + LATELY > now);
        let long = |at: &Duration| *at + LONG_CALL < self.tally.clock.now();
        let running_since = queue.called_at.filter(long);
        let slow = filling || queue.missed > 0 || lagged_at.is_some() || running_since.is_some();
        slow.then(|| SlowSubscriber {
            id,
            name: self.filter.name.clone(),
            queued: (queue.events.len() + behind) as u64,
            missed: queue.missed,
            lagged_at,
            running_since: running_since.map(|at| self.tally.clock.wall_at(at)),
        })
    }

    fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        queue.events.clear();
        queue.bytes = 0;
    }

    /// Waits until a callback that was about to start has returned, so that none starts afterwards. Not within itself, and
    /// not while it waits here for another one: two callbacks may end each other's subscriptions.
    fn wait_for_call(self: &Arc<Self>) {
        let waiter = CALLING.with_borrow(Clone::clone);
        if waiter.as_ref().is_some_and(|own| Arc::ptr_eq(own, self)) {
            return;
        }
        if let Some(waiter) = &waiter {
            waiter.note(Call::Waiting);
        }
        let queue = lock(&self.queue);
        let called = self
            .called
            .wait_while(queue, |queue| queue.call == Call::Running);
        drop(called);
        if let Some(waiter) = &waiter {
            waiter.note(Call::Running);
        }
    }

    fn note(&self, call: Call) {
        let mut queue = lock(&self.queue);
        queue.call = call;
        if call == Call::Over {
            queue.called_at = None;
        }
        drop(queue);
        self.called.notify_all();
    }
}

impl Job for Subscription {
    fn step(self: Arc<Self>) -> bool {
        let Some(event) = self.next() else {
            return false;
        };
        CALLING.set(Some(self.clone()));
        let mut callback = lock(&self.callback);
        if catch_unwind(AssertUnwindSafe(|| callback(&event))).is_err() {
            self.tally.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a subscriber's callback panicked; the subscription goes on");
        }
        drop(callback);
        CALLING.set(None);
        self.note(Call::Over);
        true
    }
}

/// How much memory a waiting event may hold that would be free without it. A state is the table's own, mostly.
fn weight(event: &Event) -> usize {
    match event {
        Event::Changed(set) | Event::Resynced(set) => set.weight(),
        Event::State(_) | Event::Lagged { .. } => 0,
    }
}

/// Whether both hold the same set, so that it need not be weighed again.
fn shares(one: &Event, other: &Event) -> bool {
    match (one, other) {
        (Event::Changed(one), Event::Changed(other))
        | (Event::Resynced(one), Event::Resynced(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
