//! Writes that join a transaction of the application's, on the store that it is of.

use tokio_postgres::Transaction;

use super::{ConfigService, request};
use crate::core::Cursor;
use crate::error::{Error, Kind, Result};
#[cfg(feature = "sqlite")]
use crate::store::sqlite;
use crate::store::{Joined, WriteRequest, postgres};
use crate::write::Batch;

impl ConfigService {
    /// Writes within a transaction of the caller's: both are committed, or neither. Any transaction of the store's database
    /// will do, from a pool of the application's or another connection.
    ///
    /// The revision is taken when the caller commits, so that a transaction that lingers holds up nobody but writers of the
    /// same keys. After the commit [`ConfigService::committed`] tells it. An idempotency key is refused: whether the
    /// transaction has been done before is the application's to know.
    ///
    /// ```no_run
    /// # async fn example(
    /// #     config: &sync_config::ConfigService,
    /// #     client: &mut tokio_postgres::Client,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// use sync_config::prelude::*;
    /// let transaction = client.transaction().await?;
    /// transaction.execute("UPDATE account SET plan = 'pro' WHERE id = 42", &[]).await?;
    /// let limit = Batch::new().put("tenant:42:limit", 10_000);
    /// let joined = config.write_in(&transaction, limit).await?;
    /// transaction.commit().await?;
    /// let cursor = config.committed(&joined).await?; // and this instance reads it
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::is_conflict`] when a precondition does not hold: nothing was written and the transaction goes on. After any
    /// error of the database itself the transaction can only be rolled back. At REPEATABLE READ and above, a write that met
    /// another one is [`Error::is_retryable`], as are waits of more than 5 s for a row.
    pub async fn write_in(&self, transaction: &Transaction<'_>, batch: Batch) -> Result<Joined> {
        self.open()?;
        let request = request(batch)?;
        let on_postgres = self.postgres.as_ref();
        let on_postgres =
            on_postgres.ok_or_else(|| postgres::joined::elsewhere(&request.what()))?;
        unkeyed(&request)?;
        on_postgres.write_in(transaction, &request).await
    }

    /// The revision of a joined write, once its transaction is committed. Returns when this instance reads it. `None` when the
    /// transaction was rolled back, is not committed yet, or changed nothing in the end.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] when the database cannot be reached, [`Error::is_other_epoch`] when its history was replaced
    /// meanwhile, [`Error::is_timeout`] when this instance could not follow within `request_timeout`.
    pub async fn committed(&self, joined: &Joined) -> Result<Option<Cursor>> {
        self.open()?;
        let (what, limit) = ("looking at a joined write", self.request_timeout);
        let cursor = self.engine.ask(what, limit, self.numbered(joined)).await?;
        let cursor = cursor.map(|cursor| self.engine.as_shown(cursor));
        if let Some(cursor) = cursor {
            let read = self.engine.clock.timeout(limit, self.engine.reads(cursor));
            read.await.map_err(|_| Kind::Timeout {
                what: format!("waiting for revision {}", cursor.revision),
                after: limit,
            })??;
        }
        Ok(cursor)
    }

    async fn numbered(&self, joined: &Joined) -> Result<Option<Cursor>> {
        #[cfg(feature = "sqlite")]
        if let Some(on_sqlite) = &self.sqlite {
            return on_sqlite.numbered(joined).await;
        }
        let on_postgres = self.postgres.as_ref();
        let on_postgres =
            on_postgres.ok_or_else(|| postgres::joined::elsewhere("a joined write"))?;
        on_postgres.numbered(joined).await
    }

    /// Writes within an SQLite transaction of the caller's, on a connection of the caller's to the same file: both are
    /// committed, or neither. It blocks, as all of rusqlite does; in asynchronous code call it where blocking is allowed.
    ///
    /// The revision is taken after the caller's commit, by whichever instance sees it first; another transaction may share
    /// it. [`ConfigService::committed`] tells it. An idempotency key is refused: whether the transaction has been done before
    /// is the application's to know.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use sync_config::prelude::*;
    /// # let file = std::env::temp_dir().join(format!("sync-config-joined-{}.db", std::process::id()));
    /// let config = Builder::sqlite(&file).start().await?;
    /// let mut connection = sync_config::rusqlite::Connection::open(&file)?;
    /// connection.execute_batch("CREATE TABLE account (id INTEGER PRIMARY KEY, plan TEXT)")?;
    /// let transaction = connection.transaction()?;
    /// transaction.execute("INSERT INTO account VALUES (42, 'pro')", [])?;
    /// let limit = Batch::new().put("tenant:42:limit", 10_000);
    /// let joined = config.write_in_sqlite(&transaction, limit)?;
    /// transaction.commit()?;
    /// let cursor = config.committed(&joined).await?; // and this instance reads it
    /// assert_eq!((cursor.is_some(), config.get_i64("tenant:42:limit", 0)), (true, 10_000));
    /// # config.shutdown().await?;
    /// # drop(connection);
    /// # std::fs::remove_file(&file).ok();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::is_conflict`] when a precondition does not hold: nothing was written and the transaction goes on. A key that
    /// was written since the newest revision has none that a precondition could name. [`Error::is_unavailable`] when another
    /// connection holds the file's write lock for longer than the caller's connection waits.
    #[cfg(feature = "sqlite")]
    #[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
    pub fn write_in_sqlite(
        &self,
        transaction: &rusqlite::Transaction<'_>,
        batch: Batch,
    ) -> Result<Joined> {
        self.open()?;
        let request = request(batch)?;
        let on_sqlite = self.sqlite.as_ref();
        let on_sqlite = on_sqlite.ok_or_else(|| sqlite::joined::elsewhere(&request.what()))?;
        unkeyed(&request)?;
        on_sqlite.write_in(transaction, &request)
    }
}

/// Refuses an idempotency key: whether the caller's transaction has been done before is the caller's to know.
fn unkeyed(request: &WriteRequest) -> Result<()> {
    if request.idempotency_key.is_some() {
        let problem = "an idempotency key needs a transaction of its own; write with `write`";
        return Err(Error::refused(request.what(), problem));
    }
    Ok(())
}
