//! The PostgreSQL store: a pool that writes, a session of its own that reads and hears.
//!
//! Guarantees those of [`super::Store`], for PostgreSQL 13 and later, without superuser or extension. Statements are
//! unnamed and typed, so that they work through transaction poolers. The server bounds each statement of the pool a little
//! tighter than the client does, and the wait for the head row inside the database; through a pooler only the latter.

mod address;
#[cfg(feature = "cli")]
pub(crate) mod admin;
mod connect;
mod consumers;
mod dsn;
mod fault;
mod fold;
mod hosts;
pub(crate) mod identifier;
pub(crate) mod joined;
mod lent;
mod listener;
pub(crate) mod migrate;
mod probe;
mod queries;
mod refusal;
mod rows;
mod security;
#[cfg(feature = "toml")]
pub(crate) mod shared;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
#[cfg(feature = "tls")]
mod trust;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::{Object, Pool};
use futures_util::pin_mut;
use tokio::sync::OnceCell;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use self::connect::Address;
use self::identifier::{Names, QualifiedName};
use self::lent::Lent;
use self::listener::PgListener;
use self::migrate::Installed;
use self::queries::Queries;
use super::{Consumers, GroupAnswer, Listener, Recorded, Store, Task, WriteAnswer, WriteRequest};
use crate::core::{Checksum, Cursor, Epoch, Key, Revision, Value};
use crate::error::{Error, Result};
use crate::settings::Settings;
use crate::write::{Item, Precondition};

/// Each wait for a lock is bounded by 30 s; the work is bounded only by this, because adopting a large table takes its time.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(1_800);

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
    description: String,
    identity: Option<String>,
    settings: Settings,
    instance: u64,
    prepared: OnceCell<Prepared>,
}

/// What is known once the schema is there.
pub(super) struct Prepared {
    queries: Queries,
    channel: String,
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
            description,
            identity,
            settings,
            instance,
            prepared,
        })
    }

    async fn client(&self, what: &str) -> Result<Lent> {
        let client = self.pool.get().await;
        client
            .map(|client| Lent::new(client, self.opened_at.clone()))
            .map_err(|error| fault::pool(what, &error))
    }

    async fn prepared(&self) -> Result<&Prepared> {
        self.prepared
            .get_or_try_init(|| self.prepare_schema())
            .await
    }

    /// Finds the table's schema, migrates it if that is wanted and needed, and checks that the channel is the one the
    /// database notifies.
    async fn prepare_schema(&self) -> Result<Prepared> {
        let client = self.client("connecting").await?;
        let prepared = self.prepare_on(&client).await;
        client.give_back();
        prepared
    }

    async fn prepare_on(&self, client: &Object) -> Result<Prepared> {
        let names = self.names(client).await?;
        let settings = &self.settings;
        let look = migrate::installed(client, &names);
        let found = match tokio::time::timeout(settings.request_timeout, look).await {
            Ok(found) => found.map_err(fault::migrate)?,
            Err(_) => {
                return Err(Error::unavailable(
                    "looking at the schema",
                    "no answer in time",
                ));
            }
        };
        let complete = matches!(&found, Installed::Yes { missing, .. } if missing.is_empty());
        let found = if settings.migrate && !complete {
            let migrating = migrate::migrate(client, &names, &settings.channel);
            let migrated = match tokio::time::timeout(MIGRATION_TIMEOUT, migrating).await {
                Ok(migrated) => migrated.map_err(fault::migrate)?,
                Err(_) => {
                    return Err(Error::unavailable(
                        "migrating the schema",
                        "not done within 30m",
                    ));
                }
            };
            report(&names, &migrated);
            migrate::installed(client, &names)
                .await
                .map_err(fault::migrate)?
        } else {
            found
        };
        match found {
            Installed::No => Err(Error::refused(
                format!("table {}", names.table()),
                "has no sync-config schema; run `sync-config migrate`, or give its SQL (`migrate --print`) to the owner",
            )),
            Installed::Yes { channel, .. } if channel != settings.channel => {
                let table = names.table();
                let problem = format!(
                    "{table} notifies on {channel:?}; use that, or run `sync-config migrate` with the new one"
                );
                Err(Error::setting("channel", &settings.channel, problem))
            }
            Installed::Yes { channel, .. } => Ok(Prepared {
                queries: Queries::new(&names),
                channel,
            }),
        }
    }

    async fn names(&self, client: &tokio_postgres::Client) -> Result<Names> {
        let schema = match &self.settings.schema {
            Some(schema) => schema.clone(),
            None => {
                let row = client
                    .query_typed("SELECT pg_catalog.current_schema()", &[])
                    .await;
                let row = row.map_err(|error| fault::read("finding the schema", &error))?;
                let schema: Option<String> = row.first().and_then(|row| row.try_get(0).ok()?);
                schema.ok_or_else(|| {
                    Error::setting(
                        "schema",
                        "",
                        "the connection has no schema to create in; name one",
                    )
                })?
            }
        };
        let table = QualifiedName::parse(&schema, &self.settings.table_name);
        Ok(Names::new(table.map_err(|error| {
            Error::setting("table_name", &self.settings.table_name, error.to_string())
        })?))
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

    /// Runs a statement that writes, within the request timeout. The outer error means that it was not sent, or that
    /// nobody knows what became of it; the inner one is the server's answer.
    async fn send(
        &self,
        what: &str,
        sql: fn(&Queries) -> &String,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<std::result::Result<Vec<Row>, tokio_postgres::Error>> {
        let deadline = tokio::time::sleep(self.settings.request_timeout);
        pin_mut!(deadline);
        let ready = async { Ok::<_, Error>((self.prepared().await?, self.client(what).await?)) };
        let (prepared, client) = tokio::select! {
            ready = ready => ready?,
            () = &mut deadline => return Err(Error::unavailable(what, "no connection in time")),
        };
        let answer = tokio::select! {
            answer = client.query_typed(sql(&prepared.queries), params) => answer,
            () = &mut deadline => return Err(Error::unknown(what, "no answer in time")),
        };
        client.answered(&answer);
        Ok(answer)
    }

    fn instance_text(&self) -> String {
        format!("{:016x}", self.instance)
    }
}

fn report(names: &Names, migrated: &migrate::Migrated) {
    tracing::info!(table = %names.table(), applied = ?migrated.applied, adopted = migrated.adopted, "schema migrated");
    if let Some(trigger) = &migrated.replaced_trigger {
        tracing::warn!(table = %names.table(), trigger, "a trigger that notified values was replaced");
    }
    if migrated.out_of_bounds_total > 0 {
        let keys = &migrated.out_of_bounds;
        tracing::warn!(
            rows = migrated.out_of_bounds_total,
            ?keys,
            "rows beyond the bounds were left as they are"
        );
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
                let listener = PgListener::connect(address, names.0, names.1).await?;
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
                PgListener::deaf(client, names.0)
            }
        };
        Ok(Arc::new(listener))
    }

    async fn write(&self, request: &WriteRequest) -> Result<WriteAnswer> {
        let items = &request.items;
        let what = request.what();
        let columns = Columns::of(items.iter());
        let expected = columns.conditional.then_some(&columns.expected);
        let origin = self.instance_text();
        let params: [(&(dyn ToSql + Sync), Type); 6] = [
            (&columns.keys, Type::TEXT_ARRAY),
            (&columns.values, Type::TEXT_ARRAY),
            (&expected, Type::INT8_ARRAY),
            (&request.actor, Type::TEXT),
            (&request.idempotency_key, Type::TEXT),
            (&origin, Type::TEXT),
        ];
        let answer = self.send(&what, |queries| &queries.write, &params).await?;
        let answer = answer.map_err(|error| fault::write(&what, &error, items))?;
        rows::write_answer(items, &answer, self.instance)
            .ok_or_else(|| Error::unknown(&what, "the answer could not be understood"))
    }

    async fn write_group(&self, requests: &[&WriteRequest]) -> Result<GroupAnswer> {
        let what = format!("{} writes in one transaction", requests.len());
        let columns = Columns::of(requests.iter().flat_map(|request| &request.items));
        let member = |(number, request): (i32, &&WriteRequest)| vec![number; request.items.len()];
        let members: Vec<i32> = (0..).zip(requests).flat_map(member).collect();
        let actor = requests
            .first()
            .and_then(|request| request.actor.as_deref());
        let keyed = (0i32..)
            .zip(requests)
            .find_map(|(number, request)| Some((number, request.idempotency_key.as_deref()?)));
        let (idempotent, idempotency_key) = keyed.unzip();
        let origin = self.instance_text();
        let params: [(&(dyn ToSql + Sync), Type); 8] = [
            (&columns.keys, Type::TEXT_ARRAY),
            (&columns.values, Type::TEXT_ARRAY),
            (&columns.expected, Type::INT8_ARRAY),
            (&members, Type::INT4_ARRAY),
            (&actor, Type::TEXT),
            (&idempotency_key, Type::TEXT),
            (&idempotent, Type::INT4),
            (&origin, Type::TEXT),
        ];
        let answer = self
            .send(&what, |queries| &queries.write_group, &params)
            .await?;
        let answer = answer.map_err(|error| fault::write(&what, &error, &[]))?;
        rows::group_answer(requests, &answer, self.instance)
            .ok_or_else(|| Error::unknown(&what, "the answer could not be understood"))
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
        let folded = fold::fold(&mut client, queries, what).await;
        client.give_back();
        folded
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
        client.give_back();
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

    async fn rotate_epoch(&self, expected: Epoch) -> Result<()> {
        let prepared = self.prepared().await?;
        let params: [(&(dyn ToSql + Sync), Type); 1] = [(&expected.to_string(), Type::TEXT)];
        self.call(
            "beginning a new epoch",
            &prepared.queries.new_epoch,
            &params,
        )
        .await?;
        Ok(())
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
        client.give_back();
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

/// Items as the statements take them.
struct Columns<'a> {
    keys: Vec<&'a str>,
    values: Vec<Option<&'a str>>,
    expected: Vec<Option<i64>>,
    conditional: bool,
}

impl<'a> Columns<'a> {
    fn of(items: impl Iterator<Item = &'a Item>) -> Self {
        let (mut keys, mut values, mut conditions) = (Vec::new(), Vec::new(), Vec::new());
        for item in items {
            keys.push(item.key.as_str());
            values.push(item.value.as_ref().map(Value::as_json));
            conditions.push(expected(item));
        }
        let conditional = conditions.iter().any(Option::is_some);
        Self {
            keys,
            values,
            expected: conditions,
            conditional,
        }
    }
}

fn expected(item: &Item) -> Option<i64> {
    item.precondition.map(|precondition| match precondition {
        Precondition::Absent => 0,
        Precondition::Present => -1,
        // Revision 0 changed nothing, so no key can be at it: no key ever has a revision this large.
        Precondition::Revision(revision) if revision == Revision::ZERO => i64::MAX,
        Precondition::Revision(revision) => rows::number(revision),
    })
}
