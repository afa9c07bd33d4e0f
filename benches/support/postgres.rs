//! The PostgreSQL server of a benchmark: a private one that keeps what it commits (`fsync` and `full_page_writes` are on),
//! or the one that `BENCH_DATABASE_URL` names, in which databases may be created.
#![allow(
    clippy::print_stderr,
    reason = "a benchmark says what it could not tidy up"
)]

use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, NoTls};

#[path = "../../tests/it/support/fetch.rs"]
mod fetch;
#[path = "../../src/local_postgres.rs"]
pub(crate) mod local_postgres;

use local_postgres::{LocalPostgres, find_binaries, install_hint};

/// What a database server of a small production has; `shared_buffers` holds the million rows of the largest benchmark.
const SETTINGS: [&str; 5] = [
    "fsync=on",
    "full_page_writes=on",
    "shared_buffers=512MB",
    "max_wal_size=8GB",
    "checkpoint_timeout=1h",
];

/// A server for as long as this lives.
pub(crate) struct Server {
    /// The URL of a database from which others are created.
    admin_url: String,
    private: Option<LocalPostgres>,
}

impl Server {
    /// The server of this run.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// A server with further settings ("commit_delay=1000"), which then is a private one whatever the environment says.
    pub(crate) fn with(settings: &[&str]) -> Self {
        if let (true, Ok(admin_url)) = (settings.is_empty(), std::env::var("BENCH_DATABASE_URL")) {
            return Self {
                admin_url,
                private: None,
            };
        }
        let binaries = find_binaries()
            .map_or_else(fetch::any, Ok)
            .unwrap_or_else(|tried| {
                panic!(
                    "the benchmarks need a PostgreSQL server.\n{}\nor set BENCH_DATABASE_URL.\n{tried}",
                    install_hint()
                )
            });
        let all: Vec<&str> = SETTINGS.iter().chain(settings).copied().collect();
        let private = LocalPostgres::temporary_with(&binaries, &all)
            .unwrap_or_else(|error| panic!("{} does not start: {error}", binaries.version));
        Self {
            admin_url: private.url("postgres"),
            private: Some(private),
        }
    }

    /// The private server, to stop it and so on.
    pub(crate) fn private(&mut self) -> &mut LocalPostgres {
        self.private
            .as_mut()
            .expect("this benchmark stops its server: unset BENCH_DATABASE_URL")
    }

    /// Creates a database and answers its URL.
    pub(crate) async fn database(&self) -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("scbench_{}_{number}", std::process::id());
        let admin = connect(&self.admin_url).await;
        let create = format!("CREATE DATABASE {name}");
        admin.batch_execute(&create).await.expect("create database");
        let (server, _) = self
            .admin_url
            .rsplit_once('/')
            .expect("the URL names a database");
        Database {
            url: format!("{server}/{name}"),
            admin_url: self.admin_url.clone(),
            name,
        }
    }

    /// The server's version, for the table's head.
    pub(crate) async fn version(&self) -> String {
        let client = connect(&self.admin_url).await;
        let row = client.query_one("SHOW server_version", &[]).await;
        row.expect("ask for the version").get(0)
    }
}

/// A database of one benchmark.
pub(crate) struct Database {
    pub(crate) url: String,
    name: String,
    admin_url: String,
}

impl Database {
    /// Connects.
    pub(crate) async fn client(&self) -> Client {
        connect(&self.url).await
    }

    /// Removes it. A private server goes with everything in it, so this is for room on the way and for servers of others.
    pub(crate) async fn remove(self) {
        let admin = connect(&self.admin_url).await;
        let drop_it = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        if let Err(error) = admin.batch_execute(&drop_it).await {
            eprintln!("the database {} is left behind: {error}", self.name);
        }
    }
}

/// Connects to a URL; the connection ends when the client is dropped.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .expect("connect to the benchmark's server");
    tokio::spawn(connection);
    client
}
