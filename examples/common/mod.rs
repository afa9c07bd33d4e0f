//! Where the examples find a PostgreSQL: `DATABASE_URL`, else a private one that ends with the program.

#![allow(dead_code, reason = "each example uses a part")]

#[path = "../../src/local_postgres.rs"]
mod local_postgres;

/// A database to play with.
pub(crate) struct Database {
    pub(crate) url: String,
    /// Kept alive until the example ends.
    server: Option<local_postgres::LocalPostgres>,
}

/// Finds a database, or starts one.
pub(crate) fn database() -> Result<Database, Box<dyn std::error::Error>> {
    if let Ok(url) = std::env::var("DATABASE_URL") {
        return Ok(Database { url, server: None });
    }
    let binaries = local_postgres::find_binaries().ok_or_else(local_postgres::install_hint)?;
    let server = local_postgres::LocalPostgres::temporary(&binaries)?;
    Ok(Database {
        url: server.url("postgres"),
        server: Some(server),
    })
}

/// Runs plain SQL, as psql would, on a connection that has nothing to do with the library.
pub(crate) async fn psql(url: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let done = client.batch_execute(sql).await;
    drop(client);
    let _ended = connection.await;
    done
}
