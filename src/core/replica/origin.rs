//! Sessions whose answers do not come from the database itself but from an instance that is asked in its place.
//!
//! Guarantees: what such an instance shows counts as proven when it had proven it, never when it was asked; while it cannot
//! ask the database, neither can this replica, whatever it answers.

use std::time::Duration;

use super::Replica;
use super::io::{Origin, SessionId};
use super::link::{Link, Session};

impl Replica {
    /// When what is shown was last proven the newest.
    pub(crate) fn proven_at(&self) -> Option<Duration> {
        self.proven_at
    }

    /// Which part of the entries is shown, if not all are.
    pub(crate) fn part(&self) -> Option<&str> {
        self.origin()?.part.as_deref()
    }

    pub(super) fn comes_from(&mut self, session: SessionId, origin: Origin) {
        if let Some(session) = self.session(session) {
            session.origin = Some(origin);
        }
    }

    /// Notes that the answer to what was asked then proves what is shown.
    pub(super) fn proven(&mut self, sent: Duration) {
        match self.origin() {
            None => self.proven_at = Some(sent),
            Some(Origin { proven, .. }) => {
                let proven = *proven;
                self.proven_at = self.proven_at.max(proven);
            }
        }
    }

    fn origin(&self) -> Option<&Origin> {
        match &self.link {
            Link::Up(session) => session.origin.as_ref(),
            Link::Waiting { .. } | Link::Connecting { .. } => None,
        }
    }
}

impl Session {
    /// Why whoever answers cannot ask the database.
    pub(super) fn away(&self) -> Option<&str> {
        self.origin.as_ref()?.away.as_deref()
    }
}
