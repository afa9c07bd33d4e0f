//! The host loop: runs the core's actions against a store and feeds back what came of them.
//!
//! Guarantees: one session at a time; queries on it are bounded in time, so that a frozen peer is found; every task is
//! owned and ended by [`Driver::run`].

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};

use super::clock::Clock;
use super::engine::Engine;
use super::errands::{Errands, Intervals, within};
use super::saved::Keeper;
use crate::core::notice::Notice;
use crate::core::replica::{Action, Input, SessionId};
use crate::error::Result;
use crate::store::{Heard, Listener, Store};

/// Opening a session, TLS and login included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A head check is one small query: 3 s without an answer means that nobody is there.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3);

type Query = Pin<Box<dyn Future<Output = (Input, Option<Arc<dyn Listener>>)> + Send>>;

pub(crate) struct Driver {
    engine: Arc<Engine>,
    store: Arc<dyn Store>,
    actions: mpsc::UnboundedReceiver<Action>,
    session: Option<(SessionId, Arc<dyn Listener>)>,
    /// The session that was asked for last.
    newest: SessionId,
    /// The connection attempt or the query in flight.
    query: Option<Query>,
    /// The newest notice of what may be a change of this instance's own, whose answer then tells more; and until when it
    /// waits for that.
    held: Option<(Notice, Duration)>,
    errands: Errands,
    keeper: Option<Keeper>,
}

impl Driver {
    pub(crate) fn new(
        engine: Arc<Engine>,
        store: Arc<dyn Store>,
        actions: mpsc::UnboundedReceiver<Action>,
        intervals: Intervals,
    ) -> Self {
        let errands = Errands::new(engine.clone(), store.clone(), intervals);
        Self {
            engine,
            store,
            actions,
            session: None,
            newest: 0,
            query: None,
            held: None,
            errands,
            keeper: None,
        }
    }

    /// Keeps the state in a file too.
    pub(crate) fn keeping(mut self, keeper: Option<Keeper>) -> Self {
        self.keeper = keeper;
        self
    }

    /// Runs until `stop` says so or its sender is gone. A defect of this program does not end it: the session is begun anew.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let (end, ended) = watch::channel(false);
        let clock = self.engine.clock.clone();
        let keeper = self.keeper.take();
        let keeping = keeper.map(|keeper| clock.spawn(keeper.run(ended)));
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
        self.errands.shutdown().await;
        self.hang_up().await;
        end.send_replace(true);
        if let Some(keeping) = keeping
            && let Err(error) = keeping.await
        {
            tracing::error!(%error, "the state could not be kept at the end");
        }
    }

    async fn serve(&mut self, stop: &mut watch::Receiver<bool>) {
        self.engine.feed(Input::Tick);
        while !*stop.borrow() {
            if !self.engine.writes() {
                self.let_go();
            }
            let held_until = self.held.as_ref().map(|(_, until)| *until);
            let deadline = self.engine.next_deadline();
            let clock = self.engine.clock.clone();
            let listener = self.session.as_ref().map(|(_, listener)| listener.clone());
            let (cleanup_at, look_at) = (self.errands.cleanup_at, self.errands.look_at);
            tokio::select! {
                changed = stop.changed() => if changed.is_err() { break },
                Some(action) = self.actions.recv() => self.start(action),
                (input, listener) = pending(self.query.as_mut()) => self.finished(input, listener).await,
                heard = hear(listener.as_deref()) => self.heard(heard).await,
                () = self.errands.ended() => {}
                () = at(&clock, held_until) => self.let_go(),
                () = at(&clock, deadline) => self.engine.feed(Input::Tick),
                () = clock.sleep_until(cleanup_at) => self.errands.cleanup(),
                () = clock.sleep_until(look_at) => self.errands.look(),
                () = self.engine.rescheduled.notified() => {}
            }
        }
    }

    fn start(&mut self, action: Action) {
        match action {
            Action::Connect { session, listen } => {
                self.newest = session;
                let (store, clock) = (self.store.clone(), self.engine.clock.clone());
                self.query = Some(Box::pin(connect(store, clock, session, listen)));
            }
            Action::Listen { session } => self.listen(session),
            Action::CheckHead { session, own } => {
                let clock = self.engine.clock.clone();
                self.ask(session, move |listener| async move {
                    let head = listener.head(own);
                    let head = within(&clock, "the head check", HEAD_TIMEOUT, head).await?;
                    Ok(Input::Head { session, head })
                });
            }
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
            Action::SendNonce { notice } => self.errands.nonce(notice),
            Action::SendHeartbeat { notice } => self.errands.heartbeat(notice),
            Action::Audit { again } => self.errands.audit(again),
            Action::ReportAudit { revision, checksum } => {
                self.errands.report_audit(revision, checksum);
            }
            Action::Reconcile { keys } => self.errands.reconcile(keys),
            Action::RotateEpoch { lost } => self.errands.rotate(lost),
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
        self.errands.also(async move {
            let listening = within(&engine.clock, "listening", HEAD_TIMEOUT, listener.listen())
                .await
                .map_err(|error| error.to_string());
            engine.feed(Input::Listening { session, listening });
        });
    }

    async fn finished(&mut self, input: Input, listener: Option<Arc<dyn Listener>>) {
        self.query = None;
        if let (Input::Connected { session, .. }, Some(listener)) = (&input, listener) {
            self.session = Some((*session, listener));
            tracing::debug!(session, "the listening session is up");
        }
        let lost = matches!(input, Input::Disconnected { .. });
        if let Some((session, listener)) = &self.session
            && let Some(origin) = listener.origin()
        {
            let session = *session;
            self.engine.feed(Input::Origin { session, origin });
        }
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
                Heard::Notice(Some(notice)) if self.holds(notice) => {}
                Heard::Notice(notice) => self.engine.feed(Input::Heard { session, notice }),
                Heard::Lost(why) => {
                    self.query = None;
                    self.engine.feed(Input::Disconnected { session, why });
                    self.hang_up().await;
                }
            }
        }
    }

    /// Keeps a notice for a moment while it may be of a write of this instance's own that is under way. The server sends it
    /// before the answer, and to read what the answer brings anyway costs it a good part of what the write did.
    fn holds(&mut self, notice: Notice) -> bool {
        let pause = self.engine.clock.own_news_pause();
        if pause.is_zero() || !self.engine.may_be_own(notice) {
            return false;
        }
        self.held = Some(match self.held {
            // The first does not wait any longer because of the others; and whoever forges an older one hides no news.
            Some((held, until)) => (further(held, notice), until),
            None => (notice, self.engine.clock.now() + pause),
        });
        true
    }

    /// Hands on what was kept: by now it is old news, or somebody else's.
    fn let_go(&mut self) {
        if let (Some((notice, _)), Some((session, _))) = (self.held.take(), &self.session) {
            let (session, notice) = (*session, Some(notice));
            self.engine.feed(Input::Heard { session, notice });
        }
    }

    async fn hang_up(&mut self) {
        self.held = None;
        if let Some((_, listener)) = self.session.take() {
            listener.close().await;
        }
    }
}

async fn connect(
    store: Arc<dyn Store>,
    clock: Clock,
    session: SessionId,
    listen: bool,
) -> (Input, Option<Arc<dyn Listener>>) {
    let opened = async {
        // Not within the limit: a first start may have to migrate a large table.
        store.prepare().await?;
        within(&clock, "connecting", CONNECT_TIMEOUT, store.open()).await
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
        within(&clock, "listening", HEAD_TIMEOUT, listener.listen())
            .await
            .map_err(|error| error.to_string())
    } else {
        Ok(())
    };
    (Input::Connected { session, listening }, Some(listener))
}

/// The notice of the two that tells more.
fn further(one: Notice, other: Notice) -> Notice {
    match (one, other) {
        (
            Notice::Changed { revision, .. },
            Notice::Changed {
                revision: later, ..
            },
        ) if later < revision => one,
        _ => other,
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

async fn at(clock: &Clock, deadline: Option<Duration>) {
    match deadline {
        Some(deadline) => clock.sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
