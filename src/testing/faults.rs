//! The switches of a store that plays a database.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::Serialize;
use tokio::sync::watch;

use super::session::Session;
use crate::core::{Entry, Key, Revision, Value, canonical};
use crate::error::{Error, Kind, Result};
use crate::service::ConfigService;
use crate::store::memory::MemoryDatabase;
use crate::write::Item;

/// What becomes of a write instead of what should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The database cannot be reached; nothing is written.
    Unavailable,
    /// The database was busy (a lock, a deadlock); nothing is written, and trying again may work.
    Retryable,
    /// The role lacks a right; nothing is written.
    Denied,
    /// Somebody was faster: a precondition of the first key does not hold, whether or not it has one. Nothing is written.
    Conflict,
    /// The answer is lost.
    OutcomeUnknown {
        /// Whether it was written all the same.
        applied: bool,
    },
}

/// What goes wrong with a [`TestStore`](super::TestStore). Clones are the same switches.
#[derive(Clone)]
pub struct Faults {
    shared: Arc<Shared>,
}

struct Shared {
    database: MemoryDatabase,
    switches: Mutex<Switches>,
    frozen: watch::Sender<bool>,
}

#[derive(Default)]
struct Switches {
    drop_notices: bool,
    away: bool,
    /// Each for so many writes.
    writes: VecDeque<(Fault, usize)>,
    sessions: Vec<Weak<Session>>,
}

impl Faults {
    pub(super) fn new(database: MemoryDatabase) -> Self {
        let (switches, frozen) = (Mutex::default(), watch::Sender::new(false));
        Self {
            shared: Arc::new(Shared {
                database,
                switches,
                frozen,
            }),
        }
    }

    /// Loses every notice from now on: of changes, heartbeats and the proofs of delivery. Switched off, what was sent until
    /// then stays lost.
    pub fn drop_notices(&self, yes: bool) {
        let was = std::mem::replace(&mut self.switches().drop_notices, yes);
        if was && !yes {
            for session in self.sessions() {
                session.forget_notices();
            }
        }
    }

    /// Lets the next writes fail, so many of them, whoever writes. Called again, it adds to what is left.
    pub fn fail_writes(&self, fault: Fault, times: usize) {
        if times > 0 {
            self.switches().writes.push_back((fault, times));
        }
    }

    /// Lets the database give no answer to anything. Sessions are not lost by it until somebody gives them up; a write gives
    /// up after `request_timeout`, its outcome unknown (it is not applied).
    pub fn freeze(&self) {
        self.shared.frozen.send_replace(true);
    }

    /// Ends a [`freeze`](Self::freeze): what still waits is answered.
    pub fn thaw(&self) {
        self.shared.frozen.send_replace(false);
    }

    /// Takes the database away: sessions are lost, and everything is refused as unavailable, until it is brought back.
    pub fn away(&self, yes: bool) {
        self.switches().away = yes;
        if yes {
            self.cut();
        }
    }

    /// Loses every session. Instances begin new ones.
    pub fn cut(&self) {
        for session in self.sessions() {
            session.lose();
        }
    }

    /// Lets the store forget its newest revisions, as after a failover that lost commits. The next write makes another
    /// revision of the same number, with another id. Nobody is told: instances find out at their next check.
    ///
    /// # Errors
    ///
    /// When the journal does not reach back to the revision.
    pub fn rewind(&self, to: Revision) -> Result<()> {
        self.shared.database.rewind(to)
    }

    /// Alters a row as no trigger sees it: without a revision, a journal and a notice. The heartbeat's audit finds it.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] for a key or a value out of bounds.
    pub fn edit_behind(&self, key: &str, value: impl Serialize) -> Result<()> {
        let (key, value) = parsed(key, &value)?;
        self.shared.database.alter(&key, Some(value.as_json()));
        Ok(())
    }

    /// Removes a row as no trigger sees it.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] for a key out of bounds.
    pub fn remove_behind(&self, key: &str) -> Result<()> {
        self.shared.database.alter(&Key::parse(key)?, None);
        Ok(())
    }

    /// Breaks one instance's copy of a key, and with it the checksum that it broadcasts. No subscriber is told.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] for a key or a value out of bounds, [`Error::is_not_ready`] before the first load.
    pub fn falsify(&self, of: &ConfigService, key: &str, value: impl Serialize) -> Result<()> {
        let (key, value) = parsed(key, &value)?;
        of.falsify(Arc::new(Entry::new(key, value, Revision::ZERO, 0)))
    }

    pub(super) fn drops_notices(&self) -> bool {
        self.switches().drop_notices
    }

    /// Waits until the database answers.
    pub(super) async fn thawed(&self) {
        let mut frozen = self.shared.frozen.subscribe();
        // The sender lives as long as this.
        drop(frozen.wait_for(|frozen| !*frozen).await);
    }

    pub(super) fn check_there(&self, what: &str) -> Result<()> {
        if self.switches().away {
            return Err(Error::unavailable(what, "the test has taken it away"));
        }
        Ok(())
    }

    /// The fault that the next write meets.
    pub(super) fn next_of_writes(&self) -> Option<Fault> {
        let mut switches = self.switches();
        let (fault, times) = switches.writes.front_mut()?;
        let fault = *fault;
        *times -= 1;
        if *times == 0 {
            switches.writes.pop_front();
        }
        Some(fault)
    }

    pub(super) fn opened(&self, session: &Arc<Session>) {
        let mut switches = self.switches();
        switches
            .sessions
            .retain(|session| session.strong_count() > 0);
        switches.sessions.push(Arc::downgrade(session));
    }

    fn sessions(&self) -> Vec<Arc<Session>> {
        let switches = self.switches();
        switches.sessions.iter().filter_map(Weak::upgrade).collect()
    }

    fn switches(&self) -> MutexGuard<'_, Switches> {
        let switches = self.shared.switches.lock();
        switches.unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let switches = self.switches();
        f.debug_struct("Faults")
            .field("drop_notices", &switches.drop_notices)
            .field("away", &switches.away)
            .field("frozen", &*self.shared.frozen.borrow())
            .field("writes", &switches.writes)
            .finish()
    }
}

impl Fault {
    /// The error that a write of these items is answered with.
    pub(super) fn error(self, items: &[Item]) -> Error {
        let what = "writing".to_owned();
        let problem = "as the test wants it".to_owned();
        let kind = match self {
            Self::Unavailable => Kind::Unavailable { what, problem },
            Self::Retryable => Kind::Retryable { what, problem },
            Self::Denied => Kind::Denied { what, problem },
            Self::OutcomeUnknown { .. } => Kind::OutcomeUnknown { what, problem },
            Self::Conflict => Kind::Conflict {
                key: items
                    .first()
                    .map_or_else(|| Key::stored("?"), |item| item.key.clone()),
                expected: "as the test does not want it".to_owned(),
                actual: "otherwise".to_owned(),
                at: None,
            },
        };
        kind.into()
    }
}

/// The key, and the value with the text that a store holds of it.
fn parsed(key: &str, value: &impl Serialize) -> Result<(Key, Value)> {
    let key = Key::parse(key)?;
    let text = Value::encode(value).and_then(|value| canonical(value.as_json()));
    match text {
        Ok(text) => Ok((key, Value::stored(&text))),
        Err(error) => Err(Kind::Value { key, error }.into()),
    }
}
