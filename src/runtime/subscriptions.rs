//! Subscriptions: a bounded queue each, and threads that call back.
//!
//! Guarantees: events of a subscription are called back in revision order, one at a time; a slow, blocking or panicking
//! callback delays nobody else; a queue that overflows is told as lag with the state to go on from; once `remove` has
//! returned, no callback of the subscription starts.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::delivery::{Delivery, Job};
use crate::core::{ChangeSet, Snapshot};
use crate::subscription::{Callback, Event, Filter, SubscriptionId};

/// Revisions waiting for one subscriber: two seconds at 500 revisions a second.
const QUEUE: usize = 1_024;

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
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) panics: AtomicU64,
    pub(crate) lagged: AtomicU64,
}

struct Subscription {
    filter: Filter,
    queue: Mutex<Queue>,
    /// Locked by the thread that calls back, so never waited for by anyone else.
    callback: Mutex<Callback>,
    state: StateSource,
    tally: Arc<Tally>,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    /// Revisions dropped since the last event was taken.
    missed: u64,
    /// A thread is calling back or about to.
    busy: bool,
    closed: bool,
}

impl Subscriptions {
    pub(crate) fn new() -> Self {
        let all = Mutex::new(BTreeMap::new());
        Self {
            all,
            next: AtomicU64::new(1),
            delivery: Delivery::new(),
            tally: Arc::default(),
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
                .extend(first.map(|snapshot| Event::State(filter.narrow(snapshot))));
        }
        let subscription = Arc::new(Subscription {
            filter,
            queue: Mutex::new(queue),
            callback: Mutex::new(callback),
            state,
            tally: self.tally.clone(),
        });
        lock(&self.all).insert(id, subscription.clone());
        self.wake(&subscription);
        id
    }

    pub(crate) fn remove(&self, id: SubscriptionId) -> bool {
        let Some(subscription) = lock(&self.all).remove(&id) else {
            return false;
        };
        subscription.close();
        true
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.all).len()
    }

    /// Tells everyone concerned. Called in revision order, under the engine's lock.
    pub(crate) fn publish(&self, event: &Event) {
        let subscriptions: Vec<_> = lock(&self.all).values().cloned().collect();
        for subscription in subscriptions {
            if subscription.offer(event) {
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
    pub(crate) fn close(&self) {
        let all = std::mem::take(&mut *lock(&self.all));
        for subscription in all.values() {
            subscription.close();
        }
        self.delivery.close();
    }
}

impl Subscription {
    /// Queues an event if it concerns this subscription. True if there may be something to call back.
    fn offer(&self, event: &Event) -> bool {
        let event = match event {
            Event::Changed(set) => match self.filter.apply(set) {
                Some(set) => Event::Changed(set),
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
        let mut queue = lock(&self.queue);
        if queue.missed > 0 || queue.events.len() >= QUEUE {
            queue.missed += 1;
        } else {
            queue.events.push_back(event);
        }
        true
    }

    /// The next event to call back; `None` leaves the subscription idle.
    fn next(&self) -> Option<Event> {
        let mut queue = lock(&self.queue);
        if queue.closed {
            return None;
        }
        if let Some(event) = queue.events.pop_front() {
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
            let missed = std::mem::take(&mut queue.missed) + queue.events.drain(..).len() as u64;
            event = Some(Event::Lagged {
                missed,
                state: self.filter.narrow(&snapshot),
            });
        });
        self.tally.lagged.fetch_add(1, Ordering::Relaxed);
        event
    }

    fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        queue.events.clear();
    }
}

impl Job for Subscription {
    fn run(&self) {
        while let Some(event) = self.next() {
            let mut callback = lock(&self.callback);
            if catch_unwind(AssertUnwindSafe(|| callback(&event))).is_err() {
                self.tally.panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!("a subscriber's callback panicked; the subscription goes on");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
