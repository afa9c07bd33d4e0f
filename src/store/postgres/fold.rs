//! The audit's look at the table: folded as it streams, never collected.

use deadpool_postgres::Object;
use futures_util::{TryStreamExt, pin_mut};
use tokio_postgres::IsolationLevel;
use tokio_postgres::types::{ToSql, Type};

use super::listener::moving;
use super::queries::Queries;
use super::{fault, rows};
use crate::core::{Checksum, Cursor, Fold};
use crate::error::Result;

/// A million entries take about 10 s, which is longer than a statement of the pool may; the audit's owner waits as long.
const LIMIT: &str = "SET LOCAL statement_timeout = '60s'";

/// Folds the table in one view of the database.
pub(super) async fn fold(
    client: &mut Object,
    queries: &Queries,
    what: &str,
) -> Result<(Cursor, Checksum)> {
    let failed = |error: tokio_postgres::Error| fault::read(what, &error);
    let view = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true);
    // A connection that died unnoticed shows here; the sort behind the first entry may take its time.
    let view = moving(what, view.start()).await?;
    let hold = format!("{LIMIT}; {}", queries.hold);
    view.batch_execute(&hold).await.map_err(failed)?;
    let params: [(&(dyn ToSql + Sync), Type); 1] = [(&0i64, Type::INT8)];
    let head = moving(what, view.query_typed(&queries.head, &params)).await?;
    let cursor = head
        .first()
        .and_then(rows::cursor)
        .ok_or_else(|| rows::strange(what))?;
    let none: [(&(dyn ToSql + Sync), Type); 0] = [];
    let entries = view
        .query_typed_raw(&queries.fold, none)
        .await
        .map_err(failed)?;
    pin_mut!(entries);
    let mut fold = Fold::default();
    while let Some(row) = entries.try_next().await.map_err(failed)? {
        let (Ok(key), Ok(text)) = (row.try_get(0), row.try_get(1)) else {
            return Err(rows::strange(what));
        };
        fold.add(key, text);
    }
    view.commit().await.map_err(failed)?;
    Ok((cursor, fold.finish()))
}
