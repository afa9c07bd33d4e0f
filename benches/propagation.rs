//! Propagation: from the call of `set` to the callback on the last of the other instances, against a bare upsert with its
//! value in the notice and as many bare listeners, and against etcd's put and watch where etcd is installed.
#![allow(clippy::expect_used, reason = "a benchmark that cannot run stops")]
#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use serde::Deserialize;
use support::bare::{self, Bare, Limit, Listening, introduce, key, next};
use support::etcd::{Etcd, EtcdClient, Watching};
use support::postgres::{Database, Server};
use support::{Case, Target, in_turn, latencies, row, smoke, table};
use sync_config::prelude::*;
use sync_config::{Batch, ChangeSet};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

/// Entries of each store.
const ENTRIES: usize = 1_024;
const ROUNDS: usize = 9;
/// Instances, what the median and the 99th percentile may be, and changes in a round.
const FLEETS: [(usize, f64, usize); 3] = [(1, 2.0, 300), (10, 2.6, 200), (100, 4.0, 60)];
/// Rows of the large transaction, and how many of them in a round.
const ROWS: usize = 1_000;
const LARGE: usize = 8;

/// The part of a value that says which change it is.
#[derive(Deserialize)]
struct Counted {
    count: u64,
}

/// Waits for one change, or for each row of one, to arrive everywhere.
struct Arrivals {
    begin: Instant,
    /// The change under way.
    count: AtomicU64,
    left: AtomicUsize,
    /// When the last of them came, in nanoseconds since the beginning of the run.
    last: AtomicU64,
    all: Notify,
}

impl Arrivals {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            begin: Instant::now(),
            count: AtomicU64::new(0),
            left: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            all: Notify::new(),
        })
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).expect("less than 584 years")
    }

    /// Something of a change has arrived.
    fn came(&self, count: u64) {
        if count != self.count.load(Ordering::Acquire) {
            return;
        }
        self.last.fetch_max(self.nanos(), Ordering::AcqRel);
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all.notify_one();
        }
    }

    /// Calls, waits for the answer and until it has come so many times, and tells in microseconds how long that took from
    /// the call on.
    async fn after<F: Future<Output = ()>>(
        &self,
        times: usize,
        call: impl FnOnce(Limit) -> F,
    ) -> f64 {
        let limit = Limit::of(next());
        self.left.store(times, Ordering::Release);
        self.last.store(0, Ordering::Release);
        self.count.store(limit.count, Ordering::Release);
        let begin = self.nanos();
        tokio::join!(call(limit), self.all.notified());
        (self.last.load(Ordering::Acquire) - begin) as f64 / 1e3
    }
}

/// Several of these measure one after the other.
async fn repeated<F: Future<Output = f64>>(
    times: usize,
    mut once: impl FnMut(usize) -> F,
) -> Vec<(&'static str, f64)> {
    let times = if smoke() { 5 } else { times };
    let mut each = Vec::with_capacity(times);
    for turn in 0..times {
        each.push(once(turn).await);
    }
    latencies(each)
}

fn count_of(text: &str) -> u64 {
    let counted: Counted = serde_json::from_str(text).expect("a value of ours");
    counted.count
}

/// Instances of the library with connections of their own. One writes; the others have a callback.
struct Fleet {
    writer: Arc<ConfigService>,
    _others: Vec<Arc<ConfigService>>,
    arrivals: Arc<Arrivals>,
    size: usize,
    _database: Database,
}

impl Fleet {
    async fn start(server: &Server, size: usize, came: fn(&Arrivals, &ChangeSet)) -> Self {
        let database = server.database().await;
        let writer = instance(&database).await;
        let batch = (0..ENTRIES).fold(Batch::new(), |batch, number| {
            batch.put(&key(number), Limit::of(0))
        });
        writer.write(batch).await.expect("fill the store");
        let (arrivals, mut others) = (Arrivals::new(), Vec::new());
        for _ in 0..size {
            let other = instance(&database).await;
            let arrivals = arrivals.clone();
            other
                .on_change(Filter::all(), move |event| {
                    if let Event::Changed(set) = event {
                        came(&arrivals, set);
                    }
                })
                .expect("subscribe");
            others.push(other);
        }
        Self {
            writer,
            _others: others,
            arrivals,
            size,
            _database: database,
        }
    }

    fn sets<'a>(&'a self, runtime: &'a Runtime, times: usize) -> Case<'a> {
        Case::new("`set` to callback", move || {
            let round = repeated(times, |turn| {
                let key = key(turn % ENTRIES);
                self.arrivals.after(self.size, async move |limit| {
                    let written = self.writer.set(&key, limit).await;
                    assert!(written.expect("a write").changed());
                })
            });
            runtime.block_on(round)
        })
    }

    fn writes<'a>(&'a self, runtime: &'a Runtime) -> Case<'a> {
        Case::new("`write` to callback", move || {
            let round = repeated(LARGE, |_| {
                self.arrivals.after(self.size * ROWS, async |limit| {
                    let batch = (0..ROWS)
                        .fold(Batch::new(), |batch, number| batch.put(&key(number), limit));
                    let written = self.writer.write(batch).await;
                    assert!(written.expect("a write").changed());
                })
            });
            runtime.block_on(round)
        })
    }
}

async fn instance(database: &Database) -> Arc<ConfigService> {
    let settings = Settings::new(&database.url).max_connections(1);
    let started = Builder::new(settings).start().await;
    started.expect("start an instance")
}

/// Tells of each key that has changed; reads its value as any callback would.
fn each_key(arrivals: &Arrivals, set: &ChangeSet) {
    for change in set.changes() {
        let entry = change.new().expect("nothing is deleted here");
        let counted: Counted = entry.parse().expect("a value of ours");
        arrivals.came(counted.count);
    }
}

/// Connections that listen, and one that writes.
struct Listeners {
    writer: Bare,
    _listening: Vec<Listening>,
    arrivals: Arc<Arrivals>,
    size: usize,
    _database: Database,
}

impl Listeners {
    async fn start(server: &Server, size: usize) -> Self {
        let database = server.database().await;
        bare::create(&database, ENTRIES).await;
        let (arrivals, mut listening) = (Arrivals::new(), Vec::new());
        for _ in 0..size {
            let arrivals = arrivals.clone();
            let mut held: HashMap<String, String> = HashMap::new();
            let heard = move |payload: &str| {
                let (key, value) = payload.split_once(' ').expect("a key and a value");
                held.insert(key.to_owned(), value.to_owned());
                arrivals.came(count_of(value));
            };
            listening.push(Listening::start(&database, heard).await);
        }
        Self {
            writer: Bare::connect(&database).await,
            _listening: listening,
            arrivals,
            size,
            _database: database,
        }
    }

    fn sets<'a>(&'a self, runtime: &'a Runtime, times: usize) -> Case<'a> {
        Case::new("bare listeners", move || {
            let round = repeated(times, |turn| {
                let key = key(turn % ENTRIES);
                self.arrivals.after(self.size, async move |limit| {
                    self.writer.set(&key, limit).await;
                })
            });
            runtime.block_on(round)
        })
    }

    fn writes<'a>(&'a self, runtime: &'a Runtime) -> Case<'a> {
        let keys: Vec<String> = (0..ROWS).map(key).collect();
        Case::new("bare, a notice with its value for each row", move || {
            let round = repeated(LARGE, |_| {
                self.arrivals.after(self.size * ROWS, async |limit| {
                    self.writer.set_all(&keys, limit).await;
                })
            });
            runtime.block_on(round)
        })
    }
}

/// Watches on connections of their own, and one that puts.
struct Watchers {
    writer: EtcdClient,
    _watching: Vec<(EtcdClient, Watching)>,
    arrivals: Arc<Arrivals>,
    size: usize,
}

impl Watchers {
    async fn start(etcd: &Etcd, size: usize) -> Self {
        let (arrivals, mut watching) = (Arrivals::new(), Vec::new());
        for _ in 0..size {
            let (arrivals, client) = (arrivals.clone(), etcd.client().await);
            let heard = move |value: &[u8]| {
                let counted: Counted = serde_json::from_slice(value).expect("a value of ours");
                arrivals.came(counted.count);
            };
            let watch = client.watch(heard).await;
            watching.push((client, watch));
        }
        Self {
            writer: etcd.client().await,
            _watching: watching,
            arrivals,
            size,
        }
    }

    fn puts<'a>(&'a self, runtime: &'a Runtime, times: usize) -> Case<'a> {
        Case::new("etcd's put to watch", move || {
            let round = repeated(times, |turn| {
                let key = key(turn % ENTRIES);
                self.arrivals.after(self.size, async move |limit| {
                    self.writer.put(&key, &limit.json()).await;
                })
            });
            runtime.block_on(round)
        })
    }
}

fn single(
    runtime: &Runtime,
    server: &Server,
    etcd: Option<&Etcd>,
    (size, target, times): (usize, f64, usize),
) {
    let fleet = runtime.block_on(Fleet::start(server, size, each_key));
    let listeners = runtime.block_on(Listeners::start(server, size));
    let watchers = etcd.map(|etcd| runtime.block_on(Watchers::start(etcd, size)));
    let mut cases = vec![listeners.sets(runtime, times), fleet.sets(runtime, times)];
    cases.extend(
        watchers
            .iter()
            .map(|watchers| watchers.puts(runtime, times)),
    );
    let figures = in_turn(ROUNDS, cases);
    table(&format!(
        "One change to {size} other instances, microseconds until the last has it"
    ));
    row(
        &figures[1],
        &figures[0],
        "p50",
        "µs",
        Target::AtMost(target),
    );
    row(&figures[1], &figures[0], "p99", "µs", Target::AtMost(2.0));
    if let Some(etcd) = figures.get(2) {
        row(&figures[1], etcd, "p50", "µs", Target::Told);
        row(&figures[1], etcd, "p99", "µs", Target::Told);
    }
    runtime.block_on(async { drop((fleet, listeners, watchers)) });
}

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    // A hundred instances have two connections each, besides as many listeners.
    let server = Server::with(&["max_connections=500"]);
    runtime.block_on(introduce(&server));
    let etcd = runtime.block_on(Etcd::start());
    for fleet in FLEETS {
        single(&runtime, &server, etcd.as_ref(), fleet);
    }

    let fleet = runtime.block_on(Fleet::start(&server, 1, each_key));
    let listeners = runtime.block_on(Listeners::start(&server, 1));
    let cases = vec![listeners.writes(&runtime), fleet.writes(&runtime)];
    let figures = in_turn(ROUNDS, cases);
    table("One transaction of 1,000 rows, microseconds until another instance has all of them");
    row(&figures[1], &figures[0], "p50", "µs", Target::AtMost(2.0));
}
