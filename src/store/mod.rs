//! The seam to a database: what the runtime asks of a store, and of the session that hears.
//!
//! Guarantees of every implementation: a write answers only after its commit is durable; revisions are dense and in
//! commit order; a listener hears of every commit that follows its LISTEN, or the session is reported as lost; pages hold
//! whole revisions; a snapshot is of exactly one revision. Stores do not know each other.

mod mailbox;
pub(crate) mod memory;
pub(crate) mod postgres;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::core::replica::{Head, Loaded, Page};
use crate::core::{Checksum, Cursor, Epoch, Journaled, Key, Revision, RevisionId};
use crate::error::Result;
use crate::write::{Item, WrittenKey};

pub(crate) use mailbox::{Heard, Mailbox};

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

    /// Writes all items in one transaction, or none.
    async fn write(&self, request: &WriteRequest) -> Result<WriteAnswer>;

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

    /// Begins a new epoch if the present one is `expected`.
    async fn rotate_epoch(&self, expected: Epoch) -> Result<()>;

    /// Deletes at most `batch` revisions older than `keep`, oldest first, never the newest. Answers how many.
    async fn trim(&self, keep: Duration, batch: u32) -> Result<u64>;

    /// Reads whole revisions after `after` with old and new texts; `None` when the journal does not reach back to it, or
    /// has another past.
    async fn history(&self, after: Cursor, limit: u32) -> Result<Option<Vec<Recorded>>>;

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

/// One transaction to be written.
#[derive(Debug)]
pub(crate) struct WriteRequest {
    pub(crate) items: Vec<Item>,
    pub(crate) actor: Option<String>,
    pub(crate) idempotency_key: Option<String>,
}

/// What a committed transaction did.
#[derive(Debug)]
pub(crate) struct WriteAnswer {
    pub(crate) epoch: Epoch,
    /// The id of the revision before it, if that is known.
    pub(crate) anchor: Option<RevisionId>,
    /// The revision it made with its net changes; without changes the newest revision.
    pub(crate) journaled: Journaled,
    pub(crate) changed: bool,
    pub(crate) replayed: bool,
    pub(crate) keys: Vec<WrittenKey>,
}

/// One revision as the journal holds it, with what was before and after.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub(crate) cursor: Cursor,
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
