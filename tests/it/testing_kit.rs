//! The testing kit: each fault does what it says, tests are isolated, and a manual clock lets no real time pass.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use sync_config::prelude::*;
use sync_config::testing::{Fault, ManualClock, TestStore};
use sync_config::{Mode, Revision, Start, Status};

use crate::fleet::{Seen, record, until_status};
use crate::support::program::Scratch;
use crate::support::wait::{PATIENCE, Probe};

const SECOND: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_secs(6 * 60);

/// A store on a clock of the test, with two instances.
async fn pair() -> (
    ManualClock,
    TestStore,
    Arc<ConfigService>,
    Arc<ConfigService>,
) {
    let clock = ManualClock::new();
    let store = TestStore::with_clock(&clock);
    let one = store.instance().await.unwrap();
    let two = store.instance().await.unwrap();
    (clock, store, one, two)
}

fn healthy(status: &Status) -> bool {
    status.mode == Mode::Push && status.stale.is_none()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_settles_and_every_callback_has_run() {
    let store = TestStore::new();
    let (one, two) = (
        store.instance().await.unwrap(),
        store.instance().await.unwrap(),
    );
    let seen = record(&two, Filter::all());
    for number in 1..=100 {
        one.set("k", number).await.unwrap();
        let revision = store.settled().await.unwrap();
        assert_eq!(revision, Revision::new(number));
        assert_eq!(two.get_i64("k", 0).unsigned_abs(), number);
        assert_eq!(seen.seen().len() as u64, number, "without waiting");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_cannot_settle_says_who_lags() {
    let (clock, store, one, two) = pair().await;
    store.faults().drop_notices(true);
    one.set("k", 1).await.unwrap();
    let error = store.settled().await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(
        error.to_string().contains("revision 0, the store has 1"),
        "{error}"
    );
    two.shutdown().await.unwrap();
    store
        .settled()
        .await
        .expect("who has ended is not waited for");
    drop(clock);
}

#[tokio::test]
async fn a_day_of_heartbeats_takes_no_time() {
    let (clock, store, one, two) = pair().await;
    one.set("k", 1).await.unwrap();
    let begun = one.status().proven_at;
    let day = Duration::from_secs(86_400) / 4;
    tokio::time::timeout(PATIENCE, clock.advance(day))
        .await
        .expect("a quarter of a day in seconds")
        .unwrap();
    for service in [&one, &two] {
        let status = service.status();
        assert!(healthy(&status), "{status:?}");
        assert_eq!(status.heartbeat.mismatches, 0);
        let proven = status.proven_at.unwrap();
        assert!(
            clock.wall().duration_since(proven).unwrap() <= 3 * SECOND,
            "checked on"
        );
        assert!(proven.duration_since(begun.unwrap()).unwrap() > day - 10 * SECOND);
        let last = status.heartbeat.last_sent.unwrap();
        assert!(clock.wall().duration_since(last).unwrap() < HEARTBEAT);
    }
    assert_eq!(clock.elapsed(), day);
    store.settled().await.unwrap();
}

#[tokio::test]
async fn random_numbers_are_drawn_from_the_same_seed_in_every_run() {
    let mut runs = Vec::new();
    for _ in 0..3 {
        let clock = ManualClock::new();
        let store = TestStore::with_clock(&clock);
        let status = store.instance().await.unwrap().status();
        runs.push((status.instance, status.epoch));
    }
    assert!(runs.windows(2).all(|pair| pair[0] == pair[1]), "{runs:?}");
    let status = TestStore::new().instance().await.unwrap().status();
    assert_ne!((status.instance, status.epoch), runs[0]);
}

#[tokio::test]
async fn time_stands_still_between_advances() {
    let (clock, store, one, two) = pair().await;
    store.faults().drop_notices(true);
    one.set("k", 1).await.unwrap();
    let waits =
        tokio::spawn(async move { two.wait_for(Revision::new(2).into(), 100 * SECOND).await });
    clock.advance(99 * SECOND).await.unwrap();
    assert!(!waits.is_finished());
    clock.advance(2 * SECOND).await.unwrap();
    assert!(waits.await.unwrap().unwrap_err().is_timeout());
    assert_eq!(clock.elapsed(), 101 * SECOND);
}

#[tokio::test]
async fn dropped_notices_are_made_up_for_by_the_check() {
    let (clock, store, one, two) = pair().await;
    clock.advance(20 * SECOND).await.unwrap();
    store.faults().drop_notices(true);
    one.set("k", 1).await.unwrap();
    assert!(two.get("k").unwrap().is_none());
    clock.advance(5 * SECOND).await.unwrap();
    assert_eq!(two.get_i64("k", 0), 1);
    assert_eq!(two.status().counters.notices_missed, 1);
    clock.advance(10 * SECOND).await.unwrap();
    let status = two.status();
    assert_eq!(
        status.mode,
        Mode::Poll,
        "the proof was dropped too: {status:?}"
    );
    store.faults().drop_notices(false);
    clock.advance(120 * SECOND).await.unwrap();
    assert_eq!(two.status().mode, Mode::Push);
}

#[tokio::test]
async fn what_was_dropped_stays_lost() {
    let (_clock, store, one, two) = pair().await;
    store.faults().drop_notices(true);
    one.set("k", 1).await.unwrap();
    store.faults().drop_notices(false);
    store.settled().await.unwrap_err();
    assert!(two.get("k").unwrap().is_none());
    one.set("k", 2).await.unwrap();
    store.settled().await.unwrap();
    assert_eq!(two.get_i64("k", 0), 2);
}

#[tokio::test]
async fn each_fault_of_a_write_is_the_error_of_its_kind() {
    let (_clock, store, one, two) = pair().await;
    let faults = store.faults();
    faults.fail_writes(Fault::Unavailable, 2);
    faults.fail_writes(Fault::Retryable, 1);
    faults.fail_writes(Fault::Denied, 1);
    faults.fail_writes(Fault::Conflict, 1);
    faults.fail_writes(Fault::Denied, 0);
    for _ in 0..2 {
        assert!(one.set("k", 1).await.unwrap_err().is_unavailable());
    }
    let busy = two.set("k", 1).await.unwrap_err();
    assert!(busy.is_retryable() && !busy.is_unavailable(), "{busy}");
    assert!(one.set("k", 1).await.unwrap_err().is_denied());
    let conflict = one.set("k", 1).await.unwrap_err();
    assert!(
        conflict.is_conflict() && conflict.to_string().contains("\"k\""),
        "{conflict}"
    );
    assert_eq!(store.revision(), Revision::ZERO, "nothing was written");
    assert!(one.set("k", 1).await.unwrap().visible());
}

#[tokio::test]
async fn an_unknown_outcome_may_have_been_applied() {
    let (_clock, store, one, two) = pair().await;
    for (applied, revision) in [(false, 0), (true, 1)] {
        store
            .faults()
            .fail_writes(Fault::OutcomeUnknown { applied }, 1);
        let batch = || Batch::new().put("k", 1).idempotency_key("once");
        assert!(one.write(batch()).await.unwrap_err().is_outcome_unknown());
        assert_eq!(store.revision(), Revision::new(revision));
    }
    store.settled().await.unwrap();
    assert_eq!(two.get_i64("k", 0), 1);
    let again = Batch::new().put("k", 1).idempotency_key("once");
    assert!(one.write(again).await.unwrap().replayed());
}

#[tokio::test]
async fn a_frozen_store_shows_as_staleness_and_reads_go_on() {
    let (clock, store, one, two) = pair().await;
    one.set("k", 1).await.unwrap();
    store.settled().await.unwrap();
    store.faults().freeze();
    let writer = two.clone();
    let write = tokio::spawn(async move { writer.set("k", 2).await });
    clock.advance(6 * SECOND).await.unwrap();
    let status = one.status();
    assert_eq!(status.mode, Mode::Offline);
    let age = clock
        .wall()
        .duration_since(status.proven_at.unwrap())
        .unwrap();
    assert!(age >= 5 * SECOND, "{age:?}");
    assert_eq!(one.get_i64("k", 0), 1);
    clock.advance(60 * SECOND).await.unwrap();
    assert!(write.await.unwrap().unwrap_err().is_outcome_unknown());
    assert_eq!(store.revision(), Revision::new(1));
    store.faults().thaw();
    clock.advance(20 * SECOND).await.unwrap();
    assert!(healthy(&one.status()) && healthy(&two.status()));
}

#[tokio::test]
async fn a_store_that_is_away_refuses_and_one_that_is_back_is_followed() {
    let (clock, store, one, two) = pair().await;
    store.faults().away(true);
    clock.advance(SECOND).await.unwrap();
    assert_eq!(two.status().mode, Mode::Offline);
    assert!(one.set("k", 1).await.unwrap_err().is_unavailable());
    assert!(store.instance().await.unwrap_err().is_unavailable());
    store.faults().away(false);
    clock.advance(15 * SECOND).await.unwrap();
    one.set("k", 1).await.unwrap();
    store.settled().await.unwrap();
    assert!(healthy(&two.status()) && two.get_i64("k", 0) == 1);
}

/// Writes a key each, all at once, so that they share transactions.
async fn write_all(one: &Arc<ConfigService>, count: usize) -> Vec<sync_config::Result<()>> {
    let writes = (0..count).map(|number| async move {
        let written = one.set(&format!("k:{number:03}"), number).await;
        written.map(drop)
    });
    join_all(writes).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_the_writes_that_share_a_transaction_meets_its_own_fault() {
    let (_clock, store, one, two) = pair().await;
    let lost = |applied| Fault::OutcomeUnknown { applied };
    for fault in [
        Fault::Denied,
        lost(true),
        lost(false),
        Fault::Conflict,
        Fault::Unavailable,
        Fault::Retryable,
    ] {
        store.faults().fail_writes(fault, 3);
    }
    let outcomes = write_all(&one, 40).await;
    store.settled().await.unwrap();
    let count = |is: fn(&sync_config::Error) -> bool| {
        outcomes
            .iter()
            .filter_map(|one| one.as_ref().err())
            .filter(|error| is(error))
            .count()
    };
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
        22
    );
    assert_eq!(count(|error| error.is_outcome_unknown()), 6);
    assert_eq!(count(|error| error.is_denied()), 3);
    assert_eq!(count(|error| error.is_conflict()), 3);
    for instance in [&one, &two] {
        assert_eq!(
            instance.snapshot().unwrap().len(),
            25,
            "three of the unknown ones"
        );
        for (number, outcome) in outcomes.iter().enumerate() {
            let there = instance.get(&format!("k:{number:03}")).unwrap().is_some();
            match outcome {
                Ok(()) => assert!(there, "{number}"),
                Err(error) => assert!(!there || error.is_outcome_unknown(), "{number}: {error}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_wait_while_a_store_is_frozen_are_unknown_or_never_written() {
    let (clock, store, one, _two) = pair().await;
    store.faults().freeze();
    let writing = one.clone();
    let writes = tokio::spawn(async move { write_all(&writing, 40).await });
    while !writes.is_finished() {
        clock.advance(SECOND).await.unwrap();
    }
    store.faults().thaw();
    clock.advance(HEARTBEAT).await.unwrap();
    store.settled().await.unwrap();
    for outcome in writes.await.unwrap() {
        let error = outcome.unwrap_err();
        assert!(
            error.is_outcome_unknown() || error.is_unavailable(),
            "{error}"
        );
    }
    assert_eq!(
        (one.snapshot().unwrap().len(), store.revision()),
        (0, Revision::ZERO)
    );
    one.set("k", 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_meet_a_store_that_is_away_or_frozen_too() {
    let (_clock, store, one, _two) = pair().await;
    let consumer = one.consumer("billing", Start::Head).await.unwrap();
    store.faults().away(true);
    let place = consumer.place().await.unwrap_err();
    assert!(place.is_unavailable(), "{place}");
    let other = one.consumer("other", Start::Head).await.err().unwrap();
    assert!(other.is_unavailable(), "{other}");
    assert!(one.consumers().await.err().unwrap().is_unavailable());
    store.faults().away(false);
    store.faults().freeze();
    // Time stands still: no answer is no answer, and no timeout either.
    assert!(consumer.place().now_or_never().is_none());
    store.faults().thaw();
    consumer.place().await.unwrap();
}

#[tokio::test]
async fn a_cut_session_loses_nothing() {
    let (clock, store, one, two) = pair().await;
    store.faults().cut();
    one.set("k", 1).await.unwrap();
    clock.advance(SECOND).await.unwrap();
    store.settled().await.unwrap();
    for service in [&one, &two] {
        let status = service.status();
        assert_eq!(status.counters.sessions_lost, 1, "{status:?}");
        assert!(healthy(&status) && service.get_i64("k", 0) == 1);
    }
}

#[tokio::test]
async fn a_rewound_store_is_a_fork_with_a_new_history() {
    let (clock, store, one, two) = pair().await;
    for number in 1..=4 {
        let batch = Batch::new()
            .put("k", number)
            .put(&format!("k{number}"), number);
        one.write(batch).await.unwrap();
    }
    one.delete("k1").await.unwrap();
    let epoch = one.status().epoch;
    store.settled().await.unwrap();
    let seen = record(&two, Filter::all());
    store.faults().rewind(Revision::new(2)).unwrap();
    assert_eq!(store.revision(), Revision::new(2));
    clock.advance(5 * SECOND).await.unwrap();
    store.settled().await.unwrap();
    for service in [&one, &two] {
        let status = service.status();
        assert_eq!(status.revision, Revision::new(2));
        assert_ne!(status.epoch, epoch);
        let keys: Vec<_> = service.get_all().unwrap();
        let keys: Vec<_> = keys
            .iter()
            .map(|entry| (entry.key().to_string(), entry.revision().get()))
            .collect();
        let wanted = [("k", 2), ("k1", 1), ("k2", 2)].map(|(key, at)| (key.to_owned(), at));
        assert_eq!(keys, wanted, "with the revisions of then");
        assert_eq!(service.get_i64("k", 0), 2);
    }
    assert!(one.status().counters.forks + two.status().counters.forks >= 1);
    assert!(
        seen.seen()
            .iter()
            .any(|seen| matches!(seen, Seen::Resynced(2, _)))
    );
    one.set("k", 30).await.unwrap();
    assert_eq!(store.settled().await.unwrap(), Revision::new(3));
    assert_eq!(two.get_i64("k", 0), 30);
    store.faults().rewind(Revision::new(9)).unwrap();
    assert_eq!(store.revision(), Revision::new(3), "nothing to forget");
    store.faults().rewind(Revision::ZERO).unwrap();
    clock.advance(5 * SECOND).await.unwrap();
    store.settled().await.unwrap();
    assert!(two.get_all().unwrap().is_empty());
}

#[tokio::test]
async fn a_store_whose_journal_was_trimmed_is_not_rewound_beyond_it() {
    let clock = ManualClock::new();
    let store = TestStore::with_clock(&clock);
    let retention = |settings: Settings| settings.event_retention(60 * SECOND);
    let one = store.instance_with(retention).await.unwrap();
    for number in 1..=3 {
        one.set("k", number).await.unwrap();
    }
    clock.advance(2 * 3_600 * SECOND).await.unwrap();
    let error = store.faults().rewind(Revision::new(1)).unwrap_err();
    assert!(
        error.to_string().contains("journal begins at revision 3"),
        "{error}"
    );
    assert_eq!(store.revision(), Revision::new(3));
}

#[tokio::test]
async fn a_row_edited_behind_is_found_by_the_heartbeat_and_numbered() {
    let (clock, store, one, two) = pair().await;
    one.write(Batch::new().put("a", 1).put("b", 2))
        .await
        .unwrap();
    store.settled().await.unwrap();
    let seen = record(&two, Filter::all());
    store.faults().edit_behind("a", 10).unwrap();
    store.faults().edit_behind("new", "x").unwrap();
    let map = std::collections::BTreeMap::from([("aa", 1e2), ("b", 0.5)]);
    store.faults().edit_behind("map", map).unwrap();
    store.faults().remove_behind("b").unwrap();
    clock.advance(60 * SECOND).await.unwrap();
    assert_eq!(
        one.get_i64("a", 0),
        1,
        "no notice and no revision tell of it"
    );
    clock.advance(2 * HEARTBEAT).await.unwrap();
    assert_eq!(store.settled().await.unwrap(), Revision::new(2));
    for service in [&one, &two] {
        assert_eq!(service.get_i64("a", 0), 10);
        assert_eq!(service.get_string("new", ""), "x");
        let map = service.get("map").unwrap().unwrap();
        assert_eq!(
            map.as_json(),
            r#"{"b": 0.5, "aa": 100.0}"#,
            "as PostgreSQL prints it"
        );
        assert!(service.get("b").unwrap().is_none());
    }
    assert!(!seen.seen().is_empty());
    let cursor = sync_config::Cursor {
        revision: Revision::new(1),
        ..one.snapshot().unwrap().cursor()
    };
    assert!(
        one.history(cursor, 10).await.unwrap().is_none(),
        "another id: no such past"
    );
    assert!(
        store
            .faults()
            .edit_behind("", 1)
            .unwrap_err()
            .is_invalid_input()
    );
    let nul = store.faults().edit_behind("nul", "\0").unwrap_err();
    assert!(
        nul.is_invalid_input() && nul.to_string().contains("\"nul\""),
        "{nul}"
    );
}

#[tokio::test]
async fn a_falsified_copy_is_found_by_the_heartbeat_and_repaired() {
    let (clock, store, one, two) = pair().await;
    one.set("a", 1).await.unwrap();
    store.settled().await.unwrap();
    store.faults().falsify(&two, "a", 666).unwrap();
    assert_eq!((one.get_i64("a", 0), two.get_i64("a", 0)), (1, 666));
    assert_ne!(one.checksum().unwrap(), two.checksum().unwrap());
    let seen = record(&two, Filter::all());
    clock.advance(3 * HEARTBEAT).await.unwrap();
    assert_eq!((one.get_i64("a", 0), two.get_i64("a", 0)), (1, 1));
    assert_eq!(one.checksum().unwrap(), two.checksum().unwrap());
    let status = two.status().heartbeat;
    assert!(status.mismatches >= 1 && status.resyncs >= 1, "{status:?}");
    assert!(status.needless_resyncs < status.resyncs, "{status:?}");
    assert_eq!(
        store.settled().await.unwrap(),
        Revision::new(1),
        "the table was right"
    );
    assert!(matches!(&seen.seen()[0], Seen::Resynced(1, changes) if changes.len() == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_of_tests_that_run_side_by_side_share_nothing() {
    let done = Probe::new();
    let tests = (0..8u64).map(|number| {
        let done = done.clone();
        async move {
            let clock = ManualClock::new();
            let store = if number % 2 == 0 {
                TestStore::new()
            } else {
                TestStore::with_clock(&clock)
            };
            let one = store.instance().await.unwrap();
            if number == 3 {
                store.faults().away(true);
                assert!(one.set("k", number).await.unwrap_err().is_unavailable());
                store.faults().away(false);
            }
            for at in 1..=20 {
                one.set("k", at * 100 + number).await.unwrap();
            }
            assert_eq!(store.revision(), Revision::new(20));
            assert_eq!(one.get_i64("k", 0).unsigned_abs(), 2_000 + number);
            done.push(number);
        }
    });
    for test in tests.map(tokio::spawn).collect::<Vec<_>>() {
        test.await.unwrap();
    }
    assert_eq!(done.seen().len(), 8);
}

#[tokio::test]
async fn a_start_while_the_store_is_away_serves_the_state_file() {
    let dir = Scratch::new("kit");
    let store = TestStore::new();
    let keeps = |settings: Settings| settings.state_file(dir.path().join("state"));
    let one = store.instance_with(keeps).await.unwrap();
    one.set("k", 1).await.unwrap();
    one.shutdown().await.unwrap();
    store.faults().away(true);
    let two = store.instance_with(keeps).await.unwrap();
    assert!(two.status().stale.is_some() && two.get_i64("k", 0) == 1);
    store.faults().rewind(Revision::ZERO).unwrap();
    store.faults().away(false);
    let status = until_status(&two, "the truth", |status| status.stale.is_none()).await;
    assert_eq!(
        (status.revision, status.counters.forks),
        (Revision::ZERO, 1)
    );
    assert!(two.get("k").unwrap().is_none());
}
