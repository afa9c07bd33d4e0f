//! The connections that are open, and what was delivered over all of them.
//!
//! Guarantees: at most as many connections as were allowed; a connection is listed until it has ended, however it ends; an
//! acknowledgement is kept for its connection and for its client, also while that is away, for [`REMEMBERED`] clients.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::asked::Asked;
use super::hub::{Channel, Hub};
use crate::runtime::Clock;
use crate::server::metrics::Open as Counted;

/// Clients without a connection whose acknowledgement is kept.
const REMEMBERED: usize = 10_000;

/// No revision has been acknowledged, or told.
const NONE: u64 = u64::MAX;

/// All connections.
pub(super) struct Registry {
    clock: Clock,
    most: usize,
    inner: Mutex<Inner>,
    /// The last connection has ended.
    empty: Notify,
    sent: AtomicU64,
    failed: AtomicU64,
}

#[derive(Default)]
struct Inner {
    next: u64,
    open: HashMap<u64, Arc<Open>>,
    /// What clients that are away have acknowledged, and when they left.
    away: HashMap<Arc<str>, (u64, Duration)>,
    last_failure: Option<(SystemTime, &'static str)>,
}

/// What is known of an open connection.
pub(super) struct Open {
    id: String,
    client: Arc<str>,
    named: bool,
    transport: &'static str,
    connected_at: SystemTime,
    /// When the client was last heard of, by the server's clock.
    heard: AtomicU64,
    revision: AtomicU64,
    /// The place of the next revision for it; 0 while the journal is read.
    at: AtomicU64,
    channel: OnceLock<Arc<Channel>>,
    applied: AtomicU64,
    /// The newest event that it has acknowledged.
    dealt_with: AtomicU64,
    falls: AtomicU64,
    counted: Counted,
}

/// An open connection's place, free again when this is dropped.
pub(super) struct Admitted {
    registry: Arc<Registry>,
    number: u64,
    pub(super) open: Arc<Open>,
}

/// What statistics show of a connection.
pub(super) struct Shown {
    pub(super) id: String,
    pub(super) client: Arc<str>,
    pub(super) transport: &'static str,
    pub(super) connected_at: SystemTime,
    pub(super) heard_at: SystemTime,
    pub(super) revision: u64,
    pub(super) applied: Option<u64>,
    pub(super) queued: u64,
    pub(super) falls: u64,
}

/// What was delivered since the start.
pub(super) struct Deliveries {
    pub(super) sent: u64,
    pub(super) failed: u64,
    pub(super) last_failure: Option<(SystemTime, &'static str)>,
}

impl Registry {
    pub(super) fn new(clock: Clock, most: usize) -> Arc<Self> {
        Arc::new(Self {
            clock,
            most,
            inner: Mutex::default(),
            empty: Notify::new(),
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// Lists a connection; `None` when there are as many as may be.
    pub(super) fn admit(
        self: &Arc<Self>,
        asked: &Asked,
        transport: &'static str,
        counted: Counted,
    ) -> Option<Admitted> {
        let mut inner = self.lock();
        if inner.open.len() >= self.most {
            return None;
        }
        let client: Arc<str> = asked.client.as_str().into();
        let applied = inner
            .away
            .remove(&client)
            .map_or(NONE, |(applied, _)| applied);
        let open = Arc::new(Open {
            id: format!("{:016x}{:016x}", self.clock.random(), self.clock.random()),
            client,
            named: asked.named,
            transport,
            connected_at: self.clock.wall(),
            heard: AtomicU64::new(millis(self.clock.now())),
            revision: AtomicU64::new(NONE),
            applied: AtomicU64::new(applied),
            dealt_with: AtomicU64::new(NONE),
            at: AtomicU64::new(0),
            channel: OnceLock::new(),
            falls: AtomicU64::new(0),
            counted,
        });
        inner.next += 1;
        let number = inner.next;
        inner.open.insert(number, open.clone());
        drop(inner);
        Some(Admitted {
            registry: self.clone(),
            number,
            open,
        })
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    pub(super) fn len(&self) -> usize {
        self.lock().open.len()
    }

    /// Waits until no connection is open.
    pub(super) async fn emptied(&self) {
        loop {
            let empty = self.empty.notified();
            if self.len() == 0 {
                return;
            }
            empty.await;
        }
    }

    pub(super) fn deliveries(&self) -> Deliveries {
        Deliveries {
            sent: self.sent.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            last_failure: self.lock().last_failure,
        }
    }

    /// The connections, oldest first.
    pub(super) fn shown(&self, hub: &Hub) -> Vec<Shown> {
        let mut open: Vec<_> = self
            .lock()
            .open
            .iter()
            .map(|(number, open)| (*number, open.clone()))
            .collect();
        open.sort_unstable_by_key(|(number, _)| *number);
        open.iter()
            .map(|(_, open)| open.shown(&self.clock, hub))
            .collect()
    }

    /// What the clients that are away have acknowledged.
    pub(super) fn away(&self) -> Vec<(Arc<str>, u64)> {
        let inner = self.lock();
        inner
            .away
            .iter()
            .map(|(client, (applied, _))| (client.clone(), *applied))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let now = self.registry.clock.now();
        let mut inner = self.registry.lock();
        inner.open.remove(&self.number);
        let applied = self.open.applied.load(Ordering::Relaxed);
        let client = &self.open.client;
        // Also while others of its name are open, which may never acknowledge anything.
        if applied != NONE {
            if inner.away.len() >= REMEMBERED && !inner.away.contains_key(client) {
                let oldest = inner.away.iter().min_by_key(|(_, (_, left))| *left);
                if let Some(oldest) = oldest.map(|(client, _)| client.clone()) {
                    inner.away.remove(&oldest);
                }
            }
            inner.away.insert(client.clone(), (applied, now));
        }
        let empty = inner.open.is_empty();
        drop(inner);
        if empty {
            self.registry.empty.notify_waiters();
        }
    }
}

impl Admitted {
    /// Counts messages that were handed to the network.
    pub(super) fn delivered(&self, messages: usize, bytes: usize) {
        self.registry
            .sent
            .fetch_add(messages as u64, Ordering::Relaxed);
        self.open.counted.sent_all(messages, bytes);
    }

    /// Notes that the connection is lost with messages still to be delivered.
    pub(super) fn failed(&self, reason: &'static str) {
        let registry = &self.registry;
        registry.failed.fetch_add(1, Ordering::Relaxed);
        registry.lock().last_failure = Some((registry.clock.wall(), reason));
        self.open.counted.failed();
    }
}

impl Open {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn client(&self) -> &str {
        &self.client
    }

    /// Whether the client's name is its own, and not everybody's.
    pub(super) fn is_named(&self) -> bool {
        self.named
    }

    pub(super) fn heard(&self, now: Duration) {
        self.heard.store(millis(now), Ordering::Relaxed);
    }

    /// Notes what it is told of.
    pub(super) fn listens(&self, channel: Arc<Channel>) {
        drop(self.channel.set(channel));
    }

    /// Notes how far the client has been told.
    pub(super) fn told(&self, revision: u64, at: u64) {
        self.revision.store(revision, Ordering::Relaxed);
        self.at.store(at, Ordering::Relaxed);
    }

    /// Notes that the client has applied everything up to a revision.
    pub(super) fn applied(&self, revision: u64) {
        self.applied.store(revision, Ordering::Relaxed);
    }

    /// Notes that the client has dealt with an event; false where it said so last, too.
    pub(super) fn dealt_with(&self, event: u64) -> bool {
        self.dealt_with.swap(event, Ordering::Relaxed) != event
    }

    /// Notes that the client fell behind what is kept.
    pub(super) fn fell(&self) {
        self.falls.fetch_add(1, Ordering::Relaxed);
        self.counted.lagged();
    }

    fn shown(&self, clock: &Clock, hub: &Hub) -> Shown {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (applied, revision, at) = (load(&self.applied), load(&self.revision), load(&self.at));
        let queued = match (self.channel.get(), hub.end_now()) {
            // Nothing was told yet: it is not behind, it begins.
            _ if revision == NONE => 0,
            (_, None) | (None, _) => 0,
            (Some(_), Some(end)) if at == 0 => end.cursor.revision.get().saturating_sub(revision),
            // Revisions that went by and are not for it are none that wait.
            (Some(channel), Some(end)) => hub
                .skip(channel, at)
                .map_or(end.at.saturating_sub(at), |_| 0),
        };
        Shown {
            id: self.id.clone(),
            client: self.client.clone(),
            transport: self.transport,
            connected_at: self.connected_at,
            heard_at: clock.wall_at(Duration::from_millis(load(&self.heard))),
            revision: if revision == NONE { 0 } else { revision },
            applied: (applied != NONE).then_some(applied),
            queued,
            falls: load(&self.falls),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
