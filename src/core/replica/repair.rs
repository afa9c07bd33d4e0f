//! Heartbeats, audits, and the resync they lead to.
//!
//! A peer's claim is believed no further than to read the table again, and that at a bounded rate: claims can be wrong or
//! forged. The audit's claim was folded from the table itself and is read from the database, so it has a way of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::io::{
    Action, AuditReport, ClaimSource, Config, Loaded, Publication, Reaction, ResyncCause, Told,
};
use super::link::{Demand, Ear, Link};
use super::{Replica, jitter};
use crate::core::history::History;
use crate::core::notice::Notice;
use crate::core::table::Table;
use crate::core::{Cause, Change, ChangeSet, Checksum, Cursor, Epoch, Key, Revision, Snapshot};

/// After a resync that found nothing, peers are not believed again for this long, then twice as long, up to an hour.
const FIRST_COOL_DOWN: Duration = Duration::from_secs(10);
const LONGEST_COOL_DOWN: Duration = Duration::from_secs(3_600);

/// A fleet that hears one mismatch does not read the table in the same instant: up to this much apart.
const SPREAD: Duration = Duration::from_secs(1);

/// Folding a past revision copies the table; forged heartbeats make that happen once a second at most.
const PAST_FOLD_PAUSE: Duration = Duration::from_secs(1);

/// And so much less often the larger the table: an entry takes about half a microsecond to copy and fold.
const PAST_FOLD_PAUSE_PER_ENTRY: Duration = Duration::from_micros(20);

/// How often one heartbeat may audit, when each audit finds something to repair.
const MAX_AUDIT_ROUNDS: u32 = 3;

/// How often a snapshot that writes outran is read again.
const MAX_ATTEMPTS: u32 = 3;

/// Somebody says what the checksum of a revision is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) source: ClaimSource,
    pub(super) epoch: Epoch,
    pub(super) revision: Revision,
    pub(super) checksum: Checksum,
}

#[derive(Debug)]
pub(super) struct Repair {
    demand: Option<Demand>,
    /// A snapshot that waits until the journal has brought us to its revision.
    pub(super) verifying: Option<(Loaded, Demand)>,
    /// Claims about revisions that we have not reached: the newest of a peer, and the audit's.
    ahead_peer: Option<Claim>,
    ahead_audit: Option<Claim>,
    audits_seen: u64,
    /// The last one read, for whoever asks this instance instead of the database.
    #[cfg(feature = "server")]
    last_audit: Option<AuditReport>,
    pub(super) audit_rounds: u32,
    /// This instance audits, and its last audit has not agreed yet.
    auditing: bool,
    cool_until: Duration,
    cool_down: Duration,
    past_fold_at: Duration,
    /// A fork was proven and the epoch is being rotated.
    pub(super) rotating: bool,
    pub(super) last_changed: usize,
}

impl Repair {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            demand: None,
            verifying: None,
            ahead_peer: None,
            ahead_audit: None,
            audits_seen: 0,
            #[cfg(feature = "server")]
            last_audit: None,
            audit_rounds: 0,
            auditing: false,
            cool_until: Duration::ZERO,
            cool_down: FIRST_COOL_DOWN.min(config.heartbeat_interval),
            past_fold_at: Duration::ZERO,
            rotating: false,
            last_changed: 0,
        }
    }

    pub(super) fn demand(&mut self, demand: Demand) {
        self.demand = Some(match self.demand.take() {
            Some(owed) => owed.merge(demand),
            None => demand,
        });
    }

    pub(super) fn take_fork(&mut self) -> Option<Demand> {
        self.demand.take_if(|owed| owed.cause == ResyncCause::Fork)
    }

    /// When a snapshot is owed.
    pub(super) fn due(&self) -> Option<Duration> {
        if self.rotating {
            None
        } else {
            self.demand.as_ref().map(|demand| demand.not_before)
        }
    }

    pub(super) fn take_due(&mut self, now: Duration) -> Option<Demand> {
        if self.due().is_some_and(|due| now >= due) {
            self.demand.take()
        } else {
            None
        }
    }

    /// A new snapshot also answers those who asked for the one that still waits to be compared.
    pub(super) fn joined(&mut self, demand: Demand) -> Demand {
        match self.verifying.take() {
            Some((_, waiting)) => demand.merge(waiting),
            None => demand,
        }
    }

    /// A whole table came: audits before it say nothing about it. Nor does a fork that was proven of the table before it:
    /// if there is another, the next page proves it anew, and begins an epoch for it.
    pub(super) fn loaded(&mut self, audit: Option<AuditReport>) {
        self.let_fork_go();
        self.audits_seen = audit.map_or(0, |audit| audit.number);
        #[cfg(feature = "server")]
        {
            self.last_audit = audit;
        }
        self.verifying = None;
        self.ahead_peer = None;
        self.ahead_audit = None;
    }

    #[cfg(feature = "server")]
    pub(super) fn last_audit(&self) -> Option<AuditReport> {
        self.last_audit
    }

    pub(super) fn heard_audit(&mut self, report: AuditReport, epoch: Epoch) {
        #[cfg(feature = "server")]
        {
            self.last_audit = Some(report);
        }
        // Not only a greater number: after a restore the audits count anew.
        if report.number != self.audits_seen {
            self.audits_seen = report.number;
            let (
                source,
                AuditReport {
                    revision, checksum, ..
                },
            ) = (ClaimSource::Audit, report);
            self.ahead_audit = Some(Claim {
                source,
                epoch,
                revision,
                checksum,
            });
        }
    }

    pub(super) fn done(
        &self,
        actions: &mut VecDeque<Action>,
        demand: Option<Demand>,
        changed: usize,
    ) {
        let tickets = demand.map(|demand| demand.tickets).unwrap_or_default();
        if !tickets.is_empty() {
            actions.push_back(Action::ResyncDone { tickets, changed });
        }
    }
}

impl Replica {
    /// Broadcasts what we hold. Without notifications there is nobody to hear it.
    pub(super) fn send_heartbeat(&mut self, audited: bool) {
        let hears = matches!(&self.link, Link::Up(session) if !matches!(session.ear, Ear::Off));
        let (Some(checksum), Some(cursor)) = (self.checksum(), self.cursor()) else {
            return;
        };
        if hears {
            let epoch = self.stored_epoch(cursor.epoch);
            let (revision, instance) = (cursor.revision, self.config.instance);
            let notice = Notice::Heartbeat {
                epoch,
                revision,
                checksum,
                instance,
                audited,
            };
            self.actions.push_back(Action::SendHeartbeat { notice });
        }
    }

    /// Compares a claim now, or when its revision has been reached.
    pub(super) fn consider(&mut self, now: Duration, claim: Claim) {
        let Some(cursor) = self.cursor() else { return };
        if claim.epoch != cursor.epoch {
            return;
        }
        match claim.source {
            ClaimSource::Peer { .. } => self.repair.ahead_peer = Some(claim),
            ClaimSource::Audit | ClaimSource::OwnAudit => self.repair.ahead_audit = Some(claim),
        }
        if claim.revision > cursor.revision {
            self.fetch_soon();
        } else {
            self.settle_claims(now);
        }
    }

    /// Compares the claims whose revision we have reached by now.
    pub(super) fn settle_claims(&mut self, now: Duration) {
        let Some(cursor) = self.cursor() else { return };
        let reached =
            |claim: &mut Claim| claim.epoch != cursor.epoch || claim.revision <= cursor.revision;
        let audit = self.repair.ahead_audit.take_if(reached);
        let peer = self.repair.ahead_peer.take_if(reached);
        for claim in [audit, peer].into_iter().flatten() {
            if claim.epoch == cursor.epoch {
                self.compare(now, claim);
            }
        }
    }

    fn compare(&mut self, now: Duration, claim: Claim) {
        let Some(ours) = self.checksum_at(now, claim) else {
            if claim.source == ClaimSource::OwnAudit {
                self.audit_again();
            }
            return;
        };
        let Claim {
            source,
            revision,
            checksum: theirs,
            ..
        } = claim;
        if ours == theirs {
            if !matches!(source, ClaimSource::Peer { .. }) {
                self.tell(Told::AuditAgreed {
                    revision,
                    checksum: ours,
                });
            }
            if source == ClaimSource::OwnAudit {
                self.repair.auditing = false;
                self.actions.push_back(Action::ReportAudit {
                    revision,
                    checksum: ours,
                });
                self.send_heartbeat(true);
            }
            return;
        }
        let reaction = self.react(now, source);
        self.tell(Told::Mismatch {
            source,
            revision,
            ours,
            theirs,
            reaction,
        });
        if source == ClaimSource::OwnAudit && reaction == Reaction::ReportedOnly {
            self.actions.push_back(Action::ReportAudit {
                revision,
                checksum: theirs,
            });
        }
    }

    fn react(&mut self, now: Duration, source: ClaimSource) -> Reaction {
        if !self.config.sync_on_mismatch {
            return Reaction::ReportedOnly;
        }
        let spread = jitter(
            SPREAD.min(self.config.heartbeat_interval / 10),
            self.random.next(),
        );
        let demand = match source {
            ClaimSource::OwnAudit => Demand::new(ResyncCause::AuditMismatch, now),
            ClaimSource::Audit => Demand::new(ResyncCause::AuditMismatch, now + spread),
            ClaimSource::Peer { .. } if now < self.repair.cool_until => {
                return Reaction::CoolingDown;
            }
            ClaimSource::Peer { .. } => {
                self.repair.cool_until = now + self.repair.cool_down + spread;
                Demand::new(ResyncCause::PeerMismatch, now + spread)
            }
        };
        self.repair.demand(demand);
        Reaction::Resync
    }

    /// Our checksum at the claim's revision, if that can be known.
    fn checksum_at(&mut self, now: Duration, claim: Claim) -> Option<Checksum> {
        let state = self.state.as_mut()?;
        if claim.revision == state.cursor.revision {
            return Some(state.checksum());
        }
        let peer = matches!(claim.source, ClaimSource::Peer { .. });
        if peer && now < self.repair.past_fold_at {
            return None;
        }
        let past = state.history.table_at(claim.revision, &state.table)?;
        if peer {
            let entries = u32::try_from(state.table.len()).unwrap_or(u32::MAX);
            self.repair.past_fold_at = now + PAST_FOLD_PAUSE + PAST_FOLD_PAUSE_PER_ENTRY * entries;
        }
        Some(past.checksum())
    }

    pub(super) fn audited(&mut self, now: Duration, cursor: Cursor, checksum: Checksum) {
        let (
            source,
            Cursor {
                epoch, revision, ..
            },
        ) = (ClaimSource::OwnAudit, cursor);
        self.repair.auditing = true;
        self.consider(
            now,
            Claim {
                source,
                epoch,
                revision,
                checksum,
            },
        );
    }

    fn audit_again(&mut self) {
        self.repair.auditing = false;
        self.repair.audit_rounds += 1;
        if self.repair.audit_rounds <= MAX_AUDIT_ROUNDS {
            self.actions.push_back(Action::Audit { again: true });
        }
    }

    /// Compares the snapshot of a resync with our state at the snapshot's revision, once we have reached it. What differs
    /// there never went through the journal. Keys that were changed since are left as the journal says. Once the journal
    /// has nothing more for us (`current`), a snapshot that still lies ahead is of a history that was taken back.
    pub(super) fn verify(&mut self, now: Duration, current: bool) {
        let Some(state) = &mut self.state else { return };
        let reached = |(loaded, _): &mut (Loaded, Demand)| {
            current
                || loaded.cursor.epoch != state.cursor.epoch
                || loaded.cursor.revision <= state.cursor.revision
        };
        let Some((loaded, demand)) = self.repair.verifying.take_if(reached) else {
            return;
        };
        let at = loaded.cursor;
        let known =
            state.cursor.epoch == at.epoch && state.history.id_of(at.revision) == Some(at.id);
        let past = known.then(|| state.history.table_at(at.revision, &state.table));
        let Some(past) = past.flatten() else {
            return self.attempt_again(now, demand);
        };
        let before = state.checksum();
        let table = Table::build(loaded.entries);
        let untracked = past.difference(&table);
        let olds: Vec<(Key, Option<Arc<str>>)> = untracked
            .iter()
            .map(|change| {
                (
                    change.key.clone(),
                    change.old.as_ref().map(|old| old.as_json().into()),
                )
            })
            .collect();
        let mut changes: Vec<Change> = Vec::new();
        let newer = state.history.named_since(at.revision);
        for change in untracked {
            if !newer.contains(&change.key) {
                state.table.set(&change.key, change.new.clone());
                changes.push(change);
            }
        }
        state.checksum = None;
        if !changes.is_empty() {
            // What was undone before said nothing of these keys: the past begins here.
            state.history = History::at(state.cursor.revision, state.cursor.id);
        }
        let after = state.checksum();
        let cause = demand.cause;
        self.learn(now, changes.is_empty(), demand.cause);
        self.publish_resync(changes, cause, before, after);
        let changed = self.repair.last_changed;
        self.repair.done(&mut self.actions, Some(demand), changed);
        if !olds.is_empty() {
            self.actions.push_back(Action::Reconcile { keys: olds });
        }
        if cause == ResyncCause::AuditMismatch && self.repair.auditing {
            self.audit_again();
        }
    }

    /// A snapshot could not be compared: its revision is not one of ours, or is older than what is remembered.
    fn attempt_again(&mut self, now: Duration, mut demand: Demand) {
        demand.attempts += 1;
        if demand.attempts < MAX_ATTEMPTS {
            self.repair.demand(demand);
        } else {
            let cause = demand.cause;
            self.tell(Told::ResyncPutOff { cause });
            self.learn(now, true, cause);
            self.repair.done(&mut self.actions, Some(demand), 0);
        }
        self.check_soon(now);
    }

    /// A resync that peers led to and that found nothing makes them less believable, any that found something makes them
    /// believable again.
    fn learn(&mut self, now: Duration, nothing: bool, cause: ResyncCause) {
        if nothing && cause != ResyncCause::PeerMismatch {
            return;
        }
        let first = FIRST_COOL_DOWN.min(self.config.heartbeat_interval);
        self.repair.cool_down = if nothing {
            (self.repair.cool_down * 2).min(LONGEST_COOL_DOWN)
        } else {
            first
        };
        self.repair.cool_until = if nothing {
            self.repair.cool_until.max(now + self.repair.cool_down)
        } else {
            now
        };
    }

    pub(super) fn publish_resync(
        &mut self,
        changes: Vec<Change>,
        cause: ResyncCause,
        before: Checksum,
        after: Checksum,
    ) {
        let Some(state) = &self.state else { return };
        let (cursor, changed) = (state.cursor, changes.len());
        self.repair.last_changed = changed;
        let now = Arc::new(Snapshot::new(cursor, state.table.entries()));
        let set = Arc::new(ChangeSet {
            cursor,
            cause: Cause::Resync,
            changes,
        });
        self.actions
            .push_back(Action::Publish(Publication::Resynced { set, now, cause }));
        self.tell(Told::Resynced {
            cause,
            revision: cursor.revision,
            before: Some(before),
            after,
            changed,
        });
    }
}
