//! What an entry takes in memory, counted by the allocator of this process, and the most that is held on the way.
#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark that cannot run stops"
)]
mod support;

use std::alloc::System;
use std::sync::Arc;

use cap::Cap;
use support::entries::{filled, key};
use support::postgres::Server;
use sync_config::prelude::*;

/// Counts; limits nothing.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Growing, because the allocator remembers one maximum for the whole process.
const SIZES: [usize; 3] = [10_000, 100_000, 1_000_000];

/// What was held by whom, in bytes.
struct Held {
    loaded: usize,
    peak: usize,
    changed: usize,
    shown: usize,
    resynced: usize,
    resync_peak: usize,
}

async fn measure(server: &Server, entries: usize) -> Held {
    let full = filled(server, entries).await;
    let before = ALLOCATOR.allocated();
    let since = |now: usize| now.saturating_sub(before);
    let config: Arc<ConfigService> = sync_config::connect(&full.url).await.unwrap();
    let (loaded, peak) = (
        since(ALLOCATOR.allocated()),
        since(ALLOCATOR.max_allocated()),
    );
    config.set(&key(1), false).await.unwrap();
    let changed = since(ALLOCATOR.allocated());
    drop(config.snapshot().unwrap());
    let shown = since(ALLOCATOR.allocated());
    config.sync().await.unwrap();
    let (resynced, resync_peak) = (
        since(ALLOCATOR.allocated()),
        since(ALLOCATOR.max_allocated()),
    );
    config.shutdown().await.unwrap();
    drop(config);
    full.remove().await;
    Held {
        loaded,
        peak,
        changed,
        shown,
        resynced,
        resync_peak,
    }
}

fn met(met: bool) -> &'static str {
    if met { "yes" } else { "**no**" }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let server = Server::start();
    println!("\n### Memory, keys of 30 bytes and values of 66: bytes requested for an entry\n");
    println!(
        "| entries | after the load | after a change | with a snapshot | target | met | peak of the load | of the most held | target | met | after a resync | its peak |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for entries in SIZES {
        let held = runtime.block_on(measure(&server, entries));
        let each = |bytes: usize| bytes as f64 / entries as f64;
        let steady = held.shown.max(held.loaded);
        let ratio = held.peak as f64 / steady as f64;
        println!(
            "| {entries} | {:.0} | {:.0} | **{:.0}** | ≤ 320 | {} | {:.0} | **{ratio:.2}** | ≤ 1.3 | {} | {:.0} | {:.0} |",
            each(held.loaded),
            each(held.changed),
            each(held.shown),
            met(each(steady) <= 320.0),
            each(held.peak),
            met(ratio <= 1.3),
            each(held.resynced),
            each(held.resync_peak),
        );
    }
}
