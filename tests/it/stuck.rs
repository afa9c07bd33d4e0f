//! Those that stop halfway: a callback that never returns, a session that sits idle in its transaction. Others go on, the end
//! comes in bounded time, and the status tells of it.

use std::sync::mpsc::channel;
use std::time::Duration;

use sync_config::prelude::*;
use tokio::time::timeout;

use crate::fleet::{Fleet, in_step, record, until_status};
use crate::ground::{changed_revisions, equal_to_the_table, one, quick, run, start};
use crate::support::postgres::TestDb;
use crate::support::wait::{PATIENCE, eventually};

#[expect(
    clippy::disallowed_methods,
    reason = "measures how long something takes"
)]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_that_never_returns_is_named_costs_others_nothing_and_keeps_no_shutdown() {
    let config = Fleet::memory().start().await;
    let (keep, never) = channel::<()>();
    let (called, calls) = channel();
    let stuck = move |_: &Event| {
        called.send(()).unwrap();
        let _ended = never.recv();
    };
    let filter = Filter::prefix("s").named("stuck");
    let id = config.on_change(filter, stuck).unwrap();
    let seen = record(&config, Filter::all());
    config.set("s", 0).await.unwrap();
    calls.recv_timeout(PATIENCE).unwrap();
    // Nothing waits behind it, and it is named all the same.
    let status = until_status(&config, "the callback named", |status| {
        !status.slow_subscribers.is_empty()
    })
    .await;
    let slow = &status.slow_subscribers[0];
    assert_eq!(
        (slow.id, slow.name.as_deref(), slow.queued),
        (id, Some("stuck"), 0)
    );
    assert!(slow.running_since.is_some() && status.slow_subscribers.len() == 1);
    let json = serde_json::to_value(&status).unwrap();
    let since = json["slowSubscribers"][0]["runningSince"].as_str().unwrap();
    assert!(since.ends_with('Z'), "{json}");
    // More than its queue holds.
    for number in 1..=3_000 {
        config.set("s", number).await.unwrap();
    }
    let told = seen
        .until("all of them", |seen| changed_revisions(seen).len() == 3_001)
        .await;
    assert!(
        changed_revisions(&told)
            .windows(2)
            .all(|pair| pair[0] + 1 == pair[1])
    );
    let slow = config.status().slow_subscribers.remove(0);
    assert!(
        slow.queued <= 1_024 && slow.queued + slow.missed == 3_000,
        "{slow:?}"
    );
    timeout(PATIENCE, config.shutdown())
        .await
        .expect("it does not wait for the callback")
        .unwrap();
    drop(keep);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_never_polled_is_named_and_holds_no_more_than_the_keys_there_are() {
    let config = Fleet::memory().start().await;
    let mut silent = config.changes(Filter::all().named("silent")).unwrap();
    for number in 0..5_000 {
        config
            .set(&format!("k{}", number % 7), number)
            .await
            .unwrap();
    }
    let status = until_status(&config, "the stream named", |status| {
        !status.slow_subscribers.is_empty()
    })
    .await;
    assert_eq!(status.slow_subscribers[0].name.as_deref(), Some("silent"));
    let mut last = std::collections::BTreeMap::new();
    while last.len() < 7 || last.values().any(|value: &i64| *value < 4_993) {
        let change = timeout(PATIENCE, silent.next()).await.unwrap().unwrap();
        let value = change.new().unwrap().as_i64().unwrap();
        let before = last.insert(change.key().to_string(), value);
        assert!(before.is_none_or(|before| before < value));
    }
    timeout(PATIENCE, config.shutdown()).await.unwrap().unwrap();
}

/// The middle of how long writes take, in microseconds.
async fn writes(config: &ConfigService, count: u32) -> u128 {
    let mut took = Vec::new();
    for number in 0..count {
        let begun = now();
        config.set("k", number).await.unwrap();
        took.push(begun.elapsed().as_micros());
    }
    took.sort_unstable();
    took[took.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_idle_in_a_transaction_hold_back_vacuum_and_notices_and_no_instance() {
    let db = TestDb::new().await;
    // Who is behind for longer than the journal reaches back is told the state instead of the revisions.
    let settings = quick(Settings::new(db.url()))
        .event_retention(Duration::from_secs(8))
        .cleanup_interval(Duration::from_millis(200));
    let all = [start(settings.clone()).await, start(settings).await];
    let services = [&all[0], &all[1]];
    all[0].set("k", -1).await.unwrap();
    let before = writes(&all[0], 200).await;
    // One keeps every version of a row, and has the queue of notices to read; the other holds the lock of a row.
    let (old, locking, client) = (db.client().await, db.client().await, db.client().await);
    run(&old, "LISTEN config_changes").await;
    run(
        &old,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM sync_config",
    )
    .await;
    all[0].set("locked", 1).await.unwrap();
    run(
        &locking,
        "BEGIN; SELECT FROM sync_config WHERE key = 'locked' FOR UPDATE",
    )
    .await;

    let seen = record(&all[1], Filter::key("k"));
    writes(&all[0], 3_000).await;
    let after = writes(&all[0], 200).await;
    let newest = all[0].status().revision;
    in_step(&services, newest).await;
    equal_to_the_table(&services, &client).await;
    let told = seen.until("all of them", |seen| {
        changed_revisions(seen).last() == Some(&newest.get())
    });
    let revisions = changed_revisions(&told.await);
    assert!(revisions.len() >= 3_000 && revisions.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    for service in services {
        let status = service.status();
        assert_eq!(status.mode, sync_config::Mode::Push);
        assert_eq!(
            (
                status.counters.notices_missed,
                status.counters.sessions_lost
            ),
            (0, 0)
        );
    }
    // The dead versions are all there: a write steps over those of the head.
    assert!(
        after < before * 10 + 20_000,
        "from {before} µs to {after} µs"
    );
    let floor = async || one::<i64>(&client, "SELECT floor FROM sync_config_meta").await;
    let held = floor().await;
    eventually("the journal is trimmed", PATIENCE, async || {
        (floor().await > held).then_some(())
    })
    .await;

    // Whoever writes the locked row is told in bounded time, and writes of others do not wait with it.
    let begun = now();
    let (refused, other) = tokio::join!(all[0].set("locked", 2), async {
        let written = all[0].set("other", 1).await;
        (written, begun.elapsed())
    });
    assert!(refused.unwrap_err().is_retryable());
    assert!(
        begun.elapsed() < Duration::from_secs(12),
        "{:?}",
        begun.elapsed()
    );
    other.0.unwrap();
    assert!(other.1 < Duration::from_secs(3), "{:?}", other.1);
    for service in &all {
        timeout(PATIENCE, service.shutdown())
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_sits_on_the_head_delays_writers_by_a_bound_and_readers_not_at_all() {
    let db = TestDb::new().await;
    let settings = quick(Settings::new(db.url()));
    let all = [start(settings.clone()).await, start(settings).await];
    all[0].set("k", 1).await.unwrap();
    let sitting = db.client().await;
    run(
        &sitting,
        "BEGIN; SET CONSTRAINTS ALL IMMEDIATE; INSERT INTO sync_config VALUES ('s', '1')",
    )
    .await;
    let begun = now();
    let (one_error, other_error) = tokio::join!(all[0].set("k", 2), all[1].set("l", 2));
    for error in [one_error.unwrap_err(), other_error.unwrap_err()] {
        assert!(
            error.is_retryable() && !error.is_outcome_unknown(),
            "{error}"
        );
    }
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    for service in &all {
        let status = service.status();
        assert_eq!(
            (service.get_i64("k", 0), status.mode),
            (1, sync_config::Mode::Push)
        );
        assert_eq!(service.sync().await.unwrap(), 0, "the table can be read");
    }
    run(&sitting, "COMMIT").await;
    let written = all[0].set("k", 2).await.unwrap();
    assert_eq!(written.revision().get(), 3);
    in_step(&[&all[0], &all[1]], written.revision()).await;
    for service in &all {
        timeout(PATIENCE, service.shutdown())
            .await
            .unwrap()
            .unwrap();
    }
}
