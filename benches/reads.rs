//! Reads from memory, against a bare `DashMap` with the same hasher.
mod support;

use std::hint::black_box;

use support::{Case, Target, in_turn, row, table};

fn main() {
    let keys: Vec<String> = (0..10_000)
        .map(|n| format!("section/{n:05}/a-name-of-30-b"))
        .collect();
    let map: dashmap::DashMap<String, bool, foldhash::fast::RandomState> =
        keys.iter().map(|key| (key.clone(), true)).collect();
    let mut hot = keys.iter().take(64).cycle();
    let mut again = keys.iter().take(64).cycle();
    let figures = in_turn(
        17,
        vec![
            Case::per_call("bare DashMap", 1_000_000, || {
                black_box(hot.next().and_then(|key| map.get(key).map(|value| *value)));
            }),
            Case::per_call("bare DashMap again", 1_000_000, || {
                black_box(
                    again
                        .next()
                        .and_then(|key| map.get(key).map(|value| *value)),
                );
            }),
        ],
    );
    table("Reads");
    row(&figures[1], &figures[0], "ns", "ns", Target::AtMost(1.15));
}
