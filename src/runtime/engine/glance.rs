//! What a server tells of an instance many times a second, without the cost of a status.

use std::time::Duration;

use super::Engine;
use crate::core::replica::{AuditReport, Mode};
use crate::core::{Cursor, Revision, RevisionId};
use crate::status::Mode as ShownMode;

/// How an instance is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Glance {
    pub(crate) cursor: Cursor,
    pub(crate) mode: ShownMode,
    /// How long ago the state was proven equal to the database's head; `None` before the first time.
    pub(crate) proven: Option<Duration>,
    /// The last audit of the fleet that was read.
    pub(crate) audit: Option<AuditReport>,
}

impl Engine {
    /// Looks at the instance; `None` before the first load.
    pub(crate) fn glance(&self) -> Option<Glance> {
        let replica = self.replica();
        let cursor = replica.cursor()?;
        let (mode, proven, audit) = (replica.mode(), replica.proven_at(), replica.last_audit());
        drop(replica);
        let mode = match mode {
            Mode::Push => ShownMode::Push,
            Mode::Poll { .. } => ShownMode::Poll,
            Mode::Offline { .. } => ShownMode::Offline,
        };
        let proven = proven.map(|at| self.clock.now().saturating_sub(at));
        Some(Glance {
            cursor,
            mode,
            proven,
            audit,
        })
    }

    /// The id of a revision of the epoch shown, while it is among the recent ones.
    pub(crate) fn id_of(&self, revision: Revision) -> Option<RevisionId> {
        self.replica().id_of(revision)
    }
}
