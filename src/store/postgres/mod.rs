//! The PostgreSQL store: a pool that writes, a session of its own that reads and hears.
//!
//! Guarantees those of [`super::Store`], for PostgreSQL 13 and later, without superuser or extension. Statements are
//! unnamed and typed, so that they work through transaction poolers; those of writes are prepared where it is known that there is
//! none: the session has what it was told when logging in. The server bounds each statement of the pool a little
//! tighter than the client does, and the wait for the head row inside the database; through a pooler only the latter.

mod address;
#[cfg(feature = "cli")]
pub(crate) mod admin;
mod connect;
mod consumers;
#[cfg(feature = "cli")]
mod doctor;
mod dsn;
mod fault;
mod fold;
mod hosts;
pub(crate) mod identifier;
pub(crate) mod joined;
mod lent;
mod line;
mod listener;
mod load;
pub(crate) mod migrate;
mod paging;
mod prepare;
mod probe;
mod puts;
mod queries;
mod raw;
mod refusal;
mod rows;
mod security;
#[cfg(feature = "toml")]
pub(crate) mod shared;
#[cfg(feature = "testing")]
pub(crate) mod tested;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
#[cfg(feature = "tls")]
mod trust;
mod writing;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Pool;
use tokio::sync::OnceCell;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use self::connect::Address;
use self::lent::Lent;
use self::line::Lines;
use self::listener::PgListener;
use self::paging::Pace;
use self::prepare::Prepared;
use super::{Consumers, GroupAnswer, Listener, Recorded, Store, Task, WriteAnswer, WriteRequest};
use crate::core::{Checksum, Cursor, Key, Revision};
use crate::error::{Error, Result};
use crate::settings::Settings;

/// A table in a database, with its helpers.
pub(crate) struct PostgresStore {
    pool: Pool,
    /// Whether the pool is this store's own, to be closed with it.
    own_pool: bool,
    /// A share in a pool of several stores, until this one is closed.
    #[cfg(feature = "toml")]
    share: shared::Share,
    /// Where the connections of the store's own pool lead.
    opened_at: Option<Arc<Address>>,
    /// Whether pool and session have addresses of their own.
    apart: bool,
    /// Where to LISTEN; without it the session is taken from the pool and polls.
    address: Option<Arc<Address>>,
    /// The connection to LISTEN on that it has in common with other stores.
    lines: Option<Arc<Lines>>,
    description: String,
    identity: Option<String>,
    settings: Settings,
    instance: u64,
    pace: Arc<Pace>,
    prepared: OnceCell<Prepared>,
}

impl PostgresStore {
    pub(crate) fn new(settings: &Settings, pool: Option<Pool>, instance: u64) -> Result<Self> {
        let url = settings
            .database_url
            .as_deref()
            .map(|url| Address::parse("database_url", url, settings).map(Arc::new))
            .transpose()?;
        let listen = settings.listen_database_url.as_deref();
        let listen = listen
            .map(|url| Address::parse("listen_database_url", url, settings).map(Arc::new))
            .transpose()?;
        let place = url
            .as_ref()
            .or(listen.as_ref())
            .map_or_else(|| "a pool".to_owned(), |address| address.describe());
        let description = format!("PostgreSQL {place} table {}", settings.table_name);
        let identity = url.as_ref().or(listen.as_ref()).map(|address| {
            // Without a schema it is the role's search path that says which table it is.
            let role = address.role();
            let schema = settings.schema.as_deref().unwrap_or("");
            format!("{description} schema {schema:?} as {role}")
        });
        let own_pool = pool.is_none();
        let apart = !own_pool || listen.is_some();
        let opened_at = url.clone().filter(|_| own_pool);
        let pool = match (pool, &url) {
            (Some(pool), _) => pool,
            (None, Some(url)) => connect::pool(url.clone(), settings)?,
            (None, None) => {
                let problem = "needed: set DATABASE_URL, or hand a pool in";
                return Err(Error::setting("database_url", "", problem));
            }
        };
        let (settings, prepared) = (settings.clone(), OnceCell::new());
        Ok(Self {
            pool,
            own_pool,
            #[cfg(feature = "toml")]
            share: shared::Share::default(),
            opened_at,
            apart,
            address: listen.or(url),
            lines: None,
            description,
            identity,
            settings,
            instance,
            pace: Arc::default(),
            prepared,
        })
    }

    async fn client(&self, what: &str) -> Result<Lent> {
        let client = self.pool.get().await;
        client
            .map(|client| Lent::new(client, self.opened_at.clone()))
            .map_err(|error| fault::pool(what, &error))
    }

    /// Runs one statement on a pooled connection.
    async fn call(
        &self,
        what: &str,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Option<Row>> {
        let client = self.client(what).await?;
        let rows = client.query_typed(sql, params).await;
        client.answered(&rows);
        let rows = rows.map_err(|error| fault::read(what, &error))?;
        Ok(rows.into_iter().next())
    }

    fn instance_text(&self) -> String {
        format!("{:016x}", self.instance)
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn identity(&self) -> Option<String> {
        self.identity.clone()
    }

    async fn prepare(&self) -> Result<()> {
        self.prepared().await.map(|_| ())
    }

    async fn open(&self) -> Result<Arc<dyn Listener>> {
        let prepared = self.prepared().await?;
        let names = (&prepared.queries, prepared.channel.as_str());
        let listener = match &self.address {
            Some(address) => {
                let listener = match &self.lines {
                    Some(lines) => PgListener::join(lines, names.0, names.1).await?,
                    None => PgListener::connect(address, names.0, names.1).await?,
                };
                let listener = listener.paced(&self.pace);
                if self.apart {
                    self.same_store(&listener).await?;
                }
                if self.shares_a_server(&listener).await {
                    listener.share();
                }
                listener
            }
            None => {
                let kept = self.client("connecting").await?.keep();
                let client = kept.ok_or_else(|| rows::strange("connecting"))?;
                PgListener::deaf(client, names.0).paced(&self.pace)
            }
        };
        Ok(Arc::new(listener))
    }

    async fn write(&self, request: &WriteRequest) -> Result<WriteAnswer> {
        self.write_one(request).await
    }

    async fn write_group(&self, requests: &[&WriteRequest]) -> Result<GroupAnswer> {
        self.write_several(requests).await
    }

    fn writers(&self) -> usize {
        self.pool.status().max_size
    }

    async fn notify(&self, text: &str) -> Result<()> {
        let prepared = self.prepared().await?;
        let sql = "SELECT pg_catalog.pg_notify($1, $2) WHERE pg_catalog.pg_notification_queue_usage() < 0.5";
        self.call(
            "notifying",
            sql,
            &[(&prepared.channel, Type::TEXT), (&text, Type::TEXT)],
        )
        .await?;
        Ok(())
    }

    async fn claim(&self, task: Task, every: Duration) -> Result<bool> {
        let (prepared, instance) = (self.prepared().await?, self.instance_text());
        let params: [(&(dyn ToSql + Sync), Type); 3] = [
            (&task.as_str(), Type::TEXT),
            (&every.as_secs_f64(), Type::FLOAT8),
            (&instance, Type::TEXT),
        ];
        let row = self
            .call("taking the fleet's turn", &prepared.queries.claim, &params)
            .await?;
        Ok(row.is_some_and(|row| row.try_get(0).unwrap_or(false)))
    }

    async fn fold(&self) -> Result<(Cursor, Checksum)> {
        let what = "auditing the table";
        let queries = &self.prepared().await?.queries;
        let mut client = self.client(what).await?;
        // One that failed may have left rows of its stream, or a statement, under way: then the connection is closed.
        let folded = fold::fold(&mut client, queries, what).await?;
        client.give_back();
        Ok(folded)
    }

    async fn report_audit(&self, revision: Revision, checksum: Checksum) -> Result<()> {
        let (prepared, instance) = (self.prepared().await?, self.instance_text());
        let params: [(&(dyn ToSql + Sync), Type); 3] = [
            (&rows::number(revision), Type::INT8),
            (&i64::from(checksum.get()), Type::INT8),
            (&instance, Type::TEXT),
        ];
        self.call(
            "reporting an audit",
            &prepared.queries.report_audit,
            &params,
        )
        .await?;
        Ok(())
    }

    async fn altered(&self) -> Result<Vec<(Key, Option<Arc<str>>)>> {
        let what = "comparing the table with its journal";
        let prepared = self.prepared().await?;
        let client = self.client(what).await?;
        let found = client.query_typed(&prepared.queries.altered, &[]).await;
        client.answered(&found);
        let found = found.map_err(|error| fault::read(what, &error))?;
        rows::altered(&found).ok_or_else(|| rows::strange(what))
    }

    async fn reconcile(&self, keys: &[(Key, Option<Arc<str>>)]) -> Result<Option<Revision>> {
        let (prepared, instance) = (self.prepared().await?, self.instance_text());
        let names: Vec<&str> = keys.iter().map(|(key, _)| key.as_str()).collect();
        let olds: Vec<Option<&str>> = keys.iter().map(|(_, old)| old.as_deref()).collect();
        let params: [(&(dyn ToSql + Sync), Type); 3] = [
            (&names, Type::TEXT_ARRAY),
            (&olds, Type::TEXT_ARRAY),
            (&instance, Type::TEXT),
        ];
        let row = self
            .call(
                "numbering altered rows",
                &prepared.queries.reconcile,
                &params,
            )
            .await?;
        Ok(row
            .and_then(|row| row.try_get::<_, Option<i64>>(0).ok()?)
            .and_then(rows::revision))
    }

    async fn rotate_epoch(&self, lost: Cursor) -> Result<()> {
        let (what, queries) = ("beginning a new epoch", &self.prepared().await?.queries);
        let params: [(&(dyn ToSql + Sync), Type); 3] = [
            (&lost.epoch.to_string(), Type::TEXT),
            (&rows::number(lost.revision), Type::INT8),
            (&lost.id.to_string(), Type::TEXT),
        ];
        match self.call(what, &queries.fork, &params).await {
            // A schema that the owner has not upgraded yet asks for no evidence.
            Err(error) if error.is_older_schema() => {
                let params = params.get(..1).unwrap_or_default();
                self.call(what, &queries.new_epoch, params).await
            }
            begun => begun,
        }
        .map(|_| ())
    }

    async fn trim(&self, keep: Duration, grace: Duration, batch: u32) -> Result<u64> {
        let queries = &self.prepared().await?.queries;
        let batch = i32::try_from(batch).unwrap_or(i32::MAX);
        let (keep, spared) = (keep.as_secs_f64(), grace.as_secs_f64());
        let params: [(&(dyn ToSql + Sync), Type); 3] = [
            (&keep, Type::FLOAT8),
            (&batch, Type::INT4),
            (&spared, Type::FLOAT8),
        ];
        // A schema that the owner has not upgraded yet has the function without grace.
        let (sql, params) = if grace.is_zero() {
            (&queries.trim, params.get(..2).unwrap_or_default())
        } else {
            (&queries.trim_sparing, &params[..])
        };
        let row = self.call("trimming the journal", sql, params).await?;
        Ok(row.map_or(0, |row| {
            u64::try_from(row.try_get::<_, i32>(0).unwrap_or(0)).unwrap_or(0)
        }))
    }

    async fn history(&self, after: Cursor, limit: u32) -> Result<Option<Vec<Recorded>>> {
        let what = "reading the journal";
        let prepared = self.prepared().await?;
        let client = self.client(what).await?;
        let params: [(&(dyn ToSql + Sync), Type); 2] = [
            (&rows::number(after.revision), Type::INT8),
            (&i64::from(limit), Type::INT8),
        ];
        let found = client.query_typed(&prepared.queries.history, &params).await;
        client.answered(&found);
        Ok(rows::history(
            after,
            &found.map_err(|error| fault::read(what, &error))?,
        ))
    }

    fn consumers(&self) -> &dyn Consumers {
        self
    }

    async fn close(&self) {
        if self.own_pool {
            self.pool.close();
        }
        #[cfg(feature = "toml")]
        self.let_go();
    }
}
