//! Reads from memory, against a bare `DashMap` with the same hasher that holds the plain values. No read allocates.
#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark that cannot run stops"
)]
mod support;

use std::alloc::System;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use cap::Cap;
use dashmap::DashMap;
use foldhash::fast::RandomState;
use serde::Deserialize;
use support::{Case, Figures, Target, in_turn, row, table};
use sync_config::prelude::*;
use sync_config::{Batch, MemoryDatabase, Value};

/// Counts; limits nothing.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const ENTRIES: usize = 10_000;
/// As many keys are read in turn, so that neither a single cache line nor the memory's latency is what is measured.
const HOT: usize = 64;
/// A third of the entries each.
const KINDS: [&str; 3] = ["flags", "limit", "plans"];
const CALLS: u32 = 500_000;
const ROUNDS: usize = 17;

#[derive(Clone, Deserialize, PartialEq)]
struct Limit {
    per_second: u32,
    burst: u32,
    enabled: bool,
    name: String,
    factor: f64,
}

const LIMIT: &str = r#"{"per_second":100,"burst":20,"enabled":true,"name":"login","factor":1.5}"#;

type Bare<V> = DashMap<String, V, RandomState>;

struct Ground {
    config: Arc<ConfigService>,
    dynamic: Arc<dyn SyncConfig>,
    keys: Keys,
}

/// The hot keys of each kind.
struct Keys {
    flags: Vec<String>,
    limits: Vec<String>,
    structs: Vec<String>,
}

fn key(kind: &str, number: usize) -> String {
    format!("{kind}:{number:05}:a-key-of-30-bytes")
}

fn hot(kind: &str) -> Vec<String> {
    (0..HOT)
        .map(|number| key(kind, number * ENTRIES / 3 / HOT))
        .collect()
}

/// A map of as many keys as the store has, which all have one value.
fn bare<V: Clone>(value: &V) -> Bare<V> {
    let keys = KINDS
        .iter()
        .flat_map(|kind| (0..ENTRIES / 3).map(|number| key(kind, number)));
    keys.map(|key| (key, value.clone())).collect()
}

async fn ground() -> Ground {
    let config = Builder::memory(&MemoryDatabase::new())
        .start()
        .await
        .unwrap();
    for begin in (0..ENTRIES / 3).step_by(1_000) {
        let mut batch = Batch::new();
        for number in begin..(begin + 1_000).min(ENTRIES / 3) {
            let [flag, limit, plan] = KINDS.map(|kind| key(kind, number));
            batch = batch.put(&flag, true).put(&limit, 100);
            batch = batch.put_value(&plan, Value::parse(LIMIT).unwrap(), None);
        }
        config.write(batch).await.unwrap();
    }
    Ground {
        dynamic: config.clone(),
        config,
        keys: Keys {
            flags: hot("flags"),
            limits: hot("limit"),
            structs: hot("plans"),
        },
    }
}

/// Reads the keys in turn.
fn reads<'a, R>(
    name: &str,
    keys: &'a [String],
    read: impl Fn(&str) -> R + Copy + Send + Sync + 'a,
) -> Case<'a> {
    let mut turn = 0;
    Case::per_call(name, CALLS, move || {
        turn = (turn + 1) % HOT;
        black_box(read(&keys[turn]));
    })
}

/// The same from two threads at once; nanoseconds for each.
fn reads_by_two<'a, R>(
    name: &str,
    keys: &'a [String],
    read: impl Fn(&str) -> R + Copy + Send + Sync + 'a,
) -> Case<'a> {
    by_two(name, move |first| {
        let mut turn = first * HOT / 2;
        move || {
            turn = (turn + 1) % HOT;
            black_box(read(&keys[turn]));
        }
    })
}

/// Measures two threads that do the same at once, each what `make` makes for it.
fn by_two<'a, C: FnMut() + 'a>(
    name: &str,
    make: impl Fn(usize) -> C + Send + Sync + 'a,
) -> Case<'a> {
    Case::new(name, move || {
        let both = Barrier::new(2);
        let run = |thread: usize| {
            let mut call = make(thread);
            both.wait();
            let begin = Instant::now();
            for _ in 0..CALLS {
                call();
            }
            begin.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
        };
        let (mine, theirs) = std::thread::scope(|scope| {
            let other = scope.spawn(|| run(1));
            (run(0), other.join().unwrap())
        });
        vec![("ns", f64::midpoint(mine, theirs))]
    })
}

/// Stops the benchmark if reading allocates. Others of this process may allocate at the same time, but not always.
fn allocates_nothing(name: &str, mut read: impl FnMut()) {
    let least = (0..20).map(|_| {
        let before = ALLOCATOR.total_allocated();
        (0..10_000).for_each(|_| read());
        ALLOCATOR.total_allocated() - before
    });
    assert_eq!(least.min(), Some(0), "{name} allocates");
}

fn typed(ground: &Ground) {
    let (flags, limits, structs) = (bare(&true), bare(&100_i64), {
        let limit: Arc<Limit> = Arc::new(serde_json::from_str(LIMIT).unwrap());
        bare(&limit)
    });
    let (config, dynamic, keys) = (&*ground.config, &*ground.dynamic, &ground.keys);
    let get_flag = |key: &str| flags.get(key).map(|value| *value);
    let get_limit = |key: &str| limits.get(key).map(|value| *value);
    let get_struct = |key: &str| structs.get(key).map(|value| value.per_second);
    let of_struct = |key: &str| config.get_as::<Limit>(key).unwrap().unwrap();
    let by_dyn = |key: &str| dynamic.get_as::<Limit>(key).unwrap().unwrap();
    assert!(config.get_bool(&keys.flags[5], false) && dynamic.get_i64(&keys.limits[5], 0) == 100);
    let figures = in_turn(
        ROUNDS,
        vec![
            reads("bare bool", &keys.flags, get_flag),
            reads("`get_bool`", &keys.flags, |key| config.get_bool(key, false)),
            reads("`get_bool` by dyn", &keys.flags, |key| {
                dynamic.get_bool(key, false)
            }),
            reads("bare i64", &keys.limits, get_limit),
            reads("`get_i64`", &keys.limits, |key| config.get_i64(key, 0)),
            reads("`get_i64` by dyn", &keys.limits, |key| {
                dynamic.get_i64(key, 0)
            }),
            reads("bare struct", &keys.structs, get_struct),
            reads("`get_as`", &keys.structs, of_struct),
            reads("`get_as` by dyn", &keys.structs, by_dyn),
            reads("decoded on each read", &keys.structs, |key| {
                let entry = config.get(key).unwrap().unwrap();
                entry.parse::<Limit>().unwrap()
            }),
            reads_by_two("bare bool, 2 threads", &keys.flags, get_flag),
            reads_by_two("`get_bool` by dyn, 2 threads", &keys.flags, |key| {
                dynamic.get_bool(key, false)
            }),
        ],
    );
    table("Reads by key: 64 hot keys of 10,000, nanoseconds a call");
    for of_base in [(1, 0), (2, 0), (4, 3), (5, 3), (11, 10)] {
        told(&figures, of_base, Target::AtMost(1.15));
    }
    for of_base in [(7, 6), (8, 6)] {
        told(&figures, of_base, Target::AtMost(2.3));
    }
    told(&figures, (9, 6), Target::Told);
    for key in &keys.flags[..2] {
        allocates_nothing("get_bool", || assert!(dynamic.get_bool(key, false)));
    }
    allocates_nothing("get_i64", || {
        black_box(dynamic.get_i64(&keys.limits[0], 0));
    });
    allocates_nothing("get_as", || drop(black_box(of_struct(&keys.structs[0]))));
}

fn live(ground: &Ground) {
    let flags = bare(&true);
    let one = std::slice::from_ref(&ground.keys.flags[0]);
    let handle = &ground.config.live(&one[0], false).unwrap();
    let mut reader = handle.reader();
    let mut kept = handle.reader();
    let get = |_: &str| flags.get(one[0].as_str()).map(|value| *value);
    let keys = &ground.keys.flags;
    let figures = in_turn(
        ROUNDS,
        vec![
            reads("bare bool", keys, get),
            reads("`live`", keys, |_| *handle.load()),
            Case::per_call("`live` reader", CALLS, || {
                black_box(*kept.get());
            }),
            reads_by_two("bare bool, 2 threads", keys, get),
            reads_by_two("`live`, 2 threads", keys, |_| *handle.load()),
            by_two("`live` reader, 2 threads", |_| {
                let mut reader = handle.reader();
                move || {
                    black_box(*reader.get());
                }
            }),
        ],
    );
    table("Reads of one hot key through a handle, nanoseconds a call");
    told(&figures, (1, 0), Target::AtMost(0.9));
    told(&figures, (2, 0), Target::AtMost(0.15));
    told(&figures, (4, 1), Target::AtMost(1.2));
    told(&figures, (5, 2), Target::AtMost(1.2));
    told(&figures, (3, 0), Target::Told);
    allocates_nothing("live", || assert!(*handle.load()));
    allocates_nothing("a live reader", || assert!(*reader.get()));
}

fn told(figures: &[Figures], (of, base): (usize, usize), target: Target) {
    row(&figures[of], &figures[base], "ns", "ns", target);
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let ground = runtime.block_on(ground());
    typed(&ground);
    live(&ground);
    runtime.block_on(ground.config.shutdown()).unwrap();
}
