//! A connection to the file, as its thread has it.
//!
//! Guarantees: the log is really a WAL and a commit is synced before it is reported; a file that took the place of the one
//! that is open is noticed before anything is read or written, and used only when its schema has been looked at; a connection
//! that failed is not used again.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::ffi::ErrorCode;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::bench::Bench;
use super::fault::{self, Failure, Outcome};
use super::queries::{Names, Queries};
use super::turn::{Patience, Turn};
use super::watching::Bell;
use super::worker::{Interrupt, lock};
use crate::error::{Error, Result};
use crate::store::Sources;

/// How long a read waits for a lock. There is hardly ever one: after a crash somebody reads the log first.
const READ_WAIT: Duration = Duration::from_secs(2);

/// Statements that a connection keeps prepared: there are fewer.
const PREPARED: usize = 64;

/// The log is cut to this when it is begun anew: 64 MiB.
const LOG_BYTES: i64 = 64 * 1_048_576;

/// Attempts to switch the file to a WAL while others open it: SQLite does not wait for them. 2 s.
const SWITCHES: u32 = 400;

/// What all threads of a store share.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) names: Names,
    pub(super) queries: Queries,
    pub(super) sources: Sources,
    pub(super) instance: u64,
    /// Whether the file may be made, which it may until the schema was there once.
    pub(super) may_create: AtomicBool,
    /// The file whose schema was looked at last.
    pub(super) examined: Mutex<Option<FileId>>,
    /// Whether to open it as one that may only be read.
    pub(super) read_only: bool,
    /// Wakes the listeners after a commit.
    pub(super) bell: Bell,
    /// Whether it was said that what others wrote cannot be numbered.
    pub(super) denied: AtomicBool,
}

pub(super) struct Desk {
    pub(super) shared: Arc<Shared>,
    patience: Option<Arc<Patience>>,
    interrupt: Interrupt,
    opened: Option<Opened>,
    /// Whether a schema is being looked at: whatever the file, it may be used for that.
    pub(super) examines: bool,
    /// How often the file was opened.
    pub(super) openings: u64,
}

struct Opened {
    connection: Connection,
    file: Option<FileId>,
}

/// Tells the file that is open from another one of its name.
pub(super) type FileId = (u64, u64);

impl Shared {
    /// Whether the file that has the name now is the one whose schema was looked at.
    pub(super) fn is_examined(&self) -> bool {
        let examined = *lock(&self.examined);
        examined.is_some() && examined == file_id(&self.path)
    }
}

impl Desk {
    /// For a thread that reads.
    pub(super) fn reader(shared: &Arc<Shared>, interrupt: &Interrupt) -> Self {
        Self {
            shared: shared.clone(),
            patience: None,
            interrupt: interrupt.clone(),
            opened: None,
            examines: false,
            openings: 0,
        }
    }

    /// For the thread that writes.
    pub(super) fn writer(shared: &Arc<Shared>, interrupt: &Interrupt) -> Self {
        let mut desk = Self::reader(shared, interrupt);
        desk.patience = Some(Arc::default());
        desk
    }

    /// The connection to the file that has the name now.
    pub(super) fn connection(&mut self, what: &str) -> Result<&Connection> {
        Ok(&self.opened(what)?.connection)
    }

    fn opened(&mut self, what: &str) -> Result<&Opened> {
        let present = file_id(&self.shared.path);
        let same = |opened: &Opened| opened.file == present;
        let opened = match self.opened.take().filter(same) {
            Some(opened) => opened,
            None => {
                self.check(what, present)?;
                let opened = self.open(what, present)?;
                self.check(what, opened.file)?;
                opened
            }
        };
        Ok(self.opened.insert(opened))
    }

    /// Makes sure that a file is the one whose schema was looked at, if one was.
    fn check(&self, what: &str, file: Option<FileId>) -> Result<()> {
        let examined = *lock(&self.shared.examined);
        let other = examined.is_some() && file.is_some() && examined != file;
        if other && !self.examines {
            return Err(Error::unavailable(what, fault::REPLACED));
        }
        Ok(())
    }

    /// Which file is open.
    pub(super) fn file(&self) -> Option<FileId> {
        self.opened.as_ref().and_then(|opened| opened.file)
    }

    /// Reads at one moment of the file.
    pub(super) fn read<T>(
        &mut self,
        what: &str,
        work: impl FnOnce(&Bench<'_>) -> Outcome<T>,
    ) -> Result<T> {
        if let Some(patience) = &self.patience {
            patience.set(None);
        }
        let shared = self.shared.clone();
        let connection = self.connection(what)?;
        let read = || -> Outcome<T> {
            let view = Transaction::new_unchecked(connection, TransactionBehavior::Deferred)?;
            work(&Bench::new(&view, &shared))
        };
        let read = read();
        self.after(what, read)
    }

    /// Changes the file in one transaction, or not at all. It waits for the lock for as long as the turn is wanted, and
    /// without one briefly.
    pub(super) fn change<T>(
        &mut self,
        turn: Option<&Arc<Turn>>,
        what: &str,
        work: impl FnOnce(&Bench<'_>) -> Outcome<T>,
    ) -> Result<T> {
        if let Some(patience) = &self.patience {
            patience.set(turn);
        }
        let shared = self.shared.clone();
        let Opened { connection, file } = self.opened(what)?;
        let change = || -> Outcome<T> {
            let begun = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
            // The lock may have been waited for.
            if file_id(&shared.path) != *file {
                return Err(Error::unavailable(what, fault::REPLACED).into());
            }
            if turn.is_some_and(|turn| !turn.begin()) {
                return Err(Error::unavailable(what, fault::LOCKED).into());
            }
            let done = work(&Bench::new(&begun, &shared))?;
            match begun.commit() {
                Ok(()) => Ok(done),
                Err(error) => Err(Failure::Other(fault::commit(what, &error))),
            }
        };
        let changed = change();
        if changed.is_ok() {
            shared.bell.ring();
        }
        self.after(what, changed)
    }

    fn after<T>(&mut self, what: &str, outcome: Outcome<T>) -> Result<T> {
        outcome.map_err(|failure| {
            self.opened = None;
            failure.told(what)
        })
    }

    /// Opens the file that has the name; `before` is the one that had it just now.
    fn open(&mut self, what: &str, before: Option<FileId>) -> Result<Opened> {
        let shared = &self.shared;
        let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX
            | match (shared.read_only, shared.may_create.load(Ordering::Acquire)) {
                (true, _) => OpenFlags::SQLITE_OPEN_READ_ONLY,
                (false, true) => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
                (false, false) => OpenFlags::SQLITE_OPEN_READ_WRITE,
            };
        let open = || -> Outcome<Connection> {
            let mut connection = Connection::open_with_flags(&shared.path, flags)?;
            match self.patience.clone() {
                Some(patience) => {
                    connection.busy_handler(Some(move |looks| patience.waits(looks)))?;
                }
                None => connection.busy_timeout(READ_WAIT)?,
            }
            set_up(what, &connection)?;
            Ok(connection)
        };
        let connection = open().map_err(|failure| failure.told(what))?;
        *lock(&self.interrupt) = Some(connection.get_interrupt_handle());
        self.openings += 1;
        // Not the one afterwards: a file that took the place of this one meanwhile would pass for it. Where there was none,
        // it was made by the opening.
        let file = before.or_else(|| file_id(&self.shared.path));
        Ok(Opened { connection, file })
    }
}

/// Prepares a connection, and makes sure of what the guarantees stand on.
fn set_up(what: &str, connection: &Connection) -> Outcome<()> {
    connection.set_prepared_statement_cache_capacity(PREPARED);
    let mode = write_ahead(connection)?;
    if mode != "wal" {
        let problem = format!(
            "the file's journal mode is {mode:?} and cannot be made WAL; it has to lie on a disk of this machine"
        );
        return Err(Error::refused(what, problem).into());
    }
    // What is reported is on the disk; anything less loses commits when the machine stops.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // A file from elsewhere runs no function with side effects through its views and triggers.
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES, |_| Ok(()))?;
    let encoding: String = connection.pragma_query_value(None, "encoding", |row| row.get(0))?;
    if encoding != "UTF-8" {
        let problem =
            format!("the file's encoding is {encoding}; keys are in order of their UTF-8 bytes");
        return Err(Error::refused(what, problem).into());
    }
    Ok(())
}

/// Makes the log a WAL, if it is none, and answers with what it is.
fn write_ahead(connection: &Connection) -> Outcome<String> {
    let mode = |connection: &Connection| {
        connection.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0))
    };
    let present = mode(connection)?;
    if present == "wal" || connection.is_readonly("main")? {
        return Ok(present);
    }
    for attempt in 0.. {
        let switched =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0));
        let met = |error: &rusqlite::Error| {
            error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && attempt < SWITCHES
        };
        match switched {
            Err(error) if met(&error) => std::thread::sleep(Duration::from_millis(5)),
            switched => return Ok(switched?),
        }
    }
    Ok(present)
}

#[cfg(unix)]
fn file_id(path: &std::path::Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Elsewhere an open file can be neither removed nor replaced.
#[cfg(not(unix))]
fn file_id(_: &std::path::Path) -> Option<FileId> {
    Some((0, 0))
}
