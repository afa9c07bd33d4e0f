//! What a program would do without a library, as fast as PostgreSQL lets it: a table, one prepared statement for a write
//! with its notice, and connections that listen. The notice carries the value, so that nobody has to ask for it.
#![allow(dead_code, reason = "each benchmark uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot run stops")]

use std::future::poll_fn;
use std::io::{Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};

use super::postgres::{Database, Server};
use super::{quantile, smoke};

/// A value of 66 bytes, as a small configuration entry is.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Limit {
    pub(crate) enabled: bool,
    pub(crate) burst: u32,
    pub(crate) owner: &'static str,
    /// Ten digits, and different in every write.
    pub(crate) count: u64,
}

impl Limit {
    pub(crate) fn of(count: u64) -> Self {
        Self {
            enabled: true,
            burst: 250,
            owner: "team-a",
            count: 1_000_000_000 + count,
        }
    }

    pub(crate) fn json(self) -> String {
        serde_json::to_string(&self).expect("a limit is JSON")
    }
}

/// A key of 30 bytes.
pub(crate) fn key(number: usize) -> String {
    format!("limit:{number:06}:a-key-of-30-byte")
}

/// Makes the bare table with as many entries.
pub(crate) async fn create(database: &Database, entries: usize) {
    let client = database.client().await;
    let create = "CREATE TABLE bare (key varchar(255) COLLATE \"C\" PRIMARY KEY, value jsonb NOT NULL, updated_at timestamptz NOT NULL DEFAULT now())";
    client.batch_execute(create).await.expect("create a table");
    fill(&client, "bare", entries).await;
}

/// Fills a table.
pub(crate) async fn fill(client: &Client, name: &str, entries: usize) {
    let keys: Vec<String> = (0..entries).map(key).collect();
    let fill = format!(
        "INSERT INTO {name} (key, value) SELECT k, $2::text::jsonb FROM unnest($1::text[]) k"
    );
    let first = Limit::of(0).json();
    client
        .execute(&fill, &[&keys, &first])
        .await
        .expect("fill the table");
    let analyze = format!("ANALYZE {name}");
    client.batch_execute(&analyze).await.expect("analyze");
}

/// A connection that writes.
pub(crate) struct Bare {
    pub(crate) client: Client,
    upsert: Statement,
    notifying: Statement,
    /// Of many rows at once.
    all: Statement,
}

impl Bare {
    pub(crate) async fn connect(database: &Database) -> Self {
        const OVER: &str =
            "ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value, updated_at = now()";
        let client = database.client().await;
        let one = format!("INSERT INTO bare (key, value) VALUES ($1, $2::text::jsonb) {OVER}");
        let all = format!(
            "INSERT INTO bare (key, value) SELECT k, $2::text::jsonb FROM unnest($1::text[]) k {OVER}"
        );
        let notifying = |upsert: &str| {
            format!(
                "WITH put AS ({upsert} RETURNING key) SELECT pg_notify('bare', key || ' ' || $2) FROM put"
            )
        };
        Self {
            upsert: client.prepare(&one).await.expect("prepare"),
            notifying: client.prepare(&notifying(&one)).await.expect("prepare"),
            all: client.prepare(&notifying(&all)).await.expect("prepare"),
            client,
        }
    }

    /// Writes and notifies.
    pub(crate) async fn set(&self, key: &str, limit: Limit) {
        let value = limit.json();
        self.client
            .execute(&self.notifying, &[&key, &value])
            .await
            .expect("a bare write");
    }

    /// Writes many keys in one transaction, with a notice for each.
    pub(crate) async fn set_all(&self, keys: &[String], limit: Limit) {
        let value = limit.json();
        self.client
            .execute(&self.all, &[&keys, &value])
            .await
            .expect("a bare write");
    }

    /// Writes and tells nobody.
    pub(crate) async fn put(&self, key: &str, limit: Limit) {
        let value = limit.json();
        self.client
            .execute(&self.upsert, &[&key, &value])
            .await
            .expect("a bare write");
    }
}

/// A connection that listens, and hands every notice over.
pub(crate) struct Listening {
    pub(crate) client: Client,
    task: JoinHandle<()>,
}

impl Listening {
    /// On the bare table's channel.
    pub(crate) async fn start(
        database: &Database,
        heard: impl FnMut(&str) + Send + 'static,
    ) -> Self {
        Self::on(database, "bare", heard).await
    }

    pub(crate) async fn on(
        database: &Database,
        channel: &str,
        mut heard: impl FnMut(&str) + Send + 'static,
    ) -> Self {
        let (client, mut connection) = tokio_postgres::connect(&database.url, NoTls)
            .await
            .expect("connect");
        let task = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await
            {
                if let AsyncMessage::Notification(notice) = message {
                    heard(notice.payload());
                }
            }
        });
        let listen = format!("LISTEN {channel}");
        client.batch_execute(&listen).await.expect("listen");
        Self { client, task }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Prints what the figures of a run stand on: the versions, and how fast the disk is.
pub(crate) async fn introduce(server: &Server) {
    println!(
        "PostgreSQL {}; {}; fdatasync of 8 KiB: {:.0} µs",
        server.version().await,
        if smoke() {
            "one short round, which measures nothing"
        } else {
            "optimized"
        },
        fdatasync()
    );
}

/// The median of a block's way to the disk on which the server's data is, in microseconds.
fn fdatasync() -> f64 {
    let path = std::env::temp_dir().join(format!("sync-config-bench-{}", std::process::id()));
    let mut file = std::fs::File::create(&path).expect("a file beside the server's");
    let mut each: Vec<f64> = (0..200)
        .map(|_| {
            file.rewind().expect("rewind");
            file.write_all(&[7; 8_192]).expect("write a block");
            let begin = Instant::now();
            file.sync_data().expect("flush a block");
            micros(begin.elapsed())
        })
        .collect();
    std::fs::remove_file(&path).expect("remove the file");
    each.sort_by(f64::total_cmp);
    quantile(&each, 0.5)
}

/// Microseconds.
pub(crate) fn micros(took: Duration) -> f64 {
    took.as_secs_f64() * 1e6
}

/// A number that no call before had.
pub(crate) fn next() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// Lets as many clients call for a while, each one call after the other; how many calls ended in a second.
pub(crate) async fn closed_loop<C, F>(clients: usize, time: Duration, call: C) -> f64
where
    C: Fn(usize) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let call = Arc::new(call);
    let begin = Instant::now();
    let until = begin + time;
    let each: Vec<JoinHandle<u64>> = (0..clients)
        .map(|client| {
            let call = call.clone();
            tokio::spawn(async move {
                let mut calls = 0;
                while Instant::now() < until {
                    call(client).await;
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let mut calls = 0;
    for client in each {
        calls += client.await.expect("a client of the loop");
    }
    calls as f64 / begin.elapsed().as_secs_f64()
}

/// How long each of `calls` calls took, one after the other, in microseconds.
pub(crate) async fn one_by_one<F>(calls: usize, mut call: impl FnMut() -> F) -> Vec<f64>
where
    F: Future<Output = ()>,
{
    let mut each = Vec::with_capacity(calls);
    for _ in 0..calls {
        let begin = Instant::now();
        call().await;
        each.push(micros(begin.elapsed()));
    }
    each
}
