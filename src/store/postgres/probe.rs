//! Looks from the listening session to the pool and back: do both lead to the same store, and is a pooler in between?

use std::time::Duration;

use tokio_postgres::types::Type;

use super::listener::{self, PgListener};
use super::{PostgresStore, rows};
use crate::core::Revision;
use crate::error::{Error, Result};
use crate::store::Listener;

/// How often to look for a pooler when a session is opened; each time costs three tiny queries.
const PROBES: u32 = 2;
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

impl PostgresStore {
    /// Makes sure that the session reads the store that the pool writes.
    pub(super) async fn same_store(&self, listener: &PgListener) -> Result<()> {
        let what = "comparing the pool with the listening session";
        let heard = listener.head(Revision::ZERO).await?;
        let head = &self.prepared().await?.queries.head;
        let row = self.call(what, head, &[(&0i64, Type::INT8)]).await?;
        let written = row
            .as_ref()
            .and_then(rows::cursor)
            .ok_or_else(|| rows::strange(what))?;
        if written.epoch == heard.epoch {
            return Ok(());
        }
        Err(Error::refused(
            what,
            "they lead to different stores; let listen_database_url name the pool's database",
        ))
    }

    /// Whether a transaction pooler stands between: then the session's process changes, or serves the pool too. Poolers
    /// lend the connection that was used last, so that asking in turns shows it soon.
    pub(super) async fn shares_a_server(&self, listener: &PgListener) -> bool {
        let what = "looking for a pooler";
        for _ in 0..PROBES {
            let Ok(first) = listener.server().await else {
                return false;
            };
            let asked = self.call(what, listener::SERVER, &[]);
            // A pool that is busy tells nothing.
            let Ok(Ok(row)) = tokio::time::timeout(PROBE_TIMEOUT, asked).await else {
                return false;
            };
            let pools: Option<i32> = row.and_then(|row| row.try_get(0).ok());
            let second = listener.server().await.ok();
            if pools == Some(first) || second.is_some_and(|second| second != first) {
                return true;
            }
        }
        false
    }
}
