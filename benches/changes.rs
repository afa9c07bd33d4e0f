//! Taking changes in: one at a time, among few and among many entries; and ten thousand at once that were missed;
//! and large writes.
#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark that cannot run stops"
)]
mod support;

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{TryStreamExt, pin_mut};
use support::entries::{filled, in_memory, memory_key};
use support::postgres::{Database, Server};
use support::{Case, Target, in_turn, latencies, row, table};
use sync_config::prelude::*;
use sync_config::{Batch, Revision};
use tokio::runtime::Runtime;

const MISSED: i64 = 10_000;

/// A write on a database in memory costs next to nothing there: what is left is the library's own work.
fn one_at_a_time(runtime: &Runtime) {
    const SETS: u32 = 500;
    let (few, many) = (1_000, 1_000_000);
    let sets = |config: Arc<ConfigService>, entries: u32| {
        let mut number = 0_u32;
        move || {
            let took = (0..SETS).map(|_| {
                // Anywhere among the keys, so that the processor's caches know none of them.
                number = number.wrapping_add(0x9E37_79B9);
                let key = memory_key(number % entries);
                let begin = Instant::now();
                runtime.block_on(config.set(&key, number)).unwrap();
                begin.elapsed().as_secs_f64() * 1e6
            });
            latencies(took.collect())
        }
    };
    let (small, large) = (
        runtime.block_on(in_memory(few)),
        runtime.block_on(in_memory(many)),
    );
    let figures = in_turn(
        21,
        vec![
            Case::new("a change among 1,000", sets(small.clone(), few)),
            Case::new("a change among 1,000,000", sets(large.clone(), many)),
        ],
    );
    table("Taking one change in: `set` on a database in memory");
    row(&figures[1], &figures[0], "p50", "µs", Target::AtMost(2.0));
    row(&figures[1], &figures[0], "p99", "µs", Target::Told);
    for config in [small, large] {
        runtime.block_on(config.shutdown()).unwrap();
    }
}

/// Changes as many keys in revisions of `each`, behind the back of whoever does not listen.
async fn miss(client: &tokio_postgres::Client, each: i64) {
    client
        .batch_execute("SET synchronous_commit = off")
        .await
        .unwrap();
    let change = format!(
        "DO $$ BEGIN FOR i IN 0 .. {MISSED} / {each} - 1 LOOP
             UPDATE sync_config SET value = jsonb_set(value, '{{burst}}', to_jsonb((value ->> 'burst')::int + 1))
             WHERE key IN (SELECT key FROM missed WHERE n > i * {each} AND n <= (i + 1) * {each});
             COMMIT;
         END LOOP; END $$"
    );
    client.batch_execute(&change).await.unwrap();
}

async fn newest(client: &tokio_postgres::Client) -> i64 {
    let sql = "SELECT revision FROM sync_config_head";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Fetches the rows of the journal that lie after a revision.
async fn fetch(client: &tokio_postgres::Client, after: i64) -> f64 {
    let begin = Instant::now();
    let sql = "SELECT r.revision, j.key, j.new FROM sync_config_revision r JOIN sync_config_journal j USING (change)
               WHERE r.revision > $1 ORDER BY r.revision, j.key";
    let rows = client.query_raw(sql, [after]).await.unwrap();
    pin_mut!(rows);
    let mut fetched: Vec<(i64, String, Option<String>)> = Vec::new();
    while let Some(row) = rows.try_next().await.unwrap() {
        fetched.push((row.get(0), row.get(1), row.get(2)));
    }
    assert_eq!(fetched.len() as i64, MISSED);
    begin.elapsed().as_secs_f64() * 1e3
}

/// An instance that looks by itself once an hour, and when it is asked for a revision.
async fn out_of_touch(database: &Database) -> Arc<ConfigService> {
    let hour = Duration::from_secs(3_600);
    let settings = Settings::new(&database.url)
        .enable_notification(false)
        .poll_interval(hour)
        .check_interval(hour)
        .heartbeat_interval(hour);
    Builder::new(settings).start().await.unwrap()
}

/// The changes that both cases of a round deal with, whichever of them is the first.
struct Missed<'a> {
    runtime: &'a Runtime,
    client: &'a tokio_postgres::Client,
    each: i64,
    /// The revisions before and after them.
    span: Cell<(i64, i64)>,
    used: Cell<[bool; 2]>,
}

impl Missed<'_> {
    fn for_case(&self, case: usize) -> (i64, i64) {
        let mut used = self.used.get();
        if used[case] {
            let before = self.runtime.block_on(newest(self.client));
            self.runtime.block_on(miss(self.client, self.each));
            let after = self.runtime.block_on(newest(self.client));
            self.span.set((before, after));
            used = [false; 2];
        }
        used[case] = true;
        self.used.set(used);
        self.span.get()
    }
}

fn catching_up(runtime: &Runtime, server: &Server, each: i64) {
    let full = runtime.block_on(filled(server, 100_000));
    let client = runtime.block_on(full.client());
    let choose =
        "CREATE TABLE missed AS SELECT key, row_number() OVER () AS n FROM sync_config LIMIT 10000;
                  ALTER TABLE missed ADD PRIMARY KEY (n); ANALYZE missed";
    runtime.block_on(client.batch_execute(choose)).unwrap();
    let config = runtime.block_on(out_of_touch(&full));
    let round = Missed {
        runtime,
        client: &client,
        each,
        span: Cell::new((0, 0)),
        used: Cell::new([true; 2]),
    };
    let figures = in_turn(
        9,
        vec![
            Case::new("fetch of the rows", || {
                let (after, _) = round.for_case(0);
                vec![("ms", runtime.block_on(fetch(&client, after)))]
            }),
            Case::new("catch-up", || {
                let (_, newest) = round.for_case(1);
                let target = Revision::new(newest.unsigned_abs());
                let begin = Instant::now();
                let reached = config.wait_for(target.into(), Duration::from_secs(60));
                runtime.block_on(reached).unwrap();
                vec![("ms", begin.elapsed().as_secs_f64() * 1e3)]
            }),
        ],
    );
    table(&format!(
        "Catch-up of {MISSED} changes in {} revisions",
        MISSED / each
    ));
    row(&figures[1], &figures[0], "ms", "ms", Target::AtMost(1.5));
    runtime.block_on(config.shutdown()).unwrap();
    drop(client);
    runtime.block_on(full.remove());
}

/// A write looks each of its keys up; where it joined all with all, sixteen times the keys took 120 times as long.
fn many_at_once(runtime: &Runtime, server: &Server) {
    let database = runtime.block_on(filled(server, 0));
    let config = runtime
        .block_on(sync_config::connect(&database.url))
        .unwrap();
    let turn = Cell::new(0_u32);
    let write = |keys: u32| {
        turn.set(turn.get() + 1);
        let put = |batch: Batch, number| batch.put(&memory_key(number), turn.get());
        let batch = (0..keys).fold(Batch::new(), put);
        let begin = Instant::now();
        runtime.block_on(config.write(batch)).unwrap();
        vec![(
            "µs a key",
            begin.elapsed().as_secs_f64() * 1e6 / f64::from(keys),
        )]
    };
    let figures = in_turn(
        9,
        vec![
            Case::new("a write of 1,000 keys", || write(1_000)),
            Case::new("a write of 16,000 keys", || write(16_000)),
        ],
    );
    table("Large writes");
    row(
        &figures[1],
        &figures[0],
        "µs a key",
        "µs",
        Target::AtMost(2.0),
    );
    runtime.block_on(config.shutdown()).unwrap();
    runtime.block_on(database.remove());
}

fn main() {
    let runtime = Runtime::new().unwrap();
    one_at_a_time(&runtime);
    let server = Server::start();
    many_at_once(&runtime, &server);
    catching_up(&runtime, &server, 1);
    catching_up(&runtime, &server, 1_000);
}
