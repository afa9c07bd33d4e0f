//! Trimming the journal, at a pace that leaves the database to its writers.
//!
//! Guarantees: one bounded transaction after the other, with a rest in proportion; a turn ends in time, and what is left is
//! for the next one.

use std::time::Duration;

use super::clock::Clock;
use super::errands::{Intervals, within};
use crate::error::Result;
use crate::store::Store;

/// Revisions trimmed in one transaction, which the database bounds by rows and bytes as well: some 50 ms.
const BATCH: u32 = 5_000;

/// The trimmer rests this many times as long as a batch took: it takes a fifth of the time at most, so that disk and log
/// are the writers'.
const REST: u32 = 4;

/// The shortest rest between two batches.
const PAUSE: Duration = Duration::from_millis(5);

/// A turn of trimming ends after this long; what is left waits for the next one, which may be another instance's.
const TURN: Duration = Duration::from_secs(600);

/// Trims until nothing is left to trim, or the turn is over, and counts what each batch took. The first batch is always made, however short the turn.
pub(super) async fn trim(
    store: &dyn Store,
    clock: &Clock,
    intervals: Intervals,
    turn: Duration,
    count: impl Fn(u64),
) -> Result<()> {
    let (what, timeout) = ("trimming the journal", intervals.request_timeout);
    let end = clock.now() + turn.min(TURN);
    let (mut revisions, mut batches) = (0, 0_u64);
    let done = loop {
        let begun = clock.now();
        let batch = store.trim(intervals.retention, intervals.grace, BATCH);
        let batch = within(clock, what, timeout, batch).await?;
        if batch == 0 {
            break true;
        }
        let took = clock.now().saturating_sub(begun);
        revisions += batch;
        count(batch);
        batches += 1;
        let took_ms = took.as_millis();
        tracing::debug!(
            revisions = batch,
            took_ms,
            "a batch of the journal was trimmed"
        );
        let pause = rest(took);
        if clock.now() + pause >= end {
            break false;
        }
        clock.sleep(pause).await;
    };
    if batches > 0 {
        tracing::info!(revisions, batches, done, "the journal was trimmed");
    }
    Ok(())
}

/// How long to rest after a batch that took so long.
fn rest(took: Duration) -> Duration {
    took.saturating_mul(REST).max(PAUSE)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::{Revision, Value};
    use crate::store::WriteRequest;
    use crate::store::memory::MemoryDatabase;
    use crate::write::Batch;

    #[test]
    fn the_trimmer_takes_at_most_a_fifth_of_the_time() {
        for millis in [0, 1, 40, 700, 10_000] {
            let took = Duration::from_millis(millis);
            assert!((took + rest(took)) >= took * 5 && rest(took) >= PAUSE);
        }
        assert_eq!(rest(Duration::MAX), Duration::MAX);
    }

    #[tokio::test]
    async fn a_turn_that_is_over_leaves_the_rest_to_the_next_one() {
        let store: Arc<dyn Store> = MemoryDatabase::new().store(1, Clock::start().sources());
        let written = u64::from(BATCH) + 10;
        for number in 0..=written {
            let value = Value::parse(&number.to_string()).unwrap();
            let request = WriteRequest {
                items: Batch::new()
                    .put_value("k", value, None)
                    .into_items()
                    .unwrap(),
                actor: None,
                idempotency_key: None,
            };
            store.write(&request).await.unwrap();
        }
        let intervals = Intervals {
            heartbeat: Duration::MAX,
            cleanup: Duration::MAX,
            retention: Duration::ZERO,
            grace: Duration::ZERO,
            request_timeout: Duration::from_secs(20),
            repair: true,
        };
        let page = async || {
            let listener = store.open().await.unwrap();
            listener.page(Revision::ZERO).await.unwrap().floor.unwrap()
        };
        let clock = Clock::start();
        trim(&*store, &clock, intervals, Duration::ZERO, |_| {})
            .await
            .unwrap();
        assert_eq!(
            page().await,
            Revision::new(u64::from(BATCH) + 1),
            "one batch"
        );
        trim(&*store, &clock, intervals, Duration::from_secs(20), |_| {})
            .await
            .unwrap();
        assert_eq!(
            page().await,
            Revision::new(written + 1),
            "all but the newest"
        );
    }
}
