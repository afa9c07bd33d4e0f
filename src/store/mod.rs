//! The seam to a database: what the runtime asks of a store, and of the session that hears.
//!
//! Guarantees of every implementation: a write answers only after its commit is durable; revisions are dense and in
//! commit order; a listener hears of every commit that follows its LISTEN, or the session is reported as lost; pages hold
//! whole revisions; a snapshot is of exactly one revision. Stores do not know each other.

pub(crate) mod consumers;
#[cfg(feature = "cli")]
pub(crate) mod finding;
mod joined;
mod mailbox;
pub(crate) mod memory;
pub(crate) mod postgres;
mod queries;
#[cfg(feature = "remote")]
pub(crate) mod remote;
mod sources;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::core::replica::{Committed, Head, Loaded, Origin, Page};
use crate::core::{Checksum, Cursor, Key, Revision};
use crate::error::{Error, Kind, Result};
use crate::write::{Item, WrittenKey};

pub(crate) use consumers::Consumers;
pub use joined::Joined;
pub(crate) use mailbox::{Heard, Mailbox};
pub(crate) use sources::Sources;

/// Bounds of one answer of [`Store::history`], which ends with the whole revision that reaches one of them: a consumer that
/// is a day behind must not bring the day into memory at once. The database's statement holds the same numbers.
pub(crate) const HISTORY_REVISIONS: usize = 1_024;
pub(crate) const HISTORY_CHANGES: usize = 20_000;
pub(crate) const HISTORY_BYTES: usize = 8 * 1_048_576;

/// A database that keeps entries with their history.
#[async_trait]
pub(crate) trait Store: Send + Sync + 'static {
    /// Names the store for people, without a password.
    fn describe(&self) -> String;

    /// Names the store so that it is told from every other one, across restarts; `None` where that cannot be done.
    fn identity(&self) -> Option<String> {
        None
    }

    /// Connects and makes sure of the schema; once that has worked it does nothing.
    async fn prepare(&self) -> Result<()>;

    /// Opens the session that reads and hears.
    async fn open(&self) -> Result<Arc<dyn Listener>>;

    /// Writes all items in one transaction, or none. May wait for rows that other transactions have locked.
    async fn write(&self, request: &WriteRequest) -> Result<WriteAnswer>;

    /// Writes several requests in one transaction, each decided by itself and none waiting for another transaction's rows.
    ///
    /// No key stands in two of them, at most one has an idempotency key, and all have the same actor. An error concerns
    /// all: unless it says that the outcome is unknown, nothing of any was written.
    async fn write_group(&self, requests: &[&WriteRequest]) -> Result<GroupAnswer>;

    /// How many writes may be under way at once.
    fn writers(&self) -> usize;

    /// Sends a notice on a connection of its own.
    async fn notify(&self, text: &str) -> Result<()>;

    /// Takes the fleet's turn for a task, if nobody took it within `every`.
    async fn claim(&self, task: Task, every: Duration) -> Result<bool>;

    /// Folds the table itself at one revision.
    async fn fold(&self) -> Result<(Cursor, Checksum)>;

    /// Leaves an audit's result where every head check reads it.
    async fn report_audit(&self, revision: Revision, checksum: Checksum) -> Result<()>;

    /// Finds keys whose rows are not what the journal's last word says, with that last word.
    async fn altered(&self) -> Result<Vec<(Key, Option<Arc<str>>)>>;

    /// Numbers what was altered behind the triggers, given what the journal had led to. `None` if there was nothing.
    async fn reconcile(&self, keys: &[(Key, Option<Arc<str>>)]) -> Result<Option<Revision>>;

    /// Begins a new epoch if the present one is that of `lost`, a revision that the store does not have any more.
    async fn rotate_epoch(&self, lost: Cursor) -> Result<()>;

    /// Deletes at most `batch` revisions older than `keep`, oldest first, never the newest; those that a consumer has still
    /// to read when they are older by `grace`. Answers 0 when there is nothing to do: how many, or 1 for a part of one.
    async fn trim(&self, keep: Duration, grace: Duration, batch: u32) -> Result<u64>;

    /// Reads whole revisions after `after` with old and new texts, at most `limit` and within the bounds above; `None` when
    /// the journal does not reach back to it, or has another past.
    async fn history(&self, after: Cursor, limit: u32) -> Result<Option<Vec<Recorded>>>;

    /// The named consumers of the journal.
    fn consumers(&self) -> &dyn Consumers;

    /// Whether its instances hear each other and keep it in order between them; otherwise that is somebody else's.
    fn has_fleet(&self) -> bool {
        true
    }

    /// Says what is shown already although this store did not give it, so that no answer from before it is taken.
    fn resume(&self, _shown: Cursor) {}

    /// Closes every connection that is the store's own.
    async fn close(&self);
}

/// The session with a database that reads and hears. Every query may run while notices are being heard.
#[async_trait]
pub(crate) trait Listener: Send + Sync + 'static {
    /// Commits LISTEN.
    async fn listen(&self) -> Result<()>;

    /// Looks at the head, and at the id of `own`.
    async fn head(&self, own: Revision) -> Result<Head>;

    /// Reads whole revisions after `after`.
    async fn page(&self, after: Revision) -> Result<Page>;

    /// Reads the whole table at one revision.
    async fn snapshot(&self) -> Result<Loaded>;

    /// Who gave the last answer, if it was not the database itself.
    fn origin(&self) -> Option<Origin> {
        None
    }

    /// Waits for the next notices, or for the end of the session. Cancelling it loses nothing.
    async fn heard(&self) -> Vec<Heard>;

    /// Ends the session and waits until its connection is gone.
    async fn close(&self);
}

/// Work that one instance of the fleet does for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Task {
    Audit,
    Cleanup,
}

impl Task {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Cleanup => "cleanup",
        }
    }
}

/// What one caller wants written in one transaction.
#[derive(Debug)]
pub(crate) struct WriteRequest {
    pub(crate) items: Vec<Item>,
    pub(crate) actor: Option<String>,
    pub(crate) idempotency_key: Option<String>,
}

impl WriteRequest {
    /// Names it by its keys.
    pub(crate) fn what(&self) -> String {
        match self.items.as_slice() {
            [only] => format!("writing key \"{}\"", only.key),
            many => format!("writing {} keys", many.len()),
        }
    }

    /// The bytes of its keys and values, and of the names it comes under.
    pub(crate) fn bytes(&self) -> usize {
        let item = |item: &Item| {
            let value = item.value.as_ref().map_or(0, |value| value.as_json().len());
            item.key.len() + value
        };
        let named = [&self.actor, &self.idempotency_key];
        let named: usize = named.into_iter().flatten().map(String::len).sum();
        named + self.items.iter().map(item).sum::<usize>()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.items.iter().map(|item| &item.key)
    }
}

/// What a committed transaction did.
#[derive(Debug)]
pub(crate) struct WriteAnswer {
    /// The revision it made, for the core; `None` when it made none, or one of which not all is known.
    pub(crate) committed: Option<Committed>,
    pub(crate) answered: Answered,
}

/// What a committed transaction of several writes did.
#[derive(Debug)]
pub(crate) struct GroupAnswer {
    /// The revision it made, for the core; `None` when it made none, or one of which not all is known.
    pub(crate) committed: Option<Committed>,
    /// What became of each request, in their order.
    pub(crate) members: Vec<Member>,
}

impl GroupAnswer {
    /// The answer of a transaction with one write, in a store where none is held up.
    pub(crate) fn decided(mut self) -> Result<WriteAnswer> {
        match self.members.pop() {
            Some(Member::Answered(answered)) => Ok(WriteAnswer {
                committed: self.committed,
                answered,
            }),
            Some(Member::Refused(error)) => Err(error),
            Some(Member::Held) | None => Err(Kind::EmptyWrite.into()),
        }
    }

    /// The answer of a transaction with one write that was decided.
    pub(crate) fn only(self) -> Option<WriteAnswer> {
        self.decided().ok()
    }
}

/// What became of one write of several.
#[derive(Debug)]
pub(crate) enum Member {
    Answered(Answered),
    /// Its condition did not hold, or the store cannot hold a value of it: nothing of it was written.
    Refused(Error),
    /// Another transaction has one of its rows: nothing of it was written. Alone it may wait for that row.
    Held,
}

/// What one caller is told of a committed write.
#[derive(Debug)]
pub(crate) struct Answered {
    /// The revision it made; if it changed nothing, the newest one.
    pub(crate) cursor: Cursor,
    pub(crate) changed: bool,
    pub(crate) replayed: bool,
    pub(crate) keys: Vec<WrittenKey>,
}

impl Answered {
    /// Whether it made a revision, now.
    pub(crate) fn is_news(&self) -> bool {
        self.changed && !self.replayed
    }
}

/// One revision as the journal holds it, with what was before and after.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub(crate) cursor: Cursor,
    /// When its transaction began, in microseconds since 1970; 0 for a time that cannot be shown.
    pub(crate) at_micros: i64,
    pub(crate) changes: Vec<RecordedChange>,
}

/// A key with the JSON texts before and after its revision.
#[derive(Clone)]
pub struct RecordedChange {
    pub(crate) key: Key,
    pub(crate) old: Option<Arc<str>>,
    pub(crate) new: Option<Arc<str>>,
}

impl Recorded {
    /// The revision with its epoch and random id: what to pass on to read the next ones.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// When its transaction began, by the database's clock: the time of change of every key that it put.
    #[must_use]
    pub fn at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(self.at_micros).unwrap_or(0))
    }

    /// The same, if it can be shown.
    #[cfg(feature = "server")]
    pub(crate) fn time(&self) -> Option<SystemTime> {
        (self.at_micros > 0).then(|| self.at())
    }

    /// The net changes, each key once.
    #[must_use]
    pub fn changes(&self) -> &[RecordedChange] {
        &self.changes
    }
}

impl RecordedChange {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The JSON text before; `None` is absence.
    #[must_use]
    pub fn old(&self) -> Option<&str> {
        self.old.as_deref()
    }

    /// The JSON text after; `None` is absence.
    #[must_use]
    pub fn new_text(&self) -> Option<&str> {
        self.new.as_deref()
    }
}

impl fmt::Debug for RecordedChange {
    /// Shows the key, never a value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedChange")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
