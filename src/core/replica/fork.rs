//! Histories that were replaced within their epoch.
//!
//! Guarantees that what was shown under an epoch is one history: the state of another past is shown under another epoch only,
//! so that no cursor of the one is taken for a place in the other. It is the epoch that the database began for it. A replica
//! whose role may not begin one, or cannot for 90 s, begins one of its own; until then it shows what it had, as stale.

use std::time::Duration;

use super::Replica;
use super::io::{Action, Input, ResyncCause, Rotation, Told};
use super::link::Demand;
use super::repair::Repair;
use crate::core::notice::Notice;
use crate::core::{Cursor, Epoch};

/// A new epoch is asked for at most this often: it may be refused, or not be seen yet where this replica reads.
const ROTATE_PAUSE: Duration = Duration::from_secs(1);

/// How long a new epoch that is not denied is hoped for. The database lets one be begun once a minute.
const HOPE: Duration = Duration::from_secs(90);

#[derive(Debug, Default)]
pub(super) struct Fork {
    /// What was told to be lost, and since when, until another history is shown or it is found after all.
    told: Option<(Cursor, Duration)>,
    /// The database will not begin a new epoch for this replica.
    denied: bool,
    again_at: Duration,
    own: Option<OwnEpoch>,
}

/// The database's epoch, under which another history was shown before, and what is shown for it.
#[derive(Clone, Copy, Debug)]
struct OwnEpoch {
    stored: Epoch,
    shown: Epoch,
}

impl Replica {
    /// Whether the epoch shown is one that this replica began.
    pub(crate) fn has_own_epoch(&self) -> bool {
        self.fork.own.is_some()
    }

    /// What the database's epoch is shown as.
    pub(crate) fn shown_epoch(&self, stored: Epoch) -> Epoch {
        let own = self.fork.own.filter(|own| own.stored == stored);
        own.map_or(stored, |own| own.shown)
    }

    /// Whether what is shown is known to be lost in the database.
    pub(crate) fn shows_what_is_lost(&self) -> bool {
        self.fork.told.is_some()
    }

    /// The database has what is shown: a server that lagged has caught up.
    pub(super) fn fork_refuted(&mut self) {
        self.fork.told = None;
    }

    /// The database's name of an epoch shown.
    pub(crate) fn stored_epoch(&self, shown: Epoch) -> Epoch {
        let own = self.fork.own.filter(|own| own.shown == shown);
        own.map_or(shown, |own| own.stored)
    }

    /// Names the epoch of what came from the database as it is shown.
    pub(super) fn translate(&self, input: &mut Input) {
        let epoch = match input {
            Input::Heard {
                notice: Some(Notice::Changed { epoch, .. } | Notice::Heartbeat { epoch, .. }),
                ..
            } => epoch,
            Input::Head { head, .. } => &mut head.epoch,
            Input::Page { page, .. } => &mut page.epoch,
            Input::Snapshot { snapshot, .. } => &mut snapshot.cursor.epoch,
            Input::Committed(committed) => &mut committed.epoch,
            Input::Audited { cursor, .. } => &mut cursor.epoch,
            Input::Tick
            | Input::Connected { .. }
            | Input::Listening { .. }
            | Input::Disconnected { .. }
            | Input::Heard { .. }
            | Input::Restored(_)
            | Input::ResyncAsked { .. }
            | Input::Rotated(_)
            | Input::Look
            | Input::Origin { .. } => return,
        };
        *epoch = self.shown_epoch(*epoch);
    }

    /// The past was rewritten. Whoever proves it begins a new epoch, so that nobody mistakes the two.
    pub(super) fn forked(&mut self, now: Duration, ours: Cursor) {
        if self.repair.rotating || now < self.fork.again_at {
            return;
        }
        self.repair.rotating = true;
        self.fork.denied = false;
        if self.fork.told.is_none_or(|(lost, _)| lost != ours) {
            self.fork.told = Some((ours, now));
            self.tell(Told::Forked { ours });
        }
        let epoch = self.stored_epoch(ours.epoch);
        let lost = Cursor { epoch, ..ours };
        self.actions.push_back(Action::RotateEpoch { lost });
        self.repair
            .demand(Demand::new(ResyncCause::Fork, Duration::ZERO));
    }

    pub(super) fn rotated(&mut self, now: Duration, rotation: Rotation) {
        self.repair.rotating = false;
        let since = self.fork.told.map_or(now, |(_, since)| since);
        match rotation {
            Rotation::Done => {}
            Rotation::Failed if now < since + HOPE => self.hold(now),
            Rotation::Denied | Rotation::Failed => self.fork.denied = true,
        }
    }

    /// Goes on showing what was before, until the next look at the head proves the same again, or something better.
    fn hold(&mut self, now: Duration) {
        self.fork.again_at = now + ROTATE_PAUSE;
        self.repair.let_fork_go();
    }

    /// When another history may be asked to take the place of ours again.
    pub(super) fn fork_pause(&self) -> Duration {
        self.fork.again_at
    }

    /// The epoch under which another history takes the place of ours; `None` when it has to wait for one.
    pub(super) fn epoch_of(
        &mut self,
        now: Duration,
        loaded: Cursor,
        demand: &Demand,
    ) -> Option<Epoch> {
        let ours = self.cursor()?.epoch;
        let lost = demand.cause == ResyncCause::Fork && loaded.epoch == ours;
        if !lost {
            self.fork.told = None;
            self.fork.own = self.fork.own.filter(|own| own.shown == loaded.epoch);
            return Some(loaded.epoch);
        }
        if !self.fork.denied {
            if !demand.tickets.is_empty() {
                self.repair.demand(demand.clone());
            }
            self.hold(now);
            return None;
        }
        self.fork.told = None;
        let stored = self.stored_epoch(ours);
        let bits = [self.random.next(), self.random.next()].map(u128::from);
        let shown = Epoch::from_u128(bits[0] << 64 | bits[1]);
        self.fork.own = Some(OwnEpoch { stored, shown });
        self.tell(Told::OwnEpoch { stored, shown });
        Some(shown)
    }
}

impl Repair {
    /// Forgets a fork that is owed a resync; whoever asked for one is still answered.
    pub(super) fn let_fork_go(&mut self) {
        if let Some(owed) = self.take_fork()
            && !owed.tickets.is_empty()
        {
            self.demand(Demand {
                cause: ResyncCause::Asked,
                ..owed
            });
        }
    }
}
