//! What every client of this server is told, heard once.
//!
//! Guarantees: one subscription to the store for all clients; a client is woken when there is a revision for it and not for
//! others, and finds every revision in the ring, or learns that it has to go another way. The subscription's callback never
//! waits for a client.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use axum::body::Bytes;
use tokio::sync::watch;

use super::frames::Framing;
use super::interest::Interest;
use super::ring::{After, Ring};
use super::told::Told;
use crate::core::Cursor;
use crate::error::Result;
use crate::runtime::Clock;
use crate::service::ConfigService;
use crate::store::Recorded;
use crate::subscription::{Event, Filter, SubscriptionId};
use crate::sync_config::{SyncConfig, SyncConfigExt};

/// Encoded states that are kept: each of half a MiB at most before it is encoded.
const STATES: usize = 8;

/// Clients that are concerned by the same revisions.
pub(super) struct Channel {
    interest: Interest,
    all: bool,
    /// The place of the newest revision that concerns them, or a later one.
    last: AtomicU64,
    wake: watch::Sender<()>,
}

/// What all clients have in common.
pub(super) struct Hub {
    clock: Clock,
    inner: Mutex<Inner>,
    /// Notified whenever the end has moved; true when it will not move again.
    head: watch::Sender<bool>,
    /// The newest states that were encoded, for those that come at the same time.
    states: Mutex<VecDeque<Encoded>>,
}

/// A state as clients of one channel begin with it.
struct Encoded {
    channel: Weak<Channel>,
    framing: Framing,
    /// Of both stores that the clients are told of.
    place: String,
    frames: Arc<[Bytes]>,
}

struct Inner {
    ring: Ring,
    channels: HashMap<(Interest, bool), Weak<Channel>>,
    /// How many channels there were after the last look for those that nobody uses.
    used: usize,
}

/// The hub's subscription, ended with this value.
pub(super) struct Hearing {
    service: Arc<ConfigService>,
    id: SubscriptionId,
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.service.unsubscribe(self.id);
    }
}

/// Closes the hub when the store lets go of the callback.
struct Ear(Arc<Hub>);

impl Drop for Ear {
    fn drop(&mut self) {
        // Whoever waits for the first state finds nobody who could tell it.
        self.0.close();
    }
}

/// A place among the revisions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) at: u64,
    /// The revision before it.
    pub(super) cursor: Cursor,
}

impl Hub {
    /// Subscribes to a store.
    pub(super) fn open(service: &Arc<ConfigService>, name: &str) -> Result<(Arc<Self>, Hearing)> {
        let hub = Arc::new(Self {
            clock: service.clock().clone(),
            inner: Mutex::new(Inner {
                ring: Ring::new(),
                channels: HashMap::new(),
                used: 0,
            }),
            head: watch::Sender::new(false),
            states: Mutex::default(),
        });
        let ear = Ear(hub.clone());
        let filter = Filter::all().with_state().every().named(name);
        let id = service.on_change(filter, move |event| ear.0.hear(event))?;
        let service = service.clone();
        Ok((hub, Hearing { service, id }))
    }

    /// The end of the revisions; waits for the first state. `None` when there will be none.
    pub(super) async fn end(&self) -> Option<Place> {
        self.end_where(|_| true).await
    }

    /// The end as soon as it is as wanted.
    pub(super) async fn end_where(&self, wanted: impl Fn(Cursor) -> bool) -> Option<Place> {
        let mut moved = self.head.subscribe();
        loop {
            let closed = *moved.borrow_and_update();
            if let Some(place) = self.end_now().filter(|end| wanted(end.cursor)) {
                return Some(place);
            }
            if closed || moved.changed().await.is_err() {
                return None;
            }
        }
    }

    pub(super) fn end_now(&self) -> Option<Place> {
        let inner = self.lock();
        let cursor = inner.ring.head()?;
        let at = inner.ring.end();
        Some(Place { at, cursor })
    }

    /// The place after a revision that is still known here.
    pub(super) fn place(&self, cursor: Cursor) -> Option<Place> {
        let at = self.lock().ring.place(cursor)?;
        Some(Place { at, cursor })
    }

    /// What the journal has to lead to so that the ring goes on from there.
    pub(super) fn base(&self) -> Option<Cursor> {
        self.lock().ring.base()
    }

    /// Keeps revisions that the journal had, for others that come from as far behind.
    pub(super) fn remember(&self, older: Vec<Recorded>, before: Cursor) {
        let at = self.clock.wall();
        let told: Vec<_> = older
            .into_iter()
            .map(|recorded| Arc::new(Told::recorded(recorded, at)))
            .collect();
        self.lock().ring.extend_back(&told, before);
    }

    /// Reads on from a place.
    pub(super) fn after(&self, place: u64, most: usize, into: &mut Vec<Arc<Told>>) -> After {
        self.lock().ring.after(place, most, into)
    }

    /// Passes over what does not concern a channel: the end, if nothing from `place` on does.
    pub(super) fn skip(&self, channel: &Channel, place: u64) -> Option<Place> {
        let inner = self.lock();
        // Written under this lock.
        if channel.last.load(Ordering::Relaxed) >= place {
            return None;
        }
        let cursor = inner.ring.head()?;
        let at = inner.ring.end();
        Some(Place { at, cursor })
    }

    /// A state that was encoded for others of the channel.
    pub(super) fn encoded(
        &self,
        channel: &Arc<Channel>,
        framing: Framing,
        place: &str,
    ) -> Option<Arc<[Bytes]>> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |state: &&Encoded| {
            state.place == place
                && state.framing == framing
                && std::ptr::eq(state.channel.as_ptr(), Arc::as_ptr(channel))
        };
        Some(states.iter().find(same)?.frames.clone())
    }

    /// Keeps an encoded state for others of the channel.
    pub(super) fn keep(
        &self,
        channel: &Arc<Channel>,
        framing: Framing,
        place: String,
        frames: Arc<[Bytes]>,
    ) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if states.len() >= STATES {
            states.pop_front();
        }
        states.push_back(Encoded {
            channel: Arc::downgrade(channel),
            framing,
            place,
            frames,
        });
    }

    /// The channel of an interest.
    pub(super) fn channel(&self, interest: Interest, all: bool) -> Arc<Channel> {
        let mut inner = self.lock();
        let named = (interest, all);
        if let Some(channel) = inner.channels.get(&named).and_then(Weak::upgrade) {
            return channel;
        }
        // As many again may come before those that are gone are looked for: each costs a constant.
        if inner.channels.len() > 2 * inner.used {
            inner
                .channels
                .retain(|_, channel| channel.strong_count() > 0);
            inner.used = inner.channels.len();
        }
        let channel = Arc::new(Channel {
            interest: named.0.clone(),
            all,
            // Those that are here may concern it.
            last: AtomicU64::new(inner.ring.end().saturating_sub(1)),
            wake: watch::Sender::new(()),
        });
        inner.channels.insert(named, Arc::downgrade(&channel));
        channel
    }

    fn hear(&self, event: &Event) {
        let mut inner = self.lock();
        let woken = match event {
            Event::Changed(set) => {
                let told = Arc::new(Told::applied(set.clone(), self.clock.wall()));
                inner.ring.push(told.clone());
                inner.concern(|channel| channel.all || told.concerns(&channel.interest))
            }
            // The state is what it was; only a new epoch has to be told.
            Event::Resynced(set)
                if set.changes().is_empty() && inner.ring.head() == Some(set.cursor()) =>
            {
                return;
            }
            Event::Resynced(set) => {
                inner.ring.break_off(set.cursor());
                inner.concern(|_| true)
            }
            Event::State(state) => {
                inner.ring.break_off(state.cursor());
                inner.concern(|_| true)
            }
            // This server was too slow, not the past another one.
            Event::Lagged { state, .. } => {
                inner.ring.begin(Some(state.cursor()));
                inner.concern(|_| true)
            }
        };
        drop(inner);
        for channel in woken {
            channel.wake.send_replace(());
        }
        self.head.send_modify(|_| {});
    }

    fn close(&self) {
        self.head.send_replace(true);
        let channels: Vec<_> = self
            .lock()
            .channels
            .values()
            .filter_map(Weak::upgrade)
            .collect();
        for channel in channels {
            channel.wake.send_replace(());
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.head.borrow()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Notes the newest revision for the channels that it concerns.
    fn concern(&mut self, concerned: impl Fn(&Channel) -> bool) -> Vec<Arc<Channel>> {
        let newest = self.ring.end().saturating_sub(1);
        let used = self.channels.values().filter_map(Weak::upgrade);
        let concerned: Vec<_> = used.filter(|channel| concerned(channel)).collect();
        for channel in &concerned {
            channel.last.store(newest, Ordering::Release);
        }
        concerned
    }
}

impl Channel {
    pub(super) fn interest(&self) -> &Interest {
        &self.interest
    }

    pub(super) fn all(&self) -> bool {
        self.all
    }

    /// The place of the newest revision that concerns them, or a later one. Whoever is woken finds what he was woken for.
    pub(super) fn newest(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// Tells when there may be something new.
    pub(super) fn woken(&self) -> watch::Receiver<()> {
        self.wake.subscribe()
    }
}
