//! Writes: what a `set` costs alone and in a crowd, against what the same PostgreSQL does for connections that upsert and
//! notify by themselves; on this disk and on a slow one.
#![allow(clippy::expect_used, reason = "a benchmark that cannot run stops")]
#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
mod support;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use support::bare::{Bare, Limit, Listening, closed_loop, key, next, one_by_one};
use support::etcd::{Etcd, EtcdClient};
use support::postgres::{Database, Server};
use support::{Case, Target, in_turn, latencies, row, smoke, table};
use sync_config::Batch;
use sync_config::prelude::*;
use tokio::runtime::Runtime;

/// Entries of either table; each client has its own part of them.
const ENTRIES: usize = 4_096;
const ROUNDS: usize = 9;
/// Lone writes in a round: their p99 is then the tenth slowest of all rounds' thousand and more.
const LONE: usize = 250;
/// Keys of one `write`.
const KEYS: usize = 100;

fn time() -> Duration {
    Duration::from_millis(if smoke() { 50 } else { 300 })
}

/// Ours and the bare one, each in a database of its own, because a notice wakes every listener of a database.
struct Ground {
    config: Arc<ConfigService>,
    bare: Arc<Vec<Bare>>,
    /// Each side has one listener; ours is the service's own.
    _listening: Listening,
    _databases: [Database; 2],
}

impl Ground {
    async fn on(server: &Server) -> Self {
        let (ours, theirs) = (server.database().await, server.database().await);
        let config = Builder::new(Settings::new(&ours.url))
            .start()
            .await
            .expect("start the service");
        for begin in (0..ENTRIES).step_by(1_024) {
            let keys = begin..begin + 1_024;
            let batch = keys.fold(Batch::new(), |batch, number| {
                batch.put(&key(number), Limit::of(0))
            });
            config.write(batch).await.expect("fill the store");
        }
        support::bare::create(&theirs, ENTRIES).await;
        let mut bare = Vec::new();
        for _ in 0..64 {
            bare.push(Bare::connect(&theirs).await);
        }
        Self {
            config,
            bare: Arc::new(bare),
            _listening: Listening::start(&theirs, |_| ()).await,
            _databases: [ours, theirs],
        }
    }
}

/// One of a client's own keys.
fn own(client: usize, turn: u64) -> String {
    key(client * 16 + turn as usize % 16)
}

async fn set(config: Arc<ConfigService>, client: usize) {
    let turn = next();
    let written = config.set(&own(client, turn), Limit::of(turn)).await;
    assert!(written.expect("a write").changed());
}

fn lone_set<'a>(runtime: &'a Runtime, ground: &'a Ground) -> Case<'a> {
    Case::new("`set`", move || {
        let each = one_by_one(LONE, || set(ground.config.clone(), 0));
        latencies(runtime.block_on(each))
    })
}

fn lone_bare<'a>(runtime: &'a Runtime, ground: &'a Ground) -> Case<'a> {
    Case::new("upsert and notify", move || {
        let each = one_by_one(LONE, || async {
            let turn = next();
            ground.bare[0].set(&own(0, turn), Limit::of(turn)).await;
        });
        latencies(runtime.block_on(each))
    })
}

fn setters<'a>(runtime: &'a Runtime, ground: &'a Ground, count: usize) -> Case<'a> {
    let name = match count {
        1 => "a lone setter".to_owned(),
        _ => format!("{count} setters"),
    };
    Case::new(name, move || {
        let config = ground.config.clone();
        let call = move |client| set(config.clone(), client);
        let rate = runtime.block_on(closed_loop(count, time(), call));
        vec![("rate", rate)]
    })
}

fn connections<'a>(runtime: &'a Runtime, ground: &'a Ground, count: usize) -> Case<'a> {
    Case::new(format!("{count} connections that notify"), move || {
        let bare = ground.bare.clone();
        let call = move |client: usize| {
            let bare = bare.clone();
            async move {
                let turn = next();
                bare[client].set(&own(client, turn), Limit::of(turn)).await;
            }
        };
        let rate = runtime.block_on(closed_loop(count, time(), call));
        vec![("rate", rate)]
    })
}

/// As many clients that put, each on a connection of its own.
fn puts<'a>(runtime: &'a Runtime, clients: &'a Arc<Vec<EtcdClient>>) -> Case<'a> {
    let count = clients.len();
    Case::new(format!("{count} clients of etcd"), move || {
        let clients = clients.clone();
        let call = move |client: usize| {
            let clients = clients.clone();
            async move {
                let turn = next();
                let value = Limit::of(turn).json();
                clients[client].put(&own(client, turn), &value).await;
            }
        };
        let rate = runtime.block_on(closed_loop(count, time(), call));
        vec![("rate", rate)]
    })
}

/// Rows in a second, a hundred to a revision.
fn hundreds<'a>(runtime: &'a Runtime, ground: &'a Ground) -> Case<'a> {
    Case::new("`write` of 100 keys", move || {
        let config = ground.config.clone();
        let call = move |_| {
            let config = config.clone();
            async move {
                let turn = next();
                let batch = (0..KEYS).fold(Batch::new(), |batch, number| {
                    batch.put(&key(number), Limit::of(turn))
                });
                let written = config.write(batch).await.expect("a write");
                assert!(written.changed());
            }
        };
        let rate = runtime.block_on(closed_loop(1, time(), call));
        vec![("rate", rate * KEYS as f64)]
    })
}

/// Rows in a second, each upserted by itself and told to nobody.
fn singles<'a>(runtime: &'a Runtime, ground: &'a Ground) -> Case<'a> {
    Case::new("single upserts without a notice", move || {
        let bare = ground.bare.clone();
        let call = move |_| {
            let bare = bare.clone();
            async move {
                let turn = next();
                let key = key(turn as usize % KEYS);
                bare[0].put(&key, Limit::of(turn)).await;
            }
        };
        let rate = runtime.block_on(closed_loop(1, time(), call));
        vec![("rate", rate)]
    })
}

fn lone(runtime: &Runtime, ground: &Ground, disk: &str, target: Target) {
    let cases = vec![lone_bare(runtime, ground), lone_set(runtime, ground)];
    let figures = in_turn(ROUNDS, cases);
    table(&format!("A lone write, {disk}, microseconds"));
    row(&figures[1], &figures[0], "p50", "µs", target);
    row(&figures[1], &figures[0], "p99", "µs", Target::Told);
}

fn crowds(runtime: &Runtime, ground: &Ground, disk: &str, etcd: Option<&Arc<Vec<EtcdClient>>>) {
    let mut cases = vec![
        setters(runtime, ground, 1),
        connections(runtime, ground, 16),
        setters(runtime, ground, 16),
        connections(runtime, ground, 64),
        setters(runtime, ground, 64),
        setters(runtime, ground, 256),
        singles(runtime, ground),
        hundreds(runtime, ground),
    ];
    cases.extend(etcd.map(|clients| puts(runtime, clients)));
    let figures = in_turn(ROUNDS, cases);
    table(&format!("Writes a second, {disk}"));
    let told = |of: usize, base: usize, target| {
        row(&figures[of], &figures[base], "rate", "/s", target);
    };
    told(2, 1, Target::AtLeast(4.0));
    told(4, 3, Target::AtLeast(12.0));
    told(5, 0, Target::AtLeast(20.0));
    told(7, 6, Target::AtLeast(15.0));
    if etcd.is_some() {
        told(4, 8, Target::AtLeast(3.5));
    }
}

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    let server = Server::start();
    let etcd = runtime.block_on(Etcd::start());
    runtime.block_on(support::bare::introduce(&server));
    let ground = runtime.block_on(Ground::on(&server));
    lone(&runtime, &ground, "this disk", Target::AtMost(1.35));
    let clients = etcd.as_ref().map(|etcd| {
        let clients = (0..64).map(|_| etcd.client());
        Arc::new(runtime.block_on(join_all(clients)))
    });
    crowds(&runtime, &ground, "this disk", clients.as_ref());
    drop((ground, server, clients, etcd));

    // Each flush waits for a millisecond, as on a disk of the slower sort.
    let server = Server::with(&["commit_delay=1000", "commit_siblings=0"]);
    let ground = runtime.block_on(Ground::on(&server));
    lone(&runtime, &ground, "slow disk", Target::AtMost(1.35));
    crowds(&runtime, &ground, "slow disk", None);
}
