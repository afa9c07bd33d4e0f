//! What an instance has been through: one counter and one log line for each recovery, with its cause.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::core::replica::{ClaimSource, Reaction, ResyncCause, Told};
use crate::core::{Checksum, Revision, shown};
use crate::runtime::saved::Refusal;
use crate::status::{Counters, HeartbeatStatus, MAX_NAMED, SlowConsumer, Stale, StateFileStatus};

/// What an operator has to do where this program may not begin a new epoch.
pub(super) const OWN_EPOCH: &str = "the store's history was replaced within its epoch, and no new one could be begun: another \
     epoch is shown for it; run `sync-config new-epoch` where the database is, as the table's owner";

#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<Pages>);

#[derive(Debug, Default)]
pub(crate) struct Pages {
    pub(crate) heartbeat: HeartbeatStatus,
    pub(crate) counters: Counters,
    pub(crate) slow_consumers: Vec<SlowConsumer>,
    /// Those named in the log, and whether the floor had passed them by then.
    named: BTreeMap<String, bool>,
    /// The state that stands in for the database, or did.
    pub(crate) stale: Option<Stale>,
    pub(crate) state_file: Option<StateFileStatus>,
    pub(crate) tally: Tally,
}

/// What is counted for an operator's instruments alone.
#[derive(Clone, Debug, Default)]
#[cfg_attr(
    not(feature = "server"),
    allow(dead_code, reason = "the instruments are the server's")
)]
pub(crate) struct Tally {
    /// Full resyncs by their cause.
    pub(crate) resyncs: BTreeMap<&'static str, u64>,
    /// Times it was proven that notices arrive, and times that failed.
    pub(crate) listens_proven: u64,
    pub(crate) listens_unproven: u64,
    /// Times this instance folded the table itself.
    pub(crate) audits: u64,
    /// Revisions that this instance took out of the journal.
    pub(crate) trimmed: u64,
}

impl Pages {
    /// Says why the state that was kept is not served.
    pub(crate) fn state_file_refused(&mut self, refusal: &Refusal) {
        let status = self.state_file.get_or_insert_default();
        status.problem = Some(refusal.to_string());
        if !refusal.is_missing() {
            self.counters.state_file_failures += 1;
        }
    }

    fn mismatch(
        &mut self,
        source: ClaimSource,
        revision: Revision,
        (ours, theirs): (Checksum, Checksum),
        reaction: Reaction,
    ) {
        self.heartbeat.mismatches += 1;
        let source = source_name(source);
        let reaction = match reaction {
            Reaction::Resync => "resync",
            Reaction::ReportedOnly => "reported only (sync_on_mismatch is off)",
            // A peer that is wrong, or a forger, repeats itself: counted, and told once when it began.
            Reaction::CoolingDown => {
                tracing::debug!(%source, %revision, %ours, %theirs, "checksum mismatch while cooling down");
                return;
            }
        };
        tracing::warn!(%source, %revision, %ours, %theirs, %reaction, "checksum mismatch");
    }

    fn resynced(
        &mut self,
        cause: ResyncCause,
        revision: Revision,
        (before, after): (Option<Checksum>, Checksum),
        changed: usize,
    ) {
        if cause == ResyncCause::Restored {
            // A start like any other, only served meanwhile: nothing was wrong.
            tracing::info!(%revision, changed, "the store's own state is in the place of the one that was kept");
            return;
        }
        self.heartbeat.resyncs += 1;
        *self.tally.resyncs.entry(cause.as_str()).or_default() += 1;
        let mismatch = matches!(
            cause,
            ResyncCause::PeerMismatch | ResyncCause::AuditMismatch
        );
        self.heartbeat.needless_resyncs += u64::from(mismatch && changed == 0);
        self.heartbeat.last_cause = Some(cause.as_str().to_owned());
        let before = before.map_or_else(String::new, |before| before.to_string());
        tracing::warn!(cause = cause.as_str(), %revision, %before, %after, changed, "full resync done");
    }
}

impl Book {
    pub(crate) fn open(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a look at the consumers found. Each is named in the log when it becomes slow, and when it is passed.
    pub(crate) fn note_slow(&self, mut slow: Vec<SlowConsumer>) {
        let mut pages = self.open();
        let mut named = BTreeMap::new();
        for SlowConsumer {
            name,
            revision,
            behind,
            trimmed_in,
        } in &slow
        {
            let passed = trimmed_in.is_none();
            let before = pages.named.get(name);
            match trimmed_in {
                None if before != Some(&true) => {
                    tracing::warn!(consumer = %shown(name), %revision, behind, "the journal no longer leads on from a consumer's place: it has to take a snapshot, or be removed");
                }
                Some(left) if before.is_none() => {
                    let seconds = left.as_secs();
                    tracing::warn!(consumer = %shown(name), %revision, behind, trimmed_in_seconds = seconds, "a consumer is slow: what it reads next will be trimmed");
                }
                Some(_) | None => {}
            }
            named.insert(name.clone(), passed);
        }
        slow.truncate(MAX_NAMED);
        pages.named = named;
        pages.slow_consumers = slow;
    }

    /// Keeps what a look at the consumers found for somebody who asks for just that; nothing is logged.
    #[cfg(feature = "cli")]
    pub(crate) fn keep_slow(&self, mut slow: Vec<SlowConsumer>) {
        slow.truncate(MAX_NAMED);
        self.open().slow_consumers = slow;
    }

    /// Counts and logs. No key and no value is ever part of it.
    pub(crate) fn note(&self, told: &Told, at: SystemTime) {
        let mut pages = self.open();
        match told {
            Told::SessionLost { why, retry_in } => {
                pages.counters.sessions_lost += 1;
                let why = shown(&why);
                tracing::info!(%why, retry_in_ms = retry_in.as_millis(), "the listening session is not up; reads go on");
            }
            Told::ListenProven => {
                pages.tally.listens_proven += 1;
                tracing::info!(mode = "push", "notices are proven to arrive");
            }
            Told::ListenUnproven { why } => {
                pages.tally.listens_unproven += 1;
                let why = shown(&why);
                tracing::warn!(mode = "poll", %why, "notices do not arrive; polling instead");
            }
            Told::NoticeMissed { revision } => {
                pages.counters.notices_missed += 1;
                tracing::debug!(%revision, "a check found a revision that no notice told of");
            }
            Told::HeartbeatHeard {
                instance,
                revision,
                checksum,
            } => {
                pages.heartbeat.last_heard = Some(at);
                tracing::debug!(peer = format!("{instance:016x}"), %revision, %checksum, "heartbeat heard");
            }
            Told::Mismatch {
                source,
                revision,
                ours,
                theirs,
                reaction,
            } => {
                pages.mismatch(*source, *revision, (*ours, *theirs), *reaction);
            }
            Told::AuditAgreed { revision, checksum } => {
                pages.heartbeat.last_audit = Some(at);
                tracing::debug!(%revision, %checksum, "the table was audited and is equal");
            }
            Told::Resynced {
                cause,
                revision,
                before,
                after,
                changed,
            } => {
                pages.resynced(*cause, *revision, (*before, *after), *changed);
            }
            Told::ResyncPutOff { cause } => {
                tracing::warn!(
                    cause = cause.as_str(),
                    "a resync was put off: writes were faster than the snapshot"
                );
            }
            Told::Forked { ours } => {
                pages.counters.forks += 1;
                tracing::error!(revision = %ours.revision, epoch = %ours.epoch, "the store's history is not the one followed");
            }
            Told::OwnEpoch { stored, shown } => {
                tracing::error!(epoch = %stored, shown_as = %shown, "{OWN_EPOCH}");
            }
        }
    }
}

fn source_name(source: ClaimSource) -> String {
    match source {
        ClaimSource::Peer { instance } => format!("peer {instance:016x}"),
        ClaimSource::Audit => "audit".to_owned(),
        ClaimSource::OwnAudit => "own audit".to_owned(),
    }
}
