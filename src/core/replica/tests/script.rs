//! Plays a database's part line by line: one input in, the actions it leads to out, as a short text.
//!
//! Revision `r` has the id `r`; in a rewritten history it has the id `100 + r`.

use std::sync::Arc;
use std::time::Duration;

use super::world::config;
use crate::core::notice::Notice;
use crate::core::replica::{
    Action, AuditReport, ClaimSource, Committed, Config, Head, Input, Loaded, Page, Publication,
    Replica, SessionId, Told,
};
use crate::core::{
    ChangeSet, Checksum, Cursor, Entry, Epoch, Fold, Journaled, JournaledChange, Key, Revision,
    RevisionId, Value,
};

pub(super) const EPOCH: Epoch = Epoch::from_u128(1);
pub(super) const LATER_EPOCH: Epoch = Epoch::from_u128(2);
pub(super) const ME: u64 = 1;

pub(super) type Texts<'a> = &'a [(&'a str, &'a str)];

pub(super) struct Script {
    pub(super) replica: Replica,
    pub(super) now: Duration,
    pub(super) session: SessionId,
    /// The last nonce sent.
    nonce: Option<Notice>,
    /// How long until the session is tried again, as last told.
    pub(super) retry_in: Duration,
}

impl Script {
    pub(super) fn new(config: Config) -> Self {
        let now = Duration::from_secs(1_000);
        Self {
            replica: Replica::new(config, 3, now),
            now,
            session: 0,
            nonce: None,
            retry_in: Duration::ZERO,
        }
    }

    /// Loaded at revision 3 with `a` = 1 and `b` = 2, notices proven, nothing in flight.
    pub(super) fn ready() -> Self {
        Self::ready_with(config(ME))
    }

    pub(super) fn ready_with(config: Config) -> Self {
        let mut script = Self::new(config);
        script.tick();
        script.connected();
        script.hear_nonce();
        script.snapshot(3, &[("a", "1"), ("b", "2")]);
        script.page(Some(3), &[]);
        script.pass(10);
        script
    }

    pub(super) fn feed(&mut self, input: Input) -> String {
        self.replica.handle(self.now, input);
        let mut said = Vec::new();
        while let Some(action) = self.replica.next_action() {
            said.extend(self.say(action));
        }
        said.join("; ")
    }

    pub(super) fn tick(&mut self) -> String {
        self.feed(Input::Tick)
    }

    /// Lets milliseconds pass and ticks once.
    pub(super) fn pass(&mut self, millis: u64) -> String {
        self.now += Duration::from_millis(millis);
        self.tick()
    }

    pub(super) fn connected(&mut self) -> String {
        let (session, listening) = (self.session, Ok(()));
        self.feed(Input::Connected { session, listening })
    }

    pub(super) fn refused(&mut self) -> String {
        let (session, listening) = (self.session, Err("refused".to_owned()));
        self.feed(Input::Connected { session, listening })
    }

    pub(super) fn disconnected(&mut self) -> String {
        let (session, why) = (self.session, "gone".to_owned());
        self.feed(Input::Disconnected { session, why })
    }

    pub(super) fn hear(&mut self, notice: Notice) -> String {
        let (session, notice) = (self.session, Some(notice));
        self.feed(Input::Heard { session, notice })
    }

    pub(super) fn hear_nonce(&mut self) -> String {
        let nonce = self.nonce.unwrap();
        self.hear(nonce)
    }

    pub(super) fn notice(&mut self, number: u64) -> String {
        let (epoch, revision) = (EPOCH, Revision::new(number));
        self.hear(Notice::Changed { epoch, revision })
    }

    pub(super) fn heartbeat(&mut self, number: u64, texts: Texts<'_>) -> String {
        self.hear(Notice::Heartbeat {
            epoch: EPOCH,
            revision: Revision::new(number),
            checksum: checksum(texts),
            instance: 2,
            audited: false,
        })
    }

    pub(super) fn snapshot(&mut self, number: u64, texts: Texts<'_>) -> String {
        self.snapshot_of(cursor(EPOCH, number, number), texts)
    }

    pub(super) fn snapshot_of(&mut self, cursor: Cursor, texts: Texts<'_>) -> String {
        let (session, snapshot) = (self.session, loaded(cursor, texts));
        self.feed(Input::Snapshot { session, snapshot })
    }

    /// Hands in a state that was kept outside the database.
    pub(super) fn restored(&mut self, cursor: Cursor, texts: Texts<'_>) -> String {
        self.feed(Input::Restored(loaded(cursor, texts)))
    }

    pub(super) fn page(&mut self, anchor: Option<u128>, revisions: &[Journaled]) -> String {
        self.page_from(1, anchor, revisions)
    }

    pub(super) fn page_from(
        &mut self,
        floor: u64,
        anchor: Option<u128>,
        revisions: &[Journaled],
    ) -> String {
        let last = revisions.last().map(|journaled| journaled.revision);
        let page = Page {
            epoch: EPOCH,
            head: last
                .or(self.replica.cursor().map(|cursor| cursor.revision))
                .unwrap(),
            anchor: anchor.map(RevisionId::from_u128),
            floor: (!revisions.is_empty()).then_some(Revision::new(floor)),
            revisions: revisions.to_vec(),
            more: false,
        };
        let session = self.session;
        self.feed(Input::Page { session, page })
    }

    pub(super) fn head(&mut self, number: u64, own_id: Option<u128>) -> String {
        self.head_with(EPOCH, number, own_id, None)
    }

    pub(super) fn head_with(
        &mut self,
        epoch: Epoch,
        number: u64,
        own_id: Option<u128>,
        audit: Option<(u64, u64, Texts<'_>)>,
    ) -> String {
        let head = Head {
            epoch,
            revision: Revision::new(number),
            id: RevisionId::from_u128(number.into()),
            own_id: own_id.map(RevisionId::from_u128),
            audit: audit.map(|(number, revision, texts)| AuditReport {
                number,
                revision: Revision::new(revision),
                checksum: checksum(texts),
            }),
            deaf: None,
        };
        let session = self.session;
        self.feed(Input::Head { session, head })
    }

    pub(super) fn committed(&mut self, anchor: Option<u128>, journaled: Journaled) -> String {
        self.feed(Input::Committed(Committed {
            epoch: EPOCH,
            anchor: anchor.map(RevisionId::from_u128),
            journaled,
        }))
    }

    pub(super) fn ask_resync(&mut self, ticket: u64) -> String {
        self.feed(Input::ResyncAsked { ticket })
    }

    pub(super) fn audited(&mut self, number: u64, texts: Texts<'_>) -> String {
        let (cursor, checksum) = (cursor(EPOCH, number, number), checksum(texts));
        self.feed(Input::Audited { cursor, checksum })
    }

    /// Everything shown, as `a=1 b=2`.
    pub(super) fn shown(&self) -> String {
        let all = self.replica.entries().unwrap();
        let all: Vec<_> = (all.iter())
            .map(|entry| format!("{}={}", entry.key(), entry.as_json()))
            .collect();
        all.join(" ")
    }

    fn say(&mut self, action: Action) -> Option<String> {
        Some(match action {
            Action::Connect { session, listen } => {
                self.session = session;
                format!("connect{}", if listen { "" } else { " without listen" })
            }
            Action::Listen { .. } => "listen".to_owned(),
            Action::CheckHead { own, .. } => format!("head of {own}"),
            Action::FetchPage { after, .. } => format!("page after {after}"),
            Action::FetchSnapshot { .. } => "snapshot".to_owned(),
            Action::SendNonce { notice } => {
                self.nonce = Some(notice);
                "nonce".to_owned()
            }
            Action::SendHeartbeat { notice } => match notice {
                Notice::Heartbeat {
                    revision, audited, ..
                } => format!(
                    "heartbeat {revision}{}",
                    if audited { " audited" } else { "" }
                ),
                other => format!("{other:?}"),
            },
            Action::Audit { again: false } => "audit".to_owned(),
            Action::Audit { again: true } => "audit again".to_owned(),
            Action::ReportAudit { revision, .. } => format!("report {revision}"),
            Action::Reconcile { keys } => {
                let keys: Vec<_> = keys.iter().map(|(key, _)| key.as_str()).collect();
                format!("reconcile {}", keys.join(" "))
            }
            Action::RotateEpoch { .. } => "rotate".to_owned(),
            Action::Publish(publication) => published(&publication),
            Action::ResyncDone { tickets, changed } => format!("done {tickets:?} {changed}"),
            Action::Tell(told) => return self.told(told),
        })
    }

    fn told(&mut self, told: Told) -> Option<String> {
        Some(match told {
            Told::SessionLost { retry_in, .. } => {
                self.retry_in = retry_in;
                "lost".to_owned()
            }
            Told::ListenProven => "proven".to_owned(),
            Told::ListenUnproven { .. } => "unproven".to_owned(),
            Told::NoticeMissed { revision } => format!("missed {revision}"),
            Told::Mismatch {
                source, reaction, ..
            } => {
                let source = match source {
                    ClaimSource::Peer { .. } => "peer",
                    ClaimSource::Audit => "audit",
                    ClaimSource::OwnAudit => "own audit",
                };
                format!("mismatch by {source}: {reaction:?}")
            }
            Told::AuditAgreed { .. } => "agreed".to_owned(),
            Told::ResyncPutOff { .. } => "put off".to_owned(),
            Told::Forked { .. } => "forked".to_owned(),
            Told::OwnEpoch { .. } => "own epoch".to_owned(),
            Told::HeartbeatHeard { .. } | Told::Resynced { .. } => return None,
        })
    }
}

fn loaded(cursor: Cursor, texts: Texts<'_>) -> Loaded {
    let entry = |(key, text): &(&str, &str)| {
        let (key, value) = (Key::stored(key), Value::stored(text));
        Arc::new(Entry::new(key, value, cursor.revision, 0))
    };
    Loaded {
        cursor,
        audit: None,
        entries: texts.iter().map(entry).collect(),
    }
}

fn published(publication: &Publication) -> String {
    match publication {
        Publication::Loaded(snapshot) => format!("loaded {}", snapshot.revision()),
        Publication::Changed { set, silent } => {
            let cause = format!("{:?}", set.cause).to_lowercase();
            let silent: String = silent.iter().map(|e| format!(" ({})", e.key())).collect();
            format!("{cause} {}{}{silent}", set.revision(), changes(set))
        }
        Publication::Resynced { set, cause, .. } => {
            format!(
                "resynced {} {}{}",
                cause.as_str(),
                set.revision(),
                changes(set)
            )
        }
    }
}

fn changes(set: &ChangeSet) -> String {
    let text = |entry: Option<&Arc<Entry>>| entry.map_or("-".into(), |e| e.as_json().to_owned());
    let changes = set.changes().iter();
    changes
        .map(|change| {
            let (old, new) = (text(change.old()), text(change.new()));
            format!(" {}:{old}>{new}", change.key())
        })
        .collect()
}

pub(super) fn cursor(epoch: Epoch, number: u64, id: u64) -> Cursor {
    Cursor {
        epoch,
        revision: Revision::new(number),
        id: RevisionId::from_u128(id.into()),
    }
}

pub(super) fn checksum(texts: Texts<'_>) -> Checksum {
    let mut fold = Fold::default();
    for (key, text) in texts {
        fold.add(key, text);
    }
    fold.finish()
}

/// Revision `number` with the id `number`, by somebody else. An empty text deletes.
pub(super) fn revision(number: u64, changes: Texts<'_>) -> Journaled {
    rewritten(number, u128::from(number), changes)
}

pub(super) fn rewritten(number: u64, id: u128, changes: Texts<'_>) -> Journaled {
    let change = |(key, text): &(&str, &str)| JournaledChange {
        key: Key::stored(key),
        new: (!text.is_empty()).then(|| Arc::from(*text)),
    };
    Journaled {
        revision: Revision::new(number),
        id: RevisionId::from_u128(id),
        at_micros: 0,
        origin: None,
        changes: changes.iter().map(change).collect(),
    }
}

/// The same, written by this instance.
pub(super) fn own(number: u64, changes: Texts<'_>) -> Journaled {
    Journaled {
        origin: Some(ME),
        ..revision(number, changes)
    }
}
