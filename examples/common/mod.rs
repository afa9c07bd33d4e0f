//! Where the examples find a PostgreSQL, and how they leave it: `DATABASE_URL`, else a private one that ends with the
//! program; a schema of its own for each run, dropped at the end.

#![allow(dead_code, reason = "each example uses a part")]

#[path = "../../src/local_postgres.rs"]
mod local_postgres;

use std::sync::Arc;
use std::time::Duration;

use sync_config::prelude::*;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

/// What an example answers.
pub(crate) type Outcome = Result<(), Box<dyn std::error::Error>>;

/// How long anything may take that an example waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// A database to play with.
pub(crate) struct Database {
    pub(crate) url: String,
    pub(crate) schema: String,
    /// The server, if it is the program's own. It ends with this value.
    pub(crate) server: Option<local_postgres::LocalPostgres>,
}

/// Finds a database, or starts one; runs an example in a schema of its own, and drops that.
pub(crate) async fn run(example: impl AsyncFnOnce(&mut Database) -> Outcome) -> Outcome {
    match std::env::var("DATABASE_URL") {
        Ok(url) => run_on(url, None, example).await,
        Err(_) => run_on_private_server(example).await,
    }
}

/// As [`run`], on a server that the example may stop.
pub(crate) async fn run_on_private_server(
    example: impl AsyncFnOnce(&mut Database) -> Outcome,
) -> Outcome {
    let binaries = local_postgres::find_binaries().ok_or_else(local_postgres::install_hint)?;
    let server = local_postgres::LocalPostgres::temporary(&binaries)?;
    run_on(server.url("postgres"), Some(server), example).await
}

async fn run_on(
    url: String,
    server: Option<local_postgres::LocalPostgres>,
    example: impl AsyncFnOnce(&mut Database) -> Outcome,
) -> Outcome {
    let schema = format!("sync_config_example_{}", std::process::id());
    let mut database = Database {
        url,
        schema,
        server,
    };
    let schema = database.schema.clone();
    database.psql(&format!("CREATE SCHEMA {schema}")).await?;
    let ended = example(&mut database).await;
    let dropped = database
        .psql(&format!("DROP SCHEMA {schema} CASCADE"))
        .await;
    ended?;
    dropped
}

impl Database {
    /// The settings of an instance on this database.
    pub(crate) fn settings(&self) -> Settings {
        Settings::new(&self.url).schema(&self.schema)
    }

    /// Starts an instance.
    pub(crate) async fn instance(&self) -> sync_config::Result<Arc<ConfigService>> {
        Builder::new(self.settings()).start().await
    }

    /// Opens a connection that has nothing to do with the library. Await the task after dropping the client.
    pub(crate) async fn client(&self) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::warn!(%error, "a connection of the example failed");
            }
        });
        let path = format!("SET search_path TO {}", self.schema);
        client.batch_execute(&path).await?;
        Ok((client, connection))
    }

    /// Runs plain SQL as psql would.
    pub(crate) async fn psql(&self, sql: &str) -> Outcome {
        let (client, connection) = self.client().await?;
        let done = client.batch_execute(sql).await;
        drop(client);
        connection.await?;
        Ok(done?)
    }
}

/// Looks at an instance until a condition holds. For what nothing tells of: how an instance fares.
pub(crate) async fn until(
    config: &dyn SyncConfig,
    what: &str,
    holds: impl Fn(&sync_config::Status) -> bool,
) -> Outcome {
    let look = async {
        while !holds(&config.status()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(()) => Ok(()),
        Err(_) => Err(format!("{what}: not within {PATIENCE:?}; {:?}", config.status()).into()),
    }
}
