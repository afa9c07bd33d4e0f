//! Named consumers of the journal: the contract on every store, and what happens when one falls behind.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use sync_config::prelude::*;
use sync_config::{Consumer, Delivered, Event, Recorded, SlowConsumer, Start};

use crate::fleet::{Fleet, until_status};
use crate::ground::{capture, head, one, quick, run, start};
use crate::support::postgres::{TestDb, cluster};
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::{PATIENCE, Probe, eventually};

/// Runs each function on every store.
macro_rules! on_every_store {
    ($($name:ident)*) => {
        mod on_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::fleet::Fleet::memory()).await; })*
        }
        mod on_newest_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::fleet::Fleet::newest_postgres().await).await; })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::fleet::Fleet::postgres().await).await; })*
        }
        #[cfg(feature = "sqlite")]
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::fleet::Fleet::sqlite()).await; })*
        }
    };
}

on_every_store! {
    a_consumer_begins_at_the_head_or_at_the_floor_and_keeps_its_place
    what_was_not_acknowledged_is_given_again
    a_place_moves_forward_only_whoever_acknowledges
    a_consumer_that_waits_is_woken_by_a_write_elsewhere
    a_cursor_of_another_history_is_refused
    a_removed_consumer_is_told_and_may_begin_anew
    names_are_bounded
    there_are_1000_consumers_at_most
    an_answer_ends_after_8_mib_with_a_whole_revision
    an_answer_has_1024_revisions_at_most
    a_stopped_consumer_is_named_before_its_place_is_trimmed_and_told_afterwards
    a_consumer_that_has_read_everything_is_never_too_old
    a_grace_lets_a_slow_consumer_finish
}

fn numbers(delivered: &Delivered) -> Vec<u64> {
    match delivered {
        Delivered::Revisions(revisions) => revisions
            .iter()
            .map(|revision| revision.cursor().revision.get())
            .collect(),
        other => panic!("{other:?}"),
    }
}

async fn given(consumer: &Consumer, limit: u32) -> Vec<Recorded> {
    match consumer.next(limit).await.unwrap() {
        Delivered::Revisions(revisions) => revisions,
        other => panic!("{other:?}"),
    }
}

async fn a_consumer_begins_at_the_head_or_at_the_floor_and_keeps_its_place(fleet: Fleet) {
    let config = fleet.start().await;
    let nothing = config.consumer("early", Start::Floor).await.unwrap();
    assert!(given(&nothing, 10).await.is_empty());
    for number in 1..=3 {
        config.set("k", number).await.unwrap();
    }
    let all = config.consumer("all", Start::Floor).await.unwrap();
    let new = config.consumer("new", Start::Head).await.unwrap();
    assert_eq!(numbers(&all.next(2).await.unwrap()), [1, 2]);
    assert!(given(&new, 2).await.is_empty());
    config.set("k", 4).await.unwrap();
    assert_eq!(numbers(&nothing.next(10).await.unwrap()), [1, 2, 3, 4]);
    assert_eq!(numbers(&all.next(10).await.unwrap()), [1, 2, 3, 4]);
    let only = given(&new, 10).await;
    let change = &only[0].changes()[0];
    assert_eq!((change.old(), change.new_text()), (Some("3"), Some("4")));
    // The start is for the first time only.
    let again = config.consumer("new", Start::Floor).await.unwrap();
    assert_eq!(again.place().await.unwrap().revision.get(), 3);
    let places = config.consumers().await.unwrap();
    let known: Vec<_> = places
        .iter()
        .map(|place| (place.name.as_str(), place.behind, place.follows))
        .collect();
    assert_eq!(
        known,
        [("all", 4, true), ("early", 4, true), ("new", 1, true)]
    );
    assert!(
        places
            .iter()
            .all(|place| place.seen_at > SystemTime::UNIX_EPOCH)
    );
}

async fn what_was_not_acknowledged_is_given_again(fleet: Fleet) {
    let config = fleet.start().await;
    let billing = config.consumer("billing", Start::Floor).await.unwrap();
    for number in 1..=5 {
        config.set("k", number).await.unwrap();
    }
    let first = given(&billing, 3).await;
    assert!(billing.acknowledge(first[1].cursor()).await.unwrap());
    config.shutdown().await.unwrap();
    assert!(billing.next(1).await.unwrap_err().is_closed());
    // Another process takes the name up.
    let config = fleet.start().await;
    let billing = config.consumer("billing", Start::Head).await.unwrap();
    let rest = given(&billing, 10).await;
    assert_eq!(rest[0].cursor().revision.get(), 3);
    assert!(billing.acknowledge(rest[2].cursor()).await.unwrap());
    assert!(given(&billing, 10).await.is_empty());
}

async fn a_place_moves_forward_only_whoever_acknowledges(fleet: Fleet) {
    let (one, two) = (fleet.start().await, fleet.start().await);
    for number in 1..=40 {
        one.set("k", number).await.unwrap();
    }
    let mine = one.consumer("shared", Start::Floor).await.unwrap();
    let theirs = two.consumer("shared", Start::Floor).await.unwrap();
    let all = given(&mine, 100).await;
    let mut tasks = Vec::new();
    for (at, revision) in all.iter().enumerate() {
        let consumer = if at % 2 == 0 {
            mine.clone()
        } else {
            theirs.clone()
        };
        let cursor = revision.cursor();
        tasks.push(tokio::spawn(async move {
            consumer.acknowledge(cursor).await.unwrap()
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(mine.place().await.unwrap(), all[39].cursor());
    assert!(!theirs.acknowledge(all[10].cursor()).await.unwrap());
    assert_eq!(mine.place().await.unwrap(), all[39].cursor());
    // Back only on purpose.
    theirs.reset(all[10].cursor()).await.unwrap();
    assert_eq!(numbers(&mine.next(1).await.unwrap()), [12]);
}

async fn a_consumer_that_waits_is_woken_by_a_write_elsewhere(fleet: Fleet) {
    let (here, there) = (fleet.start().await, fleet.start().await);
    let consumer = here.consumer("waiting", Start::Head).await.unwrap();
    let nothing = consumer
        .next_or_wait(10, Duration::from_millis(50))
        .await
        .unwrap();
    assert_eq!(numbers(&nothing), [0; 0]);
    let waiting = tokio::spawn(async move { consumer.next_or_wait(10, PATIENCE).await.unwrap() });
    let written = there.set("k", 1).await.unwrap();
    assert_eq!(numbers(&waiting.await.unwrap()), [written.revision().get()]);
    let consumer = here.consumer("ended", Start::Head).await.unwrap();
    let waiting = tokio::spawn(async move { consumer.next_or_wait(10, PATIENCE).await });
    here.shutdown().await.unwrap();
    assert!(waiting.await.unwrap().unwrap_err().is_closed());
}

async fn a_cursor_of_another_history_is_refused(fleet: Fleet) {
    let config = fleet.start().await;
    config.set("k", 1).await.unwrap();
    let consumer = config.consumer("strict", Start::Floor).await.unwrap();
    let stranger = Fleet::memory().start().await;
    stranger.set("k", 1).await.unwrap();
    let foreign = stranger.snapshot().unwrap().cursor();
    for result in [
        consumer.acknowledge(foreign).await.map(|_| ()),
        consumer.reset(foreign).await,
    ] {
        assert!(result.unwrap_err().is_other_epoch());
    }
    assert_eq!(consumer.place().await.unwrap().revision.get(), 0);
}

async fn a_removed_consumer_is_told_and_may_begin_anew(fleet: Fleet) {
    let config = fleet.start().await;
    let cursor = config.set("k", 1).await.unwrap().cursor();
    let consumer = config.consumer("short lived", Start::Head).await.unwrap();
    assert!(config.remove_consumer("short lived").await.unwrap());
    assert!(!config.remove_consumer("short lived").await.unwrap());
    for error in [
        consumer.next(1).await.unwrap_err(),
        consumer.acknowledge(cursor).await.unwrap_err(),
        consumer.reset(cursor).await.unwrap_err(),
    ] {
        assert!(error.is_missing_consumer() && error.to_string().contains("short lived"));
    }
    config.consumer("short lived", Start::Floor).await.unwrap();
    assert_eq!(numbers(&consumer.next(1).await.unwrap()), [1]);
}

async fn names_are_bounded(fleet: Fleet) {
    let config = fleet.start().await;
    for name in ["", &"x".repeat(49), "a\nb"] {
        let error = config.consumer(name, Start::Head).await.unwrap_err();
        assert!(error.is_invalid_input(), "{error}");
    }
    for name in ["é".repeat(24).as_str(), "a\"b'c", "{head}"] {
        let consumer = config.consumer(name, Start::Head).await.unwrap();
        assert_eq!(consumer.name(), name);
        assert!(config.remove_consumer(name).await.unwrap());
    }
}

async fn there_are_1000_consumers_at_most(fleet: Fleet) {
    let config = fleet.start().await;
    for number in 0..1_000 {
        let name = format!("c{number}");
        config.consumer(&name, Start::Head).await.unwrap();
    }
    let error = config.consumer("more", Start::Head).await.unwrap_err();
    assert!(error.to_string().contains("1,000"), "{error}");
    config.consumer("c7", Start::Head).await.unwrap();
    config.remove_consumer("c7").await.unwrap();
    config.consumer("more", Start::Head).await.unwrap();
    assert_eq!(config.consumers().await.unwrap().len(), 1_000);
}

async fn an_answer_ends_after_8_mib_with_a_whole_revision(fleet: Fleet) {
    let config = fleet.start().await;
    let large = |digit: &str| digit.repeat(1_000_000);
    for revision in 0..12 {
        let batch = Batch::new()
            .put("a", large(&revision.to_string()[..1]))
            .put(&format!("b{revision}"), large("b"));
        config.write(batch).await.unwrap();
    }
    let consumer = config.consumer("bounded", Start::Floor).await.unwrap();
    // 2 MB, then 3 each: 2 + 3 + 3 reach 8 MiB with one more.
    let first = given(&consumer, 100).await;
    assert_eq!(first.len(), 4);
    assert!(
        first
            .iter()
            .all(|revision| revision.changes().len() == 2 || revision.cursor().revision.get() > 10)
    );
    consumer.acknowledge(first[3].cursor()).await.unwrap();
    assert_eq!(numbers(&consumer.next(100).await.unwrap()), [5, 6, 7]);
    let huge = (0..20).fold(Batch::new(), |batch, number| {
        batch.put(&format!("huge{number}"), large("h"))
    });
    let huge = config.write(huge).await.unwrap();
    let before = sync_config::Revision::new(huge.revision().get() - 1);
    let place = loop {
        let some = given(&consumer, 100).await;
        let last = some.last().unwrap().cursor();
        consumer.acknowledge(last).await.unwrap();
        if last.revision >= before {
            break last;
        }
    };
    if place.revision == before {
        let alone = given(&consumer, 100).await;
        assert_eq!((alone.len(), alone[0].changes().len()), (1, 20));
    }
}

async fn an_answer_has_1024_revisions_at_most(fleet: Fleet) {
    let config = fleet.start().await;
    for number in 0..1_030 {
        config.set("k", number).await.unwrap();
    }
    let consumer = config.consumer("bounded", Start::Floor).await.unwrap();
    let first = given(&consumer, u32::MAX).await;
    assert_eq!(first.len(), 1_024);
    consumer.acknowledge(first[1_023].cursor()).await.unwrap();
    assert_eq!(given(&consumer, u32::MAX).await.len(), 6);
}

/// Keeps revisions for a second and looks four times in it.
fn forgetful(settings: Settings) -> Settings {
    settings
        .event_retention(Duration::from_secs(1))
        .cleanup_interval(Duration::from_millis(100))
}

/// As [`forgetful`], with three seconds between slow and trimmed, which a busy machine does not sleep through.
fn warning(settings: Settings) -> Settings {
    forgetful(settings).event_retention(Duration::from_secs(6))
}

/// Collects what status names, until the floor has passed it.
async fn named(config: &std::sync::Arc<ConfigService>, name: &str) -> Vec<SlowConsumer> {
    let seen = Mutex::new(Vec::<SlowConsumer>::new());
    eventually("the place was passed", PATIENCE, async || {
        let slow = config.status().slow_consumers;
        let mut seen = seen.lock().unwrap();
        seen.extend(slow.into_iter().filter(|slow| slow.name == name));
        match seen.last() {
            Some(last) if last.trimmed_in.is_none() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    seen.into_inner().unwrap()
}

async fn a_stopped_consumer_is_named_before_its_place_is_trimmed_and_told_afterwards(fleet: Fleet) {
    let config = fleet.start_with(warning).await;
    let consumer = config.consumer("stopped", Start::Floor).await.unwrap();
    for number in 1..=3 {
        config.set("k", number).await.unwrap();
    }
    let seen = named(&config, "stopped").await;
    let first = &seen[0];
    assert!(
        first
            .trimmed_in
            .is_some_and(|left| left <= Duration::from_secs(3)),
        "named while it could still be helped: {seen:?}"
    );
    assert_eq!((first.revision.get(), first.behind), (0, 3));
    match consumer.next(10).await.unwrap() {
        Delivered::TooOld { place, floor } => {
            assert_eq!(place.revision.get(), 0);
            assert!(floor.get() > 1, "{floor}");
        }
        other => panic!("{other:?}"),
    }
    let places = config.consumers().await.unwrap();
    assert!(!places[0].follows);
    // What it was told to do.
    let now = config.snapshot().unwrap();
    consumer.reset(now.cursor()).await.unwrap();
    config.set("k", 4).await.unwrap();
    assert_eq!(numbers(&consumer.next(10).await.unwrap()), [4]);
    consumer
        .acknowledge(config.snapshot().unwrap().cursor())
        .await
        .unwrap();
    until_status(&config, "none slow", |status| {
        status.slow_consumers.is_empty()
    })
    .await;
}

async fn a_consumer_that_has_read_everything_is_never_too_old(fleet: Fleet) {
    let config = fleet.start_with(forgetful).await;
    let consumer = config.consumer("idle", Start::Floor).await.unwrap();
    let other = config.consumer("witness", Start::Floor).await.unwrap();
    let first = config.set("k", 0).await.unwrap().cursor();
    consumer.acknowledge(first).await.unwrap();
    for read in 1..=3 {
        // Its place was the newest revision, and could not be trimmed; with the next one it is old enough at once.
        config.set("k", read).await.unwrap();
        eventually("its place is trimmed", PATIENCE, async || {
            match other.next(10).await.unwrap() {
                Delivered::TooOld { floor, .. } if floor.get() > read => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let all = given(&consumer, 10).await;
        assert_eq!(all.len(), 1, "{all:?}");
        consumer.acknowledge(all[0].cursor()).await.unwrap();
    }
}

async fn a_grace_lets_a_slow_consumer_finish(fleet: Fleet) {
    let patient = |settings| forgetful(settings).consumer_grace(Duration::from_secs(3_600));
    let config = fleet.start_with(patient).await;
    let slow = config.consumer("slow", Start::Floor).await.unwrap();
    for number in 1..=5 {
        config.set("k", number).await.unwrap();
    }
    let all = given(&slow, 10).await;
    slow.acknowledge(all[1].cursor()).await.unwrap();
    let status = until_status(&config, "it is slow", |status| {
        !status.slow_consumers.is_empty()
    })
    .await;
    let left = status.slow_consumers[0].trimmed_in.unwrap();
    assert!(left > Duration::from_secs(3_000), "{left:?}");
    // A second one learns where the floor is: what the slow one has read goes, what it has still to read stays.
    eventually("what was read is trimmed", PATIENCE, async || {
        let probe = config.consumer("probe", Start::Floor).await.unwrap();
        let at = probe.place().await.unwrap().revision.get();
        config.remove_consumer("probe").await.unwrap();
        if at == 2 { Ok(()) } else { Err(at.to_string()) }
    })
    .await;
    assert_eq!(numbers(&slow.next(10).await.unwrap()), [3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_epoch_is_told_and_never_skipped() {
    let fleet = Fleet::postgres().await;
    let (config, client) = (fleet.start().await, fleet.db().client().await);
    config.set("k", 1).await.unwrap();
    let consumer = config.consumer("strict", Start::Floor).await.unwrap();
    let before = given(&consumer, 10).await;
    run(
        &client,
        "SELECT sync_config_new_epoch((SELECT epoch FROM sync_config_head))",
    )
    .await;
    match consumer.next(10).await.unwrap() {
        Delivered::OtherHistory { place } => assert_eq!(place.revision.get(), 0),
        other => panic!("{other:?}"),
    }
    let error = consumer.acknowledge(before[0].cursor()).await.unwrap_err();
    assert!(error.is_other_epoch(), "{error}");
    let epoch: String = one(&client, "SELECT epoch::text FROM sync_config_head").await;
    until_status(&config, "the new epoch", |status| {
        status.epoch.map(|epoch| epoch.to_string()) == Some(epoch.clone())
    })
    .await;
    // Not even with a cursor of the new one: the two histories need not be one.
    let now = config.snapshot().unwrap().cursor();
    assert!(
        consumer
            .acknowledge(now)
            .await
            .unwrap_err()
            .is_other_epoch()
    );
    consumer.reset(now).await.unwrap();
    assert!(given(&consumer, 10).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_was_taken_back_is_told_by_the_ids() {
    let fleet = Fleet::postgres().await;
    let (config, client) = (fleet.start().await, fleet.db().client().await);
    for number in 1..=3 {
        config.set("k", number).await.unwrap();
    }
    let consumer = config.consumer("strict", Start::Floor).await.unwrap();
    let all = given(&consumer, 10).await;
    consumer.acknowledge(all[1].cursor()).await.unwrap();
    run(
        &client,
        "UPDATE sync_config_revision SET id = gen_random_uuid() WHERE revision = 2",
    )
    .await;
    assert!(matches!(
        consumer.next(10).await.unwrap(),
        Delivered::OtherHistory { .. }
    ));
    assert_eq!(head(&client).await, 3);
}

#[tokio::test]
async fn a_slow_consumer_is_logged_once_as_it_becomes_slow_and_once_as_it_is_passed() {
    let log = capture(tracing::Level::DEBUG);
    let config = Fleet::memory().start_with(warning).await;
    let _consumer = config.consumer("stopped", Start::Floor).await.unwrap();
    config.set("k", 1).await.unwrap();
    config.set("k", 2).await.unwrap();
    named(&config, "stopped").await;
    let looks = || log.log.lines("the consumers were looked at").len();
    let before = looks();
    eventually("two more looks", PATIENCE, async || {
        (looks() >= before + 2).then_some(())
    })
    .await;
    let lines = log.log.lines("consumer=stopped");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("is slow") && lines[1].contains("no longer leads on"));
    config.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_is_named_before_it_lags_and_when_it_has() {
    let config = Fleet::memory().start().await;
    let (open, opened) = std::sync::mpsc::channel::<()>();
    let lagged = Probe::new();
    let told = lagged.clone();
    let mut blocked = true;
    let filter = Filter::all().named("é".repeat(30));
    config
        .on_change(filter, move |event| {
            if std::mem::take(&mut blocked) {
                opened.recv().unwrap();
            }
            if matches!(event, Event::Lagged { .. }) {
                told.push(());
            }
        })
        .unwrap();
    for number in 0..600 {
        config.set("k", number).await.unwrap();
    }
    let slow = config.status().slow_subscribers;
    assert_eq!(slow.len(), 1);
    assert_eq!(
        slow[0].name.as_deref(),
        Some("é".repeat(24).as_str()),
        "cut at 48 bytes"
    );
    assert!(slow[0].queued > 512 && slow[0].missed == 0 && slow[0].lagged_at.is_none());
    for number in 600..1_100 {
        config.set("k", number).await.unwrap();
    }
    assert!(config.status().slow_subscribers[0].missed > 0);
    open.send(()).unwrap();
    lagged.until("it was told", |seen| !seen.is_empty()).await;
    let slow = until_status(&config, "its queue is empty", |status| {
        status
            .slow_subscribers
            .iter()
            .all(|slow| slow.queued == 0 && slow.missed == 0)
    })
    .await
    .slow_subscribers;
    assert!(slow[0].lagged_at.is_some(), "it is named for a while");
    let json = serde_json::to_value(config.status()).unwrap();
    assert!(json["slowSubscribers"][0]["laggedAt"].is_string());
    config.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_says_nothing_costs_a_consumer_its_deadline_and_a_shutdown_ends_it() {
    let db = TestDb::new().await;
    let proxy = Proxy::to(cluster().address()).await;
    let limit = Duration::from_secs(3);
    let settings = quick(Settings::new(db.url_through(&proxy))).request_timeout(limit);
    let config = start(settings).await;
    let consumer = config.consumer("c", Start::Floor).await.unwrap();
    let cursor = config.set("k", 1).await.unwrap().cursor();
    proxy.set(Mode::Blackhole).await;
    let long = Duration::from_secs(3_600);
    let (next, acknowledged, places, history) = tokio::join!(
        consumer.next_or_wait(10, long),
        consumer.acknowledge(cursor),
        config.consumers(),
        config.history(cursor, 10),
    );
    for error in [
        next.unwrap_err(),
        acknowledged.unwrap_err(),
        places.unwrap_err(),
        history.unwrap_err(),
    ] {
        assert!(error.is_unavailable(), "{error}");
    }
    proxy.set(Mode::Pass).await;
    eventually("it goes on", PATIENCE, async || {
        consumer.acknowledge(cursor).await
    })
    .await;
    let waiting = tokio::spawn(async move { consumer.next_or_wait(10, long).await });
    config.shutdown().await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    let error = ended.unwrap().unwrap_err();
    assert!(error.is_closed() || error.is_unavailable(), "{error}");
}
