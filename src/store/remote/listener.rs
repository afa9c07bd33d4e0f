//! A session as the engine has it: reads by what was pushed, else by HTTP from the same server.
//!
//! Guarantees: an answer from before what was handed out is none, whoever gives it; what a server shows counts as proven
//! when that server had proven it; a server that does not answer, or has lost its own store for long, is left for another one,
//! if there is one.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;

use super::elements::Strange;
use super::fault::strange;
use super::journal::Read;
use super::session::Session;
use super::state::Gathered;
use super::told::HeadTold;
use super::wire::{self, Recorded};
use super::{Remote, lock};
use crate::core::replica::{Head, Loaded, Origin, Page};
use crate::core::{Cursor, Journaled, Revision};
use crate::error::{Error, Result};
use crate::store::{HISTORY_REVISIONS, Heard, Listener};

/// How long pushes that are known to be under way are waited for before the journal is read: a round trip and a revision of
/// a few megabytes.
const ARRIVAL: Duration = Duration::from_millis(500);

/// How long a server may be behind what this replica shows, as after a write by way of another one, until it is left.
const FOLLOW: Duration = Duration::from_secs(2);

/// Between two questions to a server that is behind.
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// A server that cannot ask its own store for longer is left for the next, if there is one. Each attempt to go elsewhere counts
/// against what servers allow a minute.
const AWAY: Duration = Duration::from_secs(10);

pub(super) struct RemoteListener {
    remote: Arc<Remote>,
    session: Arc<Session>,
    server: usize,
    /// Host and port.
    name: String,
    proof: Mutex<Proof>,
    /// Since when the journal has given nothing although the server shows more.
    barren_since: Mutex<Option<Duration>>,
}

/// What a server last said of how current it is.
#[derive(Debug, Default)]
struct Proof {
    /// When it was asked, and how old its state was then.
    asked: Option<(Duration, Duration)>,
    away: Option<String>,
    away_since: Option<Duration>,
}

impl RemoteListener {
    pub(super) fn new(remote: &Arc<Remote>, session: Arc<Session>, server: usize) -> Self {
        Self {
            remote: remote.clone(),
            session,
            server,
            name: remote.name(server),
            proof: Mutex::default(),
            barren_since: Mutex::default(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.session.is_open()
    }

    /// Asks for the head until it is not before what is shown.
    pub(super) async fn ask(&self, own: Revision) -> Result<HeadTold> {
        const WHAT: &str = "the head check";
        let mut answered = false;
        let follow = async {
            loop {
                let sent = self.remote.now();
                let head = self.session.head(own).await;
                let head = head.map_err(|problem| self.failed(WHAT, &problem))?;
                answered = true;
                self.note(sent, &head)?;
                let reached = head.cursor.revision >= own;
                if self.session.rewound || reached || !self.remote.seen().is_past(head.cursor) {
                    return Ok(head);
                }
                tokio::time::sleep(FOLLOW_PAUSE).await;
            }
        };
        match tokio::time::timeout(FOLLOW, follow).await {
            Ok(head) => head,
            Err(_) if answered => Err(self.failed(WHAT, BEHIND)),
            Err(_) => Err(self.failed(WHAT, "no answer within 2s")),
        }
    }

    fn note(&self, sent: Duration, head: &HeadTold) -> Result<()> {
        let mut proof = self.proof();
        let age = head.stale_ms.map(Duration::from_millis);
        proof.asked = age.map(|age| (sent, age));
        proof.away = head.away.as_ref().map(|why| {
            let name = &self.name;
            format!("server {name} cannot ask its own store: {why}")
        });
        if head.away.is_none() {
            proof.away_since = None;
            return Ok(());
        }
        let since = *proof.away_since.get_or_insert(sent);
        if self.remote.servers.len() > 1 && sent.saturating_sub(since) >= AWAY {
            return Err(self.failed("the head check", "it has lost its own store for 10s"));
        }
        Ok(())
    }

    fn proof(&self) -> MutexGuard<'_, Proof> {
        lock(&self.proof)
    }

    /// Passes on what came of a question. A server that does not answer it is left, so that the next session is another
    /// one's, if there is one.
    fn answer<T>(&self, came: Result<T>) -> Result<T> {
        came.inspect_err(|_| {
            let now = self.remote.now();
            self.remote.choice().bad(self.server, now, None);
        })
    }

    fn failed(&self, what: &str, problem: &str) -> Error {
        Error::unavailable(what, format!("server {}: {problem}", self.name))
    }

    /// Makes sure that an answer by HTTP is not from before what the session told when it was asked for, nor from before what
    /// was handed out: a balancer in between may have led the question to another server.
    fn current(&self, what: &str, answered: Cursor, told: Cursor) -> Result<()> {
        let same = answered.epoch == told.epoch && answered.revision >= told.revision;
        if !same || self.remote.seen().is_past(answered) {
            return Err(self.failed(what, BEHIND));
        }
        Ok(())
    }

    /// A page of what was pushed.
    async fn pushed(&self, after: Revision) -> Option<Page> {
        // `None` within means that it is not there; without, that it is on its way.
        let ready = self.session.hub.until(|told| {
            let following = told.after(after);
            let wait =
                matches!(&following, Some((following, _, true)) if following.revisions.is_empty());
            (!wait).then_some(following)
        });
        let ready = tokio::time::timeout(ARRIVAL, ready).await.ok()?;
        let (following, head, _) = ready?;
        let mut revisions = following.revisions;
        if let Some(next) = revisions.first() {
            self.remote.own.settle(next).await;
        }
        self.sign(&mut revisions, head);
        self.remote.seen().note(head);
        Some(Page {
            epoch: head.epoch,
            head: head.revision,
            anchor: Some(following.anchor),
            floor: None,
            revisions,
            more: false,
        })
    }

    fn sign(&self, revisions: &mut [Journaled], of: Cursor) {
        for revision in revisions {
            let cursor = Cursor {
                epoch: of.epoch,
                revision: revision.revision,
                id: revision.id,
            };
            self.remote.own.sign(revision, cursor, self.remote.instance);
        }
    }

    /// A page of the journal.
    async fn journal(&self, after: Revision) -> Result<Page> {
        const WHAT: &str = "reading the journal";
        let newest = self.session.hub.told().newest();
        let since = self.remote.seen().at(after);
        let Some(since) = since.filter(|since| since.epoch == newest.epoch) else {
            return Ok(elsewhere(newest, after));
        };
        let read = self
            .remote
            .revisions(self.server, since, HISTORY_REVISIONS, true);
        let read = match read.await? {
            Read::Revisions(read) => read,
            Read::Gone => return Ok(elsewhere(newest, after)),
            Read::TooLong => return Ok(beyond(newest, after)),
        };
        let mut end = since;
        let mut revisions = Vec::with_capacity(read.revisions.len());
        for text in &read.revisions {
            let told = || -> std::result::Result<(Cursor, Journaled), Strange> {
                let recorded = Recorded::read(text)?;
                let cursor = recorded.cursor()?;
                Ok((cursor, recorded.journaled(cursor)?))
            };
            let (cursor, journaled) = told().map_err(|told| strange(WHAT, &self.name, &told))?;
            if cursor.epoch != since.epoch || cursor.revision != end.revision.next() {
                return Err(strange(
                    WHAT,
                    &self.name,
                    &Strange::new("its journal has a gap"),
                ));
            }
            end = cursor;
            revisions.push(journaled);
        }
        self.bear(!revisions.is_empty() || read.head.revision <= since.revision)
            .await?;
        self.sign(&mut revisions, since);
        self.remote.seen().note(end);
        Ok(Page {
            epoch: since.epoch,
            head: read.head.revision.max(end.revision),
            anchor: Some(since.id),
            floor: None,
            revisions,
            // The server shows more than its journal gave: it follows in a moment.
            more: read.more || end.revision < read.head.revision,
        })
    }

    /// Notes whether the journal gave what the server shows. One that does not is asked again after a pause, and left in the end.
    async fn bear(&self, bears: bool) -> Result<()> {
        let now = self.remote.now();
        let since = {
            let mut since = lock(&self.barren_since);
            if bears {
                *since = None;
                return Ok(());
            }
            *since.get_or_insert(now)
        };
        if now.saturating_sub(since) >= FOLLOW {
            let problem = "its journal does not lead to what it shows";
            return Err(strange(
                "reading the journal",
                &self.name,
                &Strange::new(problem),
            ));
        }
        tokio::time::sleep(FOLLOW_PAUSE).await;
        Ok(())
    }

    async fn state(&self) -> Result<Loaded> {
        const WHAT: &str = "reading the state";
        let begun = self.session.hub.told().newest();
        let mut answer = self.remote.read(WHAT, self.server, "/v1/config").await?;
        let broken = |told: Strange| strange(WHAT, &self.name, &told);
        let told = answer.header("sync-config-cursor");
        let told = told.ok_or_else(|| Strange::new("its state has no cursor"));
        let cursor = told.and_then(wire::cursor).map_err(broken)?;
        self.current(WHAT, cursor, begun)?;
        let mut state = Gathered::at(cursor);
        while let Some(piece) = (answer.piece().await).map_err(|why| self.failed(WHAT, &why))? {
            state.push(&piece).map_err(broken)?;
        }
        let entries = state.finish().map_err(broken)?;
        // It may have taken long.
        self.current(WHAT, cursor, begun)?;
        self.remote.seen().note(cursor);
        Ok(Loaded {
            cursor,
            audit: None,
            entries,
        })
    }
}

const BEHIND: &str = "it is behind what this instance shows already";

/// Says that the journal does not lead on, so that the whole state is read.
fn elsewhere(newest: Cursor, after: Revision) -> Page {
    Page {
        epoch: newest.epoch,
        head: newest.revision,
        anchor: None,
        // Its oldest revision lies beyond the next one, if there are any.
        floor: (newest.revision > after).then(|| after.next().next()),
        revisions: Vec::new(),
        more: false,
    }
}

/// Says so of a journal in which the next revision stands, but is too long to be followed.
fn beyond(newest: Cursor, after: Revision) -> Page {
    let revision = newest.revision.max(after.next());
    elsewhere(Cursor { revision, ..newest }, after)
}

#[async_trait]
impl Listener for RemoteListener {
    /// The server tells everything from the beginning on.
    async fn listen(&self) -> Result<()> {
        if self.session.is_open() {
            Ok(())
        } else {
            Err(self.failed("listening", "the connection ended"))
        }
    }

    async fn head(&self, own: Revision) -> Result<Head> {
        let head = self.answer(self.ask(own).await)?;
        let audit = head.audit.filter(|_| self.session.prefixes.is_none());
        let Cursor {
            epoch,
            revision,
            id,
        } = head.cursor;
        Ok(Head {
            epoch,
            revision,
            id,
            own_id: head.own_id,
            // A part of the entries has another checksum than the whole.
            audit,
            deaf: None,
        })
    }

    async fn page(&self, after: Revision) -> Result<Page> {
        match self.pushed(after).await {
            Some(page) => Ok(page),
            None => self.answer(self.journal(after).await),
        }
    }

    async fn snapshot(&self) -> Result<Loaded> {
        self.answer(self.state().await)
    }

    fn origin(&self) -> Option<Origin> {
        let proof = self.proof();
        // What was proven before the clock begins has no time on it.
        let proven = proof.asked.and_then(|(asked, age)| asked.checked_sub(age));
        let prefixes = self.session.prefixes.as_ref();
        Some(Origin {
            proven,
            away: proof.away.clone(),
            part: prefixes.map(|prefixes| {
                let names: Vec<String> = prefixes.iter().map(|one| format!("{one:?}")).collect();
                let names = crate::core::shown_start(&names.join(", "));
                format!(
                    "the API key shows only the keys that begin with {names}; their checksum is compared with nobody's"
                )
            }),
        })
    }

    async fn heard(&self) -> Vec<Heard> {
        self.session.hub.heard().await
    }

    async fn close(&self) {
        self.session.close().await;
    }
}
