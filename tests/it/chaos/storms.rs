//! The runs themselves: one storm in each `cargo test`, one after the other for as long as is asked for.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::figures::Figures;
use super::storm::{Storm, directory, verdict};

/// A seed of its own for each run, unless one is to be repeated.
fn seed() -> u64 {
    let given = std::env::var("SYNC_CONFIG_TEST_SEED").ok();
    let given = given.map(|seed| seed.parse().expect("a seed is a number"));
    given.unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::try_from(since.unwrap().as_millis()).unwrap()
    })
}

fn length() -> Duration {
    let minutes = std::env::var("SYNC_CONFIG_CHAOS_MINUTES").ok();
    let minutes: u64 = minutes.map_or(0, |minutes| minutes.parse().expect("a number of minutes"));
    Duration::from_secs(minutes * 60)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_keep_every_promise_in_every_fault() {
    let (begun, length, first) = (Instant::now(), length(), seed());
    let mut all = Figures::default();
    if let Some(kept) = std::env::var_os("SYNC_CONFIG_CHAOS_HISTORY") {
        return verdict(first, Path::new(&kept), &mut all);
    }
    for storm in 0.. {
        let seed = first.wrapping_add(storm);
        let directory = directory(seed);
        eprintln!(
            "chaos: SYNC_CONFIG_TEST_SEED={seed}, history in {} if it fails",
            directory.display()
        );
        all.add(Storm::weather(seed, &directory).await);
        std::fs::remove_dir_all(&directory).unwrap();
        if begun.elapsed() >= length {
            break;
        }
    }
    eprintln!("{all}");
    // Past the harness, which keeps what a test that passes prints to itself.
    for (what, why) in &all.not_made {
        let _said = writeln!(std::io::stderr(), "chaos: not made here: {what}: {why}");
    }
}
