//! The whole table as it streams by.
//!
//! Entries and the revisions of their keys come as two streams of one view and are put together here: the server takes
//! twice as long for a million rows when it joins them, and this program a third of what that adds.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;
use futures_util::{TryStreamExt, pin_mut};
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Row, Transaction};

use super::listener::moving;
use super::rows;
use crate::core::{ByKey, Entry, Key, Revision, Value};
use crate::error::Result;

const NONE: [(&(dyn ToSql + Sync), Type); 0] = [];

/// Reads every entry, in no order. `entries` and `keys` are the statements of those names.
pub(super) async fn load(
    what: &str,
    view: &Transaction<'_>,
    entries: &str,
    keys: &str,
) -> Result<Vec<Arc<Entry>>> {
    let mut unnumbered: HashSet<ByKey, RandomState> = HashSet::default();
    let stream = moving(what, view.query_typed_raw(entries, NONE)).await?;
    pin_mut!(stream);
    while let Some(row) = moving(what, stream.try_next()).await? {
        unnumbered.insert(entry(&row).ok_or_else(|| rows::strange(what))?);
    }
    let mut loaded = Vec::with_capacity(unnumbered.len());
    let stream = moving(what, view.query_typed_raw(keys, NONE)).await?;
    pin_mut!(stream);
    while let Some(row) = moving(what, stream.try_next()).await? {
        let (key, revision) = numbered(&row).ok_or_else(|| rows::strange(what))?;
        if let Some(ByKey(mut entry)) = unnumbered.take(key) {
            if let Some(entry) = Arc::get_mut(&mut entry) {
                entry.number(revision);
            }
            loaded.push(entry);
        }
    }
    loaded.extend(unnumbered.into_iter().map(|ByKey(entry)| entry));
    Ok(loaded)
}

/// A row of `entries.sql`, not numbered yet.
fn entry(row: &Row) -> Option<ByKey> {
    let (key, value) = (
        Key::stored(row.try_get(0).ok()?),
        Value::stored(row.try_get(1).ok()?),
    );
    let Moment(updated_micros) = row.try_get(2).ok()?;
    let entry = Entry::new(key, value, Revision::ZERO, updated_micros);
    Some(ByKey(Arc::new(entry)))
}

/// A row of `keys.sql`.
fn numbered(row: &Row) -> Option<(&str, Revision)> {
    let revision = rows::revision(row.try_get(1).ok()?)?;
    Some((row.try_get(0).ok()?, revision))
}

/// Microseconds since 1970 in UTC, of a time with a time zone or without. To let the server compute them takes it longer
/// than to read the row. A time that cannot be shown, before the year 1 or after the year 9999, is 0.
struct Moment(i64);

const MICROS_1970_TO_2000: i64 = 946_684_800_000_000;
/// PostgreSQL's own count: from the year 2000.
const YEAR_1: i64 = -63_082_281_600_000_000;
const YEAR_10_000: i64 = 252_455_616_000_000_000;

impl<'a> FromSql<'a> for Moment {
    fn from_sql(
        _: &Type,
        raw: &'a [u8],
    ) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let micros = i64::from_be_bytes(raw.try_into()?);
        Ok(if (YEAR_1..YEAR_10_000).contains(&micros) {
            Self(micros + MICROS_1970_TO_2000)
        } else {
            Self(0)
        })
    }

    fn from_sql_null(
        _: &Type,
    ) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(0))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::TIMESTAMPTZ | Type::TIMESTAMP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_counts_from_1970_and_one_that_cannot_be_shown_is_none() {
        let micros = |raw: i64| {
            let moment = Moment::from_sql(&Type::TIMESTAMPTZ, &raw.to_be_bytes()).unwrap();
            moment.0
        };
        assert_eq!(micros(0), MICROS_1970_TO_2000);
        assert_eq!(micros(-MICROS_1970_TO_2000), 0);
        assert_eq!(micros(YEAR_1), YEAR_1 + MICROS_1970_TO_2000);
        for strange in [i64::MIN, i64::MAX, YEAR_1 - 1, YEAR_10_000] {
            assert_eq!(micros(strange), 0);
        }
        assert_eq!(Moment::from_sql_null(&Type::TIMESTAMP).unwrap().0, 0);
        assert!(Moment::from_sql(&Type::TIMESTAMP, b"short").is_err());
    }
}
