//! The replica: decides what enters the table, and when to ask the database what.
//!
//! Guarantees: the table is exactly the state of one revision; revisions never go backwards within an epoch; a missed
//! notice is found at the next one or at the next head check and repaired by reading only what is missing; a rewritten
//! past is recognised by revision ids; an equal revision with an unequal checksum leads to a resync that reports true
//! differences only. It does not time queries out: a host that gives up on one reports the session as lost.
//!
//! | the link | leaves when |
//! | --- | --- |
//! | `Waiting` | the backoff is over: `Connect` |
//! | `Connecting` | `Connected`: `Up`; `Disconnected`: `Waiting` |
//! | `Up` | `Disconnected`: `Waiting` |
//!
//! | while `Up`, the next query is | because |
//! | --- | --- |
//! | a snapshot | nothing is loaded, or a resync is owed |
//! | a page | a notice, a head or a write of our own lies ahead |
//! | the head | the check interval is over; before a page once it has been over for as long again |

#[cfg(feature = "testing")]
mod falsify;
mod fork;
mod io;
mod link;
mod news;
mod origin;
mod repair;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use fork::Fork;
pub(crate) use io::{
    Action, AuditReport, ClaimSource, Committed, Config, Head, Input, Loaded, Mode, Origin, Page,
    Publication, Reaction, ResyncCause, Rotation, SessionId, Told,
};
pub(crate) use link::EMPTY_READ_PAUSE;
use link::{Demand, Ear, LISTEN_RETRY, Link, NONCE_GRACE, NONCE_TIMEOUT, Query, Session};
use repair::Repair;

#[cfg(feature = "server")]
use super::RevisionId;
use super::backoff::{Backoff, Random, jitter};
use super::history::History;
use super::notice::Notice;
use super::table::Table;
use super::{Checksum, Cursor, Revision, Snapshot};

/// The state machine. Feed it with [`Replica::handle`], run what [`Replica::next_action`] gives.
#[derive(Debug)]
pub(crate) struct Replica {
    config: Config,
    random: Random,
    state: Option<State>,
    link: Link,
    sessions: SessionId,
    backoff: Backoff,
    actions: VecDeque<Action>,
    heartbeat_at: Duration,
    repair: Repair,
    fork: Fork,
    /// When the database last proved this state to be the newest: the time the question was sent.
    proven_at: Option<Duration>,
}

/// What is loaded.
#[derive(Debug)]
struct State {
    cursor: Cursor,
    table: Table,
    history: History,
    checksum: Option<Checksum>,
    /// It was kept outside the database, which has not been asked since.
    restored: bool,
}

impl Replica {
    pub(crate) fn new(config: Config, seed: u64, now: Duration) -> Self {
        let mut random = Random::seeded(seed);
        let heartbeat_at = now + jittered(config.heartbeat_interval, &mut random);
        Self {
            repair: Repair::new(&config),
            fork: Fork::default(),
            config,
            random,
            state: None,
            link: Link::Waiting {
                until: now,
                why: "not connected yet".to_owned(),
            },
            sessions: 0,
            backoff: Backoff::default(),
            actions: VecDeque::new(),
            heartbeat_at,
            proven_at: None,
        }
    }

    /// Takes in what happened. Actions come out of [`Replica::next_action`] afterwards, in order.
    pub(crate) fn handle(&mut self, now: Duration, mut input: Input) {
        self.translate(&mut input);
        match input {
            Input::Tick => {}
            Input::Connected { session, listening } => self.connected(now, session, listening),
            Input::Listening { session, listening } => self.listening(now, session, listening),
            Input::Disconnected { session, why } => self.disconnected(now, session, why),
            Input::Heard { session, notice } => self.heard(now, session, notice),
            Input::Head { session, head } => self.head(now, session, &head),
            Input::Page { session, page } => self.page(now, session, page),
            Input::Snapshot { session, snapshot } => self.snapshot(now, session, snapshot),
            Input::Restored(loaded) => self.restore(now, loaded),
            Input::Committed(committed) => self.committed(now, committed),
            Input::ResyncAsked { ticket } => {
                let mut demand = Demand::new(ResyncCause::Asked, now);
                demand.tickets.push(ticket);
                self.repair.demand(demand);
            }
            Input::Audited { cursor, checksum } => self.audited(now, cursor, checksum),
            Input::Rotated(rotation) => self.rotated(now, rotation),
            Input::Look => self.fetch_soon(),
            Input::Origin { session, origin } => self.comes_from(session, origin),
        }
        self.advance(now);
    }

    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Replica::handle`] with [`Input::Tick`] if nothing else happens.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        match &self.link {
            Link::Waiting { until, .. } => Some(*until),
            Link::Connecting { .. } => None,
            Link::Up(session) => {
                let ear = match &session.ear {
                    Ear::Proving { until } => session.idle().then_some(*until),
                    Ear::Deaf { retry_at, .. } => Some(*retry_at),
                    Ear::Off | Ear::Proven => None,
                };
                let query = session.idle().then(|| {
                    let page = session.fetch.then_some(session.quiet_until);
                    let snapshot = self
                        .repair
                        .due()
                        .or(self.state.is_none().then_some(Duration::ZERO));
                    [page, snapshot]
                        .into_iter()
                        .flatten()
                        .fold(session.check_at, Duration::min)
                });
                let heartbeat = self.state.is_some().then_some(self.heartbeat_at);
                [ear, query, heartbeat].into_iter().flatten().min()
            }
        }
    }

    /// The revision shown, once there is one.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        self.state.as_ref().map(|state| state.cursor)
    }

    pub(crate) fn len(&self) -> usize {
        self.state.as_ref().map_or(0, |state| state.table.len())
    }

    pub(crate) fn entries(&self) -> Option<Snapshot> {
        self.state
            .as_ref()
            .map(|state| Snapshot::new(state.cursor, state.table.entries()))
    }

    /// Whether another revision is known to have this one's number.
    pub(crate) fn contradicts(&self, cursor: Cursor) -> bool {
        let known = self.state.as_ref().and_then(|state| {
            (state.cursor.epoch == cursor.epoch)
                .then(|| state.history.id_of(cursor.revision))
                .flatten()
        });
        known.is_some_and(|id| id != cursor.id)
    }

    /// The id of a revision of the epoch shown, while it is among the recent ones.
    #[cfg(feature = "server")]
    pub(crate) fn id_of(&self, revision: Revision) -> Option<RevisionId> {
        self.state.as_ref()?.history.id_of(revision)
    }

    /// The last audit of the fleet that this instance read.
    #[cfg(feature = "server")]
    pub(crate) fn last_audit(&self) -> Option<AuditReport> {
        self.repair.last_audit()
    }

    /// What a revision changed, while it is among the recent ones.
    #[cfg(feature = "server")]
    pub(crate) fn remembered(&self, cursor: Cursor) -> Option<&std::sync::Arc<super::ChangeSet>> {
        self.state.as_ref()?.history.set(cursor)
    }

    /// What the revisions after a cursor changed, oldest first, while they are all among the recent ones.
    #[cfg(feature = "server")]
    pub(crate) fn sets_after(
        &self,
        cursor: Cursor,
    ) -> Option<Vec<std::sync::Arc<super::ChangeSet>>> {
        let state = self.state.as_ref()?;
        let ours = state.cursor.epoch == cursor.epoch;
        ours.then(|| state.history.sets_after(cursor)).flatten()
    }

    /// The checksum of the revision shown, computed once for each.
    pub(crate) fn checksum(&mut self) -> Option<Checksum> {
        self.state.as_mut().map(State::checksum)
    }

    pub(crate) fn mode(&self) -> Mode {
        match &self.link {
            Link::Waiting { why, .. } | Link::Connecting { why, .. } => {
                Mode::Offline { why: why.clone() }
            }
            Link::Up(session) if !session.answered => Mode::Offline {
                why: "connected, not answered yet".to_owned(),
            },
            Link::Up(session) if session.away().is_some() => Mode::Offline {
                why: session.away().unwrap_or_default().to_owned(),
            },
            Link::Up(session) => match &session.ear {
                Ear::Proven => Mode::Push,
                Ear::Off => Mode::Poll {
                    why: "notifications are switched off".to_owned(),
                },
                Ear::Proving { .. } => Mode::Poll {
                    why: "delivery of notices is being proven".to_owned(),
                },
                Ear::Deaf { why, .. } => Mode::Poll { why: why.clone() },
            },
        }
    }

    /// Whether it is known if notices arrive.
    pub(crate) fn settled(&self) -> bool {
        matches!(&self.link, Link::Up(session) if session.answered && !matches!(session.ear, Ear::Proving { .. }))
    }

    /// Starts whatever is due.
    fn advance(&mut self, now: Duration) {
        if let Link::Waiting { until, why } = &self.link
            && now >= *until
        {
            self.sessions += 1;
            let session = self.sessions;
            self.link = Link::Connecting {
                session,
                why: why.clone(),
            };
            self.actions.push_back(Action::Connect {
                session,
                listen: self.config.notifications,
            });
        }
        self.advance_ear(now);
        self.advance_query(now);
        if self.state.is_some() && matches!(self.link, Link::Up(_)) && now >= self.heartbeat_at {
            self.heartbeat_at = now + jittered(self.config.heartbeat_interval, &mut self.random);
            self.send_heartbeat(false);
            self.repair.audit_rounds = 0;
            self.actions.push_back(Action::Audit { again: false });
        }
    }

    /// At most one query is in flight; a snapshot goes before a page, a page before the head unless that is overdue.
    fn advance_query(&mut self, now: Duration) {
        let Link::Up(session) = &mut self.link else {
            return;
        };
        if !session.idle() {
            return;
        }
        let id = session.id;
        let overdue = now >= session.check_at + self.config.check_interval;
        let page = session.fetch && now >= session.quiet_until && !overdue;
        let loaded = self.state.as_ref().map(|state| state.cursor);
        let demand = self.repair.take_due(now);
        let query = match (loaded, demand) {
            (asked, Some(demand)) => Query::Snapshot {
                demand: Some(demand),
                asked,
                sent: now,
            },
            (None, None) => Query::Snapshot {
                demand: None,
                asked: None,
                sent: now,
            },
            (Some(after), None) if page => Query::Page { after, sent: now },
            (Some(cursor), None) if now >= session.check_at => Query::Head {
                asked: Some(cursor),
                sent: now,
            },
            (Some(_), None) => return,
        };
        let action = match &query {
            Query::Snapshot { .. } => Action::FetchSnapshot { session: id },
            Query::Page { after, .. } => Action::FetchPage {
                session: id,
                after: after.revision,
            },
            Query::Head { asked, .. } => Action::CheckHead {
                session: id,
                own: asked.map_or(Revision::ZERO, |cursor| cursor.revision),
            },
            Query::None => return,
        };
        if matches!(query, Query::Page { .. }) {
            session.fetch = false;
        }
        session.query = query;
        self.actions.push_back(action);
    }

    fn advance_ear(&mut self, now: Duration) {
        let Link::Up(session) = &mut self.link else {
            return;
        };
        match &session.ear {
            // While the server reads for us it sends no notices.
            Ear::Proving { until } if now >= *until && session.idle() => {
                let why = "what was sent to be heard did not come back within 3 s; does a transaction pooler or a proxy hold it back?";
                session.deafen(why.to_owned(), now);
                session.check_at = session.check_at.min(now);
                self.actions.push_back(Action::Tell(Told::ListenUnproven {
                    why: why.to_owned(),
                }));
            }
            Ear::Deaf { retry_at, .. } if now >= *retry_at => {
                let id = session.id;
                let why = "listening is being tried again".to_owned();
                session.ear = Ear::Deaf {
                    why,
                    retry_at: now + LISTEN_RETRY,
                };
                self.actions.push_back(Action::Listen { session: id });
            }
            Ear::Off | Ear::Proving { .. } | Ear::Proven | Ear::Deaf { .. } => {}
        }
    }

    fn connected(&mut self, now: Duration, session: SessionId, listening: Result<(), String>) {
        if !matches!(&self.link, Link::Connecting { session: waiting, .. } if *waiting == session) {
            return;
        }
        let mut session = Session::new(session, Ear::Off, now);
        session.check_at = now + self.config.check_interval;
        // LISTEN is committed. What was committed before it is in the snapshot or the page that is read now; what
        // comes after it is heard. Every other order loses changes.
        session.fetch = self.state.is_some();
        self.link = Link::Up(session);
        self.start_ear(now, listening);
    }

    fn listening(&mut self, now: Duration, session: SessionId, listening: Result<(), String>) {
        if self.session(session).is_some() {
            self.start_ear(now, listening);
        }
    }

    fn start_ear(&mut self, now: Duration, listening: Result<(), String>) {
        match listening {
            Ok(()) if self.config.notifications => self.prove(now),
            Ok(()) => {}
            Err(why) => {
                if let Link::Up(session) = &mut self.link {
                    session.deafen(why.clone(), now);
                }
                self.actions
                    .push_back(Action::Tell(Told::ListenUnproven { why }));
            }
        }
    }

    /// Sends a nonce through another connection; until it is heard, polling keeps the replica current.
    fn prove(&mut self, now: Duration) {
        let nonce = self.random.next();
        let Link::Up(session) = &mut self.link else {
            return;
        };
        session.ear = Ear::Proving {
            until: now + NONCE_TIMEOUT,
        };
        session.nonce = Some(nonce);
        session.proof_sent = now;
        self.actions.push_back(Action::SendNonce {
            notice: Notice::Nonce(nonce),
        });
    }

    fn disconnected(&mut self, now: Duration, session: SessionId, why: String) {
        match &mut self.link {
            Link::Connecting {
                session: current, ..
            } if *current == session => {}
            Link::Up(current) if current.id == session => {
                if let Query::Snapshot {
                    demand: Some(demand),
                    ..
                } = std::mem::replace(&mut current.query, Query::None)
                {
                    self.repair.demand(demand);
                }
            }
            Link::Waiting { .. } | Link::Connecting { .. } | Link::Up(_) => return,
        }
        let retry_in = self
            .backoff
            .next(self.config.reconnect_interval, self.random.next());
        self.link = Link::Waiting {
            until: now + retry_in,
            why: why.clone(),
        };
        self.actions
            .push_back(Action::Tell(Told::SessionLost { why, retry_in }));
    }

    /// The session, if it is the present one.
    fn session(&mut self, id: SessionId) -> Option<&mut Session> {
        match &mut self.link {
            Link::Up(session) if session.id == id => Some(session),
            Link::Waiting { .. } | Link::Connecting { .. } | Link::Up(_) => None,
        }
    }

    /// Takes the query in flight off the session whose answer came.
    fn answered(&mut self, now: Duration, id: SessionId) -> Option<Query> {
        let poll = self.config.poll_interval + jitter(self.config.poll_jitter, self.random.next());
        let check = self.config.check_interval;
        let session = self.session(id)?;
        session.answered = true;
        let query = std::mem::replace(&mut session.query, Query::None);
        if let Ear::Proving { until } = &mut session.ear
            && now >= *until
        {
            *until = now + NONCE_GRACE;
        }
        // A page says nothing of audits, so writes without end must not put the head off.
        if !matches!(query, Query::Page { .. }) {
            session.check_at = now
                + match session.ear {
                    Ear::Proven | Ear::Proving { .. } => check,
                    Ear::Off | Ear::Deaf { .. } => poll,
                };
        }
        self.backoff.reset();
        Some(query)
    }

    /// Makes the head be looked at as soon as the session is free and not told to pause.
    fn check_soon(&mut self, now: Duration) {
        if let Link::Up(session) = &mut self.link {
            session.check_at = session.check_at.min(now.max(session.quiet_until));
        }
    }

    /// Lets the next read that a notice leads to wait until `until`.
    fn quiet(&mut self, until: Duration) {
        if let Link::Up(session) = &mut self.link {
            session.quiet_until = until;
        }
    }

    fn fetch_soon(&mut self) {
        if let Link::Up(session) = &mut self.link {
            session.fetch = true;
        }
    }

    fn tell(&mut self, told: Told) {
        self.actions.push_back(Action::Tell(told));
    }
}

/// Nine tenths to eleven tenths of an interval, so that a fleet does not beat in step.
fn jittered(interval: Duration, random: &mut Random) -> Duration {
    interval - interval / 10 + jitter(interval / 5, random.next())
}
