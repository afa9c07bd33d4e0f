//! Work beside the session, on connections of the pool: notices to send, audits, trims, repairs.
//!
//! Guarantees: each piece is bounded in time; a failure is logged and changes nothing, since something else will notice it
//! too; all of it ends with its owner.

use std::collections::HashSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;

use super::clock::Clock;
use super::engine::{Engine, lock};
use super::trim::trim;
use crate::core::notice::Notice;
use crate::core::replica::{Input, Rotation};
use crate::core::{Checksum, Cursor, Key, Revision};
use crate::error::{Error, Result};
use crate::store::{Store, Task};

/// An audit that takes longer is given up: a million entries take about 10 s.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A nonce that fails to be sent costs a minute of polling, so that a few stale connections of the pool may not do that.
const NONCE_ATTEMPTS: u32 = 5;

/// The first turn comes soon, so that a fleet that is often started anew trims too.
const FIRST_CLEANUP: Duration = Duration::from_secs(60);

/// Consumers are looked at this often in a retention, so that each is named well before its place is trimmed.
const LOOKS: u32 = 4;

/// The shortest time between two looks.
const MIN_LOOK: Duration = Duration::from_millis(100);

/// How often what is done that the core does not decide, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intervals {
    pub(crate) heartbeat: Duration,
    pub(crate) cleanup: Duration,
    pub(crate) retention: Duration,
    /// How much longer the journal keeps what a consumer has still to read.
    pub(crate) grace: Duration,
    pub(crate) request_timeout: Duration,
    /// Whether an audit repairs what it finds.
    pub(crate) repair: bool,
}

impl Intervals {
    /// How often the consumers are looked at.
    fn look(self) -> Duration {
        self.heartbeat.min(self.retention / LOOKS).max(MIN_LOOK)
    }

    /// The age of what a consumer has to read next from which it is slow.
    pub(crate) fn danger(self) -> Duration {
        self.retention / 2
    }

    /// The age at which the journal no longer holds what a consumer has still to read.
    pub(crate) fn end(self) -> Duration {
        self.retention.saturating_add(self.grace)
    }
}

pub(super) struct Errands {
    engine: Arc<Engine>,
    store: Arc<dyn Store>,
    intervals: Intervals,
    running: JoinSet<()>,
    /// What this instance's role may not do, or the schema not yet: said once, since it is denied at every turn.
    denied: Arc<Mutex<HashSet<&'static str>>>,
    /// When the journal is to be trimmed next.
    pub(super) cleanup_at: Duration,
    /// When the consumers are to be looked at next.
    pub(super) look_at: Duration,
    looking: Arc<AtomicBool>,
}

impl Errands {
    pub(super) fn new(engine: Arc<Engine>, store: Arc<dyn Store>, intervals: Intervals) -> Self {
        let first = intervals.cleanup.min(FIRST_CLEANUP);
        let cleanup_at = engine.clock.now() + first;
        let look_at = engine.clock.now() + first.min(intervals.look());
        Self {
            engine,
            store,
            intervals,
            running: JoinSet::new(),
            denied: Arc::default(),
            cleanup_at,
            look_at,
            looking: Arc::default(),
        }
    }

    /// Waits until one has ended; for ever when there is none.
    pub(super) async fn ended(&mut self) {
        match self.running.join_next().await {
            Some(ended) => report_panic(ended),
            None => std::future::pending().await,
        }
    }

    /// Ends all of them.
    pub(super) async fn shutdown(&mut self) {
        self.running.shutdown().await;
    }

    /// Runs something that is no errand to the store, and ends with them.
    pub(super) fn also(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.engine.clock.spawn_on(&mut self.running, work);
    }

    /// Sends a notice that has to come back on the session.
    pub(super) fn nonce(&mut self, notice: Notice) {
        let (what, timeout) = ("sending a nonce", self.intervals.request_timeout);
        self.run(what, move |store, engine| async move {
            let (text, clock) = (notice.encode(), &engine.clock);
            // What cut the session may have cut the pool's connections too, and each of them is found out by using it.
            for _ in 1..NONCE_ATTEMPTS {
                if within(clock, what, timeout, store.notify(&text))
                    .await
                    .is_ok()
                {
                    return Ok(());
                }
            }
            within(clock, what, timeout, store.notify(&text)).await
        });
    }

    /// Broadcasts what this instance holds.
    pub(super) fn heartbeat(&mut self, notice: Notice) {
        if !self.store.has_fleet() {
            return;
        }
        let (what, timeout) = ("sending a heartbeat", self.intervals.request_timeout);
        self.run(what, move |store, engine| async move {
            let text = notice.encode();
            within(&engine.clock, what, timeout, store.notify(&text)).await?;
            engine.book.open().heartbeat.last_sent = Some(engine.clock.wall());
            tracing::debug!("heartbeat sent");
            Ok(())
        });
    }

    /// Has the database number rows that were altered behind its triggers.
    pub(super) fn reconcile(&mut self, keys: Vec<(Key, Option<Arc<str>>)>) {
        let (what, timeout) = ("numbering altered rows", self.intervals.request_timeout);
        self.run(what, move |store, engine| async move {
            within(&engine.clock, what, timeout, number(&*store, &keys)).await
        });
    }

    /// Begins a new epoch, and says what became of it.
    pub(super) fn rotate(&mut self, lost: Cursor) {
        let (what, timeout) = ("beginning a new epoch", self.intervals.request_timeout);
        self.run(what, move |store, engine| async move {
            let rotated = within(&engine.clock, what, timeout, store.rotate_epoch(lost)).await;
            engine.feed(Input::Rotated(match &rotated {
                Ok(()) => Rotation::Done,
                Err(error) if error.is_denied() => Rotation::Denied,
                Err(_) => Rotation::Failed,
            }));
            rotated
        });
    }

    /// Folds the table if it is this instance's turn in the fleet.
    pub(super) fn audit(&mut self, again: bool) {
        if !self.store.has_fleet() {
            return;
        }
        // Instances beat with a tenth of jitter; a turn lasts a little less than the shortest interval.
        let every = self.intervals.heartbeat.mul_f64(0.8);
        let timeout = self.intervals.request_timeout;
        let what = "the audit";
        self.run(what, move |store, engine| async move {
            let clock = &engine.clock;
            if again || within(clock, what, timeout, store.claim(Task::Audit, every)).await? {
                let (cursor, checksum) = within(clock, what, AUDIT_TIMEOUT, store.fold()).await?;
                engine.book.open().tally.audits += 1;
                engine.feed(Input::Audited { cursor, checksum });
            }
            Ok(())
        });
    }

    /// Leaves the result of an audit for the fleet. Memory and table agree then, but both may differ from the journal:
    /// whoever started after a row was altered behind the triggers has never known it otherwise.
    pub(super) fn report_audit(&mut self, revision: Revision, checksum: Checksum) {
        let (repair, timeout) = (self.intervals.repair, self.intervals.request_timeout);
        self.run("reporting an audit", move |store, engine| async move {
            let clock = &engine.clock;
            let report = store.report_audit(revision, checksum);
            within(clock, "reporting an audit", timeout, report).await?;
            if repair {
                let altered = within(clock, "the audit", AUDIT_TIMEOUT, store.altered()).await?;
                within(clock, "the audit", timeout, number(&*store, &altered)).await?;
            }
            Ok(())
        });
    }

    /// Trims the journal, a bounded batch at a time, if it is this instance's turn.
    pub(super) fn cleanup(&mut self) {
        let intervals = self.intervals;
        let (cleanup, timeout) = (intervals.cleanup, intervals.request_timeout);
        self.cleanup_at = self.engine.clock.now() + cleanup;
        if !self.store.has_fleet() {
            return;
        }
        let what = "trimming the journal";
        self.run(what, move |store, engine| async move {
            // A turn lasts a little less than the interval, and no longer than it is this instance's.
            let every = cleanup.mul_f64(0.8);
            let turn = store.claim(Task::Cleanup, every);
            if within(&engine.clock, what, timeout, turn).await? {
                let count = |revisions| engine.book.open().tally.trimmed += revisions;
                trim(&*store, &engine.clock, intervals, every, count).await?;
            }
            Ok(())
        });
    }

    /// Looks which consumers of the journal are slow, unless a look is still under way.
    pub(super) fn look(&mut self) {
        let intervals = self.intervals;
        let timeout = intervals.request_timeout;
        self.look_at = self.engine.clock.now() + intervals.look();
        if !self.store.has_fleet() || self.looking.swap(true, Ordering::AcqRel) {
            return;
        }
        let (what, looking) = ("looking at the consumers", self.looking.clone());
        self.run(what, move |store, engine| async move {
            let slow = store.consumers().slow(intervals.danger(), intervals.end());
            let slow = within(&engine.clock, what, timeout, slow).await;
            looking.store(false, Ordering::Release);
            let slow = slow?;
            tracing::debug!(slow = slow.len(), "the consumers were looked at");
            engine.book.note_slow(slow);
            Ok(())
        });
    }

    /// Runs work on a connection of the pool.
    fn run<F>(&mut self, what: &'static str, work: impl FnOnce(Arc<dyn Store>, Arc<Engine>) -> F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let work = work(self.store.clone(), self.engine.clone());
        let denied = self.denied.clone();
        self.engine.clock.spawn_on(&mut self.running, async move {
            let Err(error) = work.await else { return };
            let lasting = error.is_denied() || error.is_older_schema();
            let said_before = lasting && !lock(&denied).insert(what);
            if said_before {
                tracing::debug!(%error, "{what} failed");
            } else {
                tracing::warn!(%error, "{what} failed");
            }
        });
    }
}

/// Has the database number rows that were altered behind its triggers.
async fn number(store: &dyn Store, keys: &[(Key, Option<Arc<str>>)]) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    if let Some(revision) = store.reconcile(keys).await? {
        tracing::warn!(%revision, keys = keys.len(), "rows altered behind the triggers were given a revision");
    }
    Ok(())
}

/// Gives work up after a while.
pub(super) async fn within<T>(
    clock: &Clock,
    what: &str,
    limit: Duration,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match clock.timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => {
            let limit = humantime::format_duration(limit);
            Err(Error::unavailable(
                what,
                format!("no answer within {limit}"),
            ))
        }
    }
}

fn report_panic(ended: std::result::Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a background task panicked");
    }
}
