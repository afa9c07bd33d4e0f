//! What an error of SQLite means for the caller.
//!
//! Guarantees: an error that comes before the commit says that nothing was written; one of the commit itself says whether
//! that is known. No message holds a value.

use rusqlite::ffi::ErrorCode;

use crate::error::{Error, Kind};

/// Why work on a connection ended.
#[derive(Debug)]
pub(super) enum Failure {
    Sqlite(rusqlite::Error),
    Other(Error),
}

pub(super) type Outcome<T> = Result<T, Failure>;

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    /// What is in the file is not what this program wrote there.
    pub(super) fn strange(what: &str) -> Self {
        Self::Other(Error::refused(what, STRANGE))
    }

    /// As an error of a read, or of a change that was not committed.
    pub(super) fn told(self, what: &str) -> Error {
        match self {
            Self::Sqlite(error) => undone(what, &error),
            Self::Other(error) => error,
        }
    }
}

const STRANGE: &str = "what the file holds could not be understood; is the schema this program's?";

/// Why the lock was not to be had.
pub(super) const LOCKED: &str = "another connection holds the file's write lock; look for a transaction left open, in a \
    `sqlite3` shell perhaps";

/// Why a file is not used.
pub(super) const REPLACED: &str = "another file has taken the place of the one that was open, and its schema has not been \
    looked at yet; nothing was written";

/// An error before a commit: it had no effect.
pub(super) fn undone(what: &str, error: &rusqlite::Error) -> Error {
    let Some(failure) = error.sqlite_error() else {
        return Error::refused(what, STRANGE);
    };
    let what = what.to_owned();
    match failure.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Error::unavailable(what, LOCKED),
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
            let problem = "the file or its directory may not be written to".to_owned();
            Kind::Denied { what, problem }.into()
        }
        ErrorCode::DiskFull => Error::unavailable(what, "the disk is full"),
        ErrorCode::CannotOpen => Error::unavailable(
            what,
            "the file cannot be opened; is its directory there, and may this user read and write both?",
        ),
        ErrorCode::NotADatabase => Error::refused(
            what,
            "the file is not an SQLite database, or is encrypted; it was left as it is",
        ),
        ErrorCode::DatabaseCorrupt => Error::refused(
            what,
            "the file is damaged; `PRAGMA integrity_check` in a `sqlite3` shell says where, and a backup brings it back",
        ),
        ErrorCode::SystemIoFailure => Error::unavailable(
            what,
            format!(
                "reading or writing the file failed, code {}",
                failure.extended_code
            ),
        ),
        // Nothing but the end of the store interrupts.
        ErrorCode::OperationInterrupted => Kind::Closed.into(),
        ErrorCode::ConstraintViolation => {
            Error::refused(what, constraint(error, failure.extended_code))
        }
        _ => Error::refused(what, format!("SQLite error {}", failure.extended_code)),
    }
}

/// An error of the commit.
pub(super) fn commit(what: &str, error: &rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        // These are told before anything of the commit is in the log.
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::ReadOnly
            | ErrorCode::ConstraintViolation,
        ) => undone(what, error),
        // The log may hold the commit although its fsync failed.
        _ => Error::unknown(what, "the commit failed while it was written"),
    }
}

/// The constraint's name. What a trigger of somebody else raises can quote a value.
fn constraint(error: &rusqlite::Error, code: i32) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message))
            if ["CHECK", "UNIQUE", "NOT NULL", "FOREIGN KEY"]
                .iter()
                .any(|kind| message.starts_with(kind)) =>
        {
            message.clone()
        }
        _ => format!("SQLite error {code}, a constraint"),
    }
}
