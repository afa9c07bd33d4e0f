//! The first load, against a binary COPY of the same rows into a map of texts.
//!
//! A start does more than load: it connects several times, looks at the schema, listens and proves that notices arrive. So
//! the load is what a start on a full table takes longer than one on an empty table in the same round.
#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark that cannot run stops"
)]
mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use foldhash::fast::RandomState;
use futures_util::{TryStreamExt, pin_mut};
use support::entries::filled;
use support::postgres::{Database, Server};
use support::{Case, Target, in_turn, row, table};
use sync_config::prelude::*;
use tokio::runtime::Runtime;
use tokio_postgres::types::Type;

/// A server that is started on behalf of all sizes, and how often each size is measured.
const SIZES: [(usize, usize); 3] = [(10_000, 11), (100_000, 9), (1_000_000, 7)];

/// Starts on a database and answers how long that took.
async fn start(database: &Database) -> f64 {
    let begin = Instant::now();
    let config: Arc<ConfigService> = sync_config::connect(&database.url).await.unwrap();
    let took = begin.elapsed().as_secs_f64() * 1e3;
    config.shutdown().await.unwrap();
    took
}

/// Copies the texts over a connection that is open already.
async fn copy(client: &tokio_postgres::Client, entries: usize) -> f64 {
    type Texts = HashMap<Box<str>, Box<str>, RandomState>;
    let begin = Instant::now();
    let sql = "COPY (SELECT key::text, value::text FROM sync_config) TO STDOUT (FORMAT binary)";
    let stream = client.copy_out(sql).await.unwrap();
    let rows =
        tokio_postgres::binary_copy::BinaryCopyOutStream::new(stream, &[Type::TEXT, Type::TEXT]);
    pin_mut!(rows);
    let mut texts = Texts::default();
    while let Some(row) = rows.try_next().await.unwrap() {
        texts.insert(row.get::<&str>(0).into(), row.get::<&str>(1).into());
    }
    assert_eq!(texts.len(), entries);
    begin.elapsed().as_secs_f64() * 1e3
}

fn measure(runtime: &Runtime, server: &Server, empty: &Database, entries: usize, rounds: usize) {
    let full = runtime.block_on(filled(server, entries));
    let client = runtime.block_on(full.client());
    let figures = in_turn(
        rounds,
        vec![
            Case::new("COPY into a map", || {
                vec![("ms", runtime.block_on(copy(&client, entries)))]
            }),
            Case::new("first load", || {
                let base = runtime.block_on(start(empty));
                let whole = runtime.block_on(start(&full));
                vec![("ms", whole - base), ("start", whole)]
            }),
        ],
    );
    table(&format!("First load of {entries} entries"));
    row(&figures[1], &figures[0], "ms", "ms", Target::AtMost(1.3));
    println!(
        "\nthe whole start: {} ms",
        support::short(support::Spread::of(figures[1].of("start")).median)
    );
    drop(client);
    runtime.block_on(full.remove());
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let server = Server::start();
    println!("PostgreSQL {}", runtime.block_on(server.version()));
    let empty = runtime.block_on(filled(&server, 0));
    for (entries, rounds) in SIZES {
        measure(&runtime, &server, &empty, entries, rounds);
    }
}
