//! How news becomes state: notices, heads, pages, snapshots and writes of our own.

use std::sync::Arc;
use std::time::Duration;

use super::io::{Action, Committed, Head, Loaded, Page, Publication, ResyncCause, SessionId, Told};
use super::link::{Demand, Ear, Link, PROOF_PAUSE, Query};
use super::repair::Claim;
use super::{ClaimSource, Replica, State};
use crate::core::history::History;
use crate::core::notice::Notice;
use crate::core::table::Table;
use crate::core::{Cause, ChangeSet, Checksum, Cursor, Entry, Journaled, Revision, Snapshot};

impl Replica {
    /// Whether what is shown was kept outside the database, which has not been asked since.
    pub(crate) fn restored(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.restored)
    }

    /// A notice is a hint: it leads to a read or to nothing.
    pub(super) fn heard(&mut self, now: Duration, session: SessionId, notice: Option<Notice>) {
        let cursor = self.cursor();
        let Some(session) = self.session(session) else {
            return;
        };
        if let Some(Notice::Changed { epoch, revision }) = notice
            && cursor.is_some_and(|cursor| cursor.epoch == epoch)
        {
            session.untold = session.untold.filter(|untold| *untold > revision);
        }
        match notice {
            Some(Notice::Nonce(heard)) => {
                let waiting = matches!(session.ear, Ear::Proving { .. } | Ear::Deaf { .. });
                if waiting && session.nonce == Some(heard) {
                    session.ear = Ear::Proven;
                    session.deaf = 0;
                    self.tell(Told::ListenProven);
                }
            }
            Some(Notice::Changed { epoch, revision }) => match cursor {
                // A notice that lies not ahead is our own write's or a late one. Revision 0 is what the database sends
                // under the old epoch when it begins a new one.
                Some(cursor) if cursor.epoch == epoch && revision > cursor.revision => {
                    session.fetch = true;
                }
                Some(cursor) if cursor.epoch == epoch && revision == Revision::ZERO => {
                    self.check_soon(now);
                }
                Some(_) | None => {}
            },
            Some(Notice::Heartbeat {
                epoch,
                revision,
                checksum,
                instance,
                ..
            }) => {
                if instance == self.config.instance {
                    return;
                }
                self.tell(Told::HeartbeatHeard {
                    instance,
                    revision,
                    checksum,
                });
                let source = ClaimSource::Peer { instance };
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
            None => self.fetch_soon(),
        }
    }

    pub(super) fn head(&mut self, now: Duration, session: SessionId, head: &Head) {
        let Some(Query::Head {
            asked: Some(asked),
            sent,
        }) = self.answered(now, session)
        else {
            return;
        };
        self.quiet(now + self.config.empty_read_pause);
        let Some(state) = &self.state else { return };
        let (cursor, held) = (state.cursor, state.history.id_of(head.revision));
        if head.epoch != cursor.epoch {
            self.repair.demand(Demand::new(ResyncCause::NewEpoch, now));
            return;
        }
        // What we held when we asked was committed before the database looked, so it must be there. It may have been
        // trimmed; it may not be newer than the head, nor have another id.
        let behind_us = head.revision < asked.revision;
        let other_id =
            head.own_id.is_some_and(|id| id != asked.id) || held.is_some_and(|id| id != head.id);
        if asked.epoch == cursor.epoch && (behind_us || other_id) {
            self.forked(now, asked);
            return;
        }
        if head.own_id == Some(asked.id) && asked == cursor {
            self.fork_refuted();
        }
        let ahead = (head.revision > cursor.revision).then_some(head.revision);
        self.notice_missed(now, ahead);
        if ahead.is_some() {
            self.quiet(now);
            self.fetch_soon();
        } else {
            self.proven(sent);
            self.verify(now, true);
        }
        if let (Some(why), Link::Up(session)) = (&head.deaf, &mut self.link)
            && matches!(session.ear, Ear::Proving { .. } | Ear::Proven)
        {
            session.deafen(why.clone(), now);
            self.tell(Told::ListenUnproven { why: why.clone() });
        }
        if let Some(report) = head.audit {
            self.repair.heard_audit(report, cursor.epoch);
            self.settle_claims(now);
        }
    }

    /// A check may find a revision before its notice. If the notice has not come by the next check either, it was
    /// missed, and the ear is put to the proof again.
    fn notice_missed(&mut self, now: Duration, ahead: Option<Revision>) {
        let Link::Up(session) = &mut self.link else {
            return;
        };
        let missed = session.untold.take();
        session.untold = ahead.filter(|_| !session.fetch);
        let proven = matches!(session.ear, Ear::Proven);
        let due = now >= session.proof_sent + PROOF_PAUSE;
        let Some(revision) = missed.filter(|_| proven) else {
            return;
        };
        self.tell(Told::NoticeMissed { revision });
        if due {
            self.prove(now);
        }
    }

    pub(super) fn page(&mut self, now: Duration, session: SessionId, page: Page) {
        let Some(Query::Page { after, sent }) = self.answered(now, session) else {
            return;
        };
        self.quiet(now + self.config.empty_read_pause);
        let Some(cursor) = self.cursor() else { return };
        if after.epoch != cursor.epoch || !self.continues(now, after, &page) {
            return;
        }
        let found = !page.revisions.is_empty();
        let end = page.revisions.last().map(|journaled| journaled.revision);
        let short = !page.more && end.unwrap_or(after.revision) < page.head;
        for journaled in page.revisions {
            if !self.take(now, after.epoch, journaled, Cause::Remote) {
                return;
            }
        }
        if short {
            self.repair.demand(Demand::new(ResyncCause::Gap, now));
        } else if page.more {
            self.fetch_soon();
        } else if page.anchor.is_some() {
            self.proven(sent);
        }
        if found {
            self.quiet(now);
        }
        self.settle_claims(now);
        self.verify(now, !page.more && !short);
    }

    /// Whether a page begins where `after` ended, in the same history; if not, sees to it.
    fn continues(&mut self, now: Duration, after: Cursor, page: &Page) -> bool {
        let anchored = page.anchor.is_some() || after.revision == Revision::ZERO;
        let cut = page
            .floor
            .is_some_and(|floor| floor > after.revision.next());
        let mut expected = after.revision;
        let dense = page.revisions.iter().all(|journaled| {
            expected = expected.next();
            journaled.revision == expected
        });
        if page.epoch != after.epoch {
            self.repair.demand(Demand::new(ResyncCause::NewEpoch, now));
        } else if page.anchor.is_some_and(|id| id != after.id) {
            self.forked(now, after);
        } else if cut || (!anchored && page.head > after.revision) {
            // Revisions that follow another past than ours would be applied unseen.
            self.repair
                .demand(Demand::new(ResyncCause::BelowFloor, now));
        } else if !dense {
            self.repair.demand(Demand::new(ResyncCause::Gap, now));
        } else if !anchored {
            // The newest revision is always kept, so ours is not in this history.
            self.check_soon(now);
        } else {
            self.fork_refuted();
            return true;
        }
        false
    }

    pub(super) fn committed(&mut self, now: Duration, committed: Committed) {
        let Some(cursor) = self.cursor() else { return };
        if committed.epoch != cursor.epoch {
            self.check_soon(now);
            return;
        }
        let (revision, next) = (committed.journaled.revision, cursor.revision.next());
        let anchored = committed.anchor.is_some() || cursor.revision == Revision::ZERO;
        if revision > next || (revision == next && !anchored) {
            self.fetch_soon();
            return;
        }
        if revision == next && committed.anchor.is_some_and(|id| id != cursor.id) {
            self.forked(now, cursor);
            return;
        }
        self.take(now, committed.epoch, committed.journaled, Cause::Local);
        self.settle_claims(now);
        self.verify(now, false);
    }

    /// Applies a revision if it is the next one. False when the history turned out not to be ours.
    fn take(
        &mut self,
        now: Duration,
        epoch: crate::core::Epoch,
        journaled: Journaled,
        cause: Cause,
    ) -> bool {
        let Some(state) = &mut self.state else {
            return false;
        };
        if journaled.revision <= state.cursor.revision {
            return match state.history.id_of(journaled.revision) {
                Some(id) if id == journaled.id => true,
                Some(_) => {
                    let ours = state.cursor;
                    self.forked(now, ours);
                    false
                }
                None => {
                    self.check_soon(now);
                    true
                }
            };
        }
        if journaled.revision != state.cursor.revision.next() {
            self.repair.demand(Demand::new(ResyncCause::Gap, now));
            return false;
        }
        let own = journaled.origin == Some(self.config.instance);
        let applied = state.table.apply(&journaled);
        state.cursor = Cursor {
            epoch,
            revision: journaled.revision,
            id: journaled.id,
        };
        state.checksum = None;
        let cause = if own { Cause::Local } else { cause };
        let set = Arc::new(ChangeSet {
            cursor: state.cursor,
            cause,
            changes: applied.changes,
        });
        state.history.push(set.clone(), applied.unmoved);
        self.actions
            .push_back(Action::Publish(Publication::Changed {
                set,
                silent: applied.silent,
            }));
        true
    }

    pub(super) fn snapshot(&mut self, now: Duration, session: SessionId, loaded: Loaded) {
        let Some(Query::Snapshot {
            demand,
            asked,
            sent,
        }) = self.answered(now, session)
        else {
            return;
        };
        let demand = demand.map(|demand| self.repair.joined(demand));
        // Notices that came while the snapshot streamed may lie ahead of it.
        self.quiet(now);
        self.fetch_soon();
        let replaces = demand
            .as_ref()
            .is_some_and(|demand| demand.cause.replaces());
        match (&self.state, demand) {
            (None, demand) => {
                self.load(loaded, sent);
                self.repair.done(&mut self.actions, demand, 0);
            }
            (Some(state), Some(demand))
                if replaces || loaded.cursor.epoch != state.cursor.epoch =>
            {
                self.replace(now, loaded, demand, (asked, sent));
            }
            (Some(_), Some(demand)) => {
                self.repair.verifying = Some((loaded, demand));
                self.verify(now, false);
            }
            (Some(_), None) => {}
        }
        self.settle_claims(now);
    }

    fn load(&mut self, loaded: Loaded, sent: Duration) {
        self.repair.loaded(loaded.audit);
        self.begin(loaded.cursor, loaded.entries, false);
        self.proven(sent);
    }

    /// Shows a state that was kept outside the database. It proves nothing, and the whole table is owed: only what the
    /// database says of it decides whether it goes on or is of a history that was replaced.
    pub(super) fn restore(&mut self, now: Duration, loaded: Loaded) {
        if self.state.is_none() {
            self.begin(loaded.cursor, loaded.entries, true);
            self.repair.demand(Demand::new(ResyncCause::Restored, now));
        }
    }

    fn begin(&mut self, cursor: Cursor, entries: Vec<Arc<Entry>>, restored: bool) {
        let table = Table::build(entries);
        let snapshot = Arc::new(Snapshot::new(cursor, table.entries()));
        self.state = Some(State {
            cursor,
            table,
            history: History::at(cursor.revision, cursor.id),
            checksum: None,
            restored,
        });
        self.actions
            .push_back(Action::Publish(Publication::Loaded(snapshot)));
    }

    /// Another history, or one that cannot be followed any more, takes the place of ours.
    fn replace(
        &mut self,
        now: Duration,
        loaded: Loaded,
        mut demand: Demand,
        (asked, sent): (Option<Cursor>, Duration),
    ) {
        let Some(ours) = self.cursor() else { return };
        let mut cursor = loaded.cursor;
        let overtaken = asked != Some(ours);
        let behind = cursor.epoch == ours.epoch && cursor.revision < ours.revision;
        let other_id = cursor.revision == ours.revision && cursor.id != ours.id;
        if behind && overtaken {
            // Our own writes went on while the snapshot streamed; it would take them back.
            self.repair.demand(demand);
            return;
        }
        let rewritten = behind || (cursor.epoch == ours.epoch && other_id);
        if rewritten && demand.cause != ResyncCause::Fork {
            // Reading again would find the same: what we held when we asked is not there.
            demand.not_before = demand.not_before.max(self.fork_pause());
            self.repair.demand(demand);
            self.forked(now, ours);
            return;
        }
        if demand.cause == ResyncCause::Fork && cursor == ours {
            self.ours_after_all(demand);
            return;
        }
        let Some(epoch) = self.epoch_of(now, cursor, &demand) else {
            return;
        };
        let anew = epoch != ours.epoch;
        cursor.epoch = epoch;
        let Some(state) = &mut self.state else {
            return;
        };
        let before = state.checksum();
        self.repair.loaded(loaded.audit);
        let table = Table::build(loaded.entries);
        let changes = state.table.difference(&table);
        let cause = if !anew || demand.cause == ResyncCause::Fork {
            demand.cause
        } else {
            ResyncCause::NewEpoch
        };
        *state = State {
            cursor,
            table,
            history: History::at(cursor.revision, cursor.id),
            checksum: None,
            restored: false,
        };
        let after = state.checksum();
        self.proven(sent);
        self.publish_resync(changes, cause, before, after);
        let changed = self.repair.last_changed;
        self.repair.done(&mut self.actions, Some(demand), changed);
    }

    /// What was taken for another history is ours. Whoever asked for a resync meanwhile still gets one.
    fn ours_after_all(&mut self, demand: Demand) {
        self.fork_refuted();
        if !demand.tickets.is_empty() {
            let cause = ResyncCause::Asked;
            self.repair.demand(Demand { cause, ..demand });
        }
    }
}

impl State {
    pub(super) fn checksum(&mut self) -> Checksum {
        *self.checksum.get_or_insert_with(|| self.table.checksum())
    }
}
