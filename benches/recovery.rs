//! Recovery: how long an instance needs after its listening session was killed, after the server was away, and until it
//! knows that its connection is dead though nothing says so. Settings are the defaults.
#![allow(clippy::expect_used, reason = "a benchmark that cannot run stops")]
#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
mod support;

#[allow(
    dead_code,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the tests use the other part of it"
)]
#[path = "../tests/it/support/proxy.rs"]
mod proxy;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use proxy::{Mode as Fault, Proxy};
use support::bare::{self, Bare, Limit, Listening, introduce, key, next};
use support::postgres::{Database, Server, connect, local_postgres};
use support::{bounded, bounds, smoke};
use sync_config::Mode;
use sync_config::prelude::*;
use tokio::runtime::Runtime;

/// How often the session is killed.
const KILLS: usize = 100;
/// How often the server is away, and for how long.
const OUTAGES: usize = 3;
const OUTAGE: Duration = Duration::from_secs(2);
/// Connections that die unseen, half of them frozen and half of them swallowed.
const DEAD: usize = 12;
/// How often a state is looked at.
const LOOK: Duration = Duration::from_micros(500);
/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

async fn until(what: &str, mut seen: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !seen().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(in_time.is_ok(), "{what}: not within a minute");
}

fn pushes(config: &ConfigService) -> bool {
    config.status().mode == Mode::Push
}

/// Whether an instance hears again and shows a change made by SQL while it did not.
fn equal(config: &ConfigService, count: i64) -> bool {
    config.get_i64("count", 0) == count && pushes(config)
}

async fn write(client: &tokio_postgres::Client, count: i64) {
    const WRITE: &str = "INSERT INTO sync_config (key, value) VALUES ('count', to_jsonb($1::bigint)) ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value";
    client.execute(WRITE, &[&count]).await.expect("write");
}

/// Kills the session that listens, and changes a value at once.
async fn killed(database: &Database, config: &ConfigService) -> Vec<f64> {
    const KILL: &str =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY ($1)";
    const OTHERS: &str = "SELECT array_agg(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    let client = database.client().await;
    let mut each = Vec::new();
    for _ in 0..if smoke() { 3 } else { KILLS } {
        let count = i64::try_from(next()).expect("a small number");
        let all: Vec<i32> = client.query_one(OTHERS, &[]).await.expect("ask").get(0);
        let begin = Instant::now();
        client.execute(KILL, &[&all]).await.expect("kill");
        write(&client, count).await;
        until("push again", async || equal(config, count)).await;
        each.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    each
}

/// What the same costs at least: to connect, listen and read one value.
async fn reconnected(database: &Database) -> Vec<f64> {
    let mut each = Vec::new();
    for _ in 0..if smoke() { 3 } else { KILLS } {
        let begin = Instant::now();
        let listening = Listening::start(database, |_| ()).await;
        let read = "SELECT key, value::text FROM bare WHERE key = $1";
        let row = listening.client.query_one(read, &[&key(0)]).await;
        assert!(row.is_ok());
        each.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    each
}

/// Stops the server for a while; from the moment at which it takes connections again until the instance hears and shows what
/// was written since.
fn away(runtime: &Runtime, server: &mut Server, ours: &Database, config: &ConfigService) -> f64 {
    let private = server.private();
    private.stop_fast().expect("stop the server");
    std::thread::sleep(OUTAGE);
    let url = ours.url.clone();
    let accepted = runtime.spawn(async move {
        while tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .is_err()
        {
            tokio::time::sleep(LOOK).await;
        }
        Instant::now()
    });
    private.restart().expect("start the server");
    runtime.block_on(async {
        let accepted = accepted.await.expect("the server is back");
        let client = connect(&ours.url).await;
        let count = i64::try_from(next()).expect("a small number");
        write(&client, count).await;
        until("push again", async || equal(config, count)).await;
        accepted.elapsed().as_secs_f64() * 1e3
    })
}

/// Lets a connection die without a word, at any moment of its pause between two checks.
async fn dead(server_port: u16, name: &str, number: usize) -> f64 {
    let proxy = Proxy::start(server_port).await;
    let config = sync_config::connect(&proxy.url(name)).await;
    let config = config.expect("start an instance");
    until("push", async || pushes(&config)).await;
    tokio::time::sleep(Duration::from_millis(number as u64 * 2_000 / DEAD as u64)).await;
    let fault = if number.is_multiple_of(2) {
        Fault::Freeze
    } else {
        Fault::Blackhole
    };
    proxy.set(fault).await;
    let begin = Instant::now();
    until("the fault is found", async || !pushes(&config)).await;
    begin.elapsed().as_secs_f64() * 1e3
}

async fn start(database: &Database) -> Arc<ConfigService> {
    let config = sync_config::connect(&database.url).await;
    config.expect("start an instance")
}

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    let mut server = Server::with(&["max_connections=200"]);
    runtime.block_on(introduce(&server));
    let ours = runtime.block_on(server.database());
    let theirs = runtime.block_on(server.database());
    runtime.block_on(bare::create(&theirs, 1));
    drop(runtime.block_on(Bare::connect(&theirs)));
    let config = runtime.block_on(start(&ours));
    runtime.block_on(async {
        let written = config.set("limit", Limit::of(0)).await;
        written.expect("a write");
    });
    bounds("Recovery on loopback, milliseconds");
    let each = runtime.block_on(reconnected(&theirs));
    bounded(
        "a bare connect, LISTEN and read, for scale",
        "ms",
        each,
        None,
    );
    let each = runtime.block_on(killed(&ours, &config));
    bounded(
        "all of an instance's sessions killed: push again and equal",
        "ms",
        each,
        Some(250.0),
    );
    let outages = if smoke() { 1 } else { OUTAGES };
    let each = (0..outages)
        .map(|_| away(&runtime, &mut server, &ours, &config))
        .collect();
    bounded(
        "server away for 2 s: push again and equal after it takes connections",
        "ms",
        each,
        Some(1_000.0),
    );
    let port = server.private().port();
    let name = ours.url.rsplit('/').next().expect("a database").to_owned();
    let count = if smoke() { 2 } else { DEAD };
    let each = runtime.block_on(join_all((0..count).map(|number| dead(port, &name, number))));
    bounded(
        "frozen or swallowed connection: found",
        "ms",
        each,
        Some(6_000.0),
    );
    runtime.block_on(config.shutdown()).expect("shut down");
}
