//! What goes into a replica and what comes out.

use std::sync::Arc;
use std::time::Duration;

use crate::core::notice::Notice;
use crate::core::{
    ChangeSet, Checksum, Cursor, Entry, Epoch, Journaled, Key, Revision, RevisionId, Snapshot,
};

/// The intervals and switches a replica goes by.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// A random number that names this instance in heartbeats and in the journal.
    pub(crate) instance: u64,
    pub(crate) check_interval: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) reconnect_interval: Duration,
    pub(crate) poll_interval: Duration,
    pub(crate) poll_jitter: Duration,
    pub(crate) notifications: bool,
    pub(crate) sync_on_mismatch: bool,
    /// How far a read that found nothing puts the next one off: see [`EMPTY_READ_PAUSE`](super::EMPTY_READ_PAUSE).
    pub(crate) empty_read_pause: Duration,
}

/// Names one session with the database, so that an answer of an earlier one is recognised.
pub(crate) type SessionId = u64;

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// Time passed.
    Tick,
    /// A session is open; with notifications wanted, LISTEN was committed on it or refused with a reason.
    Connected {
        session: SessionId,
        listening: Result<(), String>,
    },
    /// The answer to [`Action::Listen`].
    Listening {
        session: SessionId,
        listening: Result<(), String>,
    },
    /// The session ended, or could not be opened.
    Disconnected { session: SessionId, why: String },
    /// A notice arrived on the session; `None` is one that could not be understood.
    Heard {
        session: SessionId,
        notice: Option<Notice>,
    },
    /// The answer to [`Action::CheckHead`].
    Head { session: SessionId, head: Head },
    /// The answer to [`Action::FetchPage`].
    Page { session: SessionId, page: Page },
    /// The answer to [`Action::FetchSnapshot`].
    Snapshot {
        session: SessionId,
        snapshot: Loaded,
    },
    /// A state that was kept outside the database, to be shown until the database can be asked. Ignored once anything is
    /// loaded.
    Restored(Loaded),
    /// A write of this instance was committed.
    Committed(Committed),
    /// The application asks for a full resync.
    ResyncAsked { ticket: u64 },
    /// This instance folded the table itself.
    Audited { cursor: Cursor, checksum: Checksum },
    /// The answer to [`Action::RotateEpoch`].
    Rotated(Rotation),
    /// Somebody waits for a revision: look whether there is a newer one.
    Look,
    /// Where the answers of a session come from, told before an answer if that is not the database itself.
    Origin { session: SessionId, origin: Origin },
}

/// Who answers in the place of the database, and how current that one is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// When its own state was last proven the newest, by this replica's clock; `None` when it never was, or before that began.
    pub(crate) proven: Option<Duration>,
    /// Why it cannot ask the database itself.
    pub(crate) away: Option<String>,
    /// Which part of the entries it shows, if not all.
    pub(crate) part: Option<String>,
}

/// What became of [`Action::RotateEpoch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// The database's epoch is no longer the one that was lost.
    Done,
    /// It will never be done for this program's role.
    Denied,
    /// It could not be done, or not yet.
    Failed,
}

/// What the database says of its newest revision and of ours.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) epoch: Epoch,
    pub(crate) revision: Revision,
    /// The newest revision's id. Without it a late own write that a failover took back would pass for the newest.
    pub(crate) id: RevisionId,
    /// The id of the revision we asked about, if the database still knows one of that number.
    pub(crate) own_id: Option<RevisionId>,
    pub(crate) audit: Option<AuditReport>,
    /// Why notices cannot arrive although LISTEN works: the store notifies on another channel by now.
    pub(crate) deaf: Option<String>,
}

/// The last audit of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AuditReport {
    /// Counts the audits of the store.
    pub(crate) number: u64,
    pub(crate) revision: Revision,
    pub(crate) checksum: Checksum,
}

/// Whole revisions of the journal after some revision, all read in one snapshot of the database.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// The epoch at the moment the page was read. Without it a new epoch's revisions would be shown as the old one's.
    pub(crate) epoch: Epoch,
    /// The newest revision at that moment. Without it a journal whose end is missing would look like the end.
    pub(crate) head: Revision,
    /// The id of the revision after which the page begins, if the database still has it.
    pub(crate) anchor: Option<RevisionId>,
    /// The oldest revision kept; unknown when the page is empty.
    pub(crate) floor: Option<Revision>,
    pub(crate) revisions: Vec<Journaled>,
    /// Whether there are more.
    pub(crate) more: bool,
}

/// The whole table at one revision.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) cursor: Cursor,
    pub(crate) audit: Option<AuditReport>,
    /// In any order.
    pub(crate) entries: Vec<Arc<Entry>>,
}

/// A write of this instance, as the commit's answer told it.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub(crate) epoch: Epoch,
    /// The id of the revision before it, as the writing transaction saw it. Without it the write is fetched like any
    /// other news: applied blindly onto a past that a failover took back, it would hide the fork for ever.
    pub(crate) anchor: Option<RevisionId>,
    pub(crate) journaled: Journaled,
}

/// Something the host has to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Open a session, with LISTEN committed on it if `listen`; answer [`Input::Connected`] or [`Input::Disconnected`].
    Connect { session: SessionId, listen: bool },
    /// Try LISTEN once more; answer [`Input::Listening`].
    Listen { session: SessionId },
    /// Ask for the head, and for the id of `own`; answer [`Input::Head`].
    CheckHead { session: SessionId, own: Revision },
    /// Read the journal after a revision; answer [`Input::Page`].
    FetchPage { session: SessionId, after: Revision },
    /// Read the whole table; answer [`Input::Snapshot`].
    FetchSnapshot { session: SessionId },
    /// Notify a nonce on another connection than the session.
    SendNonce { notice: Notice },
    /// Broadcast a heartbeat.
    SendHeartbeat { notice: Notice },
    /// Take the fleet's turn and fold the table itself if it is ours (always, if `again`); answer [`Input::Audited`].
    Audit { again: bool },
    /// Leave the result of an audit for the fleet.
    ReportAudit {
        revision: Revision,
        checksum: Checksum,
    },
    /// Let the database number what was altered behind its triggers: keys with the texts the journal had led to.
    Reconcile { keys: Vec<(Key, Option<Arc<str>>)> },
    /// Begin a new epoch if the present one is still that of `lost`, a revision that the database does not have any more;
    /// answer [`Input::Rotated`].
    RotateEpoch { lost: Cursor },
    /// Show this to readers and subscribers, before anything else is handled.
    Publish(Publication),
    /// A resync asked for with these tickets ended and changed so many keys.
    ResyncDone { tickets: Vec<u64>, changed: usize },
    /// Count and log this.
    Tell(Told),
}

/// News for readers and subscribers.
#[derive(Clone, Debug)]
pub(crate) enum Publication {
    /// The first load.
    Loaded(Arc<Snapshot>),
    /// One revision. `silent` entries kept their value and got a new revision.
    Changed {
        set: Arc<ChangeSet>,
        silent: Vec<Arc<Entry>>,
    },
    /// A resync ended: true differences, and everything as it is now.
    Resynced {
        set: Arc<ChangeSet>,
        now: Arc<Snapshot>,
        cause: ResyncCause,
    },
}

/// Why the whole table is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ResyncCause {
    /// Another instance's heartbeat had another checksum at our revision.
    PeerMismatch,
    /// The audit of the fleet had another checksum at our revision.
    AuditMismatch,
    /// The application asked.
    Asked,
    /// What is shown was kept outside the database.
    Restored,
    /// Our revision is below the oldest one kept.
    BelowFloor,
    /// The database began a new epoch.
    NewEpoch,
    /// The database's history is not the one we followed.
    Fork,
    /// The journal misses a revision.
    Gap,
}

impl ResyncCause {
    /// Those that are counted: a start on a kept state is like any other.
    #[cfg(feature = "server")]
    pub(crate) const COUNTED: [Self; 7] = [
        Self::PeerMismatch,
        Self::AuditMismatch,
        Self::Asked,
        Self::BelowFloor,
        Self::NewEpoch,
        Self::Fork,
        Self::Gap,
    ];

    /// Whether the snapshot takes the table's place, instead of being compared with it.
    pub(crate) fn replaces(self) -> bool {
        match self {
            Self::BelowFloor | Self::NewEpoch | Self::Fork | Self::Gap | Self::Restored => true,
            Self::PeerMismatch | Self::AuditMismatch | Self::Asked => false,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::PeerMismatch => "peer mismatch",
            Self::AuditMismatch => "audit mismatch",
            Self::Asked => "asked",
            Self::Restored => "restored",
            Self::BelowFloor => "below floor",
            Self::NewEpoch => "new epoch",
            Self::Fork => "fork",
            Self::Gap => "gap",
        }
    }
}

/// Something worth a counter and a line in the log.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    SessionLost {
        why: String,
        retry_in: Duration,
    },
    ListenProven,
    ListenUnproven {
        why: String,
    },
    NoticeMissed {
        revision: Revision,
    },
    HeartbeatHeard {
        instance: u64,
        revision: Revision,
        checksum: Checksum,
    },
    Mismatch {
        source: ClaimSource,
        revision: Revision,
        ours: Checksum,
        theirs: Checksum,
        reaction: Reaction,
    },
    AuditAgreed {
        revision: Revision,
        checksum: Checksum,
    },
    Resynced {
        cause: ResyncCause,
        revision: Revision,
        before: Option<Checksum>,
        after: Checksum,
        changed: usize,
    },
    ResyncPutOff {
        cause: ResyncCause,
    },
    Forked {
        ours: Cursor,
    },
    /// Another history is shown under an epoch of this replica's own, since the database's has not changed.
    OwnEpoch {
        stored: Epoch,
        shown: Epoch,
    },
}

/// Who says that our checksum should be another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimSource {
    Peer { instance: u64 },
    Audit,
    OwnAudit,
}

/// What a mismatch led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    Resync,
    ReportedOnly,
    CoolingDown,
}

/// How current this replica can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Push,
    Poll { why: String },
    Offline { why: String },
}
