//! The host loop: runs the core's actions against a store and feeds back what came of them.
//!
//! Guarantees: one session at a time; queries on it are bounded in time, so that a frozen peer is found; every task is
//! owned and ended by [`Driver::run`].

use std::collections::HashSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::engine::{Engine, lock};
use crate::core::replica::{Action, Input, SessionId};
use crate::core::{Checksum, Key, Revision};
use crate::error::{Error, Result};
use crate::store::{Heard, Listener, Store, Task};

/// Opening a session, TLS and login included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A head check is one small query: 3 s without an answer means that nobody is there.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3);

/// An audit that takes longer is given up: a million entries take about 10 s.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A nonce that fails to be sent costs a minute of polling, so that a few stale connections of the pool may not do that.
const NONCE_ATTEMPTS: u32 = 5;

/// The first turn comes soon, so that a fleet that is often started anew trims too.
const FIRST_CLEANUP: Duration = Duration::from_secs(60);

/// Revisions trimmed in one transaction: short enough that no writer notices.
const TRIM_BATCH: u32 = 1_000;

/// How often the driver does what the core does not decide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intervals {
    pub(crate) heartbeat: Duration,
    pub(crate) cleanup: Duration,
    pub(crate) retention: Duration,
    pub(crate) request_timeout: Duration,
    /// Whether an audit repairs what it finds.
    pub(crate) repair: bool,
}

type Query = Pin<Box<dyn Future<Output = (Input, Option<Arc<dyn Listener>>)> + Send>>;

pub(crate) struct Driver {
    engine: Arc<Engine>,
    store: Arc<dyn Store>,
    actions: mpsc::UnboundedReceiver<Action>,
    intervals: Intervals,
    session: Option<(SessionId, Arc<dyn Listener>)>,
    /// The session that was asked for last.
    newest: SessionId,
    /// The connection attempt or the query in flight.
    query: Option<Query>,
    /// Work on other connections than the session.
    side: JoinSet<()>,
    /// What this instance's role may not do: said once, since a role that only reads is denied at every turn.
    denied: Arc<Mutex<HashSet<&'static str>>>,
    /// Keeps trims from overlapping.
    cleanup_at: tokio::time::Instant,
}

impl Driver {
    pub(crate) fn new(
        engine: Arc<Engine>,
        store: Arc<dyn Store>,
        actions: mpsc::UnboundedReceiver<Action>,
        intervals: Intervals,
    ) -> Self {
        let first = intervals.cleanup.min(FIRST_CLEANUP);
        let cleanup_at = engine.clock.at(engine.clock.now() + first);
        Self {
            engine,
            store,
            actions,
            intervals,
            session: None,
            newest: 0,
            query: None,
            side: JoinSet::new(),
            denied: Arc::default(),
            cleanup_at,
        }
    }

    /// Runs until `stop` says so or its sender is gone. A defect of this program does not end it: the session is begun anew.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        while AssertUnwindSafe(self.serve(&mut stop))
            .catch_unwind()
            .await
            .is_err()
        {
            tracing::error!(
                "the driver panicked, which is a defect of this program; it begins a new session"
            );
            self.query = None;
            self.hang_up().await;
            let why = "a defect of this program; see the log".to_owned();
            self.engine.feed(Input::Disconnected {
                session: self.newest,
                why,
            });
        }
        self.query = None;
        self.side.shutdown().await;
        self.hang_up().await;
    }

    async fn serve(&mut self, stop: &mut watch::Receiver<bool>) {
        self.engine.feed(Input::Tick);
        while !*stop.borrow() {
            let deadline = self
                .engine
                .next_deadline()
                .map(|at| self.engine.clock.at(at));
            let listener = self.session.as_ref().map(|(_, listener)| listener.clone());
            tokio::select! {
                changed = stop.changed() => if changed.is_err() { break },
                Some(action) = self.actions.recv() => self.start(action),
                (input, listener) = pending(self.query.as_mut()) => self.finished(input, listener).await,
                heard = hear(listener.as_deref()) => self.heard(heard).await,
                Some(ended) = self.side.join_next() => report(ended),
                () = at(deadline) => self.engine.feed(Input::Tick),
                () = tokio::time::sleep_until(self.cleanup_at) => self.cleanup(),
                () = self.engine.rescheduled.notified() => {}
            }
        }
    }

    fn start(&mut self, action: Action) {
        let timeout = self.intervals.request_timeout;
        match action {
            Action::Connect { session, listen } => {
                self.newest = session;
                self.query = Some(Box::pin(connect(self.store.clone(), session, listen)));
            }
            Action::Listen { session } => self.listen(session),
            Action::CheckHead { session, own } => self.ask(session, move |listener| async move {
                let head = within("the head check", HEAD_TIMEOUT, listener.head(own)).await?;
                Ok(Input::Head { session, head })
            }),
            Action::FetchPage { session, after } => self.ask(session, move |listener| async move {
                Ok(Input::Page {
                    session,
                    page: listener.page(after).await?,
                })
            }),
            Action::FetchSnapshot { session } => self.ask(session, move |listener| async move {
                Ok(Input::Snapshot {
                    session,
                    snapshot: listener.snapshot().await?,
                })
            }),
            Action::SendNonce { notice } => {
                self.aside("sending a nonce", move |store, _| async move {
                    let text = notice.encode();
                    // What cut the session may have cut the pool's connections too, and each of them is found out by using it.
                    for _ in 1..NONCE_ATTEMPTS {
                        if within("sending a nonce", timeout, store.notify(&text))
                            .await
                            .is_ok()
                        {
                            return Ok(());
                        }
                    }
                    within("sending a nonce", timeout, store.notify(&text)).await
                });
            }
            Action::SendHeartbeat { notice } => {
                self.aside("sending a heartbeat", move |store, engine| async move {
                    within(
                        "sending a heartbeat",
                        timeout,
                        store.notify(&notice.encode()),
                    )
                    .await?;
                    engine.book.open().heartbeat.last_sent = Some(super::clock::wall());
                    tracing::debug!("heartbeat sent");
                    Ok(())
                });
            }
            Action::Audit { again } => self.audit(again),
            Action::ReportAudit { revision, checksum } => self.report_audit(revision, checksum),
            Action::Reconcile { keys } => {
                self.aside("numbering altered rows", move |store, _| async move {
                    within("numbering altered rows", timeout, number(&*store, &keys)).await
                });
            }
            Action::RotateEpoch { expected } => {
                self.aside("beginning a new epoch", move |store, engine| async move {
                    let rotated = within(
                        "beginning a new epoch",
                        timeout,
                        store.rotate_epoch(expected),
                    )
                    .await;
                    engine.feed(Input::Rotated);
                    rotated
                });
            }
            // The engine has carried these out.
            Action::Publish(_) | Action::ResyncDone { .. } | Action::Tell(_) => {}
        }
    }

    /// Runs a query on the session, if it is still the one.
    fn ask<F>(&mut self, session: SessionId, query: impl FnOnce(Arc<dyn Listener>) -> F)
    where
        F: Future<Output = Result<Input>> + Send + 'static,
    {
        let Some((current, listener)) = &self.session else {
            return;
        };
        if *current != session {
            return;
        }
        let answer = query(listener.clone());
        self.query = Some(Box::pin(async move {
            match answer.await {
                Ok(input) => (input, None),
                Err(error) => (
                    Input::Disconnected {
                        session,
                        why: error.to_string(),
                    },
                    None,
                ),
            }
        }));
    }

    /// Tries LISTEN again beside whatever query is in flight.
    fn listen(&mut self, session: SessionId) {
        let Some((_, listener)) = self
            .session
            .as_ref()
            .filter(|(current, _)| *current == session)
        else {
            return;
        };
        let (listener, engine) = (listener.clone(), self.engine.clone());
        self.side.spawn(async move {
            let listening = within("LISTEN", HEAD_TIMEOUT, listener.listen())
                .await
                .map_err(|error| error.to_string());
            engine.feed(Input::Listening { session, listening });
        });
    }

    /// Runs work on another connection than the session; a failure is logged, since something else will notice it too.
    fn aside<F>(&mut self, what: &'static str, work: impl FnOnce(Arc<dyn Store>, Arc<Engine>) -> F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let work = work(self.store.clone(), self.engine.clone());
        let denied = self.denied.clone();
        self.side.spawn(async move {
            let Err(error) = work.await else { return };
            let said_before = error.is_denied() && !lock(&denied).insert(what);
            if said_before {
                tracing::debug!(%error, "{what} failed");
            } else {
                tracing::warn!(%error, "{what} failed");
            }
        });
    }

    /// Folds the table if it is this instance's turn in the fleet.
    fn audit(&mut self, again: bool) {
        // Instances beat with a tenth of jitter; a turn lasts a little less than the shortest interval.
        let every = self.intervals.heartbeat.mul_f64(0.8);
        let timeout = self.intervals.request_timeout;
        self.aside("the audit", move |store, engine| async move {
            if again || within("the audit", timeout, store.claim(Task::Audit, every)).await? {
                let (cursor, checksum) = within("the audit", AUDIT_TIMEOUT, store.fold()).await?;
                engine.feed(Input::Audited { cursor, checksum });
            }
            Ok(())
        });
    }

    /// Leaves the result of an audit for the fleet. Memory and table agree then, but both may differ from the journal:
    /// whoever started after a row was altered behind the triggers has never known it otherwise.
    fn report_audit(&mut self, revision: Revision, checksum: Checksum) {
        let (repair, timeout) = (self.intervals.repair, self.intervals.request_timeout);
        self.aside("reporting an audit", move |store, _| async move {
            within(
                "reporting an audit",
                timeout,
                store.report_audit(revision, checksum),
            )
            .await?;
            if repair {
                let altered = within("the audit", AUDIT_TIMEOUT, store.altered()).await?;
                within("the audit", timeout, number(&*store, &altered)).await?;
            }
            Ok(())
        });
    }

    /// Trims the journal, a bounded batch at a time, if it is this instance's turn.
    fn cleanup(&mut self) {
        let Intervals {
            cleanup,
            retention,
            request_timeout: timeout,
            ..
        } = self.intervals;
        let now = self.engine.clock.now();
        self.cleanup_at = self.engine.clock.at(now + cleanup);
        self.aside("trimming the journal", move |store, _| async move {
            let turn = store.claim(Task::Cleanup, cleanup.mul_f64(0.8));
            if !within("trimming the journal", timeout, turn).await? {
                return Ok(());
            }
            let mut trimmed = 0;
            loop {
                let batch = store.trim(retention, TRIM_BATCH);
                let batch = within("trimming the journal", timeout, batch).await?;
                trimmed += batch;
                if batch == 0 {
                    break;
                }
                // Lets writers in between two batches.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if trimmed > 0 {
                tracing::info!(revisions = trimmed, "the journal was trimmed");
            }
            Ok(())
        });
    }

    async fn finished(&mut self, input: Input, listener: Option<Arc<dyn Listener>>) {
        self.query = None;
        if let (Input::Connected { session, .. }, Some(listener)) = (&input, listener) {
            self.session = Some((*session, listener));
            tracing::debug!(session, "the listening session is up");
        }
        let lost = matches!(input, Input::Disconnected { .. });
        // First said, then closed: a frozen connection takes its time, and readers are to know at once.
        self.engine.feed(input);
        if lost {
            self.hang_up().await;
        }
    }

    async fn heard(&mut self, heard: Vec<Heard>) {
        let Some(session) = self.session.as_ref().map(|(session, _)| *session) else {
            return;
        };
        for heard in heard {
            match heard {
                Heard::Notice(notice) => self.engine.feed(Input::Heard { session, notice }),
                Heard::Lost(why) => {
                    self.query = None;
                    self.engine.feed(Input::Disconnected { session, why });
                    self.hang_up().await;
                }
            }
        }
    }

    async fn hang_up(&mut self) {
        if let Some((_, listener)) = self.session.take() {
            listener.close().await;
        }
    }
}

async fn connect(
    store: Arc<dyn Store>,
    session: SessionId,
    listen: bool,
) -> (Input, Option<Arc<dyn Listener>>) {
    let opened = async {
        // Not within the limit: a first start may have to migrate a large table.
        store.prepare().await?;
        within("connecting", CONNECT_TIMEOUT, store.open()).await
    };
    let opened = opened.await;
    let listener = match opened {
        Ok(listener) => listener,
        Err(error) => {
            return (
                Input::Disconnected {
                    session,
                    why: error.to_string(),
                },
                None,
            );
        }
    };
    let listening = if listen {
        within("LISTEN", HEAD_TIMEOUT, listener.listen())
            .await
            .map_err(|error| error.to_string())
    } else {
        Ok(())
    };
    (Input::Connected { session, listening }, Some(listener))
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

async fn within<T>(
    what: &str,
    limit: Duration,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
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

async fn pending(query: Option<&mut Query>) -> (Input, Option<Arc<dyn Listener>>) {
    match query {
        Some(query) => query.await,
        None => std::future::pending().await,
    }
}

async fn hear(listener: Option<&dyn Listener>) -> Vec<Heard> {
    match listener {
        Some(listener) => listener.heard().await,
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a background task panicked");
    }
}
