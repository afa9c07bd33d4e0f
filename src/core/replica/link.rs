//! The session with the database: whether it is up, what is asked on it, and whether it hears.

use std::time::Duration;

use super::io::{Origin, ResyncCause, SessionId};
use crate::core::{Cursor, Revision};

/// How long a nonce may take to come back: 3 s is far above any healthy round trip.
pub(super) const NONCE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a session that does not hear waits until it tries again; then twice as long, up to an hour, because every
/// LISTEN through a transaction pooler is left behind on a connection of somebody else's.
const DEAF_RETRY: Duration = Duration::from_secs(60);
const LONGEST_DEAF_RETRY: Duration = Duration::from_secs(3_600);

/// LISTEN is always answered; should it not be, it is tried again after this.
pub(super) const LISTEN_RETRY: Duration = Duration::from_secs(60);

/// A server sends notices only between transactions: after a long read they get this much more time.
pub(super) const NONCE_GRACE: Duration = Duration::from_millis(500);

/// Proofs are sent at most this often while notices seem to be missed.
pub(super) const PROOF_PAUSE: Duration = Duration::from_secs(10);

/// The pause between reads that found nothing, so that a flood of forged notices costs 200 reads a second at most.
pub(crate) const EMPTY_READ_PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one, and it is up nearly always"
)]
pub(super) enum Link {
    /// Nothing is open; the next attempt is due at a time.
    Waiting {
        until: Duration,
        why: String,
    },
    /// [`super::Action::Connect`] is under way.
    Connecting {
        session: SessionId,
        why: String,
    },
    Up(Session),
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) query: Query,
    pub(super) ear: Ear,
    /// When the head has to be looked at again.
    pub(super) check_at: Duration,
    /// A revision that a check found before its notice, which may still be under way.
    pub(super) untold: Option<Revision>,
    /// Whether a page of the journal is owed.
    pub(super) fetch: bool,
    /// No notice leads to a read before this, unless the last read brought something.
    pub(super) quiet_until: Duration,
    /// Whether a query has succeeded on this session.
    pub(super) answered: bool,
    pub(super) proof_sent: Duration,
    /// The last nonce sent: late, it still proves.
    pub(super) nonce: Option<u64>,
    /// How often in a row notices did not arrive.
    pub(super) deaf: u32,
    /// Who answers, if it is not the database itself.
    pub(super) origin: Option<Origin>,
}

/// The one query in flight.
#[derive(Debug)]
pub(super) enum Query {
    None,
    Head {
        asked: Option<Cursor>,
        sent: Duration,
    },
    Page {
        after: Cursor,
        sent: Duration,
    },
    Snapshot {
        demand: Option<Demand>,
        asked: Option<Cursor>,
        sent: Duration,
    },
}

/// Whether notices arrive.
#[derive(Debug)]
pub(super) enum Ear {
    /// Notifications are switched off.
    Off,
    /// A nonce is under way.
    Proving {
        until: Duration,
    },
    Proven,
    Deaf {
        why: String,
        retry_at: Duration,
    },
}

/// A resync that is owed.
#[derive(Debug, Clone)]
pub(super) struct Demand {
    pub(super) cause: ResyncCause,
    pub(super) not_before: Duration,
    /// Who asked for it.
    pub(super) tickets: Vec<u64>,
    /// How often the snapshot could not be compared, because writes were faster.
    pub(super) attempts: u32,
}

impl Demand {
    pub(super) fn new(cause: ResyncCause, not_before: Duration) -> Self {
        Self {
            cause,
            not_before,
            tickets: Vec::new(),
            attempts: 0,
        }
    }

    /// Two demands become one: a fork wins, then the one that replaces; and the earlier time.
    pub(super) fn merge(self, other: Self) -> Self {
        let fork = other.cause == ResyncCause::Fork;
        let cause = if fork || (other.cause.replaces() && !self.cause.replaces()) {
            other.cause
        } else {
            self.cause
        };
        let mut tickets = self.tickets;
        tickets.extend(other.tickets);
        Self {
            cause,
            not_before: self.not_before.min(other.not_before),
            tickets,
            attempts: self.attempts.max(other.attempts),
        }
    }
}

impl Session {
    pub(super) fn new(id: SessionId, ear: Ear, now: Duration) -> Self {
        Self {
            id,
            query: Query::None,
            ear,
            check_at: now,
            untold: None,
            fetch: false,
            quiet_until: now,
            answered: false,
            proof_sent: now,
            nonce: None,
            deaf: 0,
            origin: None,
        }
    }

    /// Notices do not arrive, or LISTEN was refused.
    pub(super) fn deafen(&mut self, why: String, now: Duration) {
        let retry_in = DEAF_RETRY
            .saturating_mul(1 << self.deaf.min(6))
            .min(LONGEST_DEAF_RETRY);
        self.deaf = self.deaf.saturating_add(1);
        self.ear = Ear::Deaf {
            why,
            retry_at: now + retry_in,
        };
    }

    pub(super) fn idle(&self) -> bool {
        matches!(self.query, Query::None)
    }
}
