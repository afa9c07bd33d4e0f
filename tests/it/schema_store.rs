//! A store in a database of its own, and the questions the schema tests ask it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "support code fails its test by panicking"
)]

use std::future::poll_fn;
use std::time::Duration;

use sync_config::schema::{Migrated, migrate};
use sync_config::schema::{Names, QualifiedName};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::types::{FromSqlOwned, ToSql};
use tokio_postgres::{AsyncMessage, Client, NoTls, Row};

use crate::support::postgres::TestDb;

/// The SQLSTATE of a refused condition.
pub(crate) const CONFLICT: &str = "SC001";

pub(crate) struct TestStore {
    pub(crate) db: TestDb,
    pub(crate) client: Client,
    pub(crate) names: Names,
}

/// How many migrations there are.
pub(crate) fn migrations() -> usize {
    let files = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/postgres/migrations");
    std::fs::read_dir(files).unwrap().count()
}

/// The names of a table in the schema public.
pub(crate) fn names(table: &str) -> Names {
    Names::new(QualifiedName::parse("public", table).unwrap())
}

impl TestStore {
    /// A migrated store `cfg` on the channel `cfg_changes`.
    pub(crate) async fn new() -> Self {
        let mut store = Self::plain("cfg").await;
        store.migrate().await;
        store
    }

    /// A database and names; nothing is migrated.
    pub(crate) async fn plain(table: &str) -> Self {
        let db = TestDb::new().await;
        let client = db.client().await;
        Self {
            db,
            client,
            names: names(table),
        }
    }

    pub(crate) async fn migrate(&mut self) -> Migrated {
        migrate(&self.client, &self.names, "cfg_changes")
            .await
            .unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// Runs statements with the placeholders of the store.
    pub(crate) async fn run(&self, sql: &str) {
        run(&self.client, &self.names.render(sql)).await;
    }

    /// Runs statements that are to fail; returns the SQLSTATE.
    pub(crate) async fn fails(&self, sql: &str) -> String {
        fails(&self.client, &self.names.render(sql)).await
    }

    pub(crate) async fn one<T: FromSqlOwned>(&self, sql: &str) -> T {
        one(&self.client, &self.names.render(sql)).await
    }

    pub(crate) async fn revision(&self) -> i64 {
        self.one("SELECT revision FROM {head}").await
    }

    /// The journal of a revision, by key: `key: old -> new`, absent as `-`.
    pub(crate) async fn journal(&self, revision: i64) -> String {
        let sql = "SELECT coalesce(string_agg(key || ': ' || coalesce(old, '-') || ' -> ' || coalesce(new, '-'), ', '
                   ORDER BY key COLLATE \"C\"), '') FROM {journal} JOIN {revision} USING (change) WHERE revision = $1";
        self.client
            .query_one(&self.names.render(sql), &[&revision])
            .await
            .unwrap()
            .get(0)
    }

    /// Runs statements as one transaction, and returns the journal of the one revision they made.
    pub(crate) async fn journaled(&self, sql: &str) -> String {
        let before = self.revision().await;
        self.run(sql).await;
        assert_eq!(self.revision().await, before + 1, "one revision");
        self.check().await;
        self.journal(before + 1).await
    }

    /// What must hold after anything: dense revisions, a journal that ends in the table, a revision for each live
    /// key, exact counts, times that agree, and nothing pending.
    pub(crate) async fn check(&self) {
        let wrong: Option<String> = self
            .one(
                "WITH last AS (
                     SELECT DISTINCT ON (j.key) j.key, j.new, r.revision, r.at
                     FROM {journal} j JOIN {revision} r USING (change) ORDER BY j.key, r.revision DESC
                 ), wrong (what) AS (
                     SELECT 'holes' WHERE (SELECT count(*) FROM {revision}) > 0 AND
                         (SELECT max(revision) - min(revision) + 1 <> count(*) FROM {revision})
                     UNION ALL SELECT 'head' FROM {head} h WHERE h.revision <>
                         coalesce((SELECT max(revision) FROM {revision}), 0)
                     UNION ALL SELECT 'head id' FROM {head} h JOIN {revision} r USING (revision) WHERE r.id <> h.id
                     UNION ALL SELECT 'table ' || l.key FROM last l LEFT JOIN {table} t ON t.key COLLATE \"C\" = l.key
                         WHERE t.value::text IS DISTINCT FROM l.new
                     UNION ALL SELECT 'key ' || l.key FROM last l LEFT JOIN {key} k ON k.key = l.key
                         WHERE k.revision IS DISTINCT FROM CASE WHEN l.new IS NULL THEN NULL ELSE l.revision END
                     UNION ALL SELECT 'live ' || coalesce(t.key COLLATE \"C\", k.key) FROM {table} t FULL JOIN {key} k ON k.key = t.key COLLATE \"C\"
                         WHERE t.key IS NULL OR k.key IS NULL
                     UNION ALL SELECT 'time ' || l.key FROM last l JOIN {table} t ON t.key COLLATE \"C\" = l.key
                         WHERE pg_typeof(t.updated_at) = 'timestamptz'::regtype AND t.updated_at::timestamptz < l.at
                     UNION ALL SELECT 'count ' || r.revision FROM {revision} r
                         WHERE r.changes <> (SELECT count(*) FROM {journal} j WHERE j.change = r.change)
                           AND r.revision >= (SELECT floor FROM {meta})
                     UNION ALL SELECT 'pending' FROM {pending}
                     UNION ALL SELECT 'orphan ' || j.change FROM {journal} j
                         WHERE NOT EXISTS (SELECT FROM {revision} r WHERE r.change = j.change)
                 ) SELECT string_agg(what, ', ') FROM wrong",
            )
            .await;
        assert_eq!(wrong, None, "the store contradicts itself");
    }

    /// Calls the write function and returns its rows.
    pub(crate) async fn write(
        &self,
        keys: &[&str],
        vals: &[Option<&str>],
        expected: Option<&[i64]>,
        idempotency: Option<&str>,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        write(&self.client, &self.names, keys, vals, expected, idempotency).await
    }
}

pub(crate) async fn write(
    client: &Client,
    names: &Names,
    keys: &[&str],
    vals: &[Option<&str>],
    expected: Option<&[i64]>,
    idempotency: Option<&str>,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let actor: Option<&str> = Some("tester");
    let parameters: [&(dyn ToSql + Sync); 5] = [&keys, &vals, &expected, &actor, &idempotency];
    client
        .query(
            &names.render("SELECT * FROM {fn_write}($1, $2, $3, $4, $5, NULL)"),
            &parameters,
        )
        .await
}

pub(crate) async fn run(client: &Client, sql: &str) {
    client
        .batch_execute(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

pub(crate) async fn fails(client: &Client, sql: &str) -> String {
    let error = client.batch_execute(sql).await.expect_err(sql);
    drop(client.batch_execute("ROLLBACK").await);
    code(&error)
}

pub(crate) fn code(error: &tokio_postgres::Error) -> String {
    error
        .code()
        .unwrap_or_else(|| panic!("{error:?}"))
        .code()
        .to_owned()
}

pub(crate) async fn one<T: FromSqlOwned>(client: &Client, sql: &str) -> T {
    client
        .query_one(sql, &[])
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
        .get(0)
}

/// Listens on a channel; payloads arrive in the receiver.
pub(crate) async fn listen(db: &TestDb, channel: &str) -> (Client, UnboundedReceiver<String>) {
    let (client, mut connection) = tokio_postgres::connect(db.url(), NoTls).await.unwrap();
    let (sender, receiver) = unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message {
                drop(sender.send(notification.payload().to_owned()));
            }
        }
    });
    run(&client, &format!("LISTEN {channel}")).await;
    (client, receiver)
}

/// The payloads so far: a private one sent last proves that the others have arrived.
pub(crate) async fn heard(
    client: &Client,
    channel: &str,
    receiver: &mut UnboundedReceiver<String>,
) -> Vec<String> {
    run(client, &format!("NOTIFY {channel}, 'last'")).await;
    let mut payloads = Vec::new();
    loop {
        let payload = tokio::time::timeout(Duration::from_secs(20), receiver.recv())
            .await
            .unwrap()
            .unwrap();
        if payload == "last" {
            return payloads;
        }
        payloads.push(payload);
    }
}
