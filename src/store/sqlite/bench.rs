//! The statements within one transaction, and their rows as core types.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Row};

use super::desk::Shared;
use super::fault::{Failure, Outcome};
use super::queries::Queries;
use crate::core::replica::AuditReport;
use crate::core::{Checksum, Cursor, Epoch, Revision, RevisionId};
use crate::store::sources::micros;

/// What a strange row is met in.
const FILE: &str = "reading the SQLite file";

/// A transaction.
pub(super) struct Bench<'a> {
    connection: &'a Connection,
    pub(super) shared: &'a Shared,
}

/// What `head.sql` says.
pub(super) struct HeadRow {
    pub(super) cursor: Cursor,
    pub(super) own_id: Option<RevisionId>,
    pub(super) audit: Option<AuditReport>,
    pub(super) floor: Revision,
}

impl<'a> Bench<'a> {
    pub(super) fn new(connection: &'a Connection, shared: &'a Shared) -> Self {
        Self { connection, shared }
    }

    pub(super) fn queries(&self) -> &'a Queries {
        &self.shared.queries
    }

    pub(super) fn connection(&self) -> &'a Connection {
        self.connection
    }

    pub(super) fn statement(&self, sql: &str) -> Outcome<CachedStatement<'a>> {
        Ok(self.connection.prepare_cached(sql)?)
    }

    /// Runs a statement that answers nothing; how many rows it changed.
    pub(super) fn run(&self, sql: &str, params: impl Params) -> Outcome<usize> {
        Ok(self.statement(sql)?.execute(params)?)
    }

    /// The first row, if there is one.
    pub(super) fn first<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Outcome<Option<T>> {
        Ok(self.statement(sql)?.query_row(params, read).optional()?)
    }

    /// The only value of the only row.
    pub(super) fn holds(&self, sql: &str, params: impl Params) -> Outcome<bool> {
        let found = self.first(sql, params, |row| row.get(0))?;
        Ok(found.unwrap_or(false))
    }

    /// The head, with the id of another revision.
    pub(super) fn head(&self, own: Revision) -> Outcome<HeadRow> {
        let mut statement = self.statement(&self.queries().head)?;
        let mut rows = statement.query([number(own)])?;
        let row = rows.next()?.ok_or_else(|| Failure::strange(FILE))?;
        let own_id = match row.get::<_, Option<String>>(3)? {
            Some(text) => Some(parsed(&text)?),
            None => None,
        };
        let audit = match (row.get::<_, Option<i64>>(5)?, row.get::<_, Option<i64>>(6)?) {
            (Some(at), Some(checksum)) => Some(AuditReport {
                number: count(row.get(4)?)?,
                revision: revision(at)?,
                checksum: Checksum::new(
                    u32::try_from(checksum).map_err(|_| Failure::strange(FILE))?,
                ),
            }),
            _ => None,
        };
        Ok(HeadRow {
            cursor: cursor(row, 0)?,
            own_id,
            audit,
            floor: revision(row.get(7)?)?,
        })
    }

    /// The newest revision.
    pub(super) fn cursor(&self) -> Outcome<Cursor> {
        Ok(self.head(Revision::ZERO)?.cursor)
    }

    /// The time in microseconds since 1970.
    pub(super) fn now(&self) -> i64 {
        micros((self.shared.sources.wall)())
    }
}

pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.get()).unwrap_or(i64::MAX)
}

pub(super) fn count(number: i64) -> Outcome<u64> {
    u64::try_from(number).map_err(|_| Failure::strange(FILE))
}

pub(super) fn revision(number: i64) -> Outcome<Revision> {
    count(number).map(Revision::new)
}

/// An id as the file holds it.
pub(super) fn parsed<T: FromStr>(text: &str) -> Outcome<T> {
    text.parse().map_err(|_| Failure::strange(FILE))
}

/// Epoch, revision and id in three columns.
pub(super) fn cursor(row: &Row<'_>, at: usize) -> Outcome<Cursor> {
    Ok(Cursor {
        epoch: parsed::<Epoch>(&row.get::<_, String>(at)?)?,
        revision: revision(row.get(at + 1)?)?,
        id: parsed(&row.get::<_, String>(at + 2)?)?,
    })
}

/// A text as the file holds it, whatever its bytes: SQLite checks none.
pub(super) fn bytes<'r>(row: &'r Row<'_>, at: usize) -> Outcome<Option<&'r [u8]>> {
    match row.get_ref(at)? {
        ValueRef::Null => Ok(None),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(Some(bytes)),
        ValueRef::Integer(_) | ValueRef::Real(_) => Err(Failure::strange(FILE)),
    }
}

/// The same as a text.
pub(super) fn text<'r>(row: &'r Row<'_>, at: usize) -> Outcome<Option<&'r str>> {
    match bytes(row, at)? {
        Some(bytes) => std::str::from_utf8(bytes)
            .map(Some)
            .map_err(|_| Failure::strange(FILE)),
        None => Ok(None),
    }
}

/// A text that has to be there.
pub(super) fn some<'r>(row: &'r Row<'_>, at: usize) -> Outcome<&'r str> {
    text(row, at)?.ok_or_else(|| Failure::strange(FILE))
}

/// Writes a time as the table shows it.
pub(super) fn shown(at_micros: i64) -> String {
    let micros = Duration::from_micros(u64::try_from(at_micros).unwrap_or(0));
    let at = SystemTime::UNIX_EPOCH.checked_add(micros);
    humantime::format_rfc3339_micros(at.unwrap_or(SystemTime::UNIX_EPOCH)).to_string()
}

/// Reads a time as the table, or somebody who wrote to it, shows it; 0 for one that cannot be read.
pub(super) fn read_time(text: Option<&[u8]>) -> i64 {
    let text = text.and_then(|bytes| std::str::from_utf8(bytes).ok());
    let at = text.and_then(|text| humantime::parse_rfc3339_weak(text).ok());
    at.map_or(0, micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_it_was_written_and_as_people_write_it() {
        let at = 1_785_000_000_123_456;
        assert_eq!(read_time(Some(shown(at).as_bytes())), at);
        assert_eq!(shown(0), "1970-01-01T00:00:00.000000Z");
        let second = read_time(Some(b"1970-01-01 00:00:01"));
        assert_eq!(second, 1_000_000, "as CURRENT_TIMESTAMP writes it");
        assert_eq!(read_time(Some(b"yesterday")), 0);
        assert_eq!(read_time(None), 0);
    }
}
