//! Writes within a transaction of the caller's.
//!
//! Guarantees: the conditions are decided inside the database, under the rows' locks; a refused one leaves the transaction as
//! it was. The revision is taken when the caller commits, so that a transaction that lingers holds up nobody but writers of
//! the same keys.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, Transaction};

use super::writing::Columns;
use super::{PostgresStore, fault, rows};
use crate::core::{Cursor, Epoch, Key};
use crate::error::{Error, Result};
use crate::store::{Joined, WriteRequest};

impl PostgresStore {
    /// Writes within the caller's transaction.
    pub(crate) async fn write_in(
        &self,
        transaction: &Transaction<'_>,
        request: &WriteRequest,
    ) -> Result<Joined> {
        let what = request.what();
        let columns = Columns::of(request.items.iter());
        let (queries, origin) = (&self.prepared().await?.queries, self.instance_text());
        let params: [(&(dyn ToSql + Sync), Type); 5] = [
            (&columns.keys, Type::TEXT_ARRAY),
            (&columns.values, Type::TEXT_ARRAY),
            (&columns.expected, Type::INT8_ARRAY),
            (&request.actor, Type::TEXT),
            (&origin, Type::TEXT),
        ];
        let found = transaction.query_typed(&queries.write_in, &params).await;
        let found = found.map_err(|error| fault::write(&what, &error, &request.items))?;
        joined(&found).ok_or_else(|| rows::strange(&what))?
    }

    /// The revision that a joined write's transaction got; `None` when it was not committed, or changed nothing in the end.
    pub(crate) async fn numbered(&self, joined: &Joined) -> Result<Option<Cursor>> {
        let what = "looking for a joined write's revision";
        let Some(change) = joined.change else {
            return Ok(None);
        };
        let params: [(&(dyn ToSql + Sync), Type); 2] = [
            (&change, Type::INT8),
            (&rows::number(joined.head), Type::INT8),
        ];
        let sql = &self.prepared().await?.queries.numbered;
        let row = self.call(what, sql, &params).await?;
        let row = row.ok_or_else(|| rows::strange(what))?;
        let epoch: Option<Epoch> = row
            .try_get::<_, &str>(0)
            .ok()
            .and_then(|text| text.parse().ok());
        match epoch {
            Some(epoch) if epoch == joined.epoch => Ok(rows::numbered(&row, epoch)),
            Some(_) => Err(crate::error::Kind::OtherEpoch {
                wanted: joined.head,
            }
            .into()),
            None => Err(rows::strange(what)),
        }
    }
}

/// The rows of `write_in.sql`; `None` when they are strange.
fn joined(found: &[Row]) -> Option<Result<Joined>> {
    let first = found.first()?;
    let mut changed = Vec::new();
    for row in found {
        let key = Key::stored(row.try_get(3).ok()?);
        if row.try_get(5).ok()? {
            let (wanted, found) = (row.try_get(6).ok()?, row.try_get(7).ok()?);
            return Some(Err(fault::conflict(key, wanted, found)));
        }
        if row.try_get(4).ok()? {
            changed.push(key);
        }
    }
    Some(Ok(Joined {
        epoch: first.try_get::<_, &str>(2).ok()?.parse().ok()?,
        head: rows::revision(first.try_get(1).ok()?)?,
        change: first.try_get(0).ok()?,
        changed,
    }))
}

/// That a store is not one that a transaction of PostgreSQL can join.
pub(crate) fn elsewhere(what: &str) -> Error {
    Error::refused(
        what,
        "this service is not on PostgreSQL; write with `write`",
    )
}
