//! What the tests of faults share: quick settings, the database's own account of the table, and a look at its helpers.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use sync_config::prelude::*;
use sync_config::{Checksum, Mode, Status};
use tokio_postgres::Client;
use tokio_postgres::types::FromSqlOwned;

use crate::fleet::{Seen, until_status};
use crate::support::postgres::TestDb;
use crate::support::wait::{PATIENCE, eventually};

/// Intervals so short that a test need not wait for them.
pub(crate) fn quick(settings: Settings) -> Settings {
    settings
        .check_interval(Duration::from_millis(200))
        .poll_interval(Duration::from_millis(200))
        .poll_jitter(Duration::from_millis(20))
        .reconnect_interval(Duration::from_millis(500))
}

/// As [`quick`], with heartbeats.
pub(crate) fn beating(settings: Settings) -> Settings {
    quick(settings).heartbeat_interval(Duration::from_millis(400))
}

/// Starts an instance.
pub(crate) async fn start(settings: Settings) -> Arc<ConfigService> {
    Builder::new(settings)
        .start()
        .await
        .expect("the service starts")
}

/// Waits until news is pushed.
pub(crate) async fn until_push(service: &Arc<ConfigService>) -> Status {
    until_status(service, "push", |status| status.mode == Mode::Push).await
}

/// Runs statements.
pub(crate) async fn run(client: &Client, sql: &str) {
    client
        .batch_execute(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// Alters the table as no trigger sees it.
pub(crate) async fn alter(client: &Client, sql: &str) {
    let triggers = [
        "touch_insert",
        "touch_update",
        "insert",
        "update",
        "delete",
        "truncate",
    ]
    .map(|name| format!("ENABLE ALWAYS TRIGGER sync_config_{name}"))
    .join(", ");
    let off = "ALTER TABLE sync_config DISABLE TRIGGER ALL";
    let on = format!("ALTER TABLE sync_config {triggers}");
    run(client, &format!("BEGIN; {off}; {sql}; {on}; COMMIT")).await;
}

/// Ends the backends of an instance by its name, and says how many there were.
pub(crate) async fn terminate(client: &Client, name: &str) -> i64 {
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = '{name}'"
    );
    one(client, &sql).await
}

/// The first value of a query.
pub(crate) async fn one<T: FromSqlOwned>(client: &Client, sql: &str) -> T {
    let rows = client.query(sql, &[]).await;
    rows.unwrap_or_else(|error| panic!("{sql}: {error:?}"))[0].get(0)
}

/// Waits until so many statements wait for a lock. Not on a client in a transaction, which would see the same again and again.
pub(crate) async fn until_waiting(db: &TestDb, count: i64) {
    let client = db.client().await;
    eventually("waiting writers", PATIENCE, async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        (one::<i64>(&client, sql).await == count).then_some(())
    })
    .await;
}

/// The table's newest revision.
pub(crate) async fn head(client: &Client) -> u64 {
    let revision: i64 = one(client, "SELECT revision FROM sync_config_head").await;
    u64::try_from(revision).unwrap()
}

/// The rows of the table.
pub(crate) async fn rows(client: &Client) -> Vec<(String, String)> {
    let sql = "SELECT key::text, value::text FROM sync_config ORDER BY key COLLATE \"C\"";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The checksum of the table, computed apart from the library: length and bytes of each key and text.
pub(crate) async fn table_checksum(client: &Client) -> Checksum {
    let mut crc = crc32fast::Hasher::new();
    for (key, text) in rows(client).await {
        for part in [&key, &text] {
            crc.update(&u32::try_from(part.len()).unwrap().to_be_bytes());
            crc.update(part.as_bytes());
        }
    }
    Checksum::new(crc.finalize())
}

/// Waits until instances hold exactly what the table holds, at its revision.
pub(crate) async fn equal_to_the_table(services: &[&Arc<ConfigService>], client: &Client) {
    eventually("instances equal to the table", PATIENCE, async || {
        let before = head(client).await;
        let wanted = table_checksum(client).await;
        let mut seen = String::new();
        let mut equal = head(client).await == before;
        write!(seen, "table {before} {wanted}").unwrap();
        for service in services {
            let status = service.status();
            equal &= status.revision.get() == before && status.checksum == Some(wanted);
            write!(
                seen,
                ", {} {:?} {:?}",
                status.revision, status.checksum, status.mode
            )
            .unwrap();
        }
        if equal { Ok(()) } else { Err(seen) }
    })
    .await;
}

/// The revisions of everything a subscription told as changes.
pub(crate) fn changed_revisions(seen: &[Seen]) -> Vec<u64> {
    let changed = seen.iter().filter(|seen| matches!(seen, Seen::Changed(..)));
    changed.map(Seen::revision).collect()
}

/// How much longer than by default a test may run: `SYNC_CONFIG_LONG_TESTS` set means the full length.
pub(crate) fn duration(short: Duration, long: Duration) -> Duration {
    match std::env::var_os("SYNC_CONFIG_LONG_TESTS") {
        Some(_) => long,
        None => short,
    }
}

/// Collects what is logged on the present thread while the answer lives; for tests on a current-thread runtime.
pub(crate) fn capture(level: tracing::Level) -> Capture {
    let log = Log::default();
    let lines = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(move || lines.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    // With a single subscriber tracing asks the thread that comes to a line first whether anybody wants it, and other
    // tests' threads have none.
    let second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    Capture {
        log,
        _held: (guard, second),
    }
}

/// A log that is being collected.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) log: Log,
    _held: (tracing::subscriber::DefaultGuard, tracing::Dispatch),
}

/// Everything that was logged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines that contain a text.
    pub(crate) fn lines(&self, with: &str) -> Vec<String> {
        let text = self.text();
        let lines = text.lines().filter(|line| line.contains(with));
        lines.map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
