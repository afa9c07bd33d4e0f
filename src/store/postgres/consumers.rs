//! Named consumers in PostgreSQL: each call one statement.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::{PostgresStore, fault, rows};
use crate::core::{Cursor, Revision};
use crate::error::Result;
use crate::status::SlowConsumer;
use crate::store::consumers::{Advanced, Consumers, Place, Start};

#[async_trait]
impl Consumers for PostgresStore {
    async fn consume(&self, name: &str, start: Start) -> Result<Cursor> {
        let (what, queries) = (what(name), &self.prepared().await?.queries);
        let params: [(&(dyn ToSql + Sync), Type); 2] =
            [(&name, Type::TEXT), (&(start == Start::Floor), Type::BOOL)];
        let row = self.call(&what, &queries.consume, &params).await?;
        let cursor = row.as_ref().and_then(rows::cursor);
        cursor.ok_or_else(|| rows::strange(&what))
    }

    async fn places(&self, name: Option<&str>) -> Result<Vec<Place>> {
        let what = name.map_or_else(|| "listing the consumers".to_owned(), what);
        let sql = &self.prepared().await?.queries.places;
        let found = self.ask(&what, sql, &[(&name, Type::TEXT)]).await?;
        let places: Option<Vec<Place>> = found.iter().map(place).collect();
        places.ok_or_else(|| rows::strange(&what))
    }

    async fn advance(&self, name: &str, to: Cursor, anew: bool) -> Result<Advanced> {
        let (what, queries) = (what(name), &self.prepared().await?.queries);
        let params: [(&(dyn ToSql + Sync), Type); 5] = [
            (&name, Type::TEXT),
            (&to.epoch.to_string(), Type::TEXT),
            (&rows::number(to.revision), Type::INT8),
            (&to.id.to_string(), Type::TEXT),
            (&anew, Type::BOOL),
        ];
        let row = self.call(&what, &queries.advance, &params).await?;
        let answer: Option<&str> = row.as_ref().and_then(|row| row.try_get(0).ok());
        match answer {
            Some("moved") => Ok(Advanced::Moved),
            Some("stood") => Ok(Advanced::Stood),
            Some("gone") => Ok(Advanced::Gone),
            Some("other") => Ok(Advanced::Other),
            Some(_) | None => Err(rows::strange(&what)),
        }
    }

    async fn forget(&self, name: &str) -> Result<bool> {
        let (what, queries) = (what(name), &self.prepared().await?.queries);
        let params: [(&(dyn ToSql + Sync), Type); 1] = [(&name, Type::TEXT)];
        let row = self.call(&what, &queries.forget, &params).await?;
        Ok(row.is_some_and(|row| row.try_get(0).unwrap_or(false)))
    }

    async fn slow(&self, danger: Duration, end: Duration) -> Result<Vec<SlowConsumer>> {
        let what = "looking at the consumers";
        let sql = &self.prepared().await?.queries.slow;
        let params: [(&(dyn ToSql + Sync), Type); 2] = [
            (&danger.as_secs_f64(), Type::FLOAT8),
            (&end.as_secs_f64(), Type::FLOAT8),
        ];
        let found = self.ask(what, sql, &params).await?;
        let slow: Option<Vec<SlowConsumer>> = found.iter().map(slow).collect();
        slow.ok_or_else(|| rows::strange(what))
    }
}

impl PostgresStore {
    /// Runs one statement on a pooled connection, and answers with all its rows.
    async fn ask(
        &self,
        what: &str,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>> {
        let client = self.client(what).await?;
        let found = client.query_typed(sql, params).await;
        client.answered(&found);
        found.map_err(|error| fault::read(what, &error))
    }
}

fn what(name: &str) -> String {
    format!("consumer {name:?}")
}

/// A row of `places.sql`; `None` when it is strange.
fn place(row: &Row) -> Option<Place> {
    let micros = u64::try_from(row.try_get::<_, i64>(8).ok()?).ok()?;
    let known: Option<&str> = row.try_get(7).ok()?;
    Some(Place {
        name: row.try_get(0).ok()?,
        cursor: Cursor {
            epoch: row.try_get::<_, &str>(1).ok()?.parse().ok()?,
            revision: rows::revision(row.try_get(2).ok()?)?,
            id: row.try_get::<_, &str>(3).ok()?.parse().ok()?,
        },
        epoch: row.try_get::<_, &str>(4).ok()?.parse().ok()?,
        head: rows::revision(row.try_get(5).ok()?)?,
        floor: rows::revision(row.try_get(6).ok()?)?,
        known: known.and_then(|known| known.parse().ok()),
        seen_at: SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros))?,
    })
}

/// A row of `slow.sql`; `None` when it is strange.
fn slow(row: &Row) -> Option<SlowConsumer> {
    let revision: Revision = rows::revision(row.try_get(1).ok()?)?;
    let seconds: Option<f64> = row.try_get(3).ok()?;
    let trimmed_in = match seconds {
        Some(seconds) => Some(Duration::try_from_secs_f64(seconds).ok()?),
        None => None,
    };
    Some(SlowConsumer {
        name: row.try_get(0).ok()?,
        revision,
        behind: u64::try_from(row.try_get::<_, i64>(2).ok()?).ok()?,
        trimmed_in,
    })
}
