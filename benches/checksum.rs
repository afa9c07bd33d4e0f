//! The checksum, against a fold over a sorted map of the same texts.
#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark that cannot run stops"
)]
mod support;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use support::entries::{in_memory, memory_key, memory_value};
use support::{Case, Target, in_turn, row, table};
use sync_config::prelude::*;

const ENTRIES: u32 = 100_000;
const ROUNDS: usize = 31;
const CALLS: u32 = 100_000;

/// The same definition as the library's: length and bytes of each key and each value, in order.
fn fold(texts: &BTreeMap<String, String>) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for (key, value) in texts {
        for part in [key, value] {
            crc.update(&u32::try_from(part.len()).unwrap().to_be_bytes());
            crc.update(part.as_bytes());
        }
    }
    crc.finalize()
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = runtime.block_on(in_memory(ENTRIES));
    let texts: BTreeMap<String, String> = (0..ENTRIES)
        .map(|number| (memory_key(number), memory_value(number)))
        .collect();
    assert_eq!(config.checksum().unwrap().get(), fold(&texts));
    let mut times = 0_u32;
    let figures = in_turn(
        ROUNDS,
        vec![
            Case::new("fold over a sorted map", || {
                let begin = Instant::now();
                black_box(fold(&texts));
                vec![("µs", begin.elapsed().as_secs_f64() * 1e6)]
            }),
            Case::new("`checksum` after a change", || {
                times += 1;
                let key = memory_key(times % ENTRIES);
                runtime.block_on(config.set(&key, times)).unwrap();
                let begin = Instant::now();
                black_box(config.checksum().unwrap());
                vec![("µs", begin.elapsed().as_secs_f64() * 1e6)]
            }),
            Case::new("`checksum` again", || {
                let begin = Instant::now();
                for _ in 0..CALLS {
                    black_box(config.checksum().unwrap());
                }
                vec![("µs", begin.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS))]
            }),
        ],
    );
    table(&format!("Checksum of {ENTRIES} entries"));
    row(&figures[1], &figures[0], "µs", "µs", Target::AtMost(1.2));
    row(&figures[2], &figures[0], "µs", "µs", Target::AtMost(0.001));
    runtime.block_on(config.shutdown()).unwrap();
}
